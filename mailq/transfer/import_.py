"""An archive to a live queue: each message once, by its id, however often the archive is imported."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from mailq.connect import path_of
from mailq.engines.maildir import dead_letters, error_texts
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.compaction import directories_of, holds_any
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.files import Store
from mailq.engines.maildir.names import parse
from mailq.engines.maildir.push import Writer
from mailq.errors import MailqError, SettingsError, StorageError
from mailq.ids import MonotonicIds
from mailq.message import STATES
from mailq.settings import Settings
from mailq.settings import parse as parse_settings
from mailq.transfer import compression
from mailq.transfer.files import is_lines
from mailq.transfer.items import ArchiveDamaged, Flaw, Item, NoArchive, checked
from mailq.transfer.jsonl import LinesReader
from mailq.transfer.snapshot import Survey
from mailq.transfer.tar import TarReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from filelock import BaseFileLock

    from mailq.transfer.ids import Ids
    from mailq.transfer.items import Format, Reader

_BATCH: Final = 256
_BATCH_BYTES: Final = 8 << 20
"""So many messages, or bytes, are synced together."""


class Imported(NamedTuple):
    """What an import did, in messages.

    ``already_there`` were in the queue before, in whatever state, and were left alone.
    ``refused`` were not fit to be stored; each was told of.
    """

    imported: int = 0
    already_there: int = 0
    refused: int = 0


class ImportStopped(MailqError):
    """An import ended early: ``done`` is stored all the same.

    Import it again when the cause is mended; of an archive that is damaged, a whole
    copy. What is in the queue by then is passed over; what was acked in between comes again.
    """

    def __init__(self, cause: Exception, done: Imported) -> None:
        self.done = done
        text = f"{cause}; {done.imported or 'none'} were imported before"
        if not isinstance(cause, NoArchive):
            what = "a whole copy of it" if isinstance(cause, ArchiveDamaged) else "it again"
            text += f"; import {what}: messages that are in the queue are passed over, acked ones come again"
        super().__init__(text)


def import_from(
    target: str | os.PathLike[str],
    stream: BinaryIO,
    *,
    format: Format | None = None,  # noqa: A002 - what it is
    create: bool = False,
    tell: Callable[[str], object] | None = None,
    disk: Disk | None = None,
    clock: Callable[[], int] = time.time_ns,
) -> Imported:
    """Store the messages of an archive in a queue, which may be in use; durable on return, as a push.

    They keep id, place in line, options, story, state and error texts. A message whose
    id is in the queue, in whatever state, is left alone: an import that was interrupted is
    simply run again. What was acked in between comes again. Another import into the
    same queue is waited for. ``max_length`` does not limit an import, ``max_message_bytes`` does.

    The format, and gzip or xz around it, is recognized by itself; only of an empty stream its ``name``
    must say that it is of JSON lines, or ``format``. The queue keeps its
    settings; with ``create`` a queue that is missing is made, with those of the archive but for
    ``dead_letters``, which is a path, and with an identity of its own. ``tell`` gets a line
    for each message that is refused, by default the log. Raises QueueNotFound, and ImportStopped when the
    archive or the disk keeps it from going on.
    """
    disk, tell = disk or Disk(), tell or layouts.log().warning
    layout = layouts.Layout(path_of(target))
    disk.give_to_owner_of(layout.root)
    done = Imported()
    try:
        with compression.reading(stream) as plain:
            reader = _reader(plain, format, getattr(stream, "name", None))
            text = reader.settings()
            if create and not os.path.exists(layout.marker):
                _create(layout, disk, text, tell)
            store = Store(layout, disk, clock, MonotonicIds(clock), layouts.load(layout, disk))
            layouts.check(layout, disk, store.settings)
            lock = _lock(store)
            try:
                _wait_for(lock, tell)
                intake = _Intake(store, tell)
                try:
                    intake.take_all(reader.items(store.settings.max_message_bytes))
                finally:
                    done = intake.done
            finally:
                lock.release()  # does nothing if we have not got it
            if reader.strays:
                tell(f"{reader.strays} error texts stood apart from their messages and were left out")
            return done
    except (ArchiveDamaged, OSError) as error:
        raise ImportStopped(error, done) from error


def _reader(stream: compression.Peekable, format: Format | None, name: object) -> Reader:  # noqa: A002 - as above
    """By the first byte. Where there is none the file's name decides: a queue without messages makes no lines."""
    first = stream.peek(1)[:1]
    if not first and format is None and isinstance(name, str) and is_lines(name):
        format = "jsonl"  # noqa: A001 - as above
    if format == "jsonl":
        return LinesReader(stream)
    if not first:
        raise NoArchive("it is empty; as JSON lines without a message it is taken with --format jsonl")
    return LinesReader(stream) if format is None and first in b"{ \t\r\n" else TarReader(stream)


