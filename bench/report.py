"""The results for a program and for a person: JSON, and tables in markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.ratios import FLOOR, groups, median, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.ratios import Group
    from bench.results import Result


def document(where: dict[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """Everything: where it was measured, each round, medians, and ratios to the floor of the same round."""
    return {
        **where,
        "results": [
            {**result._asdict(), "median": median(result), "of_floor": _of_floor(group, result)}
            for group in groups(results)
            for result in group.results
        ],
    }


def markdown(where: dict[str, Any], results: Sequence[Result]) -> str:
    """The medians, as tables."""
    return "\n".join((*_heading(where), *(line for group in groups(results) for line in _table(group))))


def _heading(where: dict[str, Any]) -> Iterator[str]:
    about, disk = where["machine"], where["file_system"]
    yield f"# mailq on {disk['type']}, {where['date']}"
    yield ""
    yield f"{about['system']}, {about['cpu']}, {about['cores']} cores, {about['python']}, mailq {about['mailq']}."
    yield f"{disk['type']} on {disk['device']}; an fdatasync of 1 KiB takes {disk['fdatasync_ms']:.2f} ms."
    yield f"Medians of {where['rounds']} rounds; each round's own ratio to the floor, of which the median."
    if disk["warning"]:
        yield f"\n**Warning:** {disk['warning']}."
    if where["quick"]:
        yield "\n**A quick run:** it shows that all this runs, not how fast."
    yield ""


def _table(group: Group) -> Iterator[str]:
    rows = [("", group.unit, "of the floor", "range"), *(_row(group, result) for result in group.results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield f"## {group.section}: {', '.join(filter(None, (group.case, group.durability)))}"
    yield ""
    for number, row in enumerate(rows):
        first, *others = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield f"| {' | '.join((first, *others))} |"
        if number == 0:
            yield f"|{'|'.join(('-' * (widths[0] + 2), *('-' * (width + 1) + ':' for width in widths[1:])))}|"
    yield ""


def _row(group: Group, result: Result) -> tuple[str, str, str, str]:
    of_floor = _of_floor(group, result)
    low, high = min(result.values), max(result.values)
    return (
        result.side,
        number(median(result)),
        "" if of_floor is None else f"{of_floor:.2f}",
        "" if low == high else f"{number(low)} - {number(high)}",
    )


def _of_floor(group: Group, result: Result) -> float | None:
    floor = group.of(FLOOR)
    if floor is None or not all(floor.values):
        return None
    return ratio(result, floor)


def number(value: float) -> str:
    """Three digits that count, and no more than one can see."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits
