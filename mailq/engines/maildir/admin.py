"""Looking at a queue and mending it: list, read, edit, count, redrive, remove.

All of it works while producers and consumers run; nothing here holds a lock.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, cast

from mailq import policy
from mailq.engines.base import History, Record, Stats
from mailq.engines.maildir import compaction, dead_letters, error_texts, names, reaper
from mailq.engines.maildir import layout as layouts
from mailq.errors import MessageNotFound, StorageError
from mailq.ids import NS
from mailq.message import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from mailq.engines.maildir.files import Store
    from mailq.engines.maildir.names import MessageName
    from mailq.message import NewMessage, State


_T = TypeVar("_T")

_EDIT_LEASE: Final = 60.0
"""The least lease of a message that is being edited, in seconds: it takes milliseconds."""

_SPARE: Final = 100


class _MessageFile(NamedTuple):
    """A file that is a message: where it lies, and what its name says."""

    directory: str
    name: str
    envelope: MessageName

    @property
    def path(self) -> str:
        """The file's path."""
        return f"{self.directory}/{self.name}"


def _files(store: Store, state: State, ids: Collection[str] | None = None) -> Iterator[_MessageFile]:
    """The messages in a state, in the order of the listing; with ids, little more than those.

    Dead letters that went to a shared queue are there among the ready, and count
    as dead here.
    """
    for directory in compaction.with_retired(store.layout, store.layout.directory(state)):
        for entry in layouts.entries(directory):
            if ids is not None and names.looks_ours(entry.name) and names.id_in(entry.name) not in ids:
                continue  # without parsing each name of a long queue
            envelope = layouts.envelope_of(directory, entry.name)
            if envelope is not None and (ids is None or envelope.id in ids):
                yield _MessageFile(directory, entry.name, envelope)
    shared = dead_letters.shared_queue(store.layout, store.settings) if state == "dead" else None
    if shared is not None:
        ours = store.queue_tag
        for entry in layouts.entries(shared.new):
            envelope = names.parse(entry.name) if ours in entry.name else None
            if envelope is not None and envelope.source_queue == ours and (ids is None or envelope.id in ids):
                yield _MessageFile(shared.new, entry.name, envelope)


def _record(store: Store, state: State, found: _MessageFile) -> Record | None:
    status = layouts.status_of(found.path)
    if status is None:
        return None
    at = None
    match state:
        case "delayed":
            at = found.envelope.visible_at
        case "leased":
            at = reaper.deadline(store, found.name, found.envelope)
        case "dead":
            at = status.st_mtime_ns
    return Record(state, found.envelope, status.st_size, at, found.path)


def look(store: Store, state: State | None, ids: Collection[str] | None, limit: int | None) -> list[Record]:
    """List messages in a state, or in all states, first in line first; the dead as they were in line."""
    wanted = None if ids is None else set(ids)
    if state is not None:
        return _look(store, state, wanted, limit)
    most = limit if wanted is None else len(wanted) if limit is None else min(limit, len(wanted))
    listed: dict[str, Record] = {}
    # By id a second time, if some are missing: a message may have moved to a state that was listed before.
    for each in STATES * (1 if wanted is None else 2):
        if most is not None and len(listed) >= most:  # no listing of a long state for what was found
            break
        for record in _look(store, each, wanted, limit):
            listed.setdefault(record.envelope.id, record)
    return list(listed.values())[:most]


def _look(store: Store, state: State, ids: Collection[str] | None, limit: int | None) -> list[Record]:
    def in_line(found: _MessageFile) -> tuple[int, int, str]:
        return -found.envelope.priority, found.envelope.visible_at, found.name

    found = _files(store, state, ids)
    # Of a long queue only as many as are wanted; a few more, for those that go away before they are looked at.
    files = sorted(found, key=in_line) if limit is None else heapq.nsmallest(limit + _SPARE, found, key=in_line)
    records = (_record(store, state, found) for found in files)
    listed: list[Record] = []
    for record in records:
        if limit is not None and len(listed) >= limit:
            break
        if record is not None:
            listed.append(record)
    return listed


def _found(store: Store, record: Record) -> Record:
    """Look for a message again that is not any more where it was seen."""
    found = look(store, None, {record.envelope.id}, 1)
    if not found:
        raise MessageNotFound(record.envelope.id, store.layout.root)
    return found[0]


