"""The file that an export is written to: whole under its name, or not there."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Final

from mailq.archive import compression
from mailq.engines.disk import Disk
from mailq.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailq.archive.items import Format

_LINES: Final = (".jsonl", ".ndjson")


def format_of(path: str) -> Format:
    """The format that a file's name asks for."""
    plain = path.lower().removesuffix(".gz").removesuffix(".xz")
    return "jsonl" if plain.endswith(_LINES) else "tar"


@contextlib.contextmanager
def writing(path: str, disk: Disk | None = None) -> Iterator[BinaryIO]:
    """Write a file aside, ``<path>.<random>.part``, and rename it, synced, when all went well.

    ``.gz`` and ``.xz`` compress. A FIFO or device is written to as it is. Raises StorageError.
    """
    disk = disk or Disk()
    try:
        special = not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        special = False
    part = path if special else f"{path}.{os.urandom(4).hex()}.part"
    flags = os.O_WRONLY if special else os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        fd = disk.open(part, flags | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as error:
        raise StorageError("write the archive", _about(path, error)) from error
    try:
        with open(fd, "wb") as file:
            with compression.writing(file, path) as stream:
                yield stream
            file.flush()
            if not special:
                disk.fsync(fd)
        if not special:
            disk.rename(part, path)
            disk.sync_directory(os.path.dirname(os.path.abspath(path)))
    except BaseException as error:
        if not special:
            with contextlib.suppress(OSError):
                disk.unlink(part)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise StorageError("write the archive", error) from error
        raise


def _about(path: str, error: OSError) -> OSError:
    """The error of a file that nobody has named, as one of what was named."""
    directory = os.path.dirname(path) or "."
    if isinstance(error, FileNotFoundError) and not os.path.isdir(directory):
        return FileNotFoundError(error.errno, "there is no such directory; make it, or name another FILE", directory)
    return OSError(error.errno, error.strerror, path)
