"""The marks: what mailq has to reach, and whether it does, by the results that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from bench.ratios import FLOOR, MAILQ, Group, groups, median, more_is_better, ratio
from bench.sides import DURABILITIES, POWER_LOSS, PROCESS_CRASH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.results import Result

ACKING: Final = ("dirq", "litequeue", "persist-queue", "redis", "beanstalkd")
"""Those that give back what a dead consumer held, LMDB's aside: that is faster than the bare loop itself."""
SHARED: Final = ("dirq", "litequeue", "huey", "diskcache", "redis", "beanstalkd")
"""The same for many processes, where SQLite is one of the others whether it acks or not."""


class Key(NamedTuple):
    """One result; its class is that of the mark, or none where it makes no difference."""

    section: str
    case: str
    side: str = MAILQ


class Limit(NamedTuple):
    """At least, or at most, a number: of the result itself, or of its ratio to a base."""

    key: Key
    bound: float
    at_least: bool = True
    base: Key | None = None


class Ahead(NamedTuple):
    """Better than all of these in the same case; None is everybody but the floor who was measured."""

    key: Key
    rivals: Sequence[str] | None = None


class Mark(NamedTuple):
    """Something to reach, in one class, or in none if it makes no difference."""

    what: str
    durability: str
    rule: Limit | Ahead


class Verdict(NamedTuple):
    """How it stands. Where something was not measured that is needed, it is neither met nor missed."""

    what: str
    durability: str
    required: str
    measured: float | None
    met: bool | None
    nearest: str = ""
    """The rival that is nearest, or farthest ahead."""


def _over_floor(what: str, section: str, *bounds: float) -> Iterator[Mark]:
    """A multiple of the floor in each class."""
    key = Key(section, "1 KiB")
    for durability, bound in zip(DURABILITIES, bounds, strict=True):
        yield Mark(what, durability, Limit(key, bound, base=key._replace(side=FLOOR)))


def _in_both(what: str, rule: Limit | Ahead) -> Iterator[Mark]:
    return (Mark(what, durability, rule) for durability in DURABILITIES)


def _depth(what: str, case: str, most: float, base: str = "") -> Mark:
    """At most so much, or so many times another case. It is measured in one class, for it is the same in both."""
    key = Key("backlog", case)
    return Mark(what, PROCESS_CRASH, Limit(key, most, at_least=False, base=key._replace(case=base) if base else None))


_PUSH, _ONE, _MANY = (Key(section, "1 KiB") for section in ("push", "push-pop-ack", "4+4"))
_COMMAND = Key("command", "push")
_P50 = Key("wake-up", "p50 with 3 others")
_BATCH, _SINGLE = Key("batch", "64 at a time"), Key("batch", "one at a time")

