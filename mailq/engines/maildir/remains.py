"""What lies in ``journal/``: the journals of the living and of the dead, and who is at these.

A producer keeps its journal's lock to itself while it lives. Whoever gets a share of that
lock knows that the producer is dead, and keeps nobody else from finding it out. Who
replays the journal has the lock of its mark to himself. So everybody sees of each whether it is
alive, left behind, or being replayed; and nobody waits because of the living.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir.journal import MARK, decode, opening
from mailq.engines.maildir.layout import GONE, is_regular
from mailq.engines.maildir.locks import LockFile
from mailq.engines.maildir.names import is_token

try:
    import fcntl
except ImportError:  # Windows: no journals there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailq.engines.maildir.disk import Disk
    from mailq.engines.maildir.layout import Layout

LACKING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
"""What this process or the machine is short of, and will have another time."""

_NOT_OURS: Final = (*GONE, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO)
"""What says that a file is gone, is another user's (who may read the messages may read it), a link, or a socket."""


_MOST: Final = 64 << 20
"""No journal that mailq writes has more bytes."""

_SECTOR: Final = 512
"""What comes to the disk whole or not at all."""


class Damaged(OSError):
    """A journal that the disk cannot read or lock, and will not another time."""


def journals(layout: Layout) -> list[str]:
    """The paths of what is named like a journal."""
    if fcntl is None:
        return []
    return [f"{layout.journal}/{name}" for name in _names(layout) if is_token(name)]


def _names(layout: Layout) -> list[str]:
    try:
        found = os.listdir(layout.journal)
    except OSError:  # as a rule it is not there: no producer has needed one
        return []
    # Put there since the queue was opened: what is replayed and removed there would be elsewhere.
    return [] if os.path.islink(layout.journal) else found


def left_behind(layout: Layout, disk: Disk) -> list[str]:
    """The journals of dead producers, also those that are being replayed, or cannot be read."""
    return [path for path in journals(layout) if _is_dead(disk, path)]


def _is_dead(disk: Disk, path: str) -> bool:
    try:
        if (journal := dead(disk, path)) is None:
            return False
    except Damaged:  # what is in there is not in the directories for sure
        return True
    journal.close()
    return True


def dead(disk: Disk, path: str) -> LockFile | None:
    """A journal whose producer is dead, opened; None of what is alive, gone, not for us, or no journal.

    Raises Damaged if that cannot be told, another OSError if it cannot for now.
    """
    file = _opened(disk, path)
    if file is None:
        return None
    is_dead = False
    try:
        with _lasting(path):
            # With no name any more: its producer left in order meanwhile, or somebody has replayed it.
            is_dead = (
                file.is_locked(fcntl.LOCK_SH) and os.fstat(file.fd).st_nlink > 0 and _is_journal(disk, file.fd, path)
            )
        return file if is_dead else None
    finally:
        if not is_dead:
            file.close()


def turn(disk: Disk, path: str) -> LockFile | None:
    """The right to replay a dead journal, until it is closed; None if somebody else has it."""
    # Of a journal whose mark somebody removed: at most one at a time of all such.
    file = _opened(disk, f"{path}{MARK}") or _opened(disk, os.path.dirname(path))
    if file is None:
        return None
    is_ours = False
    try:
        with _lasting(path):
            is_ours = file.is_locked(fcntl.LOCK_EX)
        return file if is_ours else None
    finally:
        if not is_ours:
            file.close()


def _opened(disk: Disk, path: str) -> LockFile | None:
    with _lasting(path):
        try:
            return LockFile(disk, path)
        except OSError as error:
            if error.errno in _NOT_OURS:
                return None
            raise


@contextlib.contextmanager
def _lasting(path: str) -> Iterator[None]:
    """Tell what will be the same another time from what only this process is short of."""
    try:
        yield
    except OSError as error:
        if error.errno in LACKING:
            raise
        raise Damaged(error.errno, error.strerror, path) from error


def read(disk: Disk, fd: int, path: str) -> bytes:
    """What is in a journal. Raises Damaged if the disk cannot read it."""
    with _lasting(path):
        return disk.read_all(fd, min(os.fstat(fd).st_size, _MOST))


def _is_journal(disk: Disk, fd: int, path: str) -> bool:
    """Whether a file is plainly a journal: a replay removes it, so it must be nobody's own.

    It has a record, or begins as one that has none yet, or whose first one was torn: in its own word, or in zeros.
    """
    status = os.fstat(fd)
    if not is_regular(status) or not 0 < status.st_size <= _MOST:
        return False
    token = os.path.basename(path)
    start = disk.read_all(fd, _SECTOR)[:_SECTOR]
    os.lseek(fd, 0, os.SEEK_SET)
    if start.startswith(opening(token)) or (len(start) == _SECTOR and not start.strip(b"\0")):
        return True
    content = disk.read_all(fd, status.st_size)
    os.lseek(fd, 0, os.SEEK_SET)
    return next(decode(token, content), None) is not None


def strangers(layout: Layout, disk: Disk) -> list[str]:
    """The paths of what is neither a journal nor a mark: nobody replays or removes it."""
    return [path for name in sorted(_names(layout)) if _is_strange(disk, path := f"{layout.journal}/{name}")]


def _is_strange(disk: Disk, path: str) -> bool:
    token, is_mark = os.path.basename(path.removesuffix(MARK)), path.endswith(MARK)
    try:
        if not is_token(token) or not is_regular(os.lstat(path)):
            return True
    except OSError:  # it went away
        return False
    try:
        file = None if is_mark else _opened(disk, path)
        if file is None:
            return False
        with file, _lasting(path):
            return not _is_journal(disk, file.fd, path)
    except Damaged:  # it may be one
        return False
