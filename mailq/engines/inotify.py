"""The names that come to directories, as the kernel reports them: inotify(7).

watchdog can do that too, and does on other systems. Its emitter asks for both halves of each rename, and
holds every event back for half a second to find the other: a neighbour's claim would delay a
wake-up by that much. Its reader hands all to another thread, which takes longer than everything
else about a wake-up; and to load it takes as long as some hundred pops.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from mailq.engines.maildir.disk import libc, libc_error

if TYPE_CHECKING:
    from collections.abc import Iterable

MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
_MOVE_SELF: Final = 0x800
_UNMOUNT: Final = 0x2000
_OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000
_ONLYDIR: Final = 0x0100_0000
_CLOSED: Final = -1
_HEADER: Final = struct.Struct("iIII")
_AT_ONCE: Final = 16_384
_LONGEST: Final = _HEADER.size + 256
"""No event is longer: a read that could have taken one more has left none behind."""


class Arrival(NamedTuple):
    """A name that came to a directory, or left it; ``cookie`` is the same for both halves of a rename."""

    directory: str
    name: str
    mask: int = 0
    cookie: int = 0


class InotifyReader:
    """Some directories, watched from now on. ``mask`` says what is reported of them.

    ``missed`` is set, for the caller to clear, when not everything was reported: the kernel had
    no room for it, or a directory is not what its path leads to any more. The one that is there
    now is watched instead.

    Linux only. Raises OSError where there is no more of it for this user, or a directory is not there. For one
    thread at a time.
    """

    _fd = _CLOSED

    def __init__(self, mask: int, directories: Iterable[str]) -> None:
        self._mask = mask | _MOVE_SELF | _ONLYDIR
        self._directories: dict[int, str] = {}
        self._lost: set[str] = set()
        self.missed = False
        (self._fd,) = map(libc().inotify_init1, (os.O_NONBLOCK | os.O_CLOEXEC,))  # as in Disk.open
        if self._fd == _CLOSED:
            raise libc_error("inotify")
        for directory in directories:
            self._add(directory)

    def fileno(self) -> int:
        """For poll(2)."""
        return self._fd

    def _add(self, directory: str) -> None:
        number = int(libc().inotify_add_watch(self._fd, os.fsencode(directory), self._mask))
        if number < 0:
            raise libc_error(directory)
        self._directories[number] = directory

    def read(self) -> list[Arrival]:
        """Return all that was reported until now, without waiting."""
        for directory in tuple(self._lost) if self._lost else ():
            self._follow(directory)
        events: list[Arrival] = []
        size = _AT_ONCE
        while size > _AT_ONCE - _LONGEST:
            try:
                data = os.read(self._fd, _AT_ONCE)
            except BlockingIOError:
                break
            size = len(data)
            self._parse(data, events)
        return events

    def _parse(self, data: bytes, events: list[Arrival]) -> None:
        at = 0
        while at < len(data):
            number, mask, cookie, length = _HEADER.unpack_from(data, at)
            at += _HEADER.size + length
            if mask & _OVERFLOW:
                self.missed = True
            elif mask & (_MOVE_SELF | _UNMOUNT | _IGNORED):
                if (directory := self._directories.pop(number, None)) is not None:
                    self._follow(directory)
            elif (directory := self._directories.get(number)) is not None:
                events.append(Arrival(directory, os.fsdecode(data[at - length : at].rstrip(b"\0")), mask, cookie))

    def _follow(self, directory: str) -> None:
        """Watch what a path leads to now; as long as that is nothing, everything is missed."""
        self.missed = True
        self._lost.add(directory)
        with contextlib.suppress(OSError):
            self._add(directory)
            self._lost.discard(directory)

    def close(self) -> None:
        """Watch no more. It is closed, too, when nobody refers to it any more."""
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            os.close(fd)

    __del__ = close
