"""How the command prints: tables on a terminal, tab-separated lines in a pipe."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_AGES: Final = 1e12
_NEVER: Final = "?"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, headed: bool = False) -> None:
    """Print rows: as a table for a person, one tab-separated line each for a program.

    A program gets no headings, unless it is ``headed``: what is kept for people to read later.
    """
    if not sys.stdout.isatty():
        for row in (columns, *rows) if headed else rows:
            click.echo("\t".join(plain(cell) for cell in row))
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        grid.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(plain(cell)) for cell in row))
    Console().print(grid)


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print names and values, one pair a line."""
    shown = [(name, value) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{click.style(f'{name:<{width}}', bold=True)}  {plain(str(value))}")


def note(text: str) -> None:
    """Print on stderr. A failure of that stops nothing: the exit code says how the command went."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def plain(text: str) -> str:
    """Text that cannot steer a terminal or break a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def as_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """JSON as people can read it, unless something in it could steer a terminal. Raises ValueError for NaN and the like."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() else json.dumps(value)


def moment(at: float | None) -> str:
    """An instant for a person: UTC, to the second."""
    if at is None:
        return ""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # a file's time can be any
        return _NEVER


def span(seconds: float | None) -> str:
    """A duration for a person, in its two largest units."""
    if seconds is None or not seconds < _AGES:
        return "" if seconds is None else _NEVER
    whole = int(seconds)
    if seconds < 10:  # noqa: PLR2004 - tenths say something up to here
        return f"{seconds:.1f}s"
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m {whole % _MINUTE}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h {whole % _HOUR // _MINUTE}m"
    return f"{whole // _DAY}d {whole % _DAY // _HOUR}h"


def since(at: float | None) -> str:
    """How long ago, or in how long."""
    if at is None:
        return ""
    ago = time.time() - at
    return f"{span(ago)} ago" if ago >= 0 else f"in {span(-ago)}"


def size(count: int) -> str:
    """A number of bytes for a person."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:  # noqa: PLR2004 - binary units
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
