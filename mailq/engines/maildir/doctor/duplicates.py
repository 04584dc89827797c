"""One message in several places: what a copy of a live queue, or a backup laid over one, leaves.

The newest state wins. The others go to quarantine, which nothing delivers from and nothing
deletes from: ``aside/<directory>/<name>``. This queue's dead letters in a shared
dead-letter queue take part; what loses there goes to the ``aside/`` there.

A queue that runs moves messages about while it is listed. So two sightings are a
duplicate only if both files are there at one time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from array import array
from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from mailq.engines.maildir import dead_letters, names, reaper
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.doctor import structure
from mailq.engines.maildir.doctor.context import Context, message_files
from mailq.engines.maildir.doctor.report import Examples, Finding, Findings, Trouble, spelled
from mailq.engines.maildir.files import Store
from mailq.errors import MailqError
from mailq.ids import is_id
from mailq.message import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mailq.engines.maildir.names import MessageName
    from mailq.message import State

# fmt: off
_TWICE: Final = Trouble(
    "error", "{n} file[ holds a message|s hold messages] that another file holds, too, as in a copy of a running queue: it would be delivered twice",
    "mailq doctor QUEUE --fix keeps the newest state of each and moves the others to aside/",
    fixed="{n} file[|s] moved to aside/; the newest state of each message stays")
# fmt: on

_AT_ONCE: Final = 50_000
"""The number of doubtful ids that are looked into with one listing: what is remembered of each is a name."""


class Sighting(NamedTuple):
    """A file that carries an id, and the queue that it lies in: this one, or the shared dead-letter queue."""

    queue: Context
    state: State
    path: str
    envelope: MessageName


class SortedIds:
    """The ids in a queue, eight bytes each: their random halves, in order."""

    def __init__(self, halves: Sequence[int]) -> None:
        self._halves = array("Q", halves)

    def __contains__(self, id: object) -> bool:
        """Whether an id is there; of a billion, one may seem to be that is not."""
        half = _half(str(id))
        at = bisect_left(self._halves, half)
        return at < len(self._halves) and self._halves[at] == half

    def twice(self) -> list[int]:
        """The halves that stand there more than once."""
        return sorted({a for a, b in pairwise(self._halves) if a == b})


def _half(id: str) -> int:
    return int(id[16:], 16)


def _quarantine(context: Context, path: str) -> set[str]:
    """Move a file to ``aside/``, by one rename: ``new/x`` to ``aside/new/x``. Returns the directories to sync.

    Raises FileNotFoundError if another process was faster, OSError if it failed.
    """
    directory, name = os.path.split(path)
    aside = context.layout.aside
    home = f"{aside}/{os.path.basename(directory)}"
    for made in (aside, home):
        with contextlib.suppress(FileExistsError):
            context.disk.make_directory(made, layouts.directory_mode(context.settings))
        if not stat.S_ISDIR(os.lstat(made).st_mode):  # a planted link would lead out of the queue
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), made)
    target = f"{home}/{name}"
    while os.path.lexists(target):  # a rename would replace what was put there before
        target = f"{home}/{name}~{os.urandom(2).hex()}"
    context.disk.rename(path, target)
    return {directory, home, aside, context.layout.root} if context.store.durable else set()


def _files(context: Context) -> Iterator[tuple[Context, State, os.DirEntry[str], str]]:
    """Each file with an id, the queue that it lies in, and its state: in the shared dead-letter queue it is dead, or held."""
    mark = f",from={context.store.queue_tag}"
    home = _home_of(context)
    for queue in (context,) if home is None else (context, home):
        for state in STATES:
            for entry in message_files(queue.layout.directory(state)):
                if not names.looks_ours(entry.name) or not is_id(id := names.id_in(entry.name)):
                    continue
                if queue is context:
                    yield context, state, entry, id
                elif mark in entry.name:
                    yield queue, state if state == "leased" else "dead", entry, id


def _home_of(context: Context) -> Context | None:
    """The shared dead-letter queue, if there is one that can be looked into; another check says what is wrong with it."""
    store = context.store
    home = dead_letters.shared_queue(store.layout, store.settings)
    if home is None or home.links():
        return None
    # Not every user who may put dead letters into a queue may read there.
    if not all(os.access(path, os.R_OK | os.X_OK) for path in map(home.directory, STATES) if os.path.isdir(path)):
        return None
    try:
        marker = layouts.load(home, store.disk)
    except MailqError:
        return None
    there = Store(home, store.disk, store.clock, store.ids, marker)
    found = Context(there, context.machine, fix=context.fix, full=False)
    found.fix = found.fix and found.writable and not structure.is_root_elsewhere(store.disk, home.root)
    return found


def examine(context: Context) -> Findings:
    """List the ids, look for those that several files carry, and with ``fix`` leave of each message the newest state alone."""
    # A listing is not a snapshot: of a running queue some ids may be missing, or seem to be there twice.
    context.ids = ids = SortedIds(sorted(array("Q", (_half(id) for *_, id in _files(context)))))
    contest = _Contest(context)
    doubtful = ids.twice()
    for start in range(0, len(doubtful), _AT_ONCE):
        contest.hold(set(doubtful[start : start + _AT_ONCE]))
    for path in sorted(contest.to_sync):
        # They have happened; what a power cut takes back, a second look finds again.
        with contextlib.suppress(OSError):
            context.disk.sync_directory(path)
    yield contest.finding()


class _Contest:
    """Has the sightings of each id meet, one after the other: of each only the best so far is remembered."""

    def __init__(self, context: Context) -> None:
        self._context, self._losers, self._failed = context, Examples(), ""
        self.to_sync: set[str] = set()

    def hold(self, halves: set[int]) -> None:
        """Go once through the queue, for the ids with these halves."""
        best: dict[str, Sighting] = {}
        for queue, state, entry, id in _files(self._context):
            if _half(id) in halves and (envelope := names.parse(entry.name)) is not None:
                here = Sighting(queue, state, entry.path, envelope)
                best[id] = self._meet(best[id], here) if id in best else here

    def _meet(self, first: Sighting, second: Sighting) -> Sighting:
        """Of two sightings of an id, the one that stays."""
        there = _both_there(first.path, second.path)
        if there is not None:
            return second if there else first
        older, newer = sorted((first, second), key=_rank(first, second))
        with contextlib.suppress(FileNotFoundError):  # a consumer took it meanwhile, and it was none any more
            is_moved = self._context.fix and self._is_moved(older)
            self._losers.add(self._context.short(older.path), is_mended=is_moved)
        return newer

    def _is_moved(self, loser: Sighting) -> bool:
        """Move it to quarantine, if that can be. Raises FileNotFoundError if it is gone."""
        if not loser.queue.fix:
            self._failed = f"{loser.queue.layout.root} is another user's, or may not be written"
            return False
        try:
            self.to_sync |= _quarantine(loser.queue, loser.path)
        except FileNotFoundError:
            raise
        except OSError as error:
            self._failed = error.strerror or str(error)
            return False
        return True

    def finding(self) -> Finding:
        """What came of it."""
        found = self._losers
        if not found.count:
            what = "no message is in two places"
            if self._context.settings.dead_letters is not None and _home_of(self._context) is None:
                what += "; the dead-letter queue could not be looked into"
            return Finding("duplicates", "ok", what)
        finding = _TWICE.finding(self._context, "duplicates", found)
        if self._failed:
            moved = spelled("{n} file[|s] moved to aside/, then it failed: ", found.mended)
            finding = finding._replace(remedy=moved + self._failed)
        return finding


def _rank(first: Sighting, second: Sighting) -> Callable[[Sighting], tuple[object, ...]]:
    """The order of states, older before newer.

    A whole file is better than a torn one, whatever else. Then the longer history is
    the newer: each finished attempt and each death adds to it. A redrive adds
    nothing, so of two with one history the dead one is the older. A lease that
    is held stays with its holder. Of two contents the one that was written
    later is the edited one. All else is as good one way as the other: the message
    that is delivered without another attempt being counted is taken.
    """
    edited = (first.envelope.size, first.envelope.crc) != (second.envelope.size, second.envelope.crc)

    def rank(it: Sighting) -> tuple[object, ...]:
        queue, state, path, e = it
        name = os.path.basename(path)
        is_held = state == "leased" and queue.holds(e.owner, reaper.deadline(queue.store, name, e))
        return (
            queue.condition_of(path, e) == "whole",
            e.total_attempts,
            sum(letter in names.DEATHS for letter in e.tries),
            state != "dead",
            is_held,
            _written(it) if edited else 0,
            ("dead", "leased", "delayed", "ready").index(state),
            name,
        )

    return rank


def _written(sighting: Sighting) -> int:
    """When the content was written; 0 where the mtime tells a deadline instead."""
    status = layouts.status_of(sighting.path)
    if status is None:
        return 0
    extended = sighting.state == "leased" and status.st_mtime_ns > (sighting.envelope.until or 0)
    return 0 if extended else status.st_mtime_ns


def _both_there(first: str, second: str) -> bool | None:
    """None if two files are there at one time; else whether the second is the one to go on with.

    A message that is renamed from one to the other meanwhile is one file with one
    name. Two names of one file are a duplicate too: some tools copy by hard link.
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
