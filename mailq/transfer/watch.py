"""What comes into directories while somebody lists them, told by the kernel.

Other than :mod:`mailq.engines.maildir.arrivals` this is no hint to wake up by: it is
read in step with the listings, by the one thread that makes them, and says when it
has missed something.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple, Self

from mailq.engines.inotify import CREATE, MOVED_FROM, MOVED_TO, Inotify

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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

    def __init__(self, inotify: Inotify) -> None:
        self._inotify = inotify
        self._left: tuple[str, int] | None = None
        self.missed = False

    def read(self) -> Sequence[Arrival]:
        """Everything that has come until now; returns at once."""
        arrivals = []
        for directory, name, mask, cookie in self._inotify.read():
            if mask & MOVED_FROM:
                self._left = directory, cookie
            else:
                if (directory, cookie) == self._left and mask & MOVED_TO:
                    self.missed = True
                arrivals.append(Arrival(directory, name))
        self.missed |= self._inotify.missed
        self._inotify.missed = False
        return arrivals

    def close(self) -> None:
        """Hear no more."""
        self._inotify.close()

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
    try:
        return Watch(Inotify(MOVED_FROM | MOVED_TO | CREATE, directories))
    except OSError:
        return None
