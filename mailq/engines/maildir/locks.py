"""Files that are held open for their locks: flock(2).

The kernel lets go of a lock when nobody has the file open any more. So whatever an exception
from outside breaks off, the object that has the file open goes with it, and the lock too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from mailq.engines.maildir import at_fork

try:
    import fcntl
except ImportError:  # Windows: nobody asks for such a lock there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from mailq.engines.maildir.disk import Disk

_CLOSED: Final = -1


class LockFile:
    """A file that is open for its lock until it is closed, or nobody refers to it any more.

    It is opened to be read; with ``flags`` it is made. A forked child closes its copy at once:
    as long as that were open, the lock would be held.
    """

    fd = _CLOSED

    def __init__(self, disk: Disk, path: str, flags: int | None = None, mode: int = 0o600) -> None:
        self._disk = disk
        at_fork.register(self)
        with at_fork.no_fork:  # a child that is forked before this is written down would not know what to close
            self.fd = disk.open_to_read(path) if flags is None else disk.create(path, flags, mode)

    def is_locked(self, how: int) -> bool:
        """Take the lock, if it can be had at once."""
        try:
            fcntl.flock(self.fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let go of the lock. Closing it once more does nothing."""
        fd, self.fd = self.fd, _CLOSED
        if fd != _CLOSED:
            try:
                self._disk.close(fd)
            except OSError:  # nothing was written that must last
                pass

    after_fork = close
    __del__ = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
