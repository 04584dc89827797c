"""An archive to a live queue: each message once, by its id, however often the archive is imported."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import lzma
import os
import time
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, cast

from mailq.connect import path_of
from mailq.engines.maildir import dead_letters, error_texts, names
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.files import Store
from mailq.engines.maildir.push import Writer
from mailq.errors import MailqError, SettingsError, StorageError
from mailq.ids import MonotonicIds
from mailq.message import STATES
from mailq.settings import Settings, parse
from mailq.transfer.items import ArchiveDamaged, Format, Item, NotAnArchive, checked, format_of
from mailq.transfer.jsonl import LinesReader
from mailq.transfer.snapshot import IdSet, Survey
from mailq.transfer.tar import TarReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Plain = io.BufferedReader[Any]

_BATCH: Final = 256
_BATCH_BYTES: Final = 8 << 20
"""This many messages, or bytes, are synced together."""


class Imported(NamedTuple):
    """What an import did, in messages.

    ``already_there`` were in the queue before, in any state, and were left alone.
    ``refused`` were not fit to be stored; each was reported.
    """

    imported: int = 0
    already_there: int = 0
    refused: int = 0


class ImportStopped(MailqError):
    """An import ended early: ``done`` is stored all the same.

    Import it again when the cause is mended; of an archive that is damaged, an intact
    copy. What is in the queue by then is passed over; what was acked in between comes again.
    """

    def __init__(self, cause: Exception, done: Imported) -> None:
        self.done = done
        text = f"{cause}; {done.imported or 'none'} were imported before"
        if not isinstance(cause, NotAnArchive):
            what = "a whole copy of it" if isinstance(cause, ArchiveDamaged) else "it again"
            text += f"; import {what}: messages that are in the queue are passed over, acked ones come again"
        super().__init__(text)


def import_(
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

    They keep id, place in line, options, attempts, state and error texts. A message whose
    id is in the queue, in any state, is left alone: an import that was interrupted is
    simply run again. What was acked in between comes again. It waits for another import into the
    same queue. ``max_length`` does not limit an import, ``max_message_bytes`` does.

    The format, and gzip or xz around it, is recognized by itself; only of an empty stream its ``name``
    must say that it is of JSON lines, or ``format``. The queue keeps its
    settings; with ``create`` a queue that is missing is made, with those of the archive except
    ``dead_letters``, which is a path, and with an identity of its own. ``tell`` gets a line
    for each message that is refused, by default the log. Raises QueueNotFound, and ImportStopped when the
    archive or the disk keeps it from going on.
    """
    layout, disk, tell = layouts.Layout(path_of(target)), disk or Disk(), tell or layouts.log().warning
    disk.give_to_owner_of(layout.root)
    counts = Imported()._asdict()
    try:
        with _decompressed(stream) as plain:
            reader = _reader(plain, format, getattr(stream, "name", None))
            text = reader.settings()
            if create and not os.path.exists(layout.marker):
                _create(layout, disk, text, tell)
            store = Store(layout, disk, clock, MonotonicIds(clock), layouts.load(layout, disk))
            layouts.check(layout, disk, store.settings)
            with _alone(store, tell):
                _Intake(store, tell, counts).take_all(reader.items(store.settings.max_message_bytes))
            if reader.strays:
                tell(f"{reader.strays} error texts stood apart from their messages and were left out")
    except (ArchiveDamaged, OSError) as error:
        raise ImportStopped(error, Imported(**counts)) from error
    return Imported(**counts)


@contextlib.contextmanager
def _decompressed(stream: BinaryIO) -> Iterator[Plain]:
    """The archive without its compression. Raises ArchiveDamaged where that is damaged."""
    buffered = io.BufferedReader(cast("io.RawIOBase", stream))
    try:
        match buffered.peek(1)[:1]:
            case b"\x1f":
                yield cast("Plain", gzip.GzipFile(fileobj=buffered))
            case b"\xfd":
                yield cast("Plain", lzma.LZMAFile(buffered))  # noqa: SIM115 - what it reads from is not its own
            case _:
                yield buffered
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise ArchiveDamaged(f"in the compression: {error}; the archive was cut off or damaged") from error
    finally:
        buffered.detach()  # or it would close the stream, which is the caller's


