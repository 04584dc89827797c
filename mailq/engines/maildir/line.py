"""Who is next: the ready messages in order, as far as they are known."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import listing
from mailq.engines.maildir.waking import Waking
from mailq.engines.maildir.window import MOST, Tried, Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailq.engines.inotify import Event
    from mailq.engines.maildir.later import Later
    from mailq.engines.maildir.store import Store

# The line is listed anew after this many seconds even if some of it is left, for what others
# pushed with priority; but never so often that listing takes more than such a part of the time. Where
# the kernel tells of that, it is only for what nobody thought of.
_FRESH: Final = 1.0
_PART: Final = 1 / 20
_PART_HEARD: Final = 1 / 400

_MUCH: Final = 0.005
"""After so many seconds of listing the kernel is asked to tell of arrivals, also for a consumer that never waits."""


class Line:
    """The line of one engine: known from a listing, and from word of what arrived since.

    Where the kernel tells of all arrivals, the directory is not listed again as long as
    the line is fresh, not even if it is empty.
    """

    def __init__(self, store: Store, later: Later) -> None:
        self._store = store
        self._layout = store.layout
        self._later = later
        self._window = Window(most=MOST)
        self._fresh_until = 0.0
        self._listed_for = 0.0
        self.waking = Waking([self._layout.new, self._layout.later], self)

    def begin(self) -> Tried:
        """A claim begins. What has arrived until now is in line for it, what does later ends the next wait."""
        tried = Tried(heard=self.waking.hear())
        self.waking.looks()
        return tried

    def next_key(self, tried: Tried) -> str | None:
        """The next key that this claim has not tried; lists the directory if the line is old, or may lack some."""
        if time.monotonic() > self._fresh_until:
            self._window.clear()
        if (key := self._untried(tried)) is not None:
            return key
        if self.promote(anew=False):
            tried.heard = self.waking.hear()
        if not (tried.heard and self._window.is_whole):
            self._list(tried)
        return self._untried(tried)

    def _untried(self, tried: Tried) -> str | None:
        while (key := self._window.take()) is not None:
            if key not in tried.now:
                tried.now.add(key)
                return key
            self._window.doubt()  # it may have been given back since
        return None

    def _list(self, tried: Tried) -> None:
        if self._listed_for >= _MUCH:
            self.waking.watch()
        begun = time.monotonic()
        keys, since, heard = self._listed(tried)
        if not keys and self.promote():
            keys, since, heard = self._listed(tried)
        tried.once_more(keys)
        self._window.fill(keys, since, heard=heard)
        now = time.monotonic()
        took = now - begun
        self._listed_for += took
        self._fresh_until = now + max(_FRESH, took / (_PART_HEARD if heard else _PART))

    def _listed(self, tried: Tried) -> listing.Found:
        return listing.complete(self._layout.new, self._window, tried.for_good, self._store.clock, self.waking.hear)

    def promote(self, *, anew: bool = True) -> bool:
        """Ready what has come due; whether there was any. See Later.promote."""
        promoted = self._later.promote(self._store, anew=anew)
        for name in promoted:
            self.hear_of(self._layout.new, name)
        return bool(promoted)

    def hear_of(self, directory: str, name: str, *, heard: bool = False) -> None:
        """Hear of a message that came to a directory; ``heard`` from the kernel."""
        if directory == self._layout.later:
            self._later.expect(name)
        elif (
            directory == self._layout.new
            and not self._window.is_deaf
            and (key := layouts.sort_key(directory, name)) is not None
        ):
            self._window.offer(key, heard=heard)

    def arrived(self, events: Sequence[Event]) -> None:
        """The kernel tells of arrivals."""
        for event in events:
            if event.name[0] != ".":
                self.hear_of(event.directory, event.name, heard=True)

    def missed(self) -> None:
        """The kernel has not told of all."""
        self.clear()

    def ring(self) -> None:
        """The kernel has told of something."""
        self.waking.ring()

    def clear(self) -> None:
        """Forget everything: the next claim lists the directory."""
        self._window.clear()