def read(store: Store, record: Record) -> bytes:
    """Read a message where it was seen, or wherever it is by now."""
    for _ in range(3):
        try:
            # What a claim has handed out is called by its receipt, which is a name in cur/.
            fd = store.disk.open_to_read(os.path.join(store.layout.cur, record.location))
        except FileNotFoundError:
            record = _found(store, record)
            continue
        except OSError as error:
            raise StorageError("read the message", error) from error
        try:
            return store.disk.read_all(fd, os.fstat(fd).st_size)
        except OSError as error:
            raise StorageError("read the message", error) from error
        finally:
            store.disk.drop(fd)
    raise MessageNotFound(record.envelope.id, store.layout.root)


def history(store: Store, record: Record) -> History:
    """Read the error texts of a message, and which queue it comes from."""
    message = name_of(record)
    attempts = error_texts.read(store.disk, store.layout.errors, message)
    return History(attempts, dead_letters.source_of(store.layout, store.disk, message))


def name_of(record: Record) -> MessageName:
    """The name of a message that this engine has looked at, or handed out."""
    return cast("MessageName", record.envelope)


def replace(store: Store, record: Record, message: NewMessage, *, owner: str) -> None:
    """Put other content into a message that nobody holds.

    The message is held like a claim, under a name that promises no checksum but says where the body begins,
    and which state the message came from. The new content is exchanged for it, and it goes back sealed. So at
    every moment there is one message with this id, whole; and a process that dies on the way leaves a lease
    that a reaping ends by putting the message back into that state. A process that is stopped for longer than
    the lease finds nothing to exchange, and the message stays as it was.
    """
    place = os.path.dirname(record.location)
    data = message.data
    sealed = name_of(record)._replace(
        size=len(data), crc=names.checksum(data), header_bytes=message.header_bytes, ext=message.ext
    )
    until = store.clock() + policy.ns(max(_EDIT_LEASE, store.settings.lease))
    held = sealed._replace(size=None, crc=None).claimed(until=until, owner=owner, claim=os.urandom(3).hex())
    held = held._replace(edit=record.state)  # type: ignore[arg-type] # never leased: Queue.edit refuses that
    hold = f"{store.layout.cur}/{names.format_name(held)}"
    temporary = f"{store.layout.tmp}/{names.format_name(held)}"
    try:
        store.disk.write_file(temporary, data, mode=int(store.settings.file_mode, 8), sync=store.durable)
        if record.state == "dead" and record.at is not None:
            store.disk.utime(temporary, record.at)  # when it died is its mtime
        written = os.lstat(temporary)
        if store.durable:
            store.disk.sync_file(record.location)  # without its checksum no journal can mend it
        _synced(store, place, lambda: _exchange(store, record, sealed, hold, temporary, written))
    except FileNotFoundError:
        raise MessageNotFound(record.envelope.id, f"{store.layout.root} any more in that place") from None
    except OSError as error:
        raise StorageError("edit the message", error) from error
    finally:
        with contextlib.suppress(OSError):
            store.disk.unlink(temporary)


def _exchange(
    store: Store, record: Record, sealed: MessageName, hold: str, temporary: str, written: os.stat_result
) -> None:
    """Hold the message, exchange the new content for it, and put it back."""
    back = f"{os.path.dirname(record.location)}/{names.format_name(sealed)}"
    try:
        store.move(record.location, hold, unique=True)
        store.swap_in(temporary, hold)
        store.disk.rename(hold, back)
    except BaseException:
        # Each may have been carried out: NFS tells otherwise, or an interrupt came right after it. Under
        # the old name the new content would count as torn.
        if os.path.lexists(temporary) and not _is_still(written, hold):
            back = record.location
        with contextlib.suppress(OSError):
            store.disk.rename(hold, back)
        raise


def _is_still(seen: os.stat_result, path: str) -> bool:
    """Whether the file that was seen has this name now."""
    status = layouts.status_of(path)
    return status is not None and os.path.samestat(status, seen)


def _synced(store: Store, directory: str, rename: Callable[[], _T]) -> _T:
    """Have what ``rename()`` renames into a directory on disk at the end, if the queue promises that."""
    return store.synced([directory], rename) if store.durable else rename()


