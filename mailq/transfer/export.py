"""A live queue to an archive. Nothing in the queue is claimed, changed or locked."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from mailq import policy
from mailq.connect import path_of
from mailq.engines.maildir import error_texts, names
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.compaction import directories_of, holds_any
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.layout import GONE
from mailq.engines.maildir.names import checksum, is_intact
from mailq.engines.maildir.remains import left_behind
from mailq.errors import MessageTooLarge
from mailq.message import STATES
from mailq.settings import parse
from mailq.transfer.items import Item, Text
from mailq.transfer.jsonl import LinesWriter
from mailq.transfer.snapshot import Survey
from mailq.transfer.tar import TarWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import BinaryIO

    from mailq.engines.maildir.names import MessageName
    from mailq.message import State
    from mailq.transfer.items import Format, Kept, Writer

_TORN: Final = "the export found {} bytes, which are not what the name says; 'mailq edit' re-seals it"


class Exported(NamedTuple):
    """What an export wrote, in messages.

    ``torn`` of them are not what their names say; they are in the archive as dead.
    ``left_out`` are in the queue and not in the archive; each was told of. If it is not
    ``certain`` that these are all, pause the queue and export it again.
    """

    exported: int
    torn: int = 0
    left_out: int = 0
    certain: bool = True


def export_to(
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
    may be. Leased messages are written as ready: whoever imports does not hold them.
    Dead letters that went to another queue are that queue's.

    ``tell`` gets a line for each message that is torn or left out, by default the log. Flush and sync the
    stream yourself. ``disk``, ``clock`` and ``hear`` are for tests. Raises QueueNotFound.
    """
    tell = tell or layouts.log().warning
    return _Export(path_of(target), stream, format, tell, disk or Disk(), clock).run(tuple(states), hear=hear)


class _Export:
    """One export."""

    def __init__(
        self,
        path: str,
        stream: BinaryIO,
        format: Format,  # noqa: A002 - as above
        tell: Callable[[str], object],
        disk: Disk,
        clock: Callable[[], int],
    ) -> None:
        self._layout = layouts.Layout(path)
        self._disk = disk
        self._clock = clock
        self._tell = tell
        self._text = layouts.read_marker(self._layout, disk)
        self._settings = parse(self._text, self._layout.marker).settings
        self._writer: Writer = TarWriter(stream, clock) if format == "tar" else LinesWriter(stream)
        self._exported = self._torn = self._left_out = 0

    def run(self, states: tuple[State, ...], *, hear: bool) -> Exported:
        """Write it all, and tell of what is not in it."""
        directories = directories_of(self._layout, states)
        stamp = layouts.stamp_of(self._layout.marker)
        self._writer.begin(self._text, self._settings, stamp[0] if stamp else self._clock())
        survey = Survey(directories, self._take, now=self._clock)
        survey.run(hear=hear)
        self._writer.end()
        layouts.require_marker(self._layout)
        for id in sorted(survey.missed):
            self._leave_out(id, "it moves whenever it is looked for; pause the queue and export again")
        # Re-made since the beginning and not taken over yet: nobody has looked into the old one.
        strange = directories_of(self._layout, states).keys() - directories.keys()
        certain = (survey.certain or bool(survey.missed)) and not any(map(holds_any, strange))
        if left_behind(self._layout, self._disk):
            certain = False
            self._tell("a producer died and left a journal; 'mailq reap' replays it, then export again")
        elif not certain:
            self._tell(
                "it is not certain that this is every message: too much was moved; pause the queue, export again"
            )
        return Exported(self._exported, self._torn, self._left_out, certain)

    def _leave_out(self, id: str, why: str) -> None:
        self._left_out += 1
        self._tell(f"message {id} is not in the archive: {why}")

    def _take(self, state: State, path: str, envelope: MessageName) -> bool:
        """Write one message; False if its file is gone from there."""
        try:
            data = self._read(path)
        except MessageTooLarge as error:
            self._leave_out(envelope.id, f"{error}, for the time of the export")
            return True
        except OSError as error:
            if error.errno in GONE:
                return False
            self._leave_out(envelope.id, f"its file cannot be read: {error.strerror} ({path!a})")
            return True
        if data is None:
            return True  # it is no regular file, and so no message
        if names.parse(os.path.basename(path)) is None:
            envelope = envelope._replace(size=len(data))  # dropped in by hand: it is what it is
        kept: Kept = (envelope.edit or "ready") if state == "leased" else state
        died = self._death_of(path) if kept == "dead" else None
        item = Item(kept, envelope.at_rest(kept), data, died, tuple(self._texts(envelope)))
        self._writer.add(self._sealed(item))
        self._exported += 1
        return True

    def _read(self, path: str) -> bytes | None:
        """A file's bytes: those that it had when it was opened, wherever it goes meanwhile."""
        fd = self._disk.open_to_read(path)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return None
            if status.st_size > self._settings.max_message_bytes:
                raise MessageTooLarge(status.st_size, self._settings.max_message_bytes)
            return self._disk.read_all(fd, status.st_size)
        finally:
            self._disk.drop(fd)

    def _death_of(self, path: str) -> int:
        status = layouts.status_of(path)
        now = self._clock()
        return now if status is None else max(0, min(status.st_mtime_ns, now))

    def _sealed(self, item: Item) -> Item:
        """The item with its size and sum; a torn one as the dead letter that a claim would make of it."""
        envelope = item.envelope
        if is_intact(envelope, item.data):
            return item._replace(envelope=envelope._replace(size=len(item.data), crc=checksum(item.data)))
        self._torn += 1
        self._tell(f"message {envelope.id} is torn, and dead in the archive: its file has {len(item.data)} bytes")
        if item.state == "dead" and envelope.reason == "torn":
            return item
        text = Text(0, _TORN.format(len(item.data)).encode(), self._clock())
        others = tuple(other for other in item.texts if other.number)
        return Item(
            "dead", envelope.after(policy.undeliverable(envelope, "torn")), item.data, self._clock(), (text, *others)
        )

    def _texts(self, envelope: MessageName) -> Iterable[Text]:
        if not envelope.tries:
            return
        for number in error_texts.numbers(envelope):
            path = error_texts.path_to(self._layout.errors, envelope.id, number)
            data = layouts.read_small(self._disk, path, error_texts.LONGEST)
            status = layouts.status_of(path) if data is not None else None
            if data is not None and status is not None:
                yield Text(number, data, max(0, min(status.st_mtime_ns, self._clock())))
