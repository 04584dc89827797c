"""Find every message that stays in a live queue while it is listed.

A listing is no atomic view of a directory, and several listings even less: a message that is claimed and
given back can be in ``cur/`` while ``new/`` is listed, and in ``new/`` while ``cur/`` is.
So the directories are watched from before the first listing. A message that a whole pass of listings
has not shown was moved during that pass, and the kernel has reported its arrival, with its
new name. Passes go on until two in a row have missed nothing.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Final

from mailq.engines.inotify import CREATE, MOVED_FROM, MOVED_TO, InotifyReader
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.compaction import all_directories_of, holds_any
from mailq.ids import id_time

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from mailq.engines.maildir.names import MessageName
    from mailq.message import State

    Take = Callable[[State, str, MessageName], bool]

_SORTED: Final = 10_000
"""The number of names of a listing that are sorted at a time: short queues come in order, long ones take no memory."""

_ENOUGH: Final = 2
"""Passes in a row that must miss nothing. One would do, if the kernel reported a rename in the same instant."""

_ENOUGH_UNHEARD: Final = 4
"""The same without a watch, each pass in the other direction: then it is likely, and not certain."""

_MOST: Final = 60
"""Passes; what is still missed then moves each time that it is opened."""

_WIDTH: Final = 16


class IdSet:
    """A set of ids that stays small: 16 bytes each. The last bytes of an id are random: they choose the bucket."""

    def __init__(self) -> None:
        self._buckets: defaultdict[bytes, bytearray] = defaultdict(bytearray)

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values())) // _WIDTH

    def __contains__(self, id: str) -> bool:
        raw = bytes.fromhex(id)
        bucket = self._buckets.get(raw[-2:], b"")
        at = bucket.find(raw)
        while at > 0 and at % _WIDTH:  # it stands across two others
            at = bucket.find(raw, at + 1)
        return at >= 0

    def add(self, id: str) -> bool:
        """Add an id; False if it was there before."""
        is_new = id not in self
        if is_new:
            raw = bytes.fromhex(id)
            self._buckets[raw[-2:]] += raw
        return is_new


class ArrivalWatch(InotifyReader):
    """A watch on the names that are renamed, linked or created in some directories, from now on.

    ``missed`` is also set when a file is renamed within one directory: that may hide others from a listing.
    """

    def __init__(self, directories: Iterable[str]) -> None:
        super().__init__(MOVED_FROM | MOVED_TO | CREATE, directories)
        self._left = ("", 0)

    def arrivals(self) -> Iterator[tuple[str, str]]:
        """Yield the directory and the name of each file that has come until now; does not wait."""
        for directory, name, mask, cookie in self.read():
            if mask & MOVED_FROM:
                self._left = directory, cookie
            else:
                self.missed |= bool(mask & MOVED_TO) and (directory, cookie) == self._left
                yield directory, name


def watch(directories: Iterable[str]) -> ArrivalWatch | None:
    """Watch directories from now on; None without inotify, or if this user has no more of it."""
    try:
        return ArrivalWatch(directories) if sys.platform == "linux" else None
    except OSError:
        return None


class Survey:
    """One look through a queue.

    ``take(state, path, envelope)`` is called for each message; it returns False if
    the file is gone, and is called again where the message turns up. A message that is taken
    is not shown again. ``seen`` are the ids of those that were taken. ``missed`` are, in the end, messages
    that were reported and never found where they had just been; ``certain`` is True if these two are all.
    """

    def __init__(
        self, layout: layouts.Layout, states: Collection[State], take: Take, *, now: Callable[[], int]
    ) -> None:
        self._layout, self._states, self._take = layout, states, take
        self._directories = all_directories_of(layout, states)
        self._now = now
        self._begun = now()
        self._watch: ArrivalWatch | None = None
        self._is_late = False
        self.seen = IdSet()
        self.missed: set[str] = set()
        self.certain = False

    def run(self, *, hear: bool = True) -> None:
        """Look until nothing can have been missed. ``hear=False`` does without the watch, as on other systems."""
        self._watch = watch(self._directories) if hear else None
        try:
            agreed = self._passes_agree(_ENOUGH if self._watch else _ENOUGH_UNHEARD)
        finally:
            if self._watch:
                self._watch.close()
        # Compacted since the beginning and not taken over yet: the old directory was not listed.
        strange = all_directories_of(self._layout, self._states).keys() - self._directories.keys()
        self.certain = (agreed or bool(self.missed)) and not any(map(holds_any, strange))

    def _passes_agree(self, enough: int) -> bool:
        """Make passes until enough in a row have missed nothing; False if they never do."""
        clean = 0
        order = list(self._directories)
        for _ in range(_MOST):
            clean = clean + 1 if self._pass_misses_nothing(order) else 0
            if clean == enough:
                return True
            order.reverse()
        return False

    def _pass_misses_nothing(self, order: Iterable[str]) -> bool:
        """Make one pass; whether it misses nothing."""
        self._is_late = False
        self.missed.clear()  # what was acked is not seen any more; what was not will be
        for directory in order:
            self._list(directory)
        self._listen()
        if self._watch is None:
            return not self.missed and not self._is_late  # if one turns up late, others may
        disturbed, self._watch.missed = self._watch.missed, False
        return not self.missed and not disturbed

    def _list(self, directory: str) -> None:
        entries = layouts.entries(directory)
        while some := list(islice(entries, _SORTED)):
            keys = (layouts.sort_key(directory, entry.name) for entry in some)
            for number, key in enumerate(sorted(key for key in keys if key is not None)):
                self._visit(directory, layouts.name_of(key))
                if number % 16 == 0 or self.missed:
                    self._listen()

    def _listen(self) -> None:
        """Visit what was moved."""
        for directory, name in self._watch.arrivals() if self._watch else ():
            if name[0] != ".":
                self._visit(directory, name)

    def _visit(self, directory: str, name: str) -> None:
        envelope = layouts.envelope_of(directory, name)
        if envelope is None or (id := envelope.id) in self.seen:
            return
        # What was pushed since the beginning may be missed: a producer that never rests must not keep this for ever.
        pushed = id_time(id)
        is_old = pushed is None or pushed <= self._begun or pushed > self._now()  # the clock was set back since
        if self._take(self._directories[directory], f"{directory}/{name}", envelope):
            self.seen.add(id)
            self.missed.discard(id)
            self._is_late |= is_old
        elif is_old:
            self.missed.add(id)
