"""The ready queue: which message is next."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import listing
from mailq.engines.maildir.delayed import DelayedIndex
from mailq.engines.maildir.expired import Expired
from mailq.engines.maildir.notify import Notifier
from mailq.engines.maildir.ready_index import MOST, ClaimAttempt, ReadyIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mailq.engines.budget import Budget
    from mailq.engines.inotify import Arrival
    from mailq.engines.maildir.files import Store

# The directory is listed again after this many seconds even if some of it is left, for what others
# pushed with priority; but never so often that listing takes more than such a part of the time. Where
# the kernel tells of that, it is only for what nobody thought of.
_FRESH: Final = 1.0
_PART: Final = 1 / 20
_PART_HEARD: Final = 1 / 400

_MUCH: Final = 0.005
"""Seconds of listing after which the directories are watched, also for a consumer that never waits."""


class ReadyQueue:
    """The ready messages of one engine: known from a listing, and from what arrived since.

    Where the kernel reports all arrivals, the directory is not listed again as long as
    the line is fresh, not even if it is empty.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._layout = store.layout
        self.delayed = DelayedIndex()
        self._index = ReadyIndex(most=MOST)
        self.expired = Expired(store, self._index)
        self._fresh_until = self._doubted_until = 0.0
        self._listed_for = 0.0
        self._put_off: ClaimAttempt | None = None
        self.notifier = Notifier([self._layout.new, self._layout.later], self)

    def start_claim(self) -> ClaimAttempt:
        """A claim begins, or goes on with one that was put off. What has arrived until now is in line for it.

        What does later ends the next wait.
        """
        tried, self._put_off = self._put_off or ClaimAttempt(), None
        tried.heard = self.notifier.drain_events()
        self.notifier.remember_position()
        return tried

    def resume_later(self, tried: ClaimAttempt) -> None:
        """A claim has found nothing in the time that it may take: the next one goes on behind what was tried."""
        self._put_off = tried

    def next_name(self, tried: ClaimAttempt, budget: Budget) -> str | None:
        """The next key that this claim has not tried; lists the directory if the line is old, or may lack some."""
        if not self._is_fresh():
            self._index.clear()
        if (key := self._untried(tried)) is not None:
            return key
        if self.promote(budget, recent=False):
            tried.heard = self.notifier.drain_events()
        if not (tried.heard and self._index.is_complete and self.expired.is_all):
            if self.expired and self._is_fresh():
                budget.left_some = True  # a listing would find them again: some are buried first
            else:
                self._list(tried, budget)
        return self._untried(tried)

    def _is_fresh(self) -> bool:
        return time.monotonic() <= self._fresh_until

    def _untried(self, tried: ClaimAttempt) -> str | None:
        while (key := self._index.pop_first()) is not None:
            if key not in tried.now:
                tried.now.add(key)
                return key
            self.mark_incomplete()  # it may have been given back since
        return None

    def _list(self, tried: ClaimAttempt, budget: Budget) -> None:
        if self._listed_for >= _MUCH:
            self.notifier.watch()
        begun = time.monotonic()
        keys, since, heard = self._listed(tried)
        if not keys and self.promote(budget):
            keys, since, heard = self._listed(tried)
        tried.retry_listed(keys)
        self._index.load(keys, since, heard=heard)
        now = time.monotonic()
        took = now - begun
        self._listed_for += took
        self._doubted_until = now + max(_FRESH, took / _PART)
        self._fresh_until = now + max(_FRESH, took / _PART_HEARD) if heard else self._doubted_until

    def _listed(self, tried: ClaimAttempt) -> listing.Listing:
        def wanted(keys: Iterable[str]) -> Iterator[str]:
            untried = (key for key in keys if key not in tried.for_good)
            return self.expired.sift(untried if tried.for_good else keys)

        return listing.list_consistently(
            self._layout.new, self._index, wanted, self._store.clock, self.notifier.drain_events
        )

    def promote(self, budget: Budget, *, recent: bool = True) -> int:
        """Ready what has come due; how many there were. See DelayedIndex.promote."""
        promoted = self.delayed.promote(self._store, budget, recent=recent)
        for name in promoted:
            self.add(self._layout.new, name)
        return len(promoted)

    def add(self, directory: str, name: str, *, heard: bool = False) -> None:
        """Add a message that came to a directory; ``heard`` if the kernel reports it."""
        if directory == self._layout.later:
            self.delayed.add(name)
        elif (
            directory == self._layout.new
            and not self._index.ignores_events
            and (key := layouts.sort_key(directory, name)) is not None
        ):
            self._index.add(key, heard=heard)

    def on_events(self, events: Sequence[Arrival]) -> None:
        """Add what the kernel reports."""
        for event in events:
            if event.name[0] != ".":
                self.add(event.directory, event.name, heard=True)

    def on_overflow(self) -> None:
        """The kernel has not reported all."""
        self.mark_incomplete()

    def on_wakeup(self) -> None:
        """The kernel has reported something."""
        self.notifier.notify()

    def mark_incomplete(self) -> None:
        """Something is missing: list the directory when the line is used up, and as early as without reports from the kernel.

        Not at once: of a long line each listing takes long.
        """
        self._index.mark_incomplete()
        self._fresh_until = min(self._fresh_until, self._doubted_until)

    def clear(self) -> None:
        """Forget everything: the next claim lists the directory."""
        self._index.clear()
