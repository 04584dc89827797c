"""Everybody who uses a queue is killed at random, again and again; then the books are closed, twice."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import actors
import pytest
from history import read
from judge import Verdict, judge, told
from storming import CAST, Cast, Count, conduct, count, differences, prepare, steady_clock
from together import Child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the storm needs /proc and prctl(2)")


def storm(
    root: Path, seed: int, seconds: float, wrong: str = "", cast: Cast = CAST, **settings: Any
) -> tuple[Verdict, Count]:
    """Have one, and close the books; ``wrong`` says with which engine that is not the real one."""
    stage = prepare(root, **settings)
    if wrong:
        stage = stage._replace(engine=wrong, late=60)
    with steady_clock(), Child(conduct, stage, seed, seconds, cast) as conductor:
        assert conductor.hear(seconds + 100) == "over"
    return judge(read((root / "logs").iterdir())), count(root)


@pytest.mark.parametrize(
    ("seed", "seconds", "durability", "engine"),
    [
        pytest.param(1, 4, "power-loss", "maildir", id="short"),
        pytest.param(2, 4, "process-crash", "maildir", id="short-unsynced"),
        pytest.param(7, 4, "power-loss", "journaled", id="short-journaled"),
        pytest.param(3, 180, "power-loss", "maildir", id="long", marks=pytest.mark.slow),
        pytest.param(4, 180, "process-crash", "maildir", id="long-unsynced", marks=pytest.mark.slow),
        pytest.param(8, 180, "power-loss", "journaled", id="long-journaled", marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_delivered_twice_without_a_cause(
    tmp_path: Path, seed: int, seconds: float, durability: str, engine: str
) -> None:
    verdict, left = storm(tmp_path, seed, seconds, engine, durability=durability)
    print(f"seed {seed}, {seconds} s, {durability}\n{told(verdict)}")  # noqa: T201 - shown on failure, and by -s
    assert verdict.faults == {}, f"seed {seed}\n{told(verdict)}"
    is_poison, is_none = actors.is_poison, lambda key: not actors.is_poison(key)
    assert differences(verdict, left, may_die=is_poison, may_be_done=is_none) == [], f"seed {seed}"
    assert os.listdir(tmp_path / "jobs" / "owners") == []
    # It was a storm, and not a breeze that proves nothing.
    assert verdict.figures["killed"] > seconds
    assert verdict.figures["acknowledged"] > seconds * 5
    assert verdict.figures["delivered more than once"] > seconds / 2


CONSUMERS = (actors.produce, *[actors.consume] * 9, actors.reap)


def test_a_queue_that_removes_before_it_hands_over_is_found_out(tmp_path: Path) -> None:
    verdict, left = storm(tmp_path, 5, 2, "losing", CONSUMERS, durability="process-crash")
    assert verdict.faults["lost"]
    assert left.lost


def test_a_queue_that_acks_by_id_is_found_out(tmp_path: Path) -> None:
    verdict, _ = storm(tmp_path, 6, 4, "by id", CONSUMERS, durability="process-crash", max_length=50)
    assert verdict.faults.keys() & {"stale", "robbed"}
