"""The journals in ``journal/``: which are in use, which are orphaned, and which are being replayed.

A producer holds an exclusive lock on its journal while it lives. A process that gets a shared
lock on it knows that the producer is dead, and hides that from no other process. The process that
replays a journal holds an exclusive lock on its mark. So each process sees of each journal whether it is
in use, orphaned or being replayed; and none waits because of a live producer.
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

TRANSIENT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
"""What this process or the machine is short of for now."""

_NOT_OURS: Final = (*GONE, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO)
"""What says that a file is gone, is another user's (who may read the messages may read it), a link, or a socket."""


_MOST: Final = 64 << 20
"""No journal that mailq writes has more bytes."""

_SECTOR: Final = 512
"""What comes to the disk whole or not at all."""


class JournalUnreadable(OSError):
    """A journal that the disk cannot read or lock, now or later."""


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


def orphaned_journals(layout: Layout, disk: Disk) -> list[str]:
    """The journals of dead producers, also those that are being replayed, or cannot be read."""
    return [path for path in journals(layout) if _is_dead(disk, path)]


def _is_dead(disk: Disk, path: str) -> bool:
    try:
        if (journal := dead(disk, path)) is None:
            return False
    except JournalUnreadable:  # what is in there is not in the directories for sure
        return True
    journal.close()
    return True


def dead(disk: Disk, path: str) -> LockFile | None:
    """Open a journal whose producer is dead; None if it is in use, gone, another user's, or not a journal.

    Raises JournalUnreadable if that is unknown for good, another OSError if it is unknown for now.
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


def replay_lock(disk: Disk, path: str) -> LockFile | None:
    """Lock an orphaned journal for a replay; None if another process has that lock. Closing it unlocks it."""
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
        if error.errno in TRANSIENT:
            raise
        raise JournalUnreadable(error.errno, error.strerror, path) from error


def read(disk: Disk, fd: int, path: str) -> bytes:
    """What is in a journal. Raises JournalUnreadable if the disk cannot read it."""
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


def unknown_entries(layout: Layout, disk: Disk) -> list[str]:
    """The paths of what is neither a journal nor a mark: it is neither replayed nor removed."""
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
    except JournalUnreadable:  # it may be one
        return False
