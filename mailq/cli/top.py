"""top: a screen that shows queues and workers as they are now."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import signal
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from mailq.cli import output
from mailq.cli.options import DURATION, open_queue
from mailq.errors import MailqError, QueueNotFound

try:
    import termios
except ImportError:  # Windows: only Ctrl-C quits
    termios = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, Group

    from mailq.engine import Owner, Stats
    from mailq.queue import Queue

_LEAST: Final = 0.1
"""It looks at most so often, in seconds."""

_WINDOW: Final = 5.0
"""Rates are those of about the last so many seconds: a worker tells of itself only once a second."""

_NAP: Final = 0.25  # seconds until it sees that the terminal has another size
_LINGER: Final = 10.0
"""A worker that was killed is shown for so many seconds: the queue itself tells of it once."""

_LISTED: Final = 10_000
"""The newest dead letters are looked for among so many."""

_RELIST: Final = 10.0
"""They are looked for anew when their number changes, or after so many seconds."""

_SHARE: Final = 0.1
"""Looking for them takes at most this part of the time."""

_SHOWN: Final = 10  # dead letters
_LONGEST: Final = 500  # characters of a text that others wrote
_NARROW: Final = 6  # cells of a column that is cut
_QUIT: Final = frozenset(b"qQ\x03")
_INDENT: Final = "    "
_GAP: Final = " · "


class Job(NamedTuple):
    """What a worker runs, and since when."""

    id: str
    since: float


class Worker(NamedTuple):
    """An owner with its story, as far as that is one: None is what it does not tell."""

    queue: str
    token: str
    state: str
    host: str
    pid: int | None
    slots: int | None
    done: int | None
    failed: int | None
    run_times: tuple[float, ...]
    running: int | None
    jobs: tuple[Job, ...]


class Letter(NamedTuple):
    """A dead letter, with the last line of its last error."""

    queue: str
    id: str
    died_at: float
    reason: str
    error: str


class View(NamedTuple):
    """One queue at one look. ``note`` says what is the matter if there are no ``stats``."""

    queue: str
    stats: Stats | None = None
    workers: tuple[Worker, ...] = ()
    letters: tuple[Letter, ...] = ()
    note: str = ""


class Look(NamedTuple):
    """All queues at one look; ``at`` is on the monotonic clock."""

    at: float
    views: tuple[View, ...]


class Line(NamedTuple):
    """One line of the screen."""

    text: str
    style: str = ""


class _Block(NamedTuple):
    row: Line
    jobs: list[list[str]]  # those of each line


class _Column(NamedTuple):
    title: str
    right: bool = False
    keep: str = ""  # which end stays when there is no room for all: head or tail; neither: it is never cut


@click.command()
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
@click.option("--every", type=DURATION, default=1.0, show_default="1s", help="Look again after this long.")
@click.option("--once", is_flag=True, help="Print one screen and exit, as when the output is no terminal.")
def top(queues: tuple[str, ...], *, every: float, once: bool) -> None:
    """Show queues and their workers live; q quits.

    Rates are those that the workers tell of the last seconds; a worker over several
    queues counts them together. Below each worker are its running jobs, below all
    the newest dead letters.

    \b
        mailq top jobs mails --every 5s
    """
    if every < _LEAST:
        raise click.UsageError(f"--every is at least {_LEAST:g}s")
    watches = [_Watch(queue) for queue in dict.fromkeys(queues)]
    for watch in watches:
        open_queue(watch.queue).close()  # later it may be gone; now it is a mistake
    if not once and sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs it

        console = Console()
        if console.is_terminal and not console.is_dumb_terminal:
            _live(console, watches, every)
            return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in screen(_look(watches), None, width=width):
        click.echo(line.text)


# The terminal


def _live(console: Console, watches: Sequence[_Watch], every: float) -> None:
    """Look and draw until somebody quits."""
    from rich.live import Live  # noqa: PLC0415 - only a terminal needs it

    logging.getLogger("mailq").addHandler(logging.NullHandler())  # a warning would be drawn over the screen
    looks: deque[Look] = deque()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # by way of what restores the terminal
    with contextlib.suppress(KeyboardInterrupt), _keyboard() as quits:  # noqa: SIM117 - the modes are restored last
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                began = time.monotonic()
                looks.append(_look(watches))
                while len(looks) > 2 and looks[1].at <= began - _WINDOW:  # noqa: PLR2004 - rates are those between two
                    looks.popleft()
                now = time.monotonic()
                until, drawn = now + max(every, now - began), None
                while (left := until - time.monotonic()) > 0:
                    if console.size != drawn:
                        drawn = console.size
                        live.update(_drawing(looks, drawn.width, drawn.height, every), refresh=True)
                    if quits(min(left, _NAP)):
                        return


def _drawing(looks: Sequence[Look], width: int, height: int, every: float) -> Group:
    from rich.console import Group  # noqa: PLC0415 - only a terminal needs it
    from rich.text import Text  # noqa: PLC0415

    hint = f"every {output.span(every)}, q quits"
    lines = screen(looks[-1], looks[0], width=width, height=height, hint=hint)
    return Group(*(Text(line.text, line.style, no_wrap=True, overflow="ellipsis") for line in lines))


@contextlib.contextmanager
def _keyboard() -> Iterator[Callable[[float], bool]]:
    """Read keys as they are pressed: whether one of them quits, within so many seconds."""
    if termios is None or not sys.stdin.isatty():
        yield lambda timeout: bool(time.sleep(timeout))  # type: ignore[func-returns-value]
        return
    fd = sys.stdin.fileno()
    former = termios.tcgetattr(fd)
    changed = termios.tcgetattr(fd)
    changed[3] &= ~(termios.ICANON | termios.ECHO)
    changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
    # Stopped by Ctrl-Z it would leave its screen to the shell.
    changed[6][termios.VSUSP] = bytes([os.fpathconf(fd, "PC_VDISABLE") & 0xFF])
    try:
        termios.tcsetattr(fd, termios.TCSANOW, changed)
        yield lambda timeout: _quits(fd, timeout)
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(fd, termios.TCSANOW, former)


def _quits(fd: int, timeout: float) -> bool:
    if not select.select([fd], [], [], timeout)[0]:
        return False
    try:
        keys = os.read(fd, 1024)
    except OSError:  # the terminal is gone
        return True
    return not keys or not _QUIT.isdisjoint(keys)


# Looking


def _look(watches: Sequence[_Watch]) -> Look:
    return Look(time.monotonic(), tuple(watch.look() for watch in watches))


class _Watch:
    """Looks at one queue again and again, and remembers what is dear to find out."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self._letters: tuple[Letter, ...] = ()
        self._dead = 0
        self._list_after = 0.0
        self._list_by = 0.0
        self._killed: dict[str, tuple[float, Worker]] = {}

    def look(self) -> View:
        """Look; a queue that is gone, or cannot be read, is told of as such."""
        try:
            with open_queue(self.queue) as queue:  # anew: it may be gone, or have other settings
                stats = queue.stats()
                return View(self.queue, stats, self._workers(queue), self._newest(queue, stats.dead))
        except QueueNotFound:
            return View(self.queue, note="gone")
        except (MailqError, OSError, ValueError, ArithmeticError) as error:  # owners' files hold anything
            return View(self.queue, note=_text(f"unreadable: {error}"))

    def _workers(self, queue: Queue) -> tuple[Worker, ...]:
        now = time.monotonic()
        workers = {owner.token: read_owner(self.queue, owner) for owner in queue.owners()}
        self._killed |= {token: (now, worker) for token, worker in workers.items() if worker.state == "dead"}
        self._killed = {token: (at, worker) for token, (at, worker) in self._killed.items() if now < at + _LINGER}
        return tuple({**{token: worker for token, (_, worker) in self._killed.items()}, **workers}.values())

    def _newest(self, queue: Queue, dead: int) -> tuple[Letter, ...]:
        """The newest dead letters.

        When they died is known of each only by asking, so that is done for the first
        in line, up to a bound, when their number has changed, and if it took long, less
        often.
        """
        began = time.monotonic()
        if began >= (self._list_by if dead == self._dead else self._list_after):
            found = queue.peek("dead", _LISTED) if dead else []
            found.sort(key=lambda message: message.died_at or 0.0, reverse=True)
            self._letters = tuple(
                Letter(self.queue, m.id, m.died_at or 0.0, m.reason, last_line(m.history)) for m in found[:_SHOWN]
            )
            now = time.monotonic()
            self._dead, self._list_after = dead, now + (now - began) / _SHARE
            self._list_by = max(self._list_after, now + _RELIST)
        return self._letters


