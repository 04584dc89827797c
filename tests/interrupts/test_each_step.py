"""An exception arrives from outside at each step of each verb: nothing hangs, nothing is lost, no lease is stuck."""

from __future__ import annotations

import sys
from typing import Final

import interrupted
import pytest
from together import Child

pytestmark = pytest.mark.skipif(sys.implementation.name != "cpython", reason="the steps are those of CPython")

IN_MEMORY: Final = {interrupted.edit, interrupted.configure}
"""What has nothing to do with the engine in memory."""


def swept(place: str, kind: str, scenes: tuple[object, ...], most: int) -> int:
    """How many interruptions there were. Fails if anything was wrong after one."""
    names = [scene.__name__ for scene in scenes]  # type: ignore[attr-defined]
    total = 0
    with Child(interrupted.sweep, place, kind, names, most) as child:
        while (told := child.hear(600)) is not None:
            scene, count, findings = told
            assert not findings, "\n".join([scene, *(f"{finding.what}: {finding.place}" for finding in findings[:20])])
            total += count
        child.say("end")
    return total


@pytest.mark.parametrize("kind", ["memory", "unsynced", "journaled"])
def test_an_exception_at_any_step_leaves_a_queue_that_can_be_used(place: str, kind: str) -> None:
    scenes = (interrupted.push, interrupted.close) if kind == "journaled" else interrupted.SHORT
    assert swept(place, kind, scenes, 120) > 200


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["memory", "unsynced", "synced", "journaled"])
def test_an_exception_at_any_step_of_all_verbs_leaves_a_queue_that_can_be_used(place: str, kind: str) -> None:
    scenes = tuple(scene for scene in interrupted.ALL if kind != "memory" or scene not in IN_MEMORY)
    assert swept(place, kind, scenes, 500) > 1000
