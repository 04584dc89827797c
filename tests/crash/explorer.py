"""Every state that a cut at any moment of a run may leave: recovered from, and compared with the book."""

from __future__ import annotations

import functools
import random
import sys
from collections import Counter
from typing import Any, NamedTuple
from unittest import mock

from crash_disk import materialise
from crash_states import Moment, State
from recorder import RecordingDisk
from recovery import Observation, recover
from scenarios import Run, Scenario, play
from together import on_each_core

from mailq.engines.maildir import layout
from mailq.settings import parse


class Findings(NamedTuple):
    """How many different states were recovered from, and what was wrong with how many, by kind, and a few of them."""

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
    enough: int = sys.maxsize,
    **settings: Any,
) -> Findings:
    """Play it, cut it, recover. ``limit`` bounds the states of one moment in one way of ordering.

    The cores share the states. One that has ``enough`` examples of what is wrong stops: then its others
    are not counted.
    """
    run = play(scenario, f"{place}/played", kind, bare=bare, **settings)

    def explore_some(number: int, count: int) -> Findings:
        # A tenth of the time would go into parsing the same few settings again and again.
        with mock.patch.object(layout, "parse", functools.cache(parse)):
            return _explore(
                run, f"{place}/cut{number}", range(number, sys.maxsize, count), limit, enough, ordered=ordered
            )

    shares = on_each_core(explore_some)
    kinds = sum((share.kinds for share in shares), Counter[str]())
    return Findings(sum(share.states for share in shares), kinds, [text for share in shares for text in share.examples])


def _explore(run: Run, base: str, mine: range, limit: int, enough: int, *, ordered: bool) -> Findings:
    """Every process goes through all states in the same order, and recovers from its own of them."""
    generator = random.Random(4)
    seen: dict[State, Observation | None] = {}
    kinds: Counter[str] = Counter()
    examples: list[str] = []
    for count in range(run.now + 1):
        for state in Moment(run.disk, count).states(generator, limit, ordered=ordered):
            if state not in seen:
                seen[state] = _observe(run, state, base) if len(seen) in mine else None
            observation = seen[state]
            if observation is None:
                continue
            wrong = list(run.book.violations(observation, count))
            kinds.update({text.partition(":")[0] for text in wrong})
            if wrong and len(examples) < min(3, enough):
                examples.append(_tell(run, count, state, wrong))
            if len(examples) == enough:
                return Findings(_counted(seen), kinds, examples)
    return Findings(_counted(seen), kinds, examples)


def _counted(seen: dict[State, Observation | None]) -> int:
    return sum(observation is not None for observation in seen.values())


def _observe(run: Run, state: State, base: str) -> Observation:
    materialise(state, base)
    return recover(base, run.roots, create=run.create, replies=run.book.replies)


def _tell(run: Run, count: int, state: State, wrong: list[str]) -> str:
    calls = "\n".join(f"  {op.kind} {op.path} {op.target}" for op in run.disk.ops[max(0, count - 12) : count])
    files = "\n".join(f"  {path} {data[:40]!r}" for path, data, _ in state.files)
    return f"after {count} calls, the last of them\n{calls}\nthe cut left\n{files}\nand so\n  " + "\n  ".join(wrong)
