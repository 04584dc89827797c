"""Every state that a cut at any moment of a run may leave: recovered from, and compared with the book."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, NamedTuple

from crash_disk import materialise
from crash_states import Moment, State
from recorder import RecordingDisk
from recovery import Observation, recover
from scenarios import Run, Scenario, play


class Findings(NamedTuple):
    """How many different states were recovered from, and what was wrong with how many, by kind, and the first few."""

    states: int
    kinds: Counter[str]
    examples: list[str]


def explore(
    scenario: Scenario,
    place: str,
    *,
    limit: int,
    kind: type[RecordingDisk] = RecordingDisk,
    bare: bool = False,
    ordered: bool = False,
    enough: int | None = None,
    **settings: Any,
) -> Findings:
    """Play it, cut it, recover. ``limit`` bounds the states of one moment in one way of ordering.

    After ``enough`` examples of what is wrong it stops: then the others are not counted.
    """
    run = play(scenario, f"{place}/played", kind, bare=bare, **settings)
    generator = random.Random(4)
    seen: dict[State, Observation] = {}
    kinds: Counter[str] = Counter()
    examples: list[str] = []
    for count in range(run.now + 1):
        for state in Moment(run.disk, count).states(generator, limit, ordered=ordered):
            if state not in seen:
                seen[state] = _observe(run, state, f"{place}/cut")
            wrong = list(run.book.violations(seen[state], count))
            kinds.update({text.partition(":")[0] for text in wrong})
            if wrong and len(examples) < 3:
                examples.append(_tell(run, count, state, wrong))
            if len(examples) == enough:
                return Findings(len(seen), kinds, examples)
    return Findings(len(seen), kinds, examples)


def _observe(run: Run, state: State, base: str) -> Observation:
    materialise(state, base)
    return recover(base, run.roots, create=run.create, replies=run.book.replies)


def _tell(run: Run, count: int, state: State, wrong: list[str]) -> str:
    calls = "\n".join(f"  {op.kind} {op.path} {op.target}" for op in run.disk.ops[max(0, count - 12) : count])
    files = "\n".join(f"  {path} {data[:40]!r}" for path, data, _ in state.files)
    return f"after {count} calls, the last of them\n{calls}\nthe cut left\n{files}\nand so\n  " + "\n  ".join(wrong)
