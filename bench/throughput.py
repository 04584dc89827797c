"""Messages a second: push; push, pop and ack; four producers and consumers; batches; bodies of all sizes."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from bench import peers, syncs, together
from bench.floor import Floor
from bench.results import Result
from bench.sides import DURABILITIES, POWER_LOSS, PROCESS_CRASH, Budget, Mailq, fresh, warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.results import Plan
    from bench.sides import Side

BATCH: Final = 64
SIZES: Final = {"100 B": 100, "1 KiB": 1 << 10, "64 KiB": 1 << 16, "1 MiB": 1 << 20}
RATE: Final = "messages/s"
SYNCED: Final = Budget(1.5, sys.maxsize)
"""Long enough for a log, whoever has one, to be full and made empty again: 4 MB, mailq's and SQLite's alike."""
STEADY: Final = 6.0
"""Seconds in which what was put off has to be done as well: longer than anybody puts it off."""


class Case(NamedTuple):
    """Something to measure on each side that can do it."""

    section: str
    name: str
    rate: Callable[[type[Side], str, str, Budget], float]
    can: Callable[[type[Side]], bool] = lambda side: True  # noqa: ARG005 - most can
    durabilities: Sequence[str] = DURABILITIES
    budget: Budget = Budget(0.3, 2000)


# One process


def push(side: Side, body: bytes) -> int:
    """Push one."""
    side.push(body)
    return 1


def push_pop_ack(side: Side, body: bytes) -> int:
    """Push one, take it, remove it."""
    side.push(body)
    taken = side.pop()
    if taken is None or len(taken[0]) != len(body):
        raise RuntimeError("a message that was pushed is not there, or not whole")
    side.ack(taken[1])
    return 1


def batch(side: Side, body: bytes) -> int:
    """Push many, take them, remove them."""
    side.push_many([body] * BATCH)
    left = BATCH
    while left:
        taken = side.pop_many(left)
        if not taken:
            raise RuntimeError("messages that were pushed are not there")
        side.ack_many([receipt for _, receipt in taken])
        left -= len(taken)
    return BATCH


def alone(step: Callable[[Side, bytes], int], size: int = 1 << 10) -> Callable[[type[Side], str, str, Budget], float]:
    """How a step is measured in one process."""

    def rate(kind: type[Side], directory: str, durability: str, budget: Budget) -> float:
        body = os.urandom(size)
        with fresh(kind, directory, durability) as (_, side):
            warm_up(side, budget.warm)
            done, begun = 0, time.perf_counter()
            while True:
                done += step(side, body)
                spent = time.perf_counter() - begun
                if spent >= budget.seconds or done >= budget.messages:
                    return done / spent

    return rate


def _is_file_loop(side: type[Side]) -> bool:
    return side in {Mailq, Floor}


CASES: Final = (
    Case("push", "1 KiB", alone(push), durabilities=(POWER_LOSS,), budget=SYNCED),
    Case("push", "1 KiB", alone(push), durabilities=(PROCESS_CRASH,)),
    Case("push-pop-ack", "1 KiB", alone(push_pop_ack), durabilities=(POWER_LOSS,), budget=SYNCED),
    Case("push-pop-ack", "1 KiB", alone(push_pop_ack), durabilities=(PROCESS_CRASH,)),
    Case("4+4", "1 KiB", together.rate, lambda side: side.shared),
    Case("batch", "one at a time", alone(push_pop_ack), _is_file_loop),
    Case("batch", f"{BATCH} at a time", alone(batch), lambda side: side.batches),
    Case(
        "steady", f"1 KiB, {STEADY:g} s", alone(push_pop_ack), _is_file_loop, (POWER_LOSS,), Budget(STEADY, sys.maxsize)
    ),
    *(Case("sizes", name, alone(push_pop_ack, size)) for name, size in SIZES.items()),
)
SECTIONS: Final = ("syncs", "calls", *dict.fromkeys(case.section for case in CASES))


# All of them


def measure(plan: Plan) -> Iterator[Result]:
    """Count the syncs, then go through the rounds; within each, the sides of one class one after the other."""
    sides = [side for side in peers.everybody(plan.leave_out) if side.name in plan.sides or not plan.sides]
    counted = _count(plan, sides)
    yield from counted
    together.prepare(sides)
    runs = [
        (case, durability, [side for side in syncs.proved(sides, counted, durability) if case.can(side)])
        for case in CASES
        if plan.wants(case.section)
        for durability in case.durabilities
    ]
    seen: dict[tuple[str, str, str, str], list[float]] = {}
    for number in range(plan.rounds):
        for case, durability, fit in runs:
            if sys.stderr.isatty():
                _say(f"round {number + 1} of {plan.rounds}: {case.section}, {case.name}, {durability}")
            for side, rate in _round(plan, case, durability, fit):
                seen.setdefault((case.section, case.name, side.name, durability), []).append(rate)
            fit.reverse()
    for key, values in seen.items():
        if len(values) == plan.rounds:
            yield Result(*key, RATE, values)


def _count(plan: Plan, sides: Sequence[type[Side]]) -> list[Result]:
    try:
        return syncs.count(plan.directory, sides)
    except OSError as error:
        _say(f"syncs are not checked, claims are believed: {error}")
        return []


def _round(plan: Plan, case: Case, durability: str, sides: list[type[Side]]) -> Iterator[tuple[type[Side], float]]:
    """Measure each; a peer that fails is left out of the case, unless the question is whether it runs."""
    budget = Budget(0.01, 64, warm=2) if plan.quick else case.budget
    for side in tuple(sides):
        try:
            yield side, case.rate(side, plan.directory, durability, budget)
        except Exception as error:
            if plan.quick or side in {Mailq, Floor}:
                raise
            plan.leave_out(f"{side.name} is left out of {case.section}, {case.name}, {durability}: {error!r}")
            sides.remove(side)


def _say(what: str) -> None:
    print(what, file=sys.stderr)
