"""The command and a worker under libfaketime: whole processes whose clock is wrong, or steps while they run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command import MAILQ
from together import PATIENCE, wait_until

import mailq

LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (Debian: apt-get install faketime)")

SHARED = Path("/dev/shm")
"""Where libfaketime has files of each process; it removes them itself unless that is killed."""
WRONG = ("+1h", "-1h", "+365d", "-365d")


@pytest.fixture
def clock(tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
    """An environment whose time is off by what the file ``off`` says; the times of files, and waiting, are real."""
    (tmp_path / "off").write_text("+0")
    return {
        **environment,
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(tmp_path / "off"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


@pytest.fixture
def at(tmp_path: Path, clock: dict[str, str]) -> Callable[..., str]:
    """Run ``mailq`` with a clock that is off."""

    def run(off: str, *arguments: str) -> str:
        (tmp_path / "off").write_text(off)
        done = subprocess.run(
            [MAILQ, *arguments], env=clock, capture_output=True, check=False, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_what_is_pushed_by_wrong_clocks_is_popped_by_the_right_one(
    at: Callable[..., str], queue: mailq.Queue, path: Path
) -> None:
    ids = {at(off, "push", str(path), "x") for off in WRONG}
    held = queue.pop_many(10)
    assert {delivery.id for delivery in held} == ids
    assert abs(max(delivery.pushed_at for delivery in held) - held[0].pushed_at) > 300 * 86_400, "they were wrong"
    for delivery in held:
        delivery.ack()


@pytest.mark.parametrize("off", ["+1h", "-1h"])
def test_what_is_popped_by_a_wrong_clock_is_acked_by_the_right_one(
    at: Callable[..., str], queue: mailq.Queue, path: Path, off: str
) -> None:
    queue.push("x")
    queue.ack(json.loads(at(off, "pop", str(path)))["receipt"])
    assert queue.stats() == mailq.Stats()


def test_a_worker_whose_clock_steps_back_and_forth_does_every_job(
    tmp_path: Path, path: Path, clock: dict[str, str]
) -> None:
    """Those that run at a step forward may run again: their leases are over by the new time.

    No step is longer than a day: a worker a day ahead sweeps what others are writing, and their pushes are refused. It
    is killed in the end, since libfaketime spoils sleeps until an instant, with which subprocess waits for a child.
    """
    queue = mailq.open(path, max_retries=100, lease=5, backoff=(0.01, 0.01))
    log = tmp_path / "log"
    log.touch()
    ids: set[str] = set()
    command = ["sh", "-c", 'sleep 0.02; echo "$MAILQ_ID" >>"$0"', str(log)]
    with subprocess.Popen([MAILQ, "work", str(path), "-c", "2", "--", *command], env=clock) as worker:
        try:
            for step in ("+1h", "-1h", "+20h", "-365d", "+0"):
                new = set(queue.push_many(range(5)) + queue.push_many(range(3), delay=0.2))
                ids |= new
                wait_until(lambda new=new: bool(set(log.read_text().split()) & new), "the worker is at work")  # type: ignore[misc]
                (tmp_path / "new").write_text(step)
                (tmp_path / "new").replace(tmp_path / "off")
            wait_until(lambda: len(queue) == 0, "everything is done")
            assert worker.poll() is None
        finally:
            worker.kill()
            for left in SHARED.glob(f"*faketime_*_{worker.pid}"):
                left.unlink()
    assert set(log.read_text().split()) == ids
    assert queue.stats() == mailq.Stats()