def stats(store: Store) -> Stats:
    """Count the queue, by its names where they tell."""
    now = store.clock()
    count = dict.fromkeys(STATES, 0)
    size = overdue = 0
    first: int | None = None
    next_due: int | None = None
    for state in STATES:
        for found in _files(store, state):
            count[state] += 1
            envelope = found.envelope
            status = layouts.status_of(found.path) if envelope.size is None or state == "leased" else None
            size += envelope.size or (status.st_size if status else 0)
            if state == "ready":
                first = min(first or envelope.visible_at, envelope.visible_at)
            elif state == "delayed":
                next_due = min(next_due or envelope.visible_at, envelope.visible_at)
            elif state == "leased":
                end = reaper.deadline(store, found.name, envelope)
                overdue += end is not None and now >= end
    return Stats(
        **count,
        bytes=size,
        oldest_ready_age=None if first is None else max(0.0, (now - first) / NS),
        next_due_in=None if next_due is None else max(0.0, (next_due - now) / NS),
        overdue=overdue,
        paused=os.path.lexists(store.layout.paused),
    )


def pause(store: Store) -> None:
    """Put the file ``paused`` into the queue, durably; it says since when."""
    text = f"No message is delivered while this file is here. Since {names.format_time(store.clock())}.\n"
    try:
        with contextlib.suppress(FileExistsError):
            store.disk.write_file(
                store.layout.paused, text.encode(), mode=int(store.settings.file_mode, 8), sync=store.durable
            )
        # Also what another process has done, which may have died before it could sync it.
        store.disk.sync_directory(store.layout.root)
    except OSError as error:
        raise StorageError("pause", error) from error


def resume(store: Store) -> None:
    """Remove it, durably."""
    try:
        with contextlib.suppress(FileNotFoundError):
            store.disk.unlink(store.layout.paused)
        store.disk.sync_directory(store.layout.root)
    except OSError as error:
        raise StorageError("resume", error) from error


def _first_dead(store: Store, ids: set[str] | None, limit: int | None) -> Iterator[tuple[str, str]]:
    """The dead as (directory, name), first in line first. There may be very many: no more than names are kept."""
    keys = (
        (key, found.directory)
        for found in _files(store, "dead", ids)
        if (key := layouts.sort_key(found.directory, found.name)) is not None
    )
    for key, directory in sorted(keys) if limit is None else heapq.nsmallest(limit + _SPARE, keys):
        yield directory, layouts.name_of(key)


def redrive(store: Store, ids: Sequence[str] | None, limit: int | None) -> list[str]:
    """Rename the dead back into ``new/``, first in line first."""
    try:
        return _synced(store, store.layout.new, lambda: _redrive(store, ids, limit))
    except StorageError:
        raise
    except OSError as error:
        raise StorageError("redrive", error) from error


def _redrive(store: Store, ids: Sequence[str] | None, limit: int | None) -> list[str]:
    redriven: list[str] = []
    for directory, name in _first_dead(store, None if ids is None else set(ids), limit):
        if limit is not None and len(redriven) >= limit:
            break
        envelope = layouts.envelope_of(directory, name)
        if envelope is None:
            continue
        again = envelope.redriven(visible_at=store.ids.next())
        try:
            store.move(f"{directory}/{name}", f"{store.layout.new}/{names.format_name(again)}")
        except FileNotFoundError:
            continue  # somebody else redrove or purged it
        redriven.append(again.id)
        home = dead_letters.shared_queue(store.layout, store.settings)
        if home is not None and directory == home.new:
            error_texts.move(store.disk, home.errors, store.layout.errors, again)
    return redriven


def remove(store: Store, state: State, ids: Collection[str] | None) -> int:
    """Unlink the messages in a state, and their error texts."""
    count = 0
    # While the directory is listed: what is unlinked hides no other name, as a rename may, and a list could be long.
    for found in _files(store, state, None if ids is None else set(ids)):
        try:
            store.disk.unlink(found.path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StorageError("remove messages", error) from error
        count += 1
        error_texts.remove(store.disk, f"{os.path.dirname(found.directory)}/errors", found.envelope)
    return count
