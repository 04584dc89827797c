"""The front of a line: the first messages of a directory, found in one listing and in bounded memory.

A directory may hold a million names, in no order. Of most of them a listing learns in
one comparison that they stand too far back; only the others cost more.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import names
from mailq.engines.maildir.ready_index import END, SIZE

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from mailq.engines.maildir.ready_index import ListingInProgress, ReadyIndex

    Wanted = Callable[[Iterable[str]], Iterable[str]]
    """Passes on the keys of those messages that a listing is to find."""

_OF_OURS: Final = 59
"""The fewest characters in a name of ours: see names.looks_ours."""


class SmallestN:
    """The first of any number of keys: one more than a window can hold, if there are more."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size + 1
        self.behind = END
        """A name of ours without a priority that is not before this stands too far back."""

    def of(self, keys: Iterable[str]) -> list[str]:
        """Take the first of them, in order."""
        kept: list[str] = []
        keys = iter(keys)
        while some := list(islice(keys, self._size // 4 + 1)):
            kept += some
            self._trim(kept)
        return kept

    def _trim(self, kept: list[str]) -> None:
        kept.sort()
        if len(kept) >= self._size:
            del kept[self._size :]
            last = kept[-1]
            self.behind = last[1:] if last[0] == "9" else ""  # where all have a priority no other is among the first


def first_ready(directory: str, wanted: Wanted = iter, size: int = SIZE) -> list[str]:
    """The sort keys of the first ready messages, in order, of those that are wanted."""
    front = SmallestN(size)

    def near(listed: Iterable[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        # What names.looks_ours and names.sort_key look at, spelled out: a call for each name would take
        # as long as the rest of the listing.
        return (
            entry
            for entry in listed
            if (name := entry.name) < front.behind
            or ",prio=" in name
            or len(name) < _OF_OURS
            or name[26] != ","
            or name[8] != "T"
            or name[25] != "Z"
        )

    listed = layouts.entries(directory, near)
    keys = (key for entry in listed if (key := layouts.sort_key(directory, entry.name)) is not None)
    return front.of(wanted(keys))


class Listing(NamedTuple):
    """What a listing found, to fill a window with."""

    keys: list[str]
    since: ListingInProgress
    heard: bool


def list_consistently(
    directory: str, window: ReadyIndex, wanted: Wanted, clock: Callable[[], int], hear: Callable[[], bool]
) -> Listing:
    """Find the first ready messages, of which none is missing.

    A listing is no snapshot: of what is pushed while it goes on, it may miss one
    message and see the next. ``hear()`` adds to the index what the kernel reports of the time since. Where it
    cannot (False), what is younger than the beginning of the listing waits for the next one, or the
    younger would overtake the older; and there is nothing only when two listings in a row find nothing.
    """
    for _ in range(2):
        since = window.begin()
        hears = hear()  # another thread may begin to while this one lists, when it has missed some already
        begun = names.format_time(clock())
        keys = first_ready(directory, wanted, since.size)
        if hear() and hears:
            return Listing(keys, since, heard=True)
        if older := [key for key in keys if layouts.time_of(key) < begun]:
            return Listing(older, since, heard=False)
    return Listing(keys, since, heard=False)  # nothing, or only what claims to be from the future


def first_due(directory: str, size: int = SIZE) -> list[str]:
    """The due keys of the first delayed messages, in order."""
    front = SmallestN(size)

    def near(listed: Iterable[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        return (
            entry
            for entry in listed
            if (name := entry.name) < front.behind
            or len(name) < _OF_OURS
            or name[26] != ","
            or name[8] != "T"
            or name[25] != "Z"
        )

    return front.of(due_key(entry.name) for entry in layouts.entries(directory, near))


def due_key(name: str) -> str:
    """The sort key of a delayed message: by its due time alone. A dropped file is due at once."""
    return f"9{name}" if names.looks_ours(name) else f"9{names.format_time(0)}/{name}"