def _create(layout: layouts.Layout, disk: Disk, text: str | None, tell: Callable[[str], object]) -> None:
    settings = Settings() if text is None else _settings_in(text)
    if settings.dead_letters is not None:
        tell(f"dead_letters = {settings.dead_letters!a} was not taken over; 'mailq config' sets it")
    layouts.create(layout, settings.changed({"dead_letters": None}), disk)


def _settings_in(text: str) -> Settings:
    """The settings of an archive: they are read before its end is, where a checksum would tell of damage."""
    try:
        return parse_settings(text, "").settings
    except SettingsError as error:
        where = f"the archive's mailq.toml, line {error.line}" if error.line else "the archive's mailq.toml"
        why = str(error).removesuffix("; mend the line")
        raise ArchiveDamaged(
            where, f"{why}; the archive is damaged, or not mailq's own; without --create its settings are not read"
        ) from error


def _lock(store: Store) -> BaseFileLock:
    """One import at a time: two that both find a message missing would both store it."""
    mode = int(store.settings.file_mode, 8)
    return layouts.file_lock(store.disk, f"{store.layout.root}/.import.lock", mode)


def _wait_for(lock: BaseFileLock, tell: Callable[[str], object]) -> None:
    from filelock import Timeout  # noqa: PLC0415 - slow to load

    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell("another import into this queue is at work; waiting for it")
            lock.acquire(timeout=-1)
    except OSError as error:
        raise StorageError("lock the queue for an import", error) from error


def _known(store: Store) -> Ids:
    """The ids in the queue, with its dead letters in another."""
    directories = directories_of(store.layout, STATES)
    survey = Survey(directories, lambda *_: True, now=store.clock)
    sent = list(_sent(store))
    survey.run()
    strange = directories_of(store.layout, STATES).keys() - directories.keys()
    if not survey.certain or any(map(holds_any, strange)):
        busy = OSError(errno.EBUSY, "too much is moved in the queue to know what is in it; pause it meanwhile")
        raise StorageError("import", busy)
    # Once before and once after: a message may die, or be redriven, while the survey is made.
    for id in (*sent, *_sent(store)):
        survey.seen.add(id)
    return survey.seen


def _sent(store: Store) -> Iterator[str]:
    """The ids of this queue's dead letters in the queue that gets them."""
    home = dead_letters.home_of(store.layout, store.settings)
    for entry in layouts.entries(home.new) if home is not None else ():
        envelope = parse(entry.name) if store.mark in entry.name else None
        if envelope is not None and envelope.source_queue == store.mark:
            yield envelope.id


class _Intake:
    """Stores what is new to the queue, batch by batch."""

    def __init__(self, store: Store, tell: Callable[[str], object]) -> None:
        self._store = store
        self._tell = tell
        self._known = _known(store)
        self._batch: list[Item] = []
        self._bytes = 0
        self.done = Imported()

    def take_all(self, items: Iterator[Item | Flaw]) -> None:
        """Store them; also those before the place where the archive turns out to be damaged."""
        try:
            for item in items:
                self._take(item)
        except (ArchiveDamaged, *compression.DAMAGE):
            self._store_batch()
            raise
        self._store_batch()

    def _take(self, item: Item | Flaw) -> None:
        if isinstance(item, Item) and item.envelope.id in self._known:
            self.done = self.done._replace(already_there=self.done.already_there + 1)
            return
        fit = checked(item, self._store.settings.max_message_bytes) if isinstance(item, Item) else item
        if isinstance(fit, Flaw):
            self.done = self.done._replace(refused=self.done.refused + 1)
            self._tell(f"{fit.where}: refused: {fit.why}")
            return
        self._known.add(fit.envelope.id)
        self._batch.append(fit)
        self._bytes += len(fit.data) + sum(len(text.data) for text in fit.texts)
        if len(self._batch) >= _BATCH or self._bytes >= _BATCH_BYTES:
            self._store_batch()

    def _store_batch(self) -> None:
        batch, self._batch, self._bytes = self._batch, [], 0
        if not batch:
            return
        for item in batch:
            self._put_texts(item)
        try:
            paths = Writer(self._store).restore([(item.state, item.envelope, item.data) for item in batch])
        except BaseException:
            for item in batch:
                error_texts.remove(self._store.disk, self._store.layout.errors, item.envelope)
            raise
        for item, path in zip(batch, paths, strict=True):
            if item.at is not None:
                with contextlib.suppress(OSError):  # somebody has redriven or purged it already
                    self._store.disk.utime(path, min(item.at, self._store.clock()))
        self.done = self.done._replace(imported=self.done.imported + len(batch))

    def _put_texts(self, item: Item) -> None:
        """Before the message: whoever gets that has its texts. A text that is no attempt's would never be removed."""
        now = self._store.clock()
        attempts = set(error_texts.numbers(item.envelope)) if item.envelope.tries else set()
        layout, mode = self._store.layout, int(self._store.settings.file_mode, 8)
        for number, data, at in item.texts:
            if number in attempts:
                error_texts.put_back(
                    self._store.disk, layout.errors, item.envelope.id, number, data, at=min(at, now), mode=mode
                )
