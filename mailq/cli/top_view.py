"""How ``mailq top`` draws a look: lines, as many and as long as a terminal has room for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from mailq.cli import output
from mailq.cli.top_data import LISTED, SHOWN, rates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailq.cli.top_data import Look, RunningJob, View, WorkerStatus

_NARROW: Final = 6  # cells of a column that is cut
_INDENT: Final = "    "
_GAP: Final = " · "


class ScreenLine(NamedTuple):
    """One line of the screen."""

    text: str
    style: str = ""


class _Block(NamedTuple):
    row: ScreenLine
    jobs: list[list[str]]  # those of each line


class _Column(NamedTuple):
    title: str
    right: bool = False
    keep: str = ""  # which end stays when there is no room for all: head or tail; neither: it is never cut


def screen(
    look: Look, former: Look | None, *, width: int | None = None, height: int | None = None, hint: str = ""
) -> list[ScreenLine]:
    """The lines of one screen, as many and as long as there is room; None is room for all."""
    views, workers = look.views, [worker for view in look.views for worker in view.workers]
    title = f"mailq top  {output.moment(time.time())}{'  ' if hint else ''}{hint}"
    queues = _queue_lines(look, former, width)
    heading, blocks = _worker_blocks(workers, width)
    letters = _letter_lines(views, width)
    wants = [len(queues) - 1, sum(1 + len(block.jobs) for block in blocks), max(0, len(letters) - 1)]
    heads = 1 + sum(1 + (number > 0) for number, want in enumerate(wants) if want or not number)
    room = [*wants] if height is None else share(max(0, height - heads), wants)
    lines = [ScreenLine(title, "bold cyan"), queues[0], *_first(queues[1:], room[0], "queues")]
    if wants[1]:
        lines += [ScreenLine(""), heading, *_first_blocks(blocks, room[1], width)]
    if wants[2]:
        lines += [ScreenLine(""), letters[0], *letters[1 : 1 + room[2]]]
    return [ScreenLine(_cut(line.text.rstrip(), width, "head"), line.style) for line in lines]


def share(room: int, wants: Sequence[int]) -> list[int]:
    """Give each as much as it wants, or if there is no room for that, as much as the others get."""
    given = list(wants) if room >= sum(wants) else [0] * len(wants)
    for _ in range(room if room < sum(wants) else 0):
        given[min((n for n, want in enumerate(wants) if given[n] < want), key=given.__getitem__)] += 1
    return given


def _first(lines: Sequence[ScreenLine], room: int, what: str) -> list[ScreenLine]:
    if len(lines) <= room:
        return list(lines)
    kept = max(0, room - 1)
    return [*lines[:kept], *([ScreenLine(f"… and {len(lines) - kept} more {what}", "dim")] if room else [])]


def _first_blocks(blocks: Sequence[_Block], room: int, width: int | None) -> list[ScreenLine]:
    """All workers before any jobs; then as many lines of jobs as there is room for, a like number for each."""
    rows = _first([block.row for block in blocks], room, "workers")
    if len(blocks) > room:
        return rows
    lines = []
    for block, given in zip(blocks, share(room - len(rows), [len(block.jobs) for block in blocks]), strict=True):
        jobs = [_INDENT + _GAP.join(line) for line in block.jobs[:given]]
        if hidden := sum(len(line) for line in block.jobs[given:] if given):
            more = f"  … and {hidden} more"
            jobs[-1] = _cut(jobs[-1], None if width is None else width - len(more), "head") + more
        lines += [block.row, *(ScreenLine(text, "dim") for text in jobs)]
    return lines


def _queue_lines(look: Look, former: Look | None, width: int | None) -> list[ScreenLine]:
    columns = [_Column("queue", keep="tail")]
    columns += [_Column(title, right=True) for title in ("ready", "delayed", "leased", "dead", "oldest")]
    columns += [_Column("done/s", right=True), _Column("failed/s", right=True), _Column("", keep="head")]
    before = {view.queue: view.workers for view in former.views} if former else {}
    rows, styles = [], ["bold"]
    for view in look.views:
        name, stats = output.plain(view.queue), view.stats
        if stats is None:
            rows.append((name, *[""] * 7, view.note))
            styles.append("red")
            continue
        rate = rates(before.get(view.queue, ()), view.workers, look.at - former.at) if former else None
        shown = ["-", "-"] if rate is None else [f"{each:.1f}" if each < 100 else f"{each:.0f}" for each in rate]  # noqa: PLR2004 - tenths say something up to here
        counts = [str(count) for count in (stats.ready, stats.delayed, stats.leased, stats.dead)]
        rows.append((name, *counts, output.span(stats.oldest_ready_age) or "-", *shown, "paused" * stats.paused))
        styles.append("yellow" if stats.paused else "")
    return [ScreenLine(text, style) for text, style in zip(_grid(columns, rows, width), styles, strict=True)]


def _worker_blocks(workers: Sequence[WorkerStatus], width: int | None) -> tuple[ScreenLine, list[_Block]]:
    """The heading, and each worker with its jobs."""
    several = len({worker.queue for worker in workers}) > 1
    columns = [_Column("worker"), _Column("queue" if several else "", keep="tail"), _Column("host", keep="head")]
    columns += [_Column(title, right=True) for title in ("pid", "running", "done", "failed", "p50", "p95", "p99")]
    rows = []
    for worker in workers:
        running, slots, *counts = (
            "-" if number is None else str(number)
            for number in (worker.running, worker.slots, worker.pid, worker.done, worker.failed)
        )
        times = [_run_time(each) for each in worker.run_times] or ["-"] * 3
        counts.insert(1, "-" if running == slots == "-" else f"{running}/{slots}")
        rows.append((worker.state, output.plain(worker.queue) if several else "", worker.host, *counts, *times))
    heading, *texts = _grid(columns, rows, width)
    styles = ({"dead": "red", "running": "", "consumer": ""}.get(worker.state, "yellow") for worker in workers)
    lines = map(ScreenLine, texts, styles)
    return ScreenLine(heading, "bold"), [
        _Block(line, _job_lines(w.jobs, width)) for line, w in zip(lines, workers, strict=True)
    ]


def _job_lines(jobs: Sequence[RunningJob], width: int | None) -> list[list[str]]:
    """The jobs, longest running first, as many on a line as there is room for."""
    now = time.time()
    texts = [f"{job.id} {output.span(max(0.0, now - job.since))}" for job in sorted(jobs, key=lambda job: job.since)]
    longest = max(map(len, texts), default=0) + len(_GAP)
    count = max(1, len(texts) if width is None else (width - len(_INDENT) + len(_GAP)) // longest if texts else 1)
    return [texts[n : n + count] for n in range(0, len(texts), count)]


def _letter_lines(views: Sequence[View], width: int | None) -> list[ScreenLine]:
    letters = sorted((letter for view in views for letter in view.letters), key=lambda letter: -letter.died_at)
    several = len({letter.queue for letter in letters}) > 1
    columns = [_Column("dead letter"), _Column("queue" if several else "", keep="tail"), _Column("died", right=True)]
    columns += [_Column("reason"), _Column("last error", keep="head")]
    rows = [
        (m.id, output.plain(m.queue) if several else "", output.since(m.died_at), output.plain(m.reason), m.error)
        for m in letters[:SHOWN]
    ]
    heading, *lines = _grid(columns, rows, width)
    if any(view.stats and view.stats.dead > LISTED for view in views):
        heading = f"dead letters: the newest of the {LISTED} first in line"
    return [ScreenLine(heading, "bold"), *(ScreenLine(line) for line in lines)]


def _run_time(seconds: float) -> str:
    return f"{seconds * 1000:.3g}ms" if seconds < 0.9995 else output.span(seconds)  # noqa: PLR2004 - that is rounded to 1000


def _grid(columns: Sequence[_Column], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Lines of cells under a heading. Those that may be cut are, where it is too wide; empty columns are left out."""
    from rich.cells import cell_len  # noqa: PLC0415 - help needs no rich

    cells = [[column.title for column in columns], *rows]
    widths = [max(cell_len(row[n]) for row in cells) for n in range(len(columns))]
    shown = [n for n, wide in enumerate(widths) if wide]
    if width is not None:
        while sum(widths) + 2 * (len(shown) - 1) > width:
            soft = [n for n in shown if columns[n].keep and widths[n] > _NARROW]
            if not soft:
                break
            widths[max(soft, key=widths.__getitem__)] -= 1
    lines = []
    for row in cells:
        fitted = []
        for n in shown:
            text = _cut(row[n], widths[n], columns[n].keep)
            blanks = " " * (widths[n] - cell_len(text))
            fitted.append(blanks + text if columns[n].right else text + blanks)
        lines.append("  ".join(fitted))
    return lines


def _cut(text: str, width: int | None, keep: str) -> str:
    """As much of one end of a text as there is room for."""
    from rich.cells import cell_len, set_cell_size  # noqa: PLC0415 - help needs no rich

    if width is None or cell_len(text) <= width:
        return text
    if keep == "head":
        return set_cell_size(text, max(0, width - 1)) + "…"
    while text and cell_len(text) >= width:
        text = text[1:]
    return "…" + text
