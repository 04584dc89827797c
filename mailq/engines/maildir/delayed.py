"""The delayed messages of one queue: pushed with a delay, or waiting out a back-off."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from mailq import policy
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import names
from mailq.engines.maildir.listing import due_key, first_due
from mailq.engines.maildir.ready_index import ReadyIndex
from mailq.errors import StorageError

if TYPE_CHECKING:
    from mailq.engines.budget import Budget
    from mailq.engines.maildir.files import Store

_LISTING_SHARE: Final = 20.0
"""Listing ``later/`` takes at most a twentieth of the time."""

_FRESH: Final = 0.01
"""Seconds for which a message that another process delayed may be overlooked while others are ready."""


class DelayedIndex:
    """The delayed messages that are due next, held in order like the ready ones.

    Listing ``later/`` for each look would make every pop pay for every back-off.
    It is listed again when it has changed, at most for a small part of the time, and fed
    with what this process delays and with arrivals.
    """

    def __init__(self) -> None:
        self._index = ReadyIndex()
        self._fresh_until = self._listed_until = 0.0
        self._listed_at: int | None = None

    @property
    def next_due(self) -> int | None:
        """When the next known message is due, in nanoseconds."""
        key = self._index.first()
        return None if key is None else names.parse_time(layouts.time_of(key))

    def add(self, name: str) -> None:
        """Add a message that was delayed."""
        if names.looks_ours(name):
            self._index.add(due_key(name))
        else:
            self._fresh_until = self._listed_until = 0.0

    def promote(self, store: Store, budget: Budget, *, recent: bool = True) -> list[str]:
        """Move messages whose time has come to where they are ready, within the budget. Returns their new names.

        ``recent``: also those that came to ``later/`` a moment ago and were not reported.
        """
        if recent or time.monotonic() >= self._fresh_until:
            self._list(store)
        if self._index.first() is None:
            return []
        try:
            return self._promote(store, budget)
        except BaseException:  # interrupted: what was taken must be found again
            self._index.clear()
            raise

    def _promote(self, store: Store, budget: Budget) -> list[str]:
        now = f"9{names.format_time(store.clock())}~"
        promoted = []
        while (key := self._index.pop_first(now)) is not None:
            self._listed_at = None  # what cannot be moved now must be found again
            if (path := _readied(store, layouts.name_of(key))) is not None:
                promoted.append(os.path.basename(path))
            if not budget.allows_more():
                break
        return promoted

    def _list(self, store: Store) -> None:
        begun = time.monotonic()
        if begun < self._listed_until:
            return
        self._fresh_until = begun + _FRESH
        changed = layouts.last_change(store.layout.later)
        if changed is not None and changed == self._listed_at and not self._index.is_empty:
            return
        since = self._index.begin()
        # What is delayed from now on is offered; a bound at the end of time takes all of it.
        self._index.load(first_due(store.layout.later, since.size), since, whole=True)
        self._listed_at = changed
        now = time.monotonic()
        self._listed_until = now + (now - begun) * _LISTING_SHARE


def _readied(store: Store, name: str) -> str | None:
    """Move one that is due. Returns its new path; None if it was not moved."""
    envelope = layouts.envelope_of(store.layout.later, name)
    if envelope is None:
        return None
    try:
        return store.settle(f"{store.layout.later}/{name}", envelope, policy.came_due(envelope, store.settings))
    except FileNotFoundError:
        pass  # another consumer was faster
    except StorageError as error:  # one bad message must not keep the others
        layouts.log().warning("a delayed message could not be readied: %s", error)
    return None
