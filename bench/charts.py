"""The results as charts: horizontal bars, the best on top, mailq and the floor marked. SVG, written by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from bench.ratios import FLOOR, MAILQ, groups, median, of_the_floor
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


def charts(where: dict[str, Any], results: Sequence[Result]) -> Iterator[tuple[str, str]]:
    """A name and an SVG for each section and class, with a panel for each case."""
    panels: dict[tuple[str, str], list[Group]] = {}
    for group in groups(results):
        if not group.unit.endswith(PER_MESSAGE):
            panels.setdefault((group.section, group.durability), []).append(group)
    place = ", ".join((*summary(where), where["date"]))
    for (section, durability), found in panels.items():
        name = "-".join(filter(None, (section, durability)))
        yield name, chart(title(section, durability), place, found, where.get("sides", {}))


def chart(heading: str, place: str, panels: Sequence[Group], sides: dict[str, Any]) -> str:
    """One picture: the panels below each other. What is known of the sides says which of them cannot ack."""
    height = TOP + sum(HEAD + ROW * len(group.results) for group in panels) + 12
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
    _box(svg, 0, 0, WIDTH, height, "#ffffff")
    _text(svg, 14, 24, heading, INK, size=17, weight="bold")
    _text(svg, 14, 42, place, FAINT, size=11)
    top = float(TOP)
    for group in panels:
        _panel(svg, top, group, sides)
        top += HEAD + ROW * len(group.results)
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"


def _panel(svg: ET.Element, top: float, group: Group, sides: dict[str, Any]) -> None:
    floor = group.of(FLOOR)
    _text(svg, LABELS, top + 22, group.case, INK, weight="bold")
    _text(svg, NUMBERS, top + 22, group.unit, FAINT, anchor="end", size=11)
    if floor is not None:
        _text(svg, RATIOS, top + 22, "of the floor", FAINT, anchor="end", size=11)
    top += HEAD
    scale = BARS / _end(group)
    for index, result in enumerate(group.results):
        _row(svg, top + index * ROW, group, result, label(result.side, sides), scale)
    if floor is not None and 0 < median(floor) * scale <= BARS:
        x = f"{LABELS + median(floor) * scale:.1f}"
        ends = {"x1": x, "x2": x, "y1": f"{top:.1f}", "y2": f"{top + ROW * len(group.results) - ROW + BAR:.1f}"}
        ET.SubElement(svg, "line", {**ends, "stroke": COLOURS[FLOOR], "stroke-dasharray": "3 3"})


def _end(group: Group) -> float:
    """What the width of a panel stands for."""
    longest = max(median(result) for result in group.results)
    marked = [median(result) for result in group.results if result.side in COLOURS]
    return min(longest, LONGEST * max(marked)) if marked and max(marked) > 0 else longest or 1.0


def _row(svg: ET.Element, top: float, group: Group, result: Result, name: str, scale: float) -> None:
    base, weight = top + BAR - 3, "bold" if result.side == MAILQ else "normal"
    _text(svg, LABELS - 8, base, name, INK, anchor="end", weight=weight)
    _bar(svg, top, result, scale)
    _text(svg, NUMBERS, base, number(median(result)), INK, anchor="end", weight=weight)
    of_floor = of_the_floor(group, result)
    if of_floor is not None:
        _text(svg, RATIOS, base, f"{of_floor:.2f}", INK, anchor="end", weight=weight)


def _bar(svg: ET.Element, top: float, result: Result, scale: float) -> None:
    """The median, with a line from the worst round to the best."""
    full = median(result) * scale
    _box(svg, LABELS, top, max(min(full, BARS), 1), BAR, COLOURS.get(result.side, OTHERS))
    if full > BARS + 1:  # two strokes through a bar that goes on
        for x in (LABELS + BARS - 22, LABELS + BARS - 14):
            points = f"{x},{top + BAR} {x + 6},{top} {x + 9},{top} {x + 3},{top + BAR}"
            ET.SubElement(svg, "polygon", {"points": points, "fill": "#ffffff"})
    low, high = (min(bound(result.values) * scale, BARS) for bound in (min, max))
    if high - low > 1:
        middle = f"{top + BAR / 2:.1f}"
        ends = {"x1": f"{LABELS + low:.1f}", "x2": f"{LABELS + high:.1f}", "y1": middle, "y2": middle}
        for colour, thickness in (("#ffffff", "3"), (INK, "1.2")):  # to be seen on any bar
            ET.SubElement(svg, "line", {**ends, "stroke": colour, "stroke-width": thickness})


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
