"""What comes into directories while somebody lists them, told by the kernel.

Other than :mod:`mailq.engines.maildir.arrivals` this is no hint to wake up by: it is
read in step with the listings, by the one thread that makes them, and says when it
has missed something.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MOVED_FROM: Final = 0x40
_MOVED_TO: Final = 0x80
_CREATE: Final = 0x100
_MOVE_SELF: Final = 0x800
_OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000
_ARRIVALS: Final = _MOVED_FROM | _MOVED_TO | _CREATE | _MOVE_SELF
_HEADER: Final = struct.Struct("iIII")
_AT_ONCE: Final = 65_536


class Arrival(NamedTuple):
    """A name that came to a directory."""

    directory: str
    name: str


class Watch:
    """Hears of each name that is renamed, linked or created in some directories.

    ``missed`` is set, and stays so until it is cleared, when the kernel had no room
    for all of it, or files were renamed within one directory: that may hide others
    from a listing; or when a directory was exchanged for a fresh one, or taken away.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._directories: dict[int, str] = {}
        self._left: tuple[int, int] | None = None
        self.missed = False

    def add(self, directory: str) -> bool:
        """Hear of what comes to one more directory, from now on; False if that cannot be had."""
        number: int = ctypes.CDLL(None).inotify_add_watch(self._fd, os.fsencode(directory), _ARRIVALS)
        if number >= 0:
            self._directories[number] = directory
        return number >= 0

    def read(self, *, everything: bool) -> Sequence[Arrival]:
        """Some of what came since the last look, or ``everything`` that has come until now; returns at once."""
        arrivals: list[Arrival] = []
        left = self._queued() if everything else 1
        while left > 0:
            try:
                data = os.read(self._fd, _AT_ONCE)
            except BlockingIOError:
                break
            left -= len(data)
            arrivals += self._arrivals(data)
        return arrivals

    def _queued(self) -> int:
        """How many bytes there are to be read."""
        import fcntl  # noqa: PLC0415 - there is none on Windows
        import termios  # noqa: PLC0415 - likewise

        return int.from_bytes(fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)), sys.byteorder)

    def _arrivals(self, data: bytes) -> Sequence[Arrival]:
        arrivals = []
        at = 0
        while at < len(data):
            number, mask, cookie, length = _HEADER.unpack_from(data, at)
            at += _HEADER.size + length
            if mask & _OVERFLOW:
                self.missed = True
            elif mask & (_MOVE_SELF | _IGNORED):
                self._follow(number)
            elif mask & _MOVED_FROM:
                self._left = number, cookie
            elif (directory := self._directories.get(number)) is not None:
                if (number, cookie) == self._left and mask & _MOVED_TO:
                    self.missed = True
                arrivals.append(Arrival(directory, os.fsdecode(data[at - length : at].rstrip(b"\0"))))
        return arrivals

    def _follow(self, number: int) -> None:
        """A directory is not what its path leads to any more: hear of what comes to the one that is."""
        if (directory := self._directories.pop(number, None)) is not None:
            self.missed = True
            self.add(directory)

    def close(self) -> None:
        """Hear no more."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        """Close on leaving."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def watch(directories: Iterable[str]) -> Watch | None:
    """Watch from now on; None where there is no inotify, or no more of it for this user."""
    if sys.platform != "linux":
        return None
    fd = ctypes.CDLL(None).inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        return None
    made = Watch(fd)
    if all(made.add(path) for path in directories):
        return made
    made.close()
    return None
