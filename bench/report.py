"""The results for a program and for a person: JSON, and tables in markdown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from bench.marks import verdicts
from bench.ratios import groups, median, of_the_floor
from bench.results import Result
from bench.syncs import SYNCS, unproved

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.marks import Verdict
    from bench.ratios import Group

TITLES: Final = {
    "push": "push, one process",
    "push-pop-ack": "push, pop, ack, one process",
    "4+4": "4 producers and 4 consumers, until all is acked",
    "batch": "push_many, pop_many, acks",
    "steady": "push, pop, ack for longer than anything is put off",
    "sizes": "push, pop, ack by size of the body",
}
PER_MESSAGE: Final = "a message"
"""How the units of what is counted end."""


def document(where: dict[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """Everything: where it was measured, each round, medians, ratios to the floor of the same round, the marks."""
    return {
        **where,
        "results": [
            {**result._asdict(), "median": median(result), "of_floor": of_the_floor(group, result)}
            for group in groups(results)
            for result in group.results
        ],
        "marks": [verdict._asdict() for verdict in verdicts(results)],
    }


def read(path: str) -> tuple[dict[str, Any], list[Result]]:
    """A document again as it was made. Raises OSError, and ValueError if it is none."""
    try:
        with open(path, encoding="utf-8") as file:
            where = json.load(file)
        where.pop("marks")
        return where, [Result(*(one[name] for name in Result._fields)) for one in where.pop("results")]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{path} has no results of the bench") from None


def markdown(where: dict[str, Any], results: Sequence[Result]) -> str:
    """The medians, as tables."""
    lines = [*_heading(where), *_marks(verdicts(results))]
    for group in groups(results):
        if not group.unit.endswith(PER_MESSAGE):
            rows = (_row(group, result, where.get("sides", {})) for result in group.results)
            rounds = len(group.results[0].values)
            often = f"{rounds} rounds" if rounds > 1 else "once"
            heading = ", ".join(filter(None, (title(group.section, group.durability), group.case, often)))
            lines += ["", f"## {heading}", "", *_table(("", group.unit, "of the floor", "range"), *rows)]
    left_out = where.get("left_out", ())
    return "\n".join((*lines, *_counts(results), *_sides(where.get("sides", {})), *_left_out(left_out), ""))


def title(section: str, durability: str) -> str:
    """What a section is about, and in which class."""
    return ", ".join(filter(None, (TITLES.get(section, section), durability)))


def label(side: str, sides: dict[str, Any]) -> str:
    """A side, and whether it is no queue that gives back what a dead consumer held."""
    return side if sides.get(side, {}).get("acks", True) else f"{side} (no ack)"


def summary(where: dict[str, Any]) -> tuple[str, ...]:
    """The place, in a few words each."""
    about, disk = where["machine"], where["file_system"]
    return disk["type"], about["cpu"], f"{about['cores']} cores", about["python"], f"mailq {about['mailq']}"


def number(value: float) -> str:
    """Three digits that count, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits


def _heading(where: dict[str, Any]) -> Iterator[str]:
    disk = where["file_system"]
    kind, *machine = summary(where)
    yield f"# mailq on {kind}, {where['date']}"
    yield ""
    yield f"{where['machine']['system']}, {', '.join(machine)}."
    yield f"{kind} on {disk['device']}; an fdatasync of 1 KiB takes {disk['fdatasync_ms']:.2f} ms."
    yield "The numbers are medians of the rounds, the ratios medians of each round's own."
    if disk["warning"]:
        yield f"\n**Warning:** {disk['warning']}."
    if where["quick"]:
        yield "\n**A quick run:** it shows that all this runs, not how fast."


def _marks(found: Sequence[Verdict]) -> Iterator[str]:
    rows = [
        (
            verdict.what,
            verdict.durability,
            verdict.required,
            f"{number(verdict.measured)}{f' ({verdict.nearest})' if verdict.nearest else ''}",
            {True: "yes", False: "**no**", None: "not all measured"}[verdict.met],
        )
        for verdict in found
        if verdict.measured is not None
    ]
    if rows:
        yield from ("", "## Marks", "", *_table(("what", "class", "required", "measured", "met"), *rows))


def _row(group: Group, result: Result, sides: dict[str, Any]) -> tuple[str, ...]:
    of_floor = of_the_floor(group, result)
    low, high = number(min(result.values)), number(max(result.values))
    return (
        label(result.side, sides),
        number(median(result)),
        "" if of_floor is None else f"{of_floor:.2f}",
        "" if low == high else f"{low} - {high}",
    )


def _counts(results: Sequence[Result]) -> Iterator[str]:
    """What was counted, a column for each case."""
    if any(result.unit == "messages/s" for result in results) and all(result.unit != SYNCS for result in results):
        yield "\n**Not checked:** how often each side syncs. There, what it is set to is believed."
    for side in unproved(results):
        yield f"\n{side} says that it is safe against a power cut, but does not sync each push: it is not in that class."
    for unit in dict.fromkeys(result.unit for result in results if result.unit.endswith(PER_MESSAGE)):
        counted = [result for result in results if result.unit == unit]
        cases = list(dict.fromkeys((result.durability, result.case) for result in counted))
        numbers = {(result.side, result.durability, result.case): number(median(result)) for result in counted}
        sides = dict.fromkeys(result.side for result in counted)
        rows = ((side, *(numbers.get((side, *case), "") for case in cases)) for side in sides)
        yield from (
            "",
            f"## {unit}",
            "",
            *_table(("", *(f"{case}, {durability}" for durability, case in cases)), *rows),
        )


def _sides(sides: dict[str, Any]) -> Iterator[str]:
    if sides:
        rows = ((name, about["version"], about["note"]) for name, about in sides.items())
        yield from ("", "## Sides", "", *_table(("", "version", ""), *rows))


def _left_out(told: Sequence[str]) -> Iterator[str]:
    if told:
        yield from ("", "## Not measured", "", *(f"- {' '.join(what.split())}" for what in told))


def _table(*rows: Sequence[str]) -> Iterator[str]:
    """A table in markdown that can be read as it is; numbers stand to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(3, *map(len, column)) for column in columns]
    right = [all(cell[:1].isdigit() or not cell for cell in column[1:]) and any(column[1:]) for column in columns]
    for index, row in enumerate(rows):
        cells = zip(row, widths, right, strict=True)
        yield f"| {' | '.join(cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in cells)} |"
        if index == 0:
            lines = (
                "-" * (width + 1) + (":" if to_right else "-") for width, to_right in zip(widths, right, strict=True)
            )
            yield f"|{'|'.join(lines)}|"
