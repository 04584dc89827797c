"""Makes good from journals what a power cut took from the directories; ``journal.py`` says what is in them.

Usually nothing is wrong: a producer was killed, or forgot to close the queue. That
is not asked, it is looked at: by whoever opens the queue, by every reaping, and by whoever
meets a torn message. ``remains.py`` says which journals are nobody's any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.journal import LAST, MARK, decode
from mailq.engines.maildir.remains import LACKING, Damaged, dead, journals, read, turn
from mailq.engines.maildir.remaking import directories_of
from mailq.message import STATES, is_whole
from mailq.names import NS, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mailq.engines.maildir.journal import Record
    from mailq.engines.maildir.store import Store
    from mailq.message import State
    from mailq.names import Envelope

_PATIENCE: Final = 30.0
"""So many seconds are waited for another that replays."""

_PAUSE: Final = 0.01

_LOOKS: Final = 3
"""A message that is moved while it is looked for is looked for again, so many times in all."""

_SHARE: Final = 10.0
"""Whoever meets torn messages spends at most a tenth of his time on journals that cannot be replayed for now."""

_Fate = Literal["settled", "busy", "left"]
"""What became of a journal: nothing is to be done about it, or another is replaying it, or it is for another time."""


class Mending:
    """What whoever meets torn messages asks of the journals: there may be many, and a journal that cannot be replayed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rests_until = 0.0

    def is_done(self) -> bool:
        """Replay; whether what is torn after that stays so. Not tried again at once: other messages wait meanwhile."""
        begun = time.monotonic()
        if begun < self._rests_until:
            return False
        is_done = replay(self._store, waits=True)
        if not is_done:
            now = time.monotonic()
            self._rests_until = now + (now - begun) * _SHARE
        return is_done


def replay(store: Store, *, waits: bool) -> bool:
    """Replay what dead producers left behind. False if something is left that may be replayed another time.

    Never raises: what could not be done is logged, and left for the next. ``waits`` is for
    whoever must not see what is being mended by another: he waits until that is done.
    """
    paths, is_done = journals(store.layout), True
    give_up = time.monotonic() + _PATIENCE
    while paths:
        fates = {path: _try_one(store, path) for path in paths}
        paths = [path for path, fate in fates.items() if fate == "busy"]
        is_done = is_done and "left" not in fates.values()
        # He may be stopped, and no other journal is his.
        if paths and (not waits or time.monotonic() >= give_up):
            return False
        if paths:
            time.sleep(_PAUSE)
    return is_done


def _try_one(store: Store, path: str) -> _Fate:
    """Replay one; if that cannot be, the others are replayed all the same."""
    try:
        journal = dead(store.disk, path)
        if journal is None:
            return "settled"
        with journal:
            ours = turn(store.disk, path)
            if ours is None:
                return "busy"
            with ours:
                if os.fstat(journal.fd).st_nlink:  # or somebody had his turn since
                    _replay_one(store, path, journal.fd)
    except OSError as error:
        layouts.log().warning("a journal was not replayed yet: %s: %s", path, error)
        return "left" if _may_pass(error) else "settled"
    return "settled"


def _may_pass(error: OSError) -> bool:
    """Whether a journal could be replayed another time; until then no torn message is given up on, so it must not be never.

    A full disk is emptied, descriptors are closed; a disk that fails while it is written to lets nobody
    claim anything either. But what it cannot read of the journal it never will, and what this user may not do
    here only another user's process can, and that one mends a message among the dead as well.
    """
    return not isinstance(error, Damaged) and error.errno not in (errno.EACCES, errno.EPERM)


def _replay_one(store: Store, path: str, fd: int) -> None:
    # Before anything is looked at: what is not on the disk by now never will be.
    store.disk.syncfs(fd)
    content = read(store.disk, fd, path)
    records = {record.envelope.id: record for record in decode(os.path.basename(path), content)}
    _put_back(store, _lost(store, records, _number_on(f"{path}{MARK}")))
    # If the journal outlives the next power cut, it must not bring back what is acked by then. A mark with
    # several names is a copy's too (cp -al), and says for both what has come to the disk: there it may not have.
    number = max((record.number for record in records.values()), default=0)
    mark = layouts.status_of(f"{path}{MARK}")
    if mark is not None and mark.st_nlink <= 1:
        with contextlib.suppress(FileNotFoundError, PermissionError):  # or another user's
            store.disk.utime(f"{path}{MARK}", number * NS)
    store.disk.syncfs(fd)
    for name in (path, f"{path}{MARK}"):
        with contextlib.suppress(FileNotFoundError):
            store.disk.unlink(name)


