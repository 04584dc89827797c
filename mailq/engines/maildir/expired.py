"""Ready messages that have outlived their ttl: no claim waits for them, and each claim buries some."""

from __future__ import annotations

import collections
import contextlib
import re
from typing import TYPE_CHECKING, Final

from mailq import policy
from mailq.engines.base import Settled
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import names
from mailq.engines.maildir.ready_index import MOST
from mailq.errors import StorageError
from mailq.ids import id_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mailq.engines.budget import Budget
    from mailq.engines.maildir.files import Store
    from mailq.engines.maildir.ready_index import ReadyIndex

_TTL: Final = re.compile(r",ttl=([0-9]{1,9}(?:\.[0-9]{1,3})?)[,.]")


class Expired:
    """The names of the expired messages of one queue, as far as they are known.

    They stand in front of all others, and there may be more of them than a window
    holds. So they do not come there, but wait here for their burial.
    """

    def __init__(self, store: Store, window: ReadyIndex) -> None:
        self._store = store
        self._index = window
        self._names: collections.deque[str] = collections.deque()
        self.is_all = True
        """False if more were found than are kept: the next listing finds the others."""

    def __bool__(self) -> bool:
        """Whether any are known."""
        return bool(self._names)

    def sift(self, keys: Iterable[str]) -> Iterator[str]:
        """Pass on the keys that a listing finds, except the expired ones. Those replace what was known before."""
        expired, is_all = collections.deque[str](), True
        now, default = self._store.clock(), self._store.settings.ttl
        for key in keys:
            if (default is None and ",ttl=" not in key) or not self._has_expired(layouts.name_of(key), default, now):
                yield key
            elif is_all := len(expired) < MOST:
                expired.append(layouts.name_of(key))
        self._names, self.is_all = expired, is_all

    def _has_expired(self, name: str, default: float | None, now: int) -> bool:
        """What lifecycle.has_expired says, of nearly all names at a third of the cost."""
        found = _TTL.search(name)
        if found is None and ",tries=" in name:  # it may have died before
            envelope = names.parse(name)
            return envelope is not None and policy.has_expired(envelope, self._store.settings, now)
        ttl = default if found is None else float(found[1])
        try:
            pushed = id_time(name.split(",", 2)[1]) or names.parse_time(name)
        except (IndexError, ValueError):
            return False  # a file that was dropped in by hand; the claim that takes it sees how old it is
        return ttl is not None and pushed is not None and now >= pushed + policy.ns(ttl)

    def add(self, name: str) -> None:
        """Keep one that a claim found, which has expired since the listing."""
        if len(self._names) < MOST:
            self._names.append(name)
        else:
            self.is_all = False

    def bury(self, budget: Budget, buried: list[str], settled: list[Settled]) -> StorageError | None:
        """Bury some, to be synced with others (``buried``, see Store.settle). Returns why the disk refused one, and stops there."""
        while (name := self._next()) is not None:
            try:
                self._bury(name, budget, buried, settled)
            except StorageError as error:
                self._names.append(name)
                return error
            if not budget.allows_more():
                return None
        budget.left_some |= not self.is_all
        return None

    def _next(self) -> str | None:
        if self._names:
            with contextlib.suppress(IndexError):  # another thread was faster
                return self._names.popleft()
        return None

    def _bury(self, name: str, budget: Budget, buried: list[str], settled: list[Settled]) -> None:
        store = self._store
        new = store.layout.new
        envelope = layouts.envelope_of(new, name)
        if envelope is None:
            return
        if not policy.has_expired(envelope, store.settings, store.clock()):
            # The settings have changed, or only the beginning of the name looks like one of ours.
            if (key := layouts.sort_key(new, name)) is not None:
                self._index.push(key)
                budget.left_some = True
            return
        step = policy.undeliverable(envelope, "expired")
        try:
            store.settle(f"{new}/{name}", envelope, step, buried=buried)
        except FileNotFoundError:
            return  # another consumer was faster
        settled.append(Settled(envelope, step))
