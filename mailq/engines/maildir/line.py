"""Who is next: the ready messages in order, as far as they are known."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import listing
from mailq.engines.maildir.expired import Expired
from mailq.engines.maildir.later import Later
from mailq.engines.maildir.waking import Waking
from mailq.engines.maildir.window import MOST, Tried, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mailq.engines.budget import Budget
    from mailq.engines.inotify import Event
    from mailq.engines.maildir.files import Store

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

    def __init__(self, store: Store) -> None:
        self._store = store
        self._layout = store.layout
        self.later = Later()
        self._window = Window(most=MOST)
        self.expired = Expired(store, self._window)
        self._fresh_until = self._doubted_until = 0.0
        self._listed_for = 0.0
        self._put_off: Tried | None = None
        self.waking = Waking([self._layout.new, self._layout.later], self)

    def begin(self) -> Tried:
        """A claim begins, or goes on with one that was put off. What has arrived until now is in line for it.

        What does later ends the next wait.
        """
        tried, self._put_off = self._put_off or Tried(), None
        tried.heard = self.waking.hear()
        self.waking.looks()
        return tried

    def put_off(self, tried: Tried) -> None:
        """A claim has found nothing in the time that it may take: the next one goes on behind what was tried."""
        self._put_off = tried

    def next_key(self, tried: Tried, budget: Budget) -> str | None:
        """The next key that this claim has not tried; lists the directory if the line is old, or may lack some."""
        if not self._is_fresh():
            self._window.clear()
        if (key := self._untried(tried)) is not None:
            return key
        if self.promote(budget, anew=False):
            tried.heard = self.waking.hear()
        if not (tried.heard and self._window.is_whole and self.expired.is_all):
            if self.expired and self._is_fresh():
                budget.left_some = True  # a listing would find them again: some are buried first
            else:
                self._list(tried, budget)
        return self._untried(tried)

    def _is_fresh(self) -> bool:
        return time.monotonic() <= self._fresh_until

    def _untried(self, tried: Tried) -> str | None:
        while (key := self._window.take()) is not None:
            if key not in tried.now:
                tried.now.add(key)
                return key
            self.doubt()  # it may have been given back since
        return None

    def _list(self, tried: Tried, budget: Budget) -> None:
        if self._listed_for >= _MUCH:
            self.waking.watch()
        begun = time.monotonic()
        keys, since, heard = self._listed(tried)
        if not keys and self.promote(budget):
            keys, since, heard = self._listed(tried)
        tried.once_more(keys)
        self._window.fill(keys, since, heard=heard)
        now = time.monotonic()
        took = now - begun
        self._listed_for += took
        self._doubted_until = now + max(_FRESH, took / _PART)
        self._fresh_until = now + max(_FRESH, took / _PART_HEARD) if heard else self._doubted_until

    def _listed(self, tried: Tried) -> listing.Found:
        def wanted(keys: Iterable[str]) -> Iterator[str]:
            untried = (key for key in keys if key not in tried.for_good)
            return self.expired.sift(untried if tried.for_good else keys)

        return listing.complete(self._layout.new, self._window, wanted, self._store.clock, self.waking.hear)

    def promote(self, budget: Budget, *, anew: bool = True) -> int:
        """Ready what has come due; how many there were. See Later.promote."""
        promoted = self.later.promote(self._store, budget, anew=anew)
        for name in promoted:
            self.hear_of(self._layout.new, name)
        return len(promoted)

    def hear_of(self, directory: str, name: str, *, heard: bool = False) -> None:
        """Hear of a message that came to a directory; ``heard`` from the kernel."""
        if directory == self._layout.later:
            self.later.expect(name)
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
        self.doubt()

    def ring(self) -> None:
        """The kernel has told of something."""
        self.waking.ring()

    def doubt(self) -> None:
        """Something is missing: list the directory when the line is used up, and as early as without reports from the kernel.

        Not at once: of a long line each listing takes long.
        """
        self._window.doubt()
        self._fresh_until = min(self._fresh_until, self._doubted_until)

    def clear(self) -> None:
        """Forget everything: the next claim lists the directory."""
        self._window.clear()
