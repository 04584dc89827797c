"""A live queue to an archive. Nothing in the queue is claimed, changed or locked."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import time
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, cast

from mailq import policy
from mailq.connect import path_of
from mailq.engines.maildir import error_texts, names
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.files import Store, Undeliverable
from mailq.engines.maildir.remains import orphaned_journals
from mailq.errors import StorageError, UsageError
from mailq.ids import MonotonicIds
from mailq.message import STATES, RestingState, State
from mailq.settings import parse
from mailq.transfer.items import ErrorText, Format, Item
from mailq.transfer.jsonl import LinesWriter
from mailq.transfer.snapshot import Survey
from mailq.transfer.tar import TarWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_FOREIGN: Final = frozenset("7z ar br bz2 cpio lrz lz lz4 lzma lzo rar tbz tbz2 tlz tzst z zip zst zstd".split())  # noqa: SIM905 - one line
"""Endings of archives and compressions that are not written here: a tar of that name would be taken for one."""

_ENDINGS: Final = ".tar, .tgz, .txz, .jsonl or .ndjson, with .gz or .xz behind it to compress it"


class Exported(NamedTuple):
    """What an export wrote, in messages.

    ``torn`` of them are not what their names say; they are in the archive as dead.
    ``left_out`` are in the queue and not in the archive; each was reported. If it is not
    ``certain`` that these are all, pause the queue and export it again.
    """

    exported: int
    torn: int = 0
    left_out: int = 0
    certain: bool = True


def export(
    target: str | os.PathLike[str],
    stream: BinaryIO,
    *,
    format: Format = "tar",  # noqa: A002 - what it is
    states: Iterable[State] = STATES,
    tell: Callable[[str], object] | None = None,
    disk: Disk | None = None,
    clock: Callable[[], int] = time.time_ns,
    hear: bool = True,
) -> Exported:
    """Write the messages of a queue, which may be in use, to an archive.

    Every message that stays in the queue, in one of the ``states``, from the call to
    the return is in the archive exactly once; one that is acked or pushed meanwhile
    may be. Leased messages are written as ready: an import does not hold them.
    Dead letters that went to another queue are in the export of that queue.

    ``tell`` gets a line for each message that is torn or left out, by default the log. Flush and sync the
    stream yourself. ``disk``, ``clock`` and ``hear`` are for tests. Raises QueueNotFound, StorageError,
    and UsageError for a queue in memory.
    """
    layout, disk = layouts.Layout(path_of(target)), disk or Disk()
    text = layouts.read_marker(layout, disk)
    store = Store(layout, disk, clock, MonotonicIds(clock), parse(text, layout.marker))
    writer = TarWriter(stream, clock) if format == "tar" else LinesWriter(stream)
    return _Export(store, writer, tell or layouts.log().warning).run(text, tuple(states), hear=hear)


class _Export:
    """One export."""

    def __init__(self, store: Store, writer: TarWriter | LinesWriter, tell: Callable[[str], object]) -> None:
        self._store, self._writer, self._tell = store, writer, tell
        self._exported = self._torn = self._left_out = 0

    def run(self, text: str, states: tuple[State, ...], *, hear: bool) -> Exported:
        """Write it all, and report what is not in it. ``text`` is that of the settings."""
        store, layout = self._store, self._store.layout
        survey = Survey(layout, states, self._take, now=store.clock)
        self._writer.begin(text, store.settings, self._time_of(layout.marker))
        survey.run(hear=hear)
        self._writer.end()
        layouts.require_marker(layout)
        for id in sorted(survey.missed):
            self._leave_out(id, "it moves each time that it is opened; pause the queue and export again")
        unsure = "" if survey.certain else "too much was moved; pause the queue, export again"
        if orphaned_journals(layout, store.disk):
            unsure = "a producer died and left a journal; 'mailq reap' replays it, then export again"
        if unsure:
            self._tell(f"it is not certain that this is every message: {unsure}")
        return Exported(self._exported, self._torn, self._left_out, not unsure)

    def _leave_out(self, id: str, why: str) -> None:
        self._left_out += 1
        self._tell(f"message {id} is not in the archive: {why}")

    def _take(self, state: State, path: str, envelope: names.MessageName) -> bool:
        """Write one message; False if its file is gone from there."""
        if names.parse(os.path.basename(path)) is None:
            envelope = envelope._replace(size=None)  # dropped in by hand: it is what it is
        torn = ""
        try:
            data: bytes | None = self._store.read(path, envelope)
        except FileNotFoundError:
            return False
        except Undeliverable as error:
            if error.why != "torn":
                self._leave_out(envelope.id, error.text)
                return True
            torn = error.text
            data = layouts.read_small(self._store.disk, path, self._store.settings.max_message_bytes)
        if data is None:
            return False
        rests: RestingState = (envelope.edit or "ready") if state == "leased" else state
        died = self._time_of(path) if rests == "dead" else None
        item = Item(rests, envelope.at_rest(rests), data, died, tuple(self._texts(envelope)))
        self._writer.add(self._buried(item, torn) if torn else item.sealed() or item)
        self._exported += 1
        return True

    def _time_of(self, path: str) -> int:
        """The mtime of a file; now if it is gone, or in the future."""
        status, now = layouts.status_of(path), self._store.clock()
        return now if status is None else max(0, min(status.st_mtime_ns, now))

    def _buried(self, item: Item, why: str) -> Item:
        """A torn message as the dead letter that a claim would make of it."""
        self._torn += 1
        self._tell(f"message {item.envelope.id} is torn, and dead in the archive: {why}")
        if item.is_torn:
            return item
        now = self._store.clock()
        texts = (ErrorText(0, why.encode(), now), *(text for text in item.texts if text.number))
        return Item("dead", item.envelope.after(policy.undeliverable(item.envelope, "torn")), item.data, now, texts)

    def _texts(self, envelope: names.MessageName) -> Iterator[ErrorText]:
        for number in error_texts.numbers(envelope) if envelope.tries else ():
            path = error_texts.path_to(self._store.layout.errors, envelope.id, number)
            data = layouts.read_small(self._store.disk, path, error_texts.LONGEST)
            if data is not None:
                yield ErrorText(number, data, self._time_of(path))


@contextlib.contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """Write a file aside, ``<path>.<random>.part``, and rename it, synced, when all went well.

    ``.gz`` and ``.xz`` compress. A FIFO or device is written to as it is. Raises StorageError,
    and UsageError for the ending of another kind of archive, and within a queue.
    """
    disk = Disk()
    is_special = os.path.exists(path) and not os.path.isfile(path)
    part = path
    flags = os.O_WRONLY | getattr(os, "O_BINARY", 0)
    if not is_special:
        _refuse(path)
        part = f"{path}.{os.urandom(8).hex()}.part"
        flags |= os.O_CREAT | os.O_EXCL
    try:
        with open(fd := disk.open(part, flags, 0o600), "wb") as file:
            with _compressed(file, path) as stream:
                yield stream
            file.flush()
            if not is_special:
                disk.fsync(fd)
        if not is_special:
            disk.rename(part, path)
            disk.sync_directory(os.path.dirname(os.path.abspath(path)))
    except BaseException as error:
        if not is_special:
            with contextlib.suppress(OSError):
                disk.unlink(part)
        if not isinstance(error, OSError) or isinstance(error, StorageError):
            raise
        why, where = error.strerror, path  # what the caller named
        if not os.path.isdir(directory := os.path.dirname(path) or "."):
            why, where = "there is no such directory; make it, or name another FILE", directory
        raise StorageError("write the archive", OSError(error.errno, why, where)) from error


def _refuse(path: str) -> None:
    """Refuse a file that would be taken for what it is not: for another kind of archive, or for a part of a queue."""
    _, dot, ending = os.path.basename(path).lower().rpartition(".")
    if dot and ending in _FOREIGN:
        raise UsageError(f"{path!a}: an export is not written as .{ending}; end the name in {_ENDINGS}")
    parent = os.path.dirname(os.path.realpath(path))
    for root in (parent, os.path.dirname(parent)):
        if os.path.exists(f"{root}/{layouts.MARKER}"):
            raise UsageError(f"{path!a} is within the queue {root!a}; name a FILE outside of it")


def _compressed(file: BinaryIO, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """The file, or a stream in front of it that compresses as its name asks for."""
    ending = path.lower().rpartition(".")[2]
    if ending in {"gz", "tgz"}:
        return cast("BinaryIO", gzip.GzipFile("", "wb", 6, file, mtime=0))
    if ending in {"xz", "txz"}:
        return cast("BinaryIO", lzma.LZMAFile(file, "wb"))
    return contextlib.nullcontext(file)
