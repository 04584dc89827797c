"""However the tests are ended, nothing is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from leavings import HELD
from together import PATIENCE, is_alive, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells whose a process is")
HERE = Path(__file__).parent
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "leavings.py")]


def file_behind(device: str) -> str:
    """The file that a loop device is over; nothing if it is free."""
    try:
        return Path("/sys/block", Path(device).name, "loop/backing_file").read_text().strip()
    except OSError:
        return ""


@contextmanager
def heeded(number: signal.Signals) -> Iterator[None]:
    """What starts now does not ignore the signal, even if this process was told to: by nohup(1), or by a shell."""
    if number == signal.SIGKILL:
        yield
        return
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_what_the_tests_hold_when_they_are_ended_is_gone(tmp_path: Path, ending: signal.Signals, workers: int) -> None:
    line = [*PYTEST, f"-n{workers}", f"--basetemp={tmp_path / 'basetemp'}"]
    with (tmp_path / "output").open("wb") as output, heeded(ending):
        run = subprocess.Popen(line, stdout=output, stderr=output, env={**os.environ, HELD: str(tmp_path / "held")})
    try:
        wait_until(lambda: (tmp_path / "held").exists() or run.poll() is not None, "it holds everything")
        assert run.poll() is None, (tmp_path / "output").read_text()
        held = json.loads((tmp_path / "held").read_text())
        behind = file_behind(held["device"])
        assert bool(behind) == bool(held["device"])
        run.send_signal(ending)
        run.wait(PATIENCE)
    finally:
        run.kill()
        run.wait()
    wait_until(lambda: not [pid for pid in held["processes"] if is_alive(pid)], "no process is left")
    wait_until(lambda: not any(map(os.path.exists, held["directories"])), "no directory is left")
    # It may be another run's by now.
    wait_until(lambda: not behind or file_behind(held["device"]) != behind, "the loop device is free")