MARKS: Final = (
    *_over_floor("push, one process, 1 KiB", "push", 3, 0.85),
    Mark("push, one process, 1 KiB", POWER_LOSS, Ahead(_PUSH)),
    *_over_floor("push, pop, ack, one process", "push-pop-ack", 2.5, 0.85),
    Mark("push, pop, ack, one process", POWER_LOSS, Ahead(_ONE)),
    Mark("push, pop, ack, one process", PROCESS_CRASH, Ahead(_ONE, ACKING)),
    *_over_floor("4 producers, 4 consumers", "4+4", 2, 0.9),
    Mark("4 producers, 4 consumers", POWER_LOSS, Ahead(_MANY)),
    Mark("4 producers, 4 consumers", PROCESS_CRASH, Ahead(_MANY, SHARED)),
    Mark("batch of 64", POWER_LOSS, Limit(_BATCH, 8, base=_SINGLE._replace(side=FLOOR))),
    Mark("batch of 64", POWER_LOSS, Ahead(_BATCH, ("redis",))),
    Mark("batch of 64", PROCESS_CRASH, Limit(_BATCH, 1.2, base=_SINGLE)),
    _depth("pop+ack, 1M against 1k", "1M pop+ack", 1.5, "1k pop+ack"),
    _depth("push, 1M against 1k", "1M push", 1.5, "1k push"),
    _depth("first pop in a new process at 1M, in ms", "1M first pop", 1000),
    _depth("first pop in a new process at 1k, in ms", "1k first pop", 5),
    _depth("memory of a consumer at 1M, in MiB", "1M memory", 64),
    _depth("listing, drained after 1M against new", "1M drained, listing", 1.5, "new, listing"),
    _depth("pop+ack, drained after 1M against new", "1M drained, pop+ack", 1.5, "new, pop+ack"),
    *_in_both("wake-up, p50 in ms, with 3 others", Limit(_P50, 0.8, at_least=False)),
    *_in_both("wake-up, p99 in ms, with 3 others", Limit(Key("wake-up", "p99 with 3 others"), 2, at_least=False)),
    *_in_both("wake-up, p50, with 3 others", Ahead(_P50, ("redis", "beanstalkd"))),
    *_in_both("worker, no-op handler, 2 processes, jobs/s", Limit(Key("worker", "2 processes"), 5000)),
    Mark("idle consumer, % of a core", "", Limit(Key("idle", "pop(wait)"), 0.1, at_least=False)),
    Mark("idle worker, % of a core", "", Limit(Key("idle", "mailq work"), 0.1, at_least=False)),
    Mark(
        "mailq push, whole process",
        "",
        Limit(_COMMAND, 1.6, at_least=False, base=_COMMAND._replace(side="import click")),
    ),
)


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Each mark, by these results."""
    table = list(groups(results))
    return [_verdict(mark, table) for mark in MARKS]


def _verdict(mark: Mark, table: list[Group]) -> Verdict:
    if isinstance(mark.rule, Ahead):
        return _ahead(mark, mark.rule, table)
    key, bound, at_least, base = mark.rule
    measured = _measured(mark.durability, key, base, table)
    words = "at least" if at_least else "at most"
    of = "" if base is None else f" times {_name(key, base)}"
    met = None if measured is None else measured >= bound if at_least else measured <= bound
    return Verdict(mark.what, mark.durability, f"{words} {bound:g}{of}", measured, met)


def _name(key: Key, base: Key) -> str:
    """What a mark is a multiple of."""
    side = "its own" if base.side == key.side else f"the {base.side}" if base.side == FLOOR else base.side
    return side if base.case == key.case else f"{side}, {base.case}"


def _measured(durability: str, key: Key, base: Key | None, table: list[Group]) -> float | None:
    mine = _find(durability, key, table)
    if mine is None or base is None:
        return None if mine is None else median(mine)
    theirs = _find(durability, base, table)
    return None if theirs is None else ratio(mine, theirs)


def _find(durability: str, key: Key, table: list[Group]) -> Result | None:
    group = _group(durability, key, table)
    return None if group is None else group.of(key.side)


def _group(durability: str, key: Key, table: list[Group]) -> Group | None:
    return next(
        (
            group
            for group in table
            if (group.section, group.case) == (key.section, key.case) and group.durability in {durability, ""}
        ),
        None,
    )


def _ahead(mark: Mark, rule: Ahead, table: list[Group]) -> Verdict:
    required = f"ahead of {'every peer' if rule.rivals is None else ', '.join(rule.rivals)}"
    group = _group(mark.durability, rule.key, table)
    mine = None if group is None else group.of(rule.key.side)
    if group is None or mine is None:
        return Verdict(mark.what, mark.durability, required, None, None)
    found = {
        other.side: ratio(mine, other) if more_is_better(group.unit) else ratio(other, mine)
        for other in group.results
        if (other.side in rule.rivals if rule.rivals is not None else other.side not in {MAILQ, FLOOR})
    }
    if not found:
        return Verdict(mark.what, mark.durability, required, None, None)
    nearest = min(found, key=found.__getitem__)
    # Behind one of them is behind; ahead of those who are there says nothing of who is not.
    missing = set(rule.rivals or ()).difference(found)
    met = False if found[nearest] <= 1 else None if missing else True
    return Verdict(mark.what, mark.durability, required, found[nearest], met, nearest)