def last_line(history: Sequence[Any]) -> str:
    """The last line of the last error of these attempts; if there is none, how the last one ended."""
    texts = [text for attempt in history if (text := (attempt.error or "").strip())]
    return _text(texts[-1].splitlines()[-1] if texts else history[-1].outcome if history else "")


def read_owner(queue: str, owner: Owner) -> Worker:
    """Take from a story what is as it should be; anybody can write one."""
    story = owner.story
    stage = story.get("stage", "consumer")
    times = story.get("run_times")
    numbers = tuple(map(_seconds, times)) if isinstance(times, list) and len(times) == 3 else ()  # noqa: PLR2004 - p50, p95, p99
    jobs = story.get("jobs")
    return Worker(
        queue=queue,
        token=owner.token,
        state=(_text(stage)[:12] if isinstance(stage, str) else "?") if owner.alive else "dead",
        host=_text(owner.host),
        pid=_count(owner.pid),
        slots=_count(story.get("slots")),
        done=_count(story.get("done")),
        failed=_count(story.get("failed")),
        run_times=tuple(number for number in numbers if number is not None) if None not in numbers else (),
        running=len(jobs) if isinstance(jobs, list) else None,
        jobs=tuple(_jobs(jobs)) if isinstance(jobs, list) else (),
    )


