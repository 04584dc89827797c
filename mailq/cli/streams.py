"""The standard streams: the shell may have closed one, its disk may be full, its reader may have ended."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import BinaryIO, Final

import click

_STREAMS: Final = (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_RDONLY))
"""The name of each, its mode, and how /dev/null is opened so that what the stream is for fails there."""


def ready() -> None:
    """Open what is closed, so that it fails when it is used, and escape what an encoding cannot spell.

    The descriptor must not stay free: the next file that is opened would get it, perhaps a
    message's, and what is printed would be written into that file.
    """
    for name, mode, wrong_way in _STREAMS:
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, wrong_way)  # the lowest that is free
            setattr(sys, name, open(fd, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as we run
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def open_closed() -> None:
    """Have what is printed to a closed stream vanish: a handler prints, and its job must not fail because of that."""
    for fd in range(3):
        if _is_closed(fd):
            _open_null(fd)


def standard_input(instead: str) -> BinaryIO:
    """Standard input. Raises UsageError if it is closed; ``instead`` says what else to pass."""
    if _is_closed(0):
        raise click.UsageError(f"standard input is closed; {instead}")
    return sys.stdin.buffer


def why_unwritten() -> str:
    """Why standard output does not take what was printed; empty if it does."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def drop_unwritten() -> None:
    """Drop what could not be written: Python would try again when it exits, print a traceback, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _open_null(stream.fileno())


def _is_closed(fd: int) -> bool:
    try:
        if fd == 0:
            os.read(fd, 0)
        else:
            os.write(fd, b"")
    except OSError as error:
        return error.errno == errno.EBADF
    return False


def _open_null(fd: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)
