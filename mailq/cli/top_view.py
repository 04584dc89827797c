"""How ``mailq top`` draws a look: lines that fit a terminal."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mailq.cli import output
from mailq.cli.top_data import LISTED, SHOWN, rates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import ConsoleOptions, RenderResult

    from mailq.cli.top_data import DeadLetter, Look
    from mailq.cli.workers import RunningJob, WorkerStatus

_UNLIMITED: Final = 10_000  # cells
_NARROWEST: Final = 72  # cells of a table; a terminal with fewer shows the first of them
_STYLES: Final = {"dead": "red", "running": "", "consumer": ""}
_Cells = tuple[str, ...]
_Item = list[Text]
"""One row of a table, and the details below it."""


class _Tail(str):
    """Text that loses its beginning, and not its end, where there is too little room."""

    __slots__ = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:

        text = Text(self[::-1])
        text.truncate(options.max_width, overflow="ellipsis")
        yield Text(text.plain[::-1], no_wrap=True)


def screen(
    look: Look, former: Look | None, *, width: int | None = None, height: int | None = None, hint: str = ""
) -> list[Text]:
    """Return the lines of one screen, at most ``height`` of at most ``width`` cells; None is no limit."""
    letters = sorted((letter for view in look.views for letter in view.letters), key=lambda letter: -letter.died_at)
    workers = [(output.plain(view.queue), worker) for view in look.views for worker in view.workers]
    sections = [("queues", *_queues(look, former, width))]
    if workers:
        sections.append(("workers", *_workers(workers, width)))
    if letters:
        sections.append(("dead letters", *_dead_letters(letters[:SHOWN], width)))
        if any(view.stats and view.stats.dead > LISTED for view in look.views):
            sections[-1][1].plain = f"dead letters: the newest of the {LISTED} first in line"
    wants = [sum(map(len, items)) for _, _, items in sections]
    rooms = wants if height is None else share(max(0, height - 2 * len(sections)), wants)
    lines = [Text(f"mailq top  {output.moment(time.time())}{'  ' if hint else ''}{hint}", "bold cyan")]
    for (what, heading, items), room in zip(sections, rooms, strict=True):
        lines += [heading, *_fit(items, room, what, width), Text()]
    for line in lines[:-1]:
        line.rstrip()
        line.truncate(width or _UNLIMITED, overflow="ellipsis")
    return lines[:-1]


def share(room: int, wants: Sequence[int]) -> list[int]:
    """Give each as much as it wants; if there is too little room for that, as much as the others get."""
    given = list(wants) if room >= sum(wants) else [0] * len(wants)
    for _ in range(room if room < sum(wants) else 0):
        given[min((n for n, want in enumerate(wants) if given[n] < want), key=given.__getitem__)] += 1
    return given


def _fit(items: Sequence[_Item], room: int, what: str, width: int | None) -> list[Text]:
    """All rows before any details; then the details, as many of each item as there is room for."""
    if len(items) > room:
        kept = max(0, room - 1)
        more = Text(f"… and {len(items) - kept} more {what}", "dim")
        return [*(item[0] for item in items[:kept]), *([more] if room else [])]
    lines = []
    for item, given in zip(items, share(room - len(items), [len(item) - 1 for item in items]), strict=True):
        lines += item[: 1 + given]
        if given and (hidden := len(item) - 1 - given):
            more = Text(f"  … and {hidden} more")
            lines[-1].truncate((width or _UNLIMITED) - len(more), overflow="ellipsis")
            lines[-1].append_text(more)
    return lines


def _queues(look: Look, former: Look | None, width: int | None) -> tuple[Text, list[_Item]]:
    before = {view.queue: view.workers for view in former.views} if former else {}
    rows: list[_Cells] = []
    styles = []
    for view in look.views:
        name, stats = _Tail(output.plain(view.queue)), view.stats
        if stats is None:
            rows.append((name, *[""] * 7, view.note))
            styles.append("red")
            continue
        rate = rates(before.get(view.queue, ()), view.workers, look.at - former.at) if former else None
        shown = ["-", "-"] if rate is None else [f"{each:.1f}" if each < 100 else f"{each:.0f}" for each in rate]  # noqa: PLR2004 - tenths say something up to here
        counts = [str(count) for count in (stats.ready, stats.delayed, stats.leased, stats.dead)]
        rows.append((name, *counts, output.span(stats.oldest_ready_age) or "-", *shown, "paused" * stats.paused))
        styles.append("yellow" if stats.paused else "")
    heading, *lines = _table(
        "<queue ready delayed leased dead oldest done/s failed/s <", rows, ["bold", *styles], width
    )
    return heading, [[line] for line in lines]


def _workers(workers: Sequence[tuple[str, WorkerStatus]], width: int | None) -> tuple[Text, list[_Item]]:

    several = len({queue for queue, _ in workers}) > 1
    rows: list[_Cells] = []
    for queue, worker in workers:
        running, slots, pid, done, failed = (
            "-" if number is None else str(number)
            for number in (worker.running, worker.slots, worker.pid, worker.done, worker.failed)
        )
        place = (_Tail(queue), worker.host) if several else (worker.host,)
        times = [_run_time(each) for each in worker.run_times] or ["-"] * 3
        load = "-" if running == slots == "-" else f"{running}/{slots}"
        rows.append((worker.state, *place, pid, load, done, failed, *times))
    titles = f"=worker {'<queue ' * several}<host pid running done failed p50 p95 p99"
    styles = [_STYLES.get(worker.state, "yellow") for _, worker in workers]
    heading, *lines = _table(titles, rows, ["bold", *styles], width)
    jobs = [[Text(f"    {line}", "dim") for line in _jobs(worker.jobs)] for _, worker in workers]
    return heading, [[line, *below] for line, below in zip(lines, jobs, strict=True)]


def _jobs(jobs: Sequence[RunningJob]) -> list[str]:
    """The jobs, longest running first."""
    now = time.time()
    return [f"{job.id} {output.span(max(0.0, now - job.since))}" for job in sorted(jobs, key=lambda job: job.since)]


def _dead_letters(letters: Sequence[DeadLetter], width: int | None) -> tuple[Text, list[_Item]]:
    several = len({letter.queue for letter in letters}) > 1
    rows: list[_Cells] = [
        (m.id, *[_Tail(output.plain(m.queue))] * several, output.since(m.died_at), output.plain(m.reason), m.error)
        for m in letters
    ]
    titles = f"=dead_letter {'<queue ' * several}died =reason <last_error"
    heading, *lines = _table(titles, rows, ["bold"] + [""] * len(rows), width)
    return heading, [[line] for line in lines]


def _run_time(seconds: float) -> str:
    return f"{seconds * 1000:.3g}ms" if seconds < 0.9995 else output.span(seconds)  # noqa: PLR2004 - that is rounded to 1000


def _table(titles: str, rows: Sequence[_Cells], styles: Sequence[str], width: int | None) -> list[Text]:
    """Lines of cells under a heading. A title marks a column: ``<`` may be cut, ``=`` is text; the others are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles.split():
        table.add_column(
            title.lstrip("<=").replace("_", " "),
            justify="left" if title[0] in "<=" else "right",
            no_wrap=title[0] != "<",
        )
    for row in rows:
        cells = (cell if isinstance(cell, _Tail) else Text(cell, no_wrap=True, overflow="ellipsis") for cell in row)
        table.add_row(*cells)
    console = Console(
        file=io.StringIO(), width=max(width or _UNLIMITED, _NARROWEST), color_system=None, markup=False, emoji=False
    )
    lines = console.render_lines(table, pad=False)
    return [Text("".join(part.text for part in line), style) for line, style in zip(lines, styles, strict=True)]