def _jobs(jobs: Sequence[object]) -> Iterator[Job]:
    for job in jobs:
        id, since = (job.get("id"), _seconds(job.get("since"))) if isinstance(job, dict) else (None, None)
        if isinstance(id, str) and since is not None:
            yield Job(_text(id)[:40], since)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 10**12 else None


def _seconds(value: object) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value < 10**12 else None  # type: ignore[operator, arg-type]


def _text(text: str) -> str:
    return output.plain(text[:_LONGEST])


def rates(before: Sequence[Worker], after: Sequence[Worker], seconds: float) -> tuple[float, float] | None:
    """Done and failed jobs a second, of the workers that were there at both looks; None if there are none."""
    known = {worker.token: worker for worker in before if None not in (worker.done, worker.failed)}
    pairs = [(known[w.token], w) for w in after if w.token in known and None not in (w.done, w.failed)]
    if not pairs or seconds <= 0:
        return None
    done = sum(max(0, (new.done or 0) - (old.done or 0)) for old, new in pairs)
    failed = sum(max(0, (new.failed or 0) - (old.failed or 0)) for old, new in pairs)
    return done / seconds, failed / seconds


# Drawing


def screen(
    look: Look, former: Look | None, *, width: int | None = None, height: int | None = None, hint: str = ""
) -> list[Line]:
    """The lines of one screen, as many and as long as there is room; None is room for all."""
    views, workers = look.views, [worker for view in look.views for worker in view.workers]
    title = f"mailq top  {output.moment(time.time())}{'  ' if hint else ''}{hint}"
    queues = _queue_lines(look, former, width)
    heading, blocks = _worker_blocks(workers, width)
    letters = _letter_lines(views, width)
    wants = [len(queues) - 1, sum(1 + len(block.jobs) for block in blocks), max(0, len(letters) - 1)]
    heads = 1 + sum(1 + (number > 0) for number, want in enumerate(wants) if want or not number)
    room = [*wants] if height is None else share(max(0, height - heads), wants)
    lines = [Line(title, "bold cyan"), queues[0], *_first(queues[1:], room[0], "queues")]
    if wants[1]:
        lines += [Line(""), heading, *_first_blocks(blocks, room[1], width)]
    if wants[2]:
        lines += [Line(""), letters[0], *letters[1 : 1 + room[2]]]
    return [Line(_cut(line.text.rstrip(), width, "head"), line.style) for line in lines]


def share(room: int, wants: Sequence[int]) -> list[int]:
    """Give each as much as it wants, or if there is no room for that, as much as the others get."""
    given = list(wants) if room >= sum(wants) else [0] * len(wants)
    for _ in range(room if room < sum(wants) else 0):
        given[min((n for n, want in enumerate(wants) if given[n] < want), key=given.__getitem__)] += 1
    return given


def _first(lines: Sequence[Line], room: int, what: str) -> list[Line]:
    if len(lines) <= room:
        return list(lines)
    kept = max(0, room - 1)
    return [*lines[:kept], *([Line(f"… and {len(lines) - kept} more {what}", "dim")] if room else [])]


def _first_blocks(blocks: Sequence[_Block], room: int, width: int | None) -> list[Line]:
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
        lines += [block.row, *(Line(text, "dim") for text in jobs)]
    return lines


def _queue_lines(look: Look, former: Look | None, width: int | None) -> list[Line]:
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
    return [Line(text, style) for text, style in zip(_grid(columns, rows, width), styles, strict=True)]


def _worker_blocks(workers: Sequence[Worker], width: int | None) -> tuple[Line, list[_Block]]:
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
    lines = map(Line, texts, styles)
    return Line(heading, "bold"), [
        _Block(line, _job_lines(w.jobs, width)) for line, w in zip(lines, workers, strict=True)
    ]


def _job_lines(jobs: Sequence[Job], width: int | None) -> list[list[str]]:
    """The jobs, longest running first, as many on a line as there is room for."""
    now = time.time()
    texts = [f"{job.id} {output.span(max(0.0, now - job.since))}" for job in sorted(jobs, key=lambda job: job.since)]
    longest = max(map(len, texts), default=0) + len(_GAP)
    count = max(1, len(texts) if width is None else (width - len(_INDENT) + len(_GAP)) // longest if texts else 1)
    return [texts[n : n + count] for n in range(0, len(texts), count)]


def _letter_lines(views: Sequence[View], width: int | None) -> list[Line]:
    letters = sorted((letter for view in views for letter in view.letters), key=lambda letter: -letter.died_at)
    several = len({letter.queue for letter in letters}) > 1
    columns = [_Column("dead letter"), _Column("queue" if several else "", keep="tail"), _Column("died", right=True)]
    columns += [_Column("reason"), _Column("last error", keep="head")]
    rows = [
        (m.id, output.plain(m.queue) if several else "", output.since(m.died_at), output.plain(m.reason), m.error)
        for m in letters[:_SHOWN]
    ]
    heading, *lines = _grid(columns, rows, width)
    if any(view.stats and view.stats.dead > _LISTED for view in views):
        heading = f"dead letters: the newest of the {_LISTED} first in line"
    return [Line(heading, "bold"), *(Line(line) for line in lines)]


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