class _Lost(NamedTuple):
    """A message to be made good, under which name; and its torn file, if there is one."""

    state: State
    envelope: Envelope
    data: bytes
    torn: str = ""


def _put_back(store: Store, lost: Sequence[_Lost]) -> None:
    if not lost:
        return
    kept = store.put_back([(one.state, one.envelope, one.data) for one in lost])
    for torn in {one.torn for one in lost if one.torn}.difference(kept):  # in a directory that was exchanged
        with contextlib.suppress(FileNotFoundError):
            store.disk.unlink(torn)
    layouts.log().warning("%d messages were restored from a journal", len(lost))


def _number_on(mark: str) -> int:
    """How many records' names had come to the disk; none if somebody removed the mark, or set a time that no producer sets."""
    status = layouts.status_of(mark)
    number = 0 if status is None else status.st_mtime_ns // NS
    return number if number <= LAST else 0


def _lost(store: Store, records: Mapping[str, Record], number: int) -> list[_Lost]:
    """The messages that are torn, to be made whole where they are; and those that never came to be."""
    lost = []
    # What had come to the disk, and is not there now, was acked.
    came = {id for id, record in records.items() if record.number <= number}
    places: dict[str, int] = {}
    unseen = dict(records)
    for _ in range(_LOOKS):
        moved = set()
        for state, path, envelope in _find(store, unseen):
            record = unseen[envelope.id]
            if state == "ready" and not envelope.tries:
                places[envelope.id] = envelope.place
            try:
                if envelope.crc == record.envelope.crc and not _is_whole(store, path, envelope):
                    lost.append(_Lost(state, envelope, record.data, path))
                del unseen[envelope.id]
            except FileNotFoundError:  # just now; it may be torn all the same, where it is by now
                moved.add(envelope.id)
        unseen = {id: record for id, record in unseen.items() if id not in came or id in moved}
        if not unseen:
            break
    never = {id: record for id, record in unseen.items() if id not in came}
    return lost + [_Lost(record.state, envelope, record.data) for envelope, record in _in_order(records, never, places)]


def _in_order(
    records: Mapping[str, Record], never: Mapping[str, Record], places: Mapping[str, int]
) -> Iterator[tuple[Envelope, Record]]:
    """The messages that never came to be, each behind those before it in the journal that wait in line.

    A message of a batch gets its place as it gets its name: where a producer was killed between two of
    them, the first have later places than the journal has for the others.
    """
    last = 0
    for id, record in sorted(records.items(), key=lambda item: item[1].number):
        envelope = record.envelope
        if id in never:
            if record.state == "ready" and envelope.place <= last:
                envelope = envelope._replace(place=last + 1)
            yield envelope, record
        if record.state == "ready":
            last = max(last, places.get(id, envelope.place if id in never else 0))


def _find(store: Store, records: Mapping[str, Record]) -> list[tuple[State, str, Envelope]]:
    """The messages that are there: where, and under which names."""
    found = {}
    for id, record in records.items():
        path = f"{store.layout.directory(record.state)}/{record.name}"
        if os.path.lexists(path):
            found[id] = record.state, path, record.envelope
    if len(found) < len(records):
        for directory, state in directories_of(store.layout, STATES).items():
            for entry in layouts.entries(directory):
                envelope = parse(entry.name)
                if envelope is not None and envelope.id in records:
                    found.setdefault(envelope.id, (state, entry.path, envelope))
    return list(found.values())


def _is_whole(store: Store, path: str, envelope: Envelope) -> bool:
    """Whether a message is whole on the disk. Raises FileNotFoundError."""
    try:
        fd = store.disk.open_to_read(path)
        try:
            size = os.fstat(fd).st_size
            if envelope.size != size:
                return False
            store.disk.forget(fd)
            return is_whole(envelope, store.disk.read_all(fd, size))
        finally:
            store.disk.drop(fd)
    except OSError as error:
        # What this process lacks will be there another time; what the disk cannot read is lost on it.
        if error.errno in (*layouts.GONE, errno.EACCES, *LACKING):
            raise
        return False
