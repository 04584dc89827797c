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
from typing import TYPE_CHECKING, Final

import click

from mailq.cli import output
from mailq.cli.options import INTERVAL, on_disk, open_queue
from mailq.cli.top_data import QueueMonitor, look_at

try:
    import termios
    import tty
except ImportError:  # Windows: only Ctrl-C quits
    termios = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from mailq.cli.top_data import Look

_WINDOW: Final = 5.0
"""Seconds that rates are measured over, about: a worker publishes its status only once a second."""

_NAP: Final = 0.25  # seconds until it sees that the terminal has another size
_QUIT: Final = frozenset(b"qQ\x03")


@click.command()
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
@click.option("--every", type=INTERVAL, default=1.0, show_default="1s", help="Look again after this long.")
@click.option("--once", is_flag=True, help="Print one screen and exit, as when the output is no terminal.")
def top(queues: tuple[str, ...], *, every: float, once: bool) -> None:
    """Show queues and their workers live; q quits.

    Rates are those of the workers in the last seconds; a worker over several queues
    counts them together. Below each worker are its running jobs, below all of them
    the newest dead letters.

    \b
        mailq top jobs mails --every 5s
    """
    monitors = [QueueMonitor(on_disk(queue)) for queue in dict.fromkeys(queues)]
    for monitor in monitors:
        open_queue(monitor.queue).close()  # later it may be gone; now it is a mistake
    if not once and sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs it

        console = Console()
        if console.is_terminal and not console.is_dumb_terminal:
            _live(console, monitors, every)
            return
    from mailq.cli.top_view import screen  # noqa: PLC0415 - help needs no rich

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in screen(look_at(monitors), None, width=width):
        click.echo(line.plain)


# The terminal


def _live(console: Console, monitors: Sequence[QueueMonitor], every: float) -> None:
    """Look and draw until a key or a signal ends it."""
    from rich.live import Live  # noqa: PLC0415 - only a terminal needs it
    from rich.text import Text  # noqa: PLC0415

    from mailq.cli.top_view import screen  # noqa: PLC0415

    logging.getLogger("mailq").addHandler(logging.NullHandler())  # a warning would be drawn over the screen
    looks: deque[Look] = deque()
    hint = f"every {output.span(every)}, q quits"
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # by way of what restores the terminal
    with contextlib.suppress(KeyboardInterrupt), _keyboard() as quits:  # noqa: SIM117 - the modes are restored last
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                began = time.monotonic()
                looks.append(look_at(monitors))
                while len(looks) > 2 and looks[1].at <= began - _WINDOW:  # noqa: PLR2004 - rates are those between two
                    looks.popleft()
                now = time.monotonic()
                until, drawn = now + max(every, now - began), None
                while (left := until - time.monotonic()) > 0:
                    if console.size != drawn:
                        drawn = console.size
                        lines = screen(looks[-1], looks[0], width=drawn.width, height=drawn.height, hint=hint)
                        live.update(Text("\n", no_wrap=True).join(lines), refresh=True)
                    if quits(min(left, _NAP)):
                        return


@contextlib.contextmanager
def _keyboard() -> Iterator[Callable[[float], bool]]:
    """Read keys as they are pressed; yields a function that waits, and returns whether a key quits."""
    if termios is None or not sys.stdin.isatty():
        yield lambda timeout: bool(time.sleep(timeout))  # type: ignore[func-returns-value]
        return
    fd = sys.stdin.fileno()
    former = termios.tcgetattr(fd)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # Ctrl-Z would leave its screen to the shell
    try:
        tty.setcbreak(fd, termios.TCSANOW)
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
