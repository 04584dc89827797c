"""The ``mailq`` command: one command a verb, errors in one line, exit codes.

Each command's module is loaded when it is asked for, so that ``mailq push``
starts fast.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from keyword import iskeyword
from typing import TYPE_CHECKING, Final

import click

from mailq.cli import streams
from mailq.cli.output import note, plain
from mailq.errors import LeaseLost, MailqError, Refused, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, FAILED, USAGE, NOTHING, LOST, REFUSED = range(6)
INTERRUPTED: Final = 130

_COMMANDS: Final = {
    "init": "settings",
    "config": "settings",
    "push": "push",
    "pop": "pop",
    "ack": "settle",
    "nack": "settle",
    "release": "settle",
    "reject": "settle",
    "extend": "settle",
    "run": "run",
    "work": "work",
    "drain": "work",
    "request": "request",
    "ls": "inspect",
    "show": "inspect",
    "cat": "inspect",
    "edit": "edit",
    "stats": "stats",
    "top": "top",
    "workers": "workers",
    "pause": "maintenance",
    "resume": "maintenance",
    "redrive": "maintenance",
    "purge": "maintenance",
    "reap": "maintenance",
    "export": "export",
    "import": "import_",
    "doctor": "doctor",
    "bench": "bench",
}


class _LazyGroup(click.Group):
    """Finds a command in the module that has it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            import difflib  # noqa: PLC0415 - only a mistake needs it

            near = difflib.get_close_matches(cmd_name[:40], _COMMANDS, 1)
            raise click.UsageError(
                f"there is no command {cmd_name!a}{f', perhaps you mean {near[0]}' if near else ''}", ctx
            )
        # What is a keyword of Python has an underscore behind it.
        command = getattr(import_module(f"mailq.cli.{module}"), cmd_name + "_" * iskeyword(cmd_name))
        return command if isinstance(command, click.Command) else None


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 nothing to pop or no reply, 4 lease lost, 5 refused by a limit.",
)
@click.version_option(package_name="mailq", prog_name="mailq")
def cli() -> None:
    """A durable job queue that is a directory.

    QUEUE is a path. Durations are 30, 30s, 5m, 2h or 1d.

    \b
        mailq push jobs '{"resize": "cat.jpg"}'
        mailq work jobs -c 4 -- ./resize.sh
        mailq stats jobs
    """


def exit_code(error: BaseException) -> int:
    """The exit code that an error stands for."""
    if isinstance(error, LeaseLost):
        return LOST
    if isinstance(error, Refused):
        return REFUSED
    return USAGE if isinstance(error, UsageError | click.UsageError) else FAILED


def complain(text: str) -> None:
    """Say in one line on stderr what is wrong, whatever foreign names and texts are in it."""
    note("mailq: " + plain(" ".join(text.split())))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit. No traceback reaches a shell user, but with MAILQ_DEBUG=1 set."""
    # What is loaded by now stays: to look through it again and again, at last at the exit, takes a tenth of a push.
    gc.freeze()
    streams.ready()
    try:
        code = cli.main(arguments, prog_name="mailq", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("MAILQ_DEBUG"):
            raise
        code = _report(error)
    finally:
        streams.drop_unwritten()
    sys.exit(code if isinstance(code, int) else OK)


def _report(error: BaseException) -> int:
    """Say what went wrong. Returns the exit code."""
    match error:
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message())
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "mailq"
            complain(f"{error.format_message().rstrip('.')}; see '{command} --help'")
        case click.ClickException():
            complain(error.format_message())
        case click.Abort() | KeyboardInterrupt():
            return INTERRUPTED
        case BrokenPipeError():
            pass  # the program that read our output has ended
        case MailqError():
            complain(str(error))
        case OSError(filename=None) if why := streams.why_unwritten():
            complain(f"cannot write to standard output: {why}")
        case OSError():
            complain(f"{error.strerror or error}{f' ({error.filename!a})' if error.filename else ''}")
        case _:
            complain(
                f"this is a bug in mailq: {type(error).__name__}: {error}; MAILQ_DEBUG=1 shows where, please report it"
            )
    return exit_code(error)


if __name__ == "__main__":
    main()
