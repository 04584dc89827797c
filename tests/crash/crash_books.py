"""What was promised of each message, at every moment of a run; and what of it a recovery broke."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from recovery import Content, Found, Observation

from mailq.ids import is_id


class Fate(NamedTuple):
    """Where a message may be found, and with what content."""

    places: frozenset[str]
    contents: frozenset[Content]


class Book:
    """The story of each message: from which call on which fate holds."""

    def __init__(self) -> None:
        self._stories: dict[str, list[tuple[int, Fate]]] = {}
        self._facts: dict[str, list[tuple[int, frozenset[object]]]] = {}

    def pushed(
        self, ids: Iterable[str], contents: Iterable[Content], begun: int, returned: int, *, place: str = "live"
    ) -> None:
        """From the first call of the push, or import, on it may be there, from its return on it must."""
        for id, one in zip(ids, contents, strict=True):
            maybe = Fate(frozenset((place, "gone", "torn")), frozenset((one,)))
            there = Fate(frozenset((place,)), frozenset((one,)))
            self._stories[id] = [(begun + 1, maybe), (returned, there)]

    def may(self, id: str, at: int, *places: str, contents: Iterable[Content] = ()) -> None:
        """From the first call after ``at`` on it may also be elsewhere, or have other content."""
        last = self._stories[id][-1][1]
        self._stories[id].append((at + 1, Fate(last.places | set(places), last.contents | set(contents))))

    def must(self, id: str, at: int, *places: str, contents: Iterable[Content] = ()) -> None:
        """From now on it is there, and nowhere else."""
        last = self._stories[id][-1][1]
        self._stories[id].append((at, Fate(frozenset(places) or last.places, frozenset(contents) or last.contents)))

    def fact(self, name: str, at: int, *values: object) -> None:
        """From now on one of these holds: of the settings, of a pause, of the reply to a message."""
        self._facts.setdefault(name, []).append((at, frozenset(values)))

    @property
    def replies(self) -> list[str]:
        """The ids that a reply was promised to."""
        return [name for name in self._facts if is_id(name)]

    def places(self, id: str) -> frozenset[str]:
        return self._stories[id][-1][1].places

    def _fates(self, at: int) -> dict[str, Fate]:
        fates = {}
        for id, story in self._stories.items():
            for since, fate in story:
                if since <= at:
                    fates[id] = fate
        return fates

    def violations(self, seen: Observation, at: int) -> Iterator[str]:
        """What was promised after so many calls and is not so, each with the word for it in front."""
        yield from seen.troubles
        fates = self._fates(at)
        for id, count in Counter(found.id for found in seen.found).items():
            if count > 1:
                yield f"twice: {id} was found {count} times"
        for found in seen.found:
            yield from _misfit(found, fates.get(found.id))
        there = {found.id for found in seen.found}
        for id, fate in fates.items():
            if "gone" not in fate.places and id not in there:
                yield f"lost: {id}"
        for name, value in seen.facts:
            allowed = [values for since, values in self._facts.get(name, []) if since <= at]
            if allowed and value not in allowed[-1]:
                yield f"fact: {name} is {value!r}"


def _misfit(found: Found, fate: Fate | None) -> Iterator[str]:
    if fate is None:
        yield f"unexpected: {found}"
    elif found.place not in fate.places:
        yield f"torn: {found}" if found.place == "torn" else f"misplaced: {found} not in {sorted(fate.places)}"
    elif found.place != "torn" and found.content not in fate.contents:
        yield f"changed: {found}"
