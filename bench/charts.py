"""The results as charts: horizontal bars, the best on top, mailq and the floor marked. SVG, written by hand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from xml.etree import ElementTree as ET

from bench.ratios import FLOOR, MAILQ, groups, median, more_is_better, of_the_floor
from bench.report import PER_MESSAGE, label, number, summary, title

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.ratios import Group
    from bench.results import Result

WIDTH: Final = 720
LABELS: Final = 170
BARS: Final = 380
NUMBERS: Final = 630
RATIOS: Final = 705
ROW: Final = 24
BAR: Final = 16
HEAD: Final = 34
TOP: Final = 50
LONGEST: Final = 2.5
"""How many times the longer of mailq and the floor a bar may be; what is longer is cut, and looks it."""
COLOURS: Final = {MAILQ: "#d9480f", FLOOR: "#495057"}
OTHERS: Final = "#9db2c7"
INK: Final = "#212529"
FAINT: Final = "#868e96"
PAPER: Final = "#ffffff"
DEPTH: Final = re.compile(r"(?P<depth>\d+[kM]) (?P<what>.+)")
"""A case that is one of a backlog's depths."""


class Bar(NamedTuple):
    """One side in one case."""

    name: str
    result: Result
    of_floor: float | None


class Panel(NamedTuple):
    """Bars that share a scale."""

    heading: str
    unit: str
    bars: list[Bar]
    floor: float | None
    """Where the floor's line is, if all of them have the same."""


def charts(where: dict[str, Any], results: Sequence[Result]) -> Iterator[tuple[str, str]]:
    """A name and an SVG for each section and class."""
    pictures: dict[tuple[str, str], list[Group]] = {}
    for group in groups(results):
        if not group.unit.endswith(PER_MESSAGE):
            pictures.setdefault((group.section, group.durability), []).append(group)
    place = ", ".join((*summary(where), where["date"]))
    for (section, durability), found in pictures.items():
        name = "-".join(filter(None, (section, durability)))
        yield name, chart(title(section, durability), place, panels(found, where.get("sides", {})))


def panels(found: Sequence[Group], sides: dict[str, Any]) -> list[Panel]:
    """A panel for each case; for the depths of a backlog one together, in their order."""
    drawn: list[Panel] = []
    deep: dict[tuple[str, str], list[Bar]] = {}
    for group in found:
        bars = [Bar(label(result.side, sides), result, of_the_floor(group, result)) for result in group.results]
        depth = DEPTH.fullmatch(group.case)
        if depth is not None:
            named = [bar._replace(name=f"{depth['depth']}, {bar.name}") for bar in bars]
            deep.setdefault((depth["what"], group.unit), []).extend(named)
            continue
        floor = group.of(FLOOR)
        drawn.append(Panel(group.case, group.unit, bars, None if floor is None else median(floor)))
    return [*(Panel(what, unit, bars, None) for (what, unit), bars in deep.items()), *drawn]


def chart(heading: str, place: str, drawn: Sequence[Panel]) -> str:
    """One picture: the panels below each other."""
    height = TOP + sum(HEAD + ROW * len(panel.bars) for panel in drawn) + 12
    svg = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {WIDTH} {height}",
            "width": f"{WIDTH}",
            "height": f"{height}",
            "font-family": "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif",
            "font-size": "13",
        },
    )
    ET.SubElement(svg, "title").text = f"{heading}: {place}"
    _box(svg, 0, 0, WIDTH, height, PAPER)
    _text(svg, 14, 24, heading, INK, size=17, weight="bold")
    _text(svg, 14, 42, place, FAINT, size=11)
    top = float(TOP)
    for panel in drawn:
        _panel(svg, top, panel)
        top += HEAD + ROW * len(panel.bars)
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"


def _panel(svg: ET.Element, top: float, panel: Panel) -> None:
    _text(svg, LABELS, top + 22, panel.heading, INK, weight="bold")
    unit = panel.unit if more_is_better(panel.unit) else f"{panel.unit}, less is better"
    _text(svg, NUMBERS, top + 22, unit, FAINT, anchor="end", size=11)
    if any(bar.of_floor is not None for bar in panel.bars):
        _text(svg, RATIOS, top + 22, "of the floor", FAINT, anchor="end", size=11)
    top += HEAD
    scale = BARS / _end(panel)
    for index, bar in enumerate(panel.bars):
        _row(svg, top + index * ROW, bar, scale)
    if panel.floor and panel.floor * scale <= BARS:
        x = LABELS + panel.floor * scale
        _line(svg, (x, top), (x, top + ROW * (len(panel.bars) - 1) + BAR), COLOURS[FLOOR], dashes="3 3")


def _end(panel: Panel) -> float:
    """What the width of a panel stands for."""
    longest = max(median(bar.result) for bar in panel.bars)
    marked = max((median(bar.result) for bar in panel.bars if bar.result.side in COLOURS), default=0.0)
    return (min(longest, LONGEST * marked) if marked > 0 else longest) or 1.0


def _row(svg: ET.Element, top: float, bar: Bar, scale: float) -> None:
    base, weight = top + BAR - 3, "bold" if bar.result.side == MAILQ else "normal"
    _text(svg, LABELS - 8, base, bar.name, INK, anchor="end", weight=weight)
    _bar(svg, top, bar.result, scale)
    _text(svg, NUMBERS, base, number(median(bar.result)), INK, anchor="end", weight=weight)
    if bar.of_floor is not None:
        _text(svg, RATIOS, base, f"{bar.of_floor:.2f}", INK, anchor="end", weight=weight)


def _bar(svg: ET.Element, top: float, result: Result, scale: float) -> None:
    """The median, with a line from the worst round to the best."""
    full = median(result) * scale
    _box(svg, LABELS, top, max(min(full, BARS), 1), BAR, COLOURS.get(result.side, OTHERS))
    if full > BARS + 1:  # two strokes through a bar that goes on
        for x in (LABELS + BARS - 22, LABELS + BARS - 14):
            points = f"{x},{top + BAR} {x + 6},{top} {x + 9},{top} {x + 3},{top + BAR}"
            ET.SubElement(svg, "polygon", {"points": points, "fill": PAPER})
    low, high = (LABELS + min(bound(result.values) * scale, BARS) for bound in (min, max))
    if high - low > 1:
        middle = top + BAR / 2
        for colour, thickness in ((PAPER, 3.0), (INK, 1.2)):  # to be seen on any bar
            _line(svg, (low, middle), (high, middle), colour, thickness=thickness)


def _line(
    svg: ET.Element,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    *,
    thickness: float = 1.0,
    dashes: str = "none",
) -> None:
    ends = {"x1": f"{start[0]:.1f}", "y1": f"{start[1]:.1f}", "x2": f"{end[0]:.1f}", "y2": f"{end[1]:.1f}"}
    look = {"stroke": colour, "stroke-width": f"{thickness:g}", "stroke-dasharray": dashes}
    ET.SubElement(svg, "line", {**ends, **look})


def _box(svg: ET.Element, x: float, y: float, width: float, height: float, colour: str) -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}"}
    ET.SubElement(svg, "rect", {**place, "fill": colour})


def _text(
    svg: ET.Element,
    x: float,
    y: float,
    text: str,
    colour: str,
    *,
    size: int = 13,
    weight: str = "normal",
    anchor: str = "start",
) -> None:
    look = {"fill": colour, "font-size": f"{size}", "font-weight": weight, "text-anchor": anchor}
    ET.SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", **look}).text = text
