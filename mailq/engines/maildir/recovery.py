"""Recovery: restores from journals what a power cut took from the directories. ``journal.py`` says what is in them.

Replay runs when a queue is opened, on each reap, and when a consumer meets a torn
message. Replaying an intact journal changes nothing. ``remains.py`` says which journals
are orphaned.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.compaction import all_directories_of
from mailq.engines.maildir.journal import LAST, MARK, decode
from mailq.engines.maildir.names import is_intact, parse
from mailq.engines.maildir.push import Writer
from mailq.engines.maildir.remains import TRANSIENT, JournalUnreadable, dead, journals, read, replay_lock
from mailq.ids import NS
from mailq.message import STATES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mailq.engines.maildir.files import Store
    from mailq.engines.maildir.journal import Entry
    from mailq.engines.maildir.names import MessageName
    from mailq.message import State

_PATIENCE: Final = 30.0
"""Seconds to wait for another process that replays."""

_PAUSE: Final = 0.01

_LOOKS: Final = 3
"""The number of times that a message is looked for which is moved meanwhile."""

_SHARE: Final = 10.0
"""A consumer that meets torn messages spends at most a tenth of its time on journals that cannot be replayed yet."""

_Fate = Literal["settled", "busy", "left"]
"""What became of a journal: nothing is to be done, or another process is replaying it, or it is for another time."""


class TornMessageRecovery:
    """What a consumer does that meets torn messages: there may be many, and a journal that cannot be replayed."""

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

    Never raises: what could not be done is logged, and left for the next. With ``waits``
    it waits until other processes have done what they replay: the caller must not see it half done.
    """
    paths, is_done = journals(store.layout), True
    give_up = time.monotonic() + _PATIENCE
    while paths:
        fates = {path: _try_one(store, path) for path in paths}
        paths = [path for path, fate in fates.items() if fate == "busy"]
        is_done = is_done and "left" not in fates.values()
        # That process may be stopped; no other journal depends on it.
        if paths and (not waits or time.monotonic() >= give_up):
            return False
        if paths:
            time.sleep(_PAUSE)
    return is_done


def _try_one(store: Store, path: str) -> _Fate:
    """Replay one journal; if that fails, the others are replayed all the same."""
    try:
        journal = dead(store.disk, path)
        if journal is None:
            return "settled"
        with journal:
            ours = replay_lock(store.disk, path)
            if ours is None:
                return "busy"
            with ours:
                if os.fstat(journal.fd).st_nlink:  # or another process has replayed it since
                    _replay_one(store, path, journal.fd)
    except OSError as error:
        layouts.log().warning("a journal was not replayed yet: %s: %s", path, error)
        return "left" if _may_pass(error) else "settled"
    return "settled"


def _may_pass(error: OSError) -> bool:
    """Whether a journal could be replayed another time; until then no torn message is given up on, so it must not be never.

    A full disk is emptied, descriptors are closed; a disk that fails while it is written to allows no
    claims either. But what it cannot read of the journal it never will, and what this user may not do
    here only another user's process can, and that one mends a message among the dead as well.
    """
    return not isinstance(error, JournalUnreadable) and error.errno not in (errno.EACCES, errno.EPERM)


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
    envelope: MessageName
    data: bytes
    torn: str = ""


def _put_back(store: Store, lost: Sequence[_Lost]) -> None:
    if not lost:
        return
    kept = Writer(store).restore([(one.state, one.envelope, one.data) for one in lost])
    for torn in {one.torn for one in lost if one.torn}.difference(kept):  # in a directory that was exchanged
        with contextlib.suppress(FileNotFoundError):
            store.disk.unlink(torn)
    layouts.log().warning("%d messages were restored from a journal", len(lost))


def _number_on(mark: str) -> int:
    """How many records' names had come to the disk; none if somebody removed the mark, or set a time that no producer sets."""
    status = layouts.status_of(mark)
    number = 0 if status is None else status.st_mtime_ns // NS
    return number if number <= LAST else 0


def _lost(store: Store, records: Mapping[str, Entry], number: int) -> list[_Lost]:
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
                places[envelope.id] = envelope.visible_at
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
    records: Mapping[str, Entry], never: Mapping[str, Entry], places: Mapping[str, int]
) -> Iterator[tuple[MessageName, Entry]]:
    """The messages that never came to be, each behind those before it in the journal that wait in line.

    A message of a batch gets its place as it gets its name: where a producer was killed between two of
    them, the first have later places than the journal has for the others.
    """
    last = 0
    for id, record in sorted(records.items(), key=lambda item: item[1].number):
        envelope = record.envelope
        if id in never:
            if record.state == "ready" and envelope.visible_at <= last:
                envelope = envelope._replace(visible_at=last + 1)
            yield envelope, record
        if record.state == "ready":
            last = max(last, places.get(id, envelope.visible_at if id in never else 0))


def _find(store: Store, records: Mapping[str, Entry]) -> list[tuple[State, str, MessageName]]:
    """The messages that are there: where, and under which names."""
    found = {}
    for id, record in records.items():
        path = f"{store.layout.directory(record.state)}/{record.name}"
        if os.path.lexists(path):
            found[id] = record.state, path, record.envelope
    if len(found) < len(records):
        for directory, state in all_directories_of(store.layout, STATES).items():
            for entry in layouts.entries(directory):
                envelope = parse(entry.name)
                if envelope is not None and envelope.id in records:
                    found.setdefault(envelope.id, (state, entry.path, envelope))
    return list(found.values())


def _is_whole(store: Store, path: str, envelope: MessageName) -> bool:
    """Whether a message is whole on the disk. Raises FileNotFoundError."""
    try:
        fd = store.disk.open_to_read(path)
        try:
            size = os.fstat(fd).st_size
            if envelope.size != size:
                return False
            store.disk.forget(fd)
            return is_intact(envelope, store.disk.read_all(fd, size))
        finally:
            store.disk.drop(fd)
    except OSError as error:
        # What this process lacks will be there another time; what the disk cannot read is lost on it.
        if error.errno in (*layouts.GONE, errno.EACCES, *TRANSIENT):
            raise
        return False
