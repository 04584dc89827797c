"""Directories that are held open while something is renamed into them, to be synced when that is done."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir.disk import can_syncfs

if TYPE_CHECKING:
    from mailq.engines.maildir.disk import Disk

_CLOSED: Final = -1


class Held:
    """A directory that is held open while messages are renamed into it, so that what is synced is where they are.

    Its number stays its own as long as it is open, and what was exchanged never comes
    back: if it is the directory's at the end, it was the whole time. In a drop-box,
    where one may write and not read, it cannot be opened: then the whole file system
    is synced, by way of the marker.
    """

    _fd = _CLOSED

    def __init__(self, disk: Disk, path: str, marker: str) -> None:
        self._disk = disk
        self._path = path
        self._is_directory = True
        try:
            self._fd = disk.open_directory(path)
        except PermissionError:
            if not can_syncfs():
                raise
            self._fd = disk.open_to_read(marker)
            self._is_directory = False

    def sync(self) -> None:
        """Make durable what was renamed into it, wherever it went."""
        if self._is_directory:
            status = self._disk.sync_names(self._fd)
            if os.path.samestat(status, os.stat(self._path)):
                return
        self._disk.syncfs(self._fd)

    def close(self) -> None:
        """Let go of it. Closing it once more does nothing."""
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            try:
                self._disk.close(fd)
            except OSError:  # nothing was written through it
                pass

    __del__ = close  # an exception from outside may come before anybody else could
