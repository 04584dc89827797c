"""One message in several places: what a copy of a live queue, or a backup laid over one, leaves.

The newest state wins. The others are moved to ``aside/``, which nobody delivers
from and nobody deletes from: ``aside/<directory>/<name>``. This queue's dead letters
in a shared dead-letter queue take part; what loses there goes to the ``aside/`` there.

A queue that runs moves messages about while it is listed. So two sightings are a
duplicate only if both files are there at one time.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from mailq.engines.maildir import dead_letters, names
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.doctor import permissions
from mailq.engines.maildir.doctor.finding import Finding, Sample, plural
from mailq.engines.maildir.doctor.integrity import is_whole
from mailq.engines.maildir.doctor.listing import messages
from mailq.engines.maildir.doctor.quarantine import Aside
from mailq.engines.maildir.files import Store
from mailq.errors import MailqError
from mailq.ids import is_id
from mailq.message import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mailq.engines.maildir.doctor.context import Patient
    from mailq.engines.maildir.doctor.finding import Findings
    from mailq.engines.maildir.layout import Layout
    from mailq.engines.maildir.names import MessageName
    from mailq.message import State

_AT_ONCE: Final = 50_000
"""So many doubtful ids are looked into with one listing: what is remembered of each is a name."""


class Sighting(NamedTuple):
    """A file that carries an id, and the queue that it lies in: this one, or the shared dead-letter queue."""

    queue: Patient
    state: State
    path: str
    envelope: MessageName

    @property
    def name(self) -> str:
        """Its file name."""
        return os.path.basename(self.path)


class Ids:
    """The ids in a queue, eight bytes each: their random halves, in order."""

    def __init__(self, halves: Sequence[int]) -> None:
        self._halves = array("Q", halves)

    def __contains__(self, id: str) -> bool:
        """Whether an id is there; of a billion, one may seem to be that is not."""
        half = _half(id)
        at = bisect_left(self._halves, half)
        return at < len(self._halves) and self._halves[at] == half

    def twice(self) -> list[int]:
        """The halves that stand there more than once."""
        return sorted({a for a, b in pairwise(self._halves) if a == b})


def _half(id: str) -> int:
    return int(id[16:], 16)


def list_ids(patient: Patient) -> Ids:
    """List every id. A listing is no snapshot: of a running queue some may be missing, or seem to be twice."""
    return Ids(sorted(array("Q", (_half(id) for *_, id in _files(patient)))))


def _files(patient: Patient) -> Iterator[tuple[Patient, State, os.DirEntry[str], str]]:
    """Each file with an id, the queue that it lies in, and its state: in the shared dead-letter queue it is dead, or held."""
    mark = f",from={patient.store.mark}"
    home = _home_of(patient)
    for queue in (patient,) if home is None else (patient, home):
        for state in STATES:
            for entry in messages(queue.layout.directory(state)):
                if not names.looks_ours(entry.name) or not is_id(id := entry.name[27:59]):
                    continue
                if queue is patient:
                    yield patient, state, entry, id
                elif mark in entry.name:
                    yield queue, state if state == "leased" else "dead", entry, id


def _home_of(patient: Patient) -> Patient | None:
    """The shared dead-letter queue, if there is one that can be looked into; another check says what is wrong with it."""
    store = patient.store
    home = dead_letters.home_of(store.layout, store.settings)
    if home is None or home.links() or not _may_look(home):
        return None
    try:
        marker = layouts.load(home, store.disk)
    except MailqError:
        return None
    fix = patient.fix and permissions.may_mend(home, store.disk) and permissions.may_write(home)
    return patient._replace(store=Store(home, store.disk, store.clock, store.ids, marker), fix=fix)


def examine(patient: Patient, ids: Ids) -> Findings:
    """Look for them, and with ``fix`` leave of each message the newest state alone."""
    contest = _Contest(patient)
    doubtful = ids.twice()
    for start in range(0, len(doubtful), _AT_ONCE):
        contest.hold(set(doubtful[start : start + _AT_ONCE]))
    contest.sync()
    yield contest.finding()


def _may_look(layout: Layout) -> bool:
    """Not everybody who may put dead letters into a queue may read there."""
    there = filter(os.path.isdir, map(layout.directory, STATES))
    return all(os.access(directory, os.R_OK | os.X_OK) for directory in there)


class _Contest:
    """Has the sightings of each id meet, one after the other: of each only the best so far is remembered."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._losers = Sample()
        self._moved = 0
        self._failed = ""
        self._asides: dict[str, Aside] = {}

    def hold(self, halves: set[int]) -> None:
        """Go once through the queue, for the ids with these halves."""
        best: dict[str, Sighting] = {}
        for queue, state, entry, id in _files(self._patient):
            if _half(id) in halves and (envelope := names.parse(entry.name)) is not None:
                here = Sighting(queue, state, entry.path, envelope)
                best[id] = self._meet(best[id], here) if id in best else here

    def sync(self) -> None:
        """Make the moves durable."""
        for aside in self._asides.values():
            aside.sync()

    def _meet(self, first: Sighting, second: Sighting) -> Sighting:
        """Of two sightings of an id, the one that stays."""
        there = _both_there(first.path, second.path)
        if there is not None:
            return second if there else first
        older, newer = sorted((first, second), key=self._rank(first, second))
        if self._patient.fix and not self._move(older):
            return newer
        self._losers.add(self._patient.short(older.path))
        return newer

    def _move(self, loser: Sighting) -> bool:
        """Move it aside. False if it is gone: somebody took it meanwhile, and it was none any more."""
        root = loser.queue.layout.root
        if not loser.queue.fix:
            self._failed = f"{root} is another user's, or may not be written"
            return True
        try:
            self._asides.setdefault(root, Aside(loser.queue)).put(loser.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._failed = error.strerror or str(error)
            return True
        self._moved += 1
        return True

    def _rank(self, first: Sighting, second: Sighting) -> Callable[[Sighting], tuple[object, ...]]:
        """The order of states, older before newer.

        A whole file is better than a torn one, whatever else. Then the longer story is
        the newer: each finished attempt and each death adds to it. A redrive adds
        nothing, so of two with one story the dead one is the older. A lease that
        somebody holds is not taken from him. Of two contents the one that was written
        later is the edited one. All else is as good one way as the other: the message
        that is delivered without another attempt being counted is taken.
        """
        edited = (first.envelope.size, first.envelope.crc) != (second.envelope.size, second.envelope.crc)

        def rank(it: Sighting) -> tuple[object, ...]:
            e = it.envelope
            return (
                is_whole(self._patient.store.disk, it.path, e),
                e.total_attempts,
                sum(letter in names.DEATHS for letter in e.tries),
                it.state != "dead",
                it.state == "leased" and it.queue.holds(it.name, e),
                _written(it) if edited else 0,
                ("dead", "leased", "delayed", "ready").index(it.state),
                it.name,
            )

        return rank

    def finding(self) -> Finding:
        """What came of it."""
        if not self._losers.count:
            what = "no message is in two places"
            if self._patient.settings.dead_letters is not None and _home_of(self._patient) is None:
                what += "; the dead-letter queue could not be looked into"
            return Finding("duplicates", "ok", what)
        fixed = None
        todo = "mailq doctor QUEUE --fix keeps the newest state of each and moves the others to aside/"
        if self._failed:
            todo = f"{plural(self._moved, 'file')} moved to aside/, then it failed: {self._failed}"
        elif self._moved:
            fixed = f"{plural(self._moved, 'file')} moved to aside/; the newest state of each message stays"
        return self._losers.finding(
            "duplicates",
            "error",
            f"{plural(self._losers.count, 'file holds a message', 'files hold messages')} that another file holds too, as a copy of a "
            "running queue has it: it would be delivered twice",
            todo,
            fixed=fixed,
        )


def _written(sighting: Sighting) -> int:
    """When the content was written; 0 where the mtime tells a deadline instead."""
    status = layouts.status_of(sighting.path)
    if status is None:
        return 0
    extended = sighting.state == "leased" and status.st_mtime_ns > (sighting.envelope.until or 0)
    return 0 if extended else status.st_mtime_ns


def _both_there(first: str, second: str) -> bool | None:
    """None if two files are there at one time; else whether the second is the one to go on with.

    A message that is renamed from one to the other while we look is one file with
    one name. Two names of one file are a duplicate too: some tools copy by hard link.
    """
    if first == second:
        return False
    before, there, after = (layouts.status_of(path) for path in (first, second, first))
    if there is None:
        return False
    if before is None or after is None:
        return True
    if before.st_ino != after.st_ino:
        return False  # edited in between: another file by now
    if not os.path.samestat(before, there):
        return None
    return None if there.st_nlink > 1 and before.st_ctime_ns == after.st_ctime_ns else False
