"""Not one of the tests: test_janitor.py has pytest run this, and kills it while it holds something of each kind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from together import Child, family, fast_directory

sys.path += [str(Path(__file__).parent / directory) for directory in ("power", "workers")]
import power_disks
import power_logged
from working import Work

import mailq

HELD: Final = "TESTS_HELD"
"""The variable that names the file in which this says what it holds."""
ORPHAN: Final = "sleep 3612 >/dev/null 2>&1 & echo $!"


def wait_for_ever(pipe: Connection[Any, Any]) -> None:
    pipe.send("ready")
    while True:
        signal.pause()


def test_hold_something_of_each_kind(tmp_path: Path, path: Path) -> None:
    mailq.open(path).push(3600)
    directories, processes, device = [tempfile.mkdtemp()], {os.getpid()}, ""
    with contextlib.ExitStack() as stack:
        directories.append(stack.enter_context(fast_directory(tmp_path)))
        worker = stack.enter_context(Work(path, "handlers:nap"))
        child = stack.enter_context(Child(wait_for_ever))
        assert child.hear() == "ready"
        if (forked := os.fork()) == 0:
            while True:
                signal.pause()
        orphan = subprocess.run(["setsid", "sh", "-c", ORPHAN], check=True, capture_output=True, text=True)
        if not power_disks.missing(power_disks.EXT4) and not power_logged.missing():
            place = stack.enter_context(power_disks.workshop())
            image = power_disks.make_image(power_disks.EXT4, place)
            device = str(stack.enter_context(power_logged.logged_device(image, place)))
            stack.enter_context(power_disks.mounted(power_disks.EXT4, Path(device), place))
            directories.append(str(place))
        processes |= {*family(os.getpid()), *family(worker.pid), forked, int(orphan.stdout)}
        held = {"directories": directories, "processes": sorted(processes), "device": device}
        (tmp_path / "held").write_text(json.dumps(held))
        (tmp_path / "held").rename(os.environ[HELD])
        while True:
            signal.pause()