def _reader(stream: Plain, format: Format | None, name: object) -> LinesReader | TarReader:  # noqa: A002 - as above
    """By the first byte. Where there is none the file's name decides: a queue without messages makes no lines."""
    first = stream.peek(1)[:1]
    if format is None and not first and isinstance(name, str):
        format = format_of(name)  # noqa: A001 - as above
    if format == "jsonl" or (format is None and first and first in b"{ \t\r\n"):
        return LinesReader(stream)
    if not first:
        raise NotAnArchive("it is empty; as JSON lines without a message it is taken with --format jsonl")
    return TarReader(stream)


def _create(layout: layouts.Layout, disk: Disk, text: str | None, tell: Callable[[str], object]) -> None:
    """Make the queue. The settings are read before the end of the archive, where a checksum would show damage."""
    try:
        settings = Settings() if text is None else parse(text, "the archive's mailq.toml").settings
    except SettingsError as error:
        remedy = "the archive is damaged, or not mailq's own; without --create its settings are not read"
        raise ArchiveDamaged(f"{str(error).removesuffix('; mend the line')}; {remedy}") from error
    if settings.dead_letters is not None:
        tell(f"dead_letters = {settings.dead_letters!a} was not taken over; 'mailq config' sets it")
    layouts.create(layout, settings.changed({"dead_letters": None}), disk)


@contextlib.contextmanager
def _alone(store: Store, tell: Callable[[str], object]) -> Iterator[None]:
    """Wait for other imports: two that both find a message missing would both store it."""
    from filelock import Timeout  # noqa: PLC0415 - slow to load

    lock = layouts.file_lock(store.disk, f"{store.layout.root}/.import.lock", store.mode)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell("another import into this queue is at work; waiting for it")
            lock.acquire(timeout=-1)
        except OSError as error:
            raise StorageError("lock the queue for an import", error) from error
        yield
    finally:
        lock.release()  # does nothing if it is not held


def _known(store: Store) -> IdSet:
    """The ids in the queue, with its dead letters in another."""
    survey = Survey(store.layout, STATES, lambda *_: True, now=store.clock)
    sent = list(_sent(store))
    survey.run()
    if not survey.certain:
        busy = OSError(errno.EBUSY, "too much is moved in the queue to know what is in it; pause it meanwhile")
        raise StorageError("import", busy)
    # Once before and once after: a message may die, or be redriven, while the survey is made.
    for id in (*sent, *_sent(store)):
        survey.seen.add(id)
    return survey.seen


def _sent(store: Store) -> Iterator[str]:
    """The ids of this queue's dead letters in the queue that gets them."""
    home = dead_letters.shared_queue(store.layout, store.settings)
    for entry in layouts.entries(home.new) if home is not None else ():
        envelope = names.parse(entry.name) if store.queue_tag in entry.name else None
        if envelope is not None and envelope.source_queue == store.queue_tag:
            yield envelope.id


class _Intake:
    """Stores what is new to the queue, batch by batch."""

    def __init__(self, store: Store, tell: Callable[[str], object], counts: dict[str, int]) -> None:
        self._store, self._tell, self._counts = store, tell, counts
        self._known = _known(store)
        self._batch: list[Item] = []
        self._bytes = 0

    def take_all(self, items: Iterator[tuple[str, Item | str]]) -> None:
        """Store them; also those before the place where the archive turns out to be damaged."""
        try:
            for where, item in items:
                self._take(where, item)
        finally:
            self._store_batch()

    def _take(self, where: str, item: Item | str) -> None:
        if isinstance(item, Item) and item.envelope.id in self._known:
            self._counts["already_there"] += 1
            return
        fit = checked(item, self._store.settings.max_message_bytes) if isinstance(item, Item) else item
        if isinstance(fit, str):
            self._counts["refused"] += 1
            self._tell(f"{where}: refused: {fit}")
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
        disk, errors, mode, now = self._store.disk, self._store.layout.errors, self._store.mode, self._store.clock()
        for item in batch:  # before the messages, whose consumers have the texts then
            attempts = error_texts.numbers(item.envelope) if item.envelope.tries else ()
            for number, data, at in item.texts:
                if number in attempts:  # or it would never be removed
                    error_texts.put_back(disk, errors, item.envelope.id, number, data, at=min(at, now), mode=mode)
        try:
            paths = Writer(self._store).restore([(item.state, item.envelope, item.data) for item in batch])
        except BaseException:
            for item in batch:
                error_texts.remove(disk, errors, item.envelope)
            raise
        for item, path in zip(batch, paths, strict=True):
            if item.at is not None:
                with contextlib.suppress(OSError):  # redriven or purged already
                    disk.utime(path, min(item.at, now))
        self._counts["imported"] += len(batch)
