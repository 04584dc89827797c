"""What several commands take: queues, durations, states, message options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from mailq.errors import SettingsError
from mailq.message import STATES
from mailq.settings import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailq.queue import Queue

F = TypeVar("F", bound="Callable[..., Any]")


class Duration(click.ParamType):  # type: ignore[type-arg] # generic only since click 8.2
    """Seconds, written 30, 30s, 5m, 2h or 1d."""

    name = "duration"

    def __init__(self, least: float = 0.0) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's signature
        if isinstance(value, float):
            return value
        try:
            seconds = parse_duration(str(value))
        except SettingsError as error:
            self.fail(str(error), param, ctx)
        if seconds < self._least:
            self.fail(f"it is at least {self._least:g}s", param, ctx)
        return seconds


DURATION = Duration()
INTERVAL = Duration(least=0.1)
"""How far apart something is done again and again: more often it would only keep a processor busy."""

STATE = click.Choice(STATES)


def queue_argument(function: F) -> F:
    """The QUEUE that every command takes."""
    return click.argument("queue", metavar="QUEUE", callback=lambda _context, _parameter, queue: on_disk(queue))(
        function
    )


def on_disk(queue: str) -> str:
    """A queue as the shell has them: in memory it would end with the command, and what was pushed with it."""
    scheme, separator, _ = queue.partition("://")
    if not queue:
        raise click.UsageError(f"{queue!a} is no queue; pass the path of a directory")
    if separator and scheme == "memory":
        raise click.UsageError(
            f"{queue!a} would end with this command; in the shell there are only queues on disk; pass a path"
        )
    if separator and scheme != "maildir":
        raise click.UsageError(f"{queue!a}: there is no {scheme}:// here; pass a path")
    return queue


def message_options(function: F) -> F:
    """The options that a push has."""
    options = (
        click.option("--delay", type=DURATION, default=0.0, help="Deliver it only after this long."),
        click.option("--priority", type=click.IntRange(0, 9), default=0, help="0 to 9; higher is delivered first."),
        click.option("--lease", type=DURATION, help="How long a consumer may hold it [default: the queue's]."),
        click.option("--max-retries", type=click.IntRange(0), help="Retries before it is dead [default: the queue's]."),
        click.option("--ttl", type=DURATION, help="Give up on it this long after the push."),
        click.option("--header", "headers", metavar="K=V", multiple=True, help="A header; repeatable."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def parse_headers(headers: tuple[str, ...]) -> dict[str, str]:
    """Read K=V pairs."""
    pairs = {}
    for header in headers:
        key, separator, value = header.partition("=")
        if not separator or not key:
            raise click.UsageError(f"{header!r} is no header; write --header KEY=VALUE")
        pairs[key] = value
    return pairs


def open_queue(target: str) -> Queue:
    """Open a queue that exists: only init, push and import --create make one."""
    from mailq.connect import open as open_any  # noqa: PLC0415 - help needs no engine

    return open_any(target, create=False)
