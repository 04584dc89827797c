"""Workers of every kind are started, stopped and killed at random, and their jobs are of every kind; then the books are closed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from history import read
from job_kinds import is_doable, is_mortal
from judge import judge, told
from leftovers import holders, in_session, leftovers
from storming import count, differences, steady_clock
from together import PATIENCE, Child, wait_until
from worker_storm import QUEUES, conduct_workers, prepare_workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the storm needs /proc and prctl(2)")

SEED = int(os.environ.get("STORM_SEED", str(time.time_ns() % 1_000_000)))
SECONDS = float(os.environ.get("STORM_SECONDS", "300"))
"""How the long storm is repeated, and made longer or shorter."""


@pytest.mark.parametrize(
    ("seed", "seconds", "backlog", "lease", "durability"),
    [
        pytest.param(11, 4, 2000, 10, "process-crash", id="short"),
        pytest.param(SEED, SECONDS, 30_000, 8, "power-loss", id="long", marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(SECONDS + 600)
def test_the_books_balance_and_nothing_is_left(
    tmp_path: Path, seed: int, seconds: float, backlog: int, lease: float, durability: str
) -> None:
    print(f"STORM_SEED={seed} STORM_SECONDS={seconds:g}, {durability}")  # noqa: T201 - shown on failure, and by -s
    stage = prepare_workers(tmp_path, backlog=backlog, seconds=seconds, lease=lease, durability=durability)
    with steady_clock(), Child(conduct_workers, stage, seed, seconds) as conductor:
        problems = conductor.hear(seconds * 2 + 300)
        conductor.join()
    verdict = judge(read((tmp_path / "logs").iterdir()))
    print(told(verdict))  # noqa: T201
    assert problems == [], "\n".join(problems)
    assert verdict.faults == {}, f"seed {seed}\n{told(verdict)}"
    assert differences(verdict, count(tmp_path, *QUEUES), may_die=is_mortal, may_be_done=is_doable) == []
    assert leftovers(tmp_path, QUEUES, calm=("mild", "steady")) == []
    # It was a storm, and not a breeze that proves nothing.
    for word in ("error", "nack", "timeout", "killed", "rejected"):
        assert verdict.figures[f"attempts counted as {word}"] > 0, told(verdict)
    assert verdict.figures["dead"] > backlog
    assert verdict.figures["acknowledged"] > backlog + seconds * 5


@pytest.mark.slow
def test_nothing_is_left_of_a_storm_when_its_tests_are_killed(tmp_path: Path) -> None:
    """By SIGKILL: they can clear up nothing themselves. The storm would go on for longer than anybody waits here."""
    storm = f"{__file__}::{test_the_books_balance_and_nothing_is_left.__name__}[long]"
    line = [sys.executable, "-m", "pytest", "-q", "-n0", "--slow", "-p", "no:cacheprovider"]
    with (tmp_path / "output").open("wb") as output:
        tests = subprocess.Popen(
            [*line, f"--basetemp={tmp_path / 'base'}", storm],
            stdout=output,
            stderr=output,
            env={**os.environ, "STORM_SECONDS": str(10 * PATIENCE)},
        )
    try:
        wait_until(lambda: bool(_conductor(tmp_path)) or tests.poll() is not None, "it rages")
        session = _conductor(tmp_path)
        assert len(in_session(session)) > 10, (tmp_path / "output").read_text()
    finally:
        tests.kill()
        tests.wait()
    wait_until(lambda: not in_session(session), "no process is left")
    assert holders(tmp_path) == []


def _conductor(path: Path) -> int:
    """The process that conducts a storm below a directory, once it has struck; else 0."""
    events = [event for log in path.glob("base/*/logs/conductor") for event in read([log])]
    return events[0].who if events else 0
