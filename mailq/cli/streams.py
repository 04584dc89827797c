"""The standard streams, as far as the shell has given them: each may be closed, full, or without a reader."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import BinaryIO, Final

import click

_STREAMS: Final = (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_RDONLY))
"""Name, mode, and the direction in which it does not go."""


def ready() -> None:
    """Have all three, and spell what an encoding cannot.

    One that is closed stays of no use, so that a result that goes nowhere is a failure. But
    its descriptor is taken: the next file that is opened would get it, be it a message,
    and whatever is printed by anybody would be written there.
    """
    for name, mode, other_way in _STREAMS:
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, other_way)  # the lowest that is free
            setattr(sys, name, open(fd, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as we run
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def open_closed() -> None:
    """Let what is closed lead nowhere without a failure: for handlers, whose jobs must not fail because they print."""
    for fd in range(3):
        if _is_closed(fd):
            _lead_nowhere(fd)


def standard_input(instead: str) -> BinaryIO:
    """Standard input. Raises UsageError if it is closed; ``instead`` says what else to pass."""
    if _is_closed(sys.stdin.fileno()):
        raise click.UsageError(f"standard input is closed; {instead}")
    return sys.stdin.buffer


def why_unwritten() -> str:
    """Why what was printed cannot be written to standard output; empty if it can."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def drop_unwritten() -> None:
    """Forget what could not be written: at its exit Python would try again, complain in its own way, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _lead_nowhere(stream.fileno())


def _is_closed(fd: int) -> bool:
    try:
        if fd == 0:
            os.read(fd, 0)
        else:
            os.write(fd, b"")
    except OSError as error:
        return error.errno == errno.EBADF
    return False


def _lead_nowhere(fd: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, fd)
    os.close(nowhere)
