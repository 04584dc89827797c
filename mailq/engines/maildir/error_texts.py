"""The error texts of failed attempts: ``errors/<id>.<attempt>.txt``, one file an attempt.

They stand in a directory of their own, not in ``dead/``: ``mv dead/* new/``
would turn them into messages. A text is evidence, not the message: failing to
keep one is logged and stops nothing.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import names
from mailq.message import Attempt

if TYPE_CHECKING:
    from mailq.engines.maildir.disk import Disk
    from mailq.engines.maildir.names import MessageName

LONGEST: Final = 65_536
"""A text keeps at most its last this many bytes: a traceback ends with what matters."""

_KEPT: Final = 100
"""The number of attempts of a message that keep their texts, the last ones."""


def path_to(directory: str, id: str, number: int) -> str:
    """Where the text of an attempt is."""
    return f"{directory}/{id}.{number}.txt"


def write(disk: Disk, directory: str, id: str, number: int, text: str, *, mode: int) -> None:
    """Keep the text of an attempt; number 0 is a death without one (torn, expired)."""
    path = path_to(directory, id, number)
    data = text.encode(errors="backslashreplace")[-LONGEST:]
    try:
        for former in (path, path_to(directory, id, number - _KEPT)):
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(former)
        disk.write_file(path, data, mode=mode, sync=False)
    except OSError as error:
        layouts.log().warning("message %s: its error text was not kept: %s", id, error)


def put_back(disk: Disk, directory: str, id: str, number: int, data: bytes, *, at: int, mode: int) -> None:
    """Keep a text that was kept elsewhere before, as of then."""
    path = path_to(directory, id, number)
    try:
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(path)
        disk.write_file(path, data[-LONGEST:], mode=mode, sync=False)
        disk.utime(path, at)
    except OSError as error:
        layouts.log().warning("message %s: its error text was not kept: %s", id, error)


def numbers(message: MessageName) -> list[int]:
    """The attempts that may have a text: a few, whatever number the name claims."""
    last = message.total_attempts
    return [0, *range(max(1, last - _KEPT + 1), last + 1)]


def remove(disk: Disk, directory: str, message: MessageName) -> None:
    """Delete the texts of a message that is gone."""
    for number in numbers(message):
        with contextlib.suppress(OSError):
            disk.unlink(path_to(directory, message.id, number))


def move(disk: Disk, source: str, target: str, message: MessageName) -> None:
    """Take the texts along to another queue."""
    for number in numbers(message):
        with contextlib.suppress(OSError):
            disk.rename(path_to(source, message.id, number), path_to(target, message.id, number))


def read(disk: Disk, directory: str, message: MessageName) -> list[Attempt]:
    """The finished attempts of a message, with their texts; one that died without an attempt has number 0."""
    attempts = []
    for number, outcome in [(0, ""), *names.list_attempts(message.tries)]:
        path = path_to(directory, message.id, number)
        data = layouts.read_small(disk, path, LONGEST)
        text = None if data is None else data.decode(errors="backslashreplace")
        status = layouts.status_of(path) if text is not None else None
        at = None if status is None else status.st_mtime
        if number or text:
            attempts.append(Attempt(number, outcome or message.reason, text, at))
    return attempts
