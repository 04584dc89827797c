"""The next ready messages, held in order, so that a claim need not list the directory."""

from __future__ import annotations

import heapq
import threading
import weakref
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import at_fork

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mailq.errors import StorageError

SIZE: Final = 32_768
"""The number of names that an index holds at first: about 6 MB."""

MOST: Final = 4 * SIZE
"""The number that it may hold once there were more: each refill costs a listing of the whole directory."""

END: Final = "~"
"""Sorts behind every key."""


class ListingInProgress:
    """What has arrived since a listing began, which may have missed it; and how many names that listing may find.

    The window may grow meanwhile, by another thread's listing: a listing that was cut short
    would then pass for one that found all there is.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.arrivals: list[tuple[str, bool]] = []
        self.is_all = True


class ReadyIndex:
    """The first names in line, as sort keys, up to the last that a listing found.

    It is a memory of a listing and of arrivals since, never the truth: a name in
    it may be gone (a lost race). ``size`` is how many it holds of a listing. Safe to
    share between threads.
    """

    def __init__(self, size: int = SIZE, most: int = 0) -> None:
        self.size = size
        self._most = max(size, most)
        self._heap: list[str] = []
        self._bound = self._heard_bound = ""
        # Those that go on. Weakly held, for a listing may fail.
        self._listings: weakref.WeakSet[ListingInProgress] = weakref.WeakSet()
        self._is_listed = False
        # Reentrant: a signal handler that pushes may interrupt its own thread in here.
        self._lock = threading.RLock()
        at_fork.register(self)

    def pop_first(self, before: str | None = None) -> str | None:
        """Take the first key if it sorts before another; None else, or when the window is dry."""
        with self._lock:
            return self._take(before)

    # In no function that holds the lock is there a loop: CPython 3.12 and 3.13 may raise an exception from outside where
    # a loop turns as if that were not within the block.

    def _take(self, before: str | None) -> str | None:
        if not self._heap or (before is not None and self._heap[0] >= before):
            return None
        key = heapq.heappop(self._heap)
        while self._heap and self._heap[0] == key:  # reported by this process and by the kernel
            heapq.heappop(self._heap)
        return key

    def push(self, key: str) -> None:
        """Hold a key that was taken from a listing."""
        with self._lock:
            heapq.heappush(self._heap, key)

    @property
    def is_empty(self) -> bool:
        """Whether it knows nothing, not even that there is nothing: not filled yet, or cleared."""
        return not self._bound

    @property
    def ignores_events(self) -> bool:
        """Whether arrivals are nothing to it, as long as no listing begins."""
        return not (self._heard_bound or self._is_listed)

    @property
    def is_complete(self) -> bool:
        """Whether it lacks nothing, as long as it gets all that the kernel reports."""
        return self._heard_bound == END

    def first(self) -> str | None:
        """Look at the first key without taking it; None when the window is dry."""
        with self._lock:
            return self._heap[0] if self._heap else None

    def begin(self) -> ListingInProgress:
        """Begin a listing. The caller keeps what is returned, and passes it to ``load``."""
        with self._lock:
            since = ListingInProgress(self.size)
            self._listings.add(since)
            self._is_listed = True
            return since

    def load(self, keys: list[str], since: ListingInProgress, *, whole: bool = False, heard: bool = False) -> None:
        """Take over a listing, keeping the first of it, and what arrived during it.

        ``whole``: as long as everything fits, arrivals are taken at the end too.
        ``heard``: those that the kernel reports, which has reported all since before the listing.
        """
        with self._lock:
            try:
                self._fill(keys, since, whole=whole, heard=heard)
            except BaseException:  # some that have arrived may be missing
                self.clear()
                raise

    def _fill(self, keys: list[str], since: ListingInProgress, *, whole: bool, heard: bool) -> None:
        is_longer = len(keys) > since.size
        self._keep(keys, whole=whole and not is_longer)
        if heard and since.is_all and not is_longer:
            self._heard_bound = END
        # Not for the first listing: a process that wants one message should not pay for thousands.
        self.size = self._most if is_longer else self.size
        self._listings.discard(since)
        self._is_listed = bool(self._listings)
        known = set(self._heap) if since.arrivals else set()
        for key, was_heard in since.arrivals:
            if key not in known:  # twice is no harm, and the first time it may not be wanted: not heard yet
                self.add(key, heard=was_heard)

    def _keep(self, keys: list[str], *, whole: bool = False) -> None:
        keys.sort()
        last = keys[min(len(keys), self.size) - 1] if keys else ""
        # First of all: what is dropped after that must not look as if it were held.
        self._bound = self._heard_bound = END if whole and len(keys) <= self.size else last
        del keys[self.size :]
        self._heap = keys

    def add(self, key: str, *, heard: bool = False) -> None:
        """Add an arrival that belongs before the last name of the listing.

        Any other waits for the next listing: between the two may stand messages of
        other producers that this index does not know yet. Not so if the kernel reports
        it (``heard``), which reports renames in their order.
        """
        with self._lock:
            if self._is_listed:
                self._note(key, heard=heard)
            if key < (self._heard_bound if heard else self._bound):
                heapq.heappush(self._heap, key)
                if len(self._heap) > self.size + self.size // 2:
                    self._keep(self._heap)

    def _note(self, key: str, *, heard: bool) -> None:
        for since in self._listings:
            if len(since.arrivals) < self.size:
                since.arrivals.append((key, heard))
            else:
                since.is_all = False

    def mark_incomplete(self) -> None:
        """Some that came before the end of the listing are missing: when what is held is used up the directory must be listed."""
        with self._lock:
            self._heard_bound = self._bound
            self._miss()

    def _miss(self) -> None:
        for since in self._listings:
            since.is_all = False

    def clear(self) -> None:
        """Forget everything: the next claim lists the directory."""
        with self._lock:
            self.mark_incomplete()
            # Without a call in between: what is held no more must not look as if it were.
            self._bound = self._heard_bound = ""
            self._heap = []

    def after_fork(self) -> None:
        """Start with a free lock in a forked child: the parent's may have been held."""
        self._lock = threading.RLock()
        self.clear()


class ClaimAttempt:
    """What one claim has tried, and whether it has heard of all that came before it.

    Another thread's stale listing may bring keys back into the window: ``now`` is
    passed over there. Our own next listing may be right that one is back, given back under
    its name; but only once, for a stale network file system lists it for ever. What the disk has
    refused is in ``for_good`` at once, and its ``failures`` are kept.
    """

    def __init__(self) -> None:
        self.heard = False
        self.now: set[str] = set()
        self.for_good: set[str] = set()
        self.failures: list[StorageError] = []

    def refuse(self, key: str, failure: StorageError) -> None:
        """Try a key no more that the disk has refused."""
        self.for_good.add(key)
        self.failures.append(failure)

    def retry_listed(self, listed: Iterable[str]) -> None:
        """Let what our own listing shows again be tried for the last time."""
        for key in self.now.intersection(listed) if self.now else ():
            self.now.remove(key)
            self.for_good.add(key)
