"""The file that an export is written to: whole under its name, or not there."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Final

from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.layout import MARKER, OWN
from mailq.errors import StorageError, UsageError
from mailq.transfer import compression

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailq.transfer.items import Format

_LINES: Final = (".jsonl", ".ndjson")
_FOREIGN: Final = frozenset(
    (
        *("7z", "ar", "br", "bz2", "cpio", "lrz", "lz", "lz4", "lzma", "lzo"),
        *("rar", "tbz", "tbz2", "tlz", "tzst", "z", "zip", "zst", "zstd"),
    )
)
"""Endings of archives and compressions that are not written here: a tar of that name would be taken for one."""

_ENDINGS: Final = ".tar, .tgz, .txz, .jsonl or .ndjson, with .gz or .xz behind it to compress it"


def is_lines(path: str) -> bool:
    """Whether a file's name says that it is of JSON lines."""
    return _plain(path).endswith(_LINES)


def format_of(path: str) -> Format:
    """The format that a file's name asks for. Raises UsageError for JSON that is not of lines."""
    if _plain(path).endswith(".json"):
        raise UsageError(f"{path!a}: JSON is written as lines; end the name in .jsonl, or choose a format")
    return "jsonl" if is_lines(path) else "tar"


def _plain(path: str) -> str:
    return path.lower().removesuffix(".gz").removesuffix(".xz")


def _refuse(path: str) -> None:
    """Refuse a file that would be taken for what it is not: for another kind of archive, or for a part of a queue."""
    _, dot, ending = os.path.basename(path).lower().rpartition(".")
    if dot and ending in _FOREIGN:
        raise UsageError(f"{path!a}: an export is no .{ending}; end the name in {_ENDINGS}")
    parent = os.path.dirname(os.path.realpath(path))
    for root in (parent, *([os.path.dirname(parent)] if os.path.basename(parent) in OWN else [])):
        if os.path.exists(f"{root}/{MARKER}"):
            raise UsageError(f"{path!a} is within the queue {root!a}; name a FILE outside of it")


@contextlib.contextmanager
def writing(path: str, disk: Disk | None = None) -> Iterator[BinaryIO]:
    """Write a file aside, ``<path>.<random>.part``, and rename it, synced, when all went well.

    ``.gz`` and ``.xz`` compress. A FIFO or device is written to as it is. Raises StorageError,
    and UsageError for the ending of another kind of archive, and within a queue.
    """
    disk = disk or Disk()
    try:
        special = not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        special = False
    if not special:
        _refuse(path)
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
