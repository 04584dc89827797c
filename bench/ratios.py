"""The arithmetic of the results: what can be compared with what, and how."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.results import Result

MAILQ: Final = "mailq"
FLOOR: Final = "floor"


class Group(NamedTuple):
    """One side beside the other: the same section, case, class and unit; the best first."""

    section: str
    case: str
    durability: str
    unit: str
    results: list[Result]

    def of(self, side: str) -> Result | None:
        """What a side did here."""
        return next((result for result in self.results if result.side == side), None)


def median(result: Result) -> float:
    """The middle of the rounds."""
    return statistics.median(result.values)


def ratio(result: Result, base: Result) -> float:
    """How a side stands to another: the median of each round's own ratio, since a round meets the same machine."""
    return statistics.median(mine / theirs for mine, theirs in zip(result.values, base.values, strict=True))


def of_the_floor(group: Group, result: Result) -> float | None:
    """The ratio to the floor, if there is one that is not nothing."""
    floor = group.of(FLOOR)
    return ratio(result, floor) if floor is not None and all(floor.values) else None


def more_is_better(unit: str) -> bool:
    """Rates; times, bytes and counts are not."""
    return unit.endswith("/s")


def in_classes(results: Sequence[Result]) -> list[Result]:
    """What makes no difference between the classes, put into each class that its case has."""
    classes: dict[tuple[str, str], dict[str, None]] = {}
    for result in results:
        if result.durability:
            classes.setdefault((result.section, result.case), {})[result.durability] = None
    return [
        result._replace(durability=durability)
        for result in results
        for durability in (
            [result.durability] if result.durability else classes.get((result.section, result.case), [""])
        )
    ]


def groups(results: Sequence[Result]) -> Iterator[Group]:
    """All that can be compared, in the order in which it was measured."""
    found: dict[tuple[str, str, str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.section, result.case, result.durability, result.unit), []).append(result)
    for key, members in found.items():
        yield Group(*key, sorted(members, key=median, reverse=more_is_better(key[-1])))
