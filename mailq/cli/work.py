"""work, drain: a worker over one or more queues."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from mailq.cli.logs import log_to_stderr
from mailq.cli.options import DURATION, on_disk
from mailq.cli.output import note
from mailq.cli.streams import open_closed
from mailq.errors import WorkerFailed

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

_BYTES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class _Size(click.ParamType):  # type: ignore[type-arg] # generic only since click 8.2
    """Bytes, written 500m, 2g or plain."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - click's signature
        if isinstance(value, int):
            return value
        text = str(value).strip().lower().removesuffix("b").removesuffix("i")
        digits = text.rstrip("kmg")
        if not digits.isdigit() or text[len(digits) :] not in _BYTES:
            self.fail(f"{value!r} is no size; write 500m, 2g or bytes", param, ctx)
        return int(digits) * _BYTES[text[len(digits) :]]


class _WorkCommand(click.Command):
    """Takes what stands behind ``--`` as the command line of the jobs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Cut the arguments in two."""
        if "--" in args:
            at = args.index("--")
            ctx.obj, args = args[at + 1 :], args[:at]
            if not ctx.obj:
                raise click.UsageError("there is no command behind --", ctx)
        else:
            ctx.obj = None
        return super().parse_args(ctx, args)


def _options(function: F) -> F:
    options = (
        click.argument("targets", metavar="QUEUE... [HANDLER | -- COMMAND...]", nargs=-1, required=True),
        click.option("-c", "--concurrency", type=click.IntRange(1), default=1, show_default=True, help="Jobs at a time."),
        click.option("--threads", is_flag=True, help="Threads of one process instead of processes."),
        click.option("--dead", multiple=True, metavar="QUEUE=HANDLER", help="Another queue with a handler of its own: for dead letters."),
        click.option("--lease", type=DURATION, help="Lease of each message; it is kept while the job runs [default: the queue's]."),
        click.option("--timeout", type=DURATION, help="End a job after this long [default: the queue's]."),
        click.option("--soft-timeout", type=DURATION, help="Raise TimeLimit in a job after this long [default: the queue's]."),
        click.option("--kill-after", type=DURATION, default=5.0, help="SIGKILL follows SIGTERM after this long [default: 5s]."),
        click.option("--kill-on-lost-lease", is_flag=True, help="End a job whose lease is lost."),
        click.option("--grace", type=DURATION, default=30.0, help="How long jobs may finish when stopped [default: 30s]."),
        click.option("--max-jobs", type=click.IntRange(1), help="Replace a process after this number of jobs."),
        click.option("--max-age", type=DURATION, help="Replace a process after this long."),
        click.option("--max-rss", type=_Size(), help="Replace a process that takes more memory: 500m, 2g."),
        click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Of the log on stderr."),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[default: info; warning on a terminal]"),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@click.command(cls=_WorkCommand)
@_options
@click.pass_obj
def work(command: list[str] | None, /, **given: Any) -> None:  # noqa: ANN401 - the options above
    """Run a handler or a command for every message, until stopped.

    HANDLER is package.module:function or file.py:function, of the body (or of the
    delivery, if its parameter is called so), or a mailq.App, which brings its
    queues. What cannot be one, such as a generator, is refused at the start.
    Returning acks; mailq.Retry and mailq.Reject can be returned or raised; any
    other exception nacks. A COMMAND has the body on its standard input and
    MAILQ_* in its environment; exit 0 acks. What it prints passes through, except
    with --log-format json; the end of it is kept when it fails.

    SIGTERM or Ctrl-C lets running jobs finish within the grace, then releases
    them; a second one does so at once. SIGHUP reloads the code.

    \b
        mailq work jobs -c 4 -- ./resize.sh
        mailq work jobs -c 4 mypkg.jobs:handle
        mailq work mypkg.jobs:app
        mailq work jobs mypkg.jobs:handle --dead failed=mypkg.jobs:bury
    """
    _run(command, drain=False, **given)


@click.command(cls=_WorkCommand)
@_options
@click.pass_obj
def drain(command: list[str] | None, /, **given: Any) -> None:  # noqa: ANN401 - the options above
    """Work until the queues are empty, then exit.

    Empty is when nothing is ready and nothing runs here; what is delayed, a retry
    too, is not waited for. Takes what 'mailq work' takes.

    \b
        mailq drain jobs -c 4 -- ./resize.sh
    """
    _run(command, drain=True, **given)


def _run(
    command: list[str] | None,
    *,
    drain: bool,
    targets: tuple[str, ...],
    concurrency: int,
    threads: bool,
    dead: tuple[str, ...],
    log_format: str,
    log_level: str | None,
    max_rss: int | None,
    **options: Any,  # noqa: ANN401 - those of Worker
) -> None:
    from mailq.workers.loader import looks_like_target  # noqa: PLC0415 - help needs no worker
    from mailq.workers.worker import Worker  # noqa: PLC0415

    sys.path.insert(0, os.getcwd())  # as python -m does: a handler is looked for where the worker is started
    queues: list[str] = list(targets)
    handler: Any = command
    if command is None:
        if not looks_like_target(targets[-1]):
            raise click.UsageError(f"{targets[-1]!r} names no handler; end with package.module:function, or -- COMMAND")
        handler = queues.pop()
    letters = dict(_pair(text) for text in dead)
    for queue in (*queues, *letters):
        on_disk(queue)
    open_closed()
    _log(log_format, log_level)
    progress = _Progress() if sys.stderr.isatty() else None
    worker = Worker(
        queues,
        handler,
        processes=None if threads else concurrency,
        threads=concurrency if threads else None,
        dead=letters,
        max_memory=max_rss,
        on_change=progress,
        reap_children=True,
        echo=log_format == "text",  # or the log would not be JSON any more
        **options,
    )
    try:
        worker.run(drain=drain)
    except WorkerFailed as error:
        note(error.text.rstrip())
        raise
    finally:
        if progress is not None:
            with contextlib.suppress(OSError):  # the terminal may be closed
                progress.end()


def _pair(text: str) -> tuple[str, str]:
    queue, separator, handler = text.rpartition("=")
    if not separator or not queue or not handler:
        raise click.UsageError(f"--dead {text!r} is no pair; write --dead QUEUE=package.module:function")
    return queue, handler


def _log(form: str, level: str | None) -> None:
    default = logging.WARNING if sys.stderr.isatty() else logging.INFO
    log_to_stderr(form, default if level is None else getattr(logging, level.upper()))


class _Progress:
    """One line on a terminal, rewritten as things change."""

    def __init__(self) -> None:
        self._width = 0

    def __call__(self, status: dict[str, Any]) -> None:
        """Show how it goes."""
        text = f"mailq: {status['done']} done, {status['failed']} failed, {status['running']} running"
        if status["stage"] != "running":
            text += f" ({status['stage']})"
        click.echo(f"\r{text.ljust(self._width)}", err=True, nl=False)
        self._width = len(text)

    def end(self) -> None:
        """Leave the last state standing."""
        if self._width:
            click.echo(err=True)
