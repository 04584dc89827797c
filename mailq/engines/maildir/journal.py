"""A redo journal: pushes that are on disk before their files are.

To sync a new file and its directory costs two commits of the file system's own
journal. To write into a file whose blocks are all there costs none, only the
writing. So a producer that pushes much keeps such a file, adds each message to it
and syncs that, and then makes the message's file without any sync. The directories
stay the truth; after a power cut ``replay.py`` makes good what they lack.

Which messages may they lack? Beside each journal lies a mark, an empty file. When
the files of a push have their names, the mark's mtime is set to the number of its
last record, and never synced. Names and times come to disk in the order in which
they were changed (only where that is so is there a journal): if the mark says 17
after a power cut, all names up to the 17th record had come to disk. One that is
missing was removed since: acked, and not lost.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import weakref
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from mailq.engines.maildir import at_fork, names
from mailq.engines.maildir.disk import can_syncfs
from mailq.engines.maildir.layout import directory_mode, log
from mailq.ids import NS

try:
    import fcntl
except ImportError:  # Windows: no journals there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mailq.engines.maildir.disk import Disk
    from mailq.engines.maildir.layout import Layout
    from mailq.message import State
    from mailq.settings import Settings

_T = TypeVar("_T")

SIZE: Final = 4 << 20
"""Bytes of a journal; when they are used up, everything is synced and it begins again."""

PUSHES_BEFORE_JOURNAL: Final = 16
"""The number of pushes after which a producer gets a journal: making one takes as long as some pushes."""

_RETRY_AFTER: Final = 1000
"""The number of pushes after which making one is tried again."""

_BLOCK: Final = 4096
"""Each push begins a block of its own: a torn write spoils no block that was synced before."""

MARK: Final = ".mark"
_WORD: Final = b"redo "
_LONGEST: Final = 48 + names.MAX_NAME
"""No first line of a record is longer."""

LAST: Final = (1 << 31) - 1
"""The highest number of a record. It becomes the time of the mark, and some disks (ext4 with small inodes, XFS
without bigtime) keep none after 2038: the mark would vouch for fewer names than came to the disk. A time
that the system refuses to set would stop the process that replays.
"""

_CLOSED: Final = -1
"""No file: what is written there fails, and comes to no other file."""

_STATES: Final[dict[str, State]] = {"new": "ready", "later": "delayed"}


class Staged(NamedTuple):
    """A new message that has its name and directory."""

    id: str
    name: str
    directory: str
    data: bytes


class Entry(NamedTuple):
    """A message in a journal: its number, the state and the name that it was to have, and what is in it."""

    number: int
    state: State
    name: str
    envelope: names.MessageName
    data: bytes


class _Reservation:
    """Holds a producer's journal, for the producer and for what removes the journal at the end of the program."""

    def __init__(self) -> None:
        self.file: File | None = None
        self.is_taken = self.is_over = False
        # Reentrant: a signal handler that pushes may interrupt its own thread in here.
        self.lock = threading.RLock()

    def end(self) -> None:
        """Remove the journal once nobody writes to it; a thread that still pushes does without from now on."""
        with self.lock:
            self.is_over = True
            if not self.is_taken:
                self.checkpoint_and_remove()

    def checkpoint_and_remove(self) -> bool:
        """See Journal.leave."""
        file, self.file = self.file, None
        return file is None or file.checkpoint_and_remove()


class Journal:
    """The journal of one producer, which is one opened queue: made when it is worth it."""

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self._layout = layout
        self._disk = disk
        self._desk = _Reservation()
        self._pushes = 0
        self._is_possible: bool | None = None
        self._end: weakref.finalize[..., Journal] | None = None
        at_fork.register(self)

    def reserve(self, messages: Sequence[Staged], settings: Settings, store: Callable[[File | None], _T]) -> _T:
        """Reserve the journal for one push, and call ``store`` with it; with None if the push goes without.

        A push that waits for the lock may be interrupted at any moment. It must not keep the lock then.
        """
        desk, lock, held = self._desk, self._desk.lock, list[bool]()
        need = sum(len(message.data) + _LONGEST for message in messages)
        if self._is_possible is not False and need <= SIZE // 4:
            try:
                # Called by C, which writes down at once that it has the lock. Not ``with lock:``, for CPython 3.14
                # lets an exception in between the taking of the lock and the block.
                held.extend(map(lock.acquire, (True,)))
                if not (desk.is_taken or desk.is_over):
                    try:
                        desk.is_taken = True
                        if (file := self._ready(need, settings)) is not None:
                            return store(file)
                    finally:
                        desk.is_taken = False
            finally:
                if held:
                    lock.release()
        return store(None)

    def _ready(self, need: int, settings: Settings) -> File | None:
        self._pushes += 1
        desk = self._desk
        if desk.file is None and self._pushes > PUSHES_BEFORE_JOURNAL:
            self._begin(settings)
        if desk.file is not None and not desk.file.has_room(need):
            self.checkpoint_and_remove()
            self._begin(settings)
        return desk.file

    def _begin(self, settings: Settings) -> None:
        """Make a journal; where that cannot be, pushes do without."""
        if self._is_possible is None:
            self._is_possible = fcntl is not None and can_syncfs() and self._disk.keeps_order(self._layout.tmp)
        if not self._is_possible:
            return
        # Also when nobody closes the queue, at the latest when the program ends.
        self._end = self._end or weakref.finalize(self, self._desk.end)
        try:
            self._desk.file = File(self._layout, self._disk, settings)
        except OSError as error:  # no room, or this user may not
            self._pushes = PUSHES_BEFORE_JOURNAL - _RETRY_AFTER
            log().info("pushes go on without a journal: %s", error)

    def close(self) -> None:
        """Remove the journal, if no push of this thread is under way, which a signal handler may have interrupted."""
        with self._desk.lock:  # or another thread's push would write where the descriptor leads by then
            if not self._desk.is_taken:
                self.checkpoint_and_remove()

    def checkpoint_and_remove(self) -> bool:
        """Make everything durable and remove the journal, if there is one; whether that could be done.

        Only for the thread that holds the reservation.
        """
        return self._desk.checkpoint_and_remove()

    def after_fork(self) -> None:
        """Leave the journal to the parent, and begin with free locks."""
        desk = self._desk
        desk.lock, desk.is_taken = threading.RLock(), False
        if desk.file is not None:
            desk.file.after_fork()
        desk.file = None


class File:
    """One journal on disk, locked while its producer lives."""

    _fd = _direct = _CLOSED

    def __init__(self, layout: Layout, disk: Disk, settings: Settings) -> None:
        self._disk = disk
        self._number = self._offset = 0
        self._is_sound = True
        self._token, mode = os.urandom(4).hex(), int(settings.file_mode, 8)
        _make_directory(layout, disk, settings)
        self._path = f"{layout.journal}/{self._token}"
        self._mark = f"{self._path}{MARK}"
        temporary = f"{layout.tmp}/.journal.{self._token}"
        try:
            with at_fork.no_fork:  # a child that another thread forks must know what to close
                self._fd = disk.create(temporary, os.O_RDWR, mode)
                at_fork.register(self)
            # Locked before it can be seen: a process that met it unlocked would replay it.
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            disk.write_in_place(self._fd)
            # Written, not only reserved: the first write to a reserved block is a change of the
            # file's own blocks, and to sync that is the very commit that this is to spare. Synced here,
            # where a full disk means that there is no journal, and not that a push fails.
            disk.write_all(self._fd, bytes(SIZE))
            disk.fsync(self._fd)
            self._open_directly(temporary)
            self._make_mark(f"{temporary}{MARK}", mode)
            disk.rename(temporary, self._path)
            disk.sync_directory(layout.journal)
        except BaseException:
            for path in (temporary, f"{temporary}{MARK}", self._path, self._mark):
                with contextlib.suppress(OSError):
                    disk.unlink(path)
            self.drop()
            raise

    def _open_directly(self, temporary: str) -> None:
        """Open it so that what is written goes to the disk past the kernel's cache, which spares a fifth of a sync."""
        with contextlib.suppress(OSError):  # not every file system has that
            # Memory of whole pages: what is written so must lie at the beginning of one.
            self._page = mmap.mmap(-1, SIZE // 4)
            self._direct = self._disk.open(temporary, os.O_WRONLY | os.O_DIRECT)

    def _make_mark(self, temporary: str, mode: int) -> None:
        fd = self._disk.create(temporary, os.O_WRONLY, mode)
        try:
            self._disk.utime(temporary, 0)
            self._disk.fsync(fd)
        finally:
            self._disk.drop(fd)
        self._disk.rename(temporary, self._mark)

    def has_room(self, need: int) -> bool:
        """Whether there is room for ``need`` bytes; makes room if everything can be synced."""
        if self._number > LAST - SIZE:  # each message of a push takes a number, and more than one byte
            return False
        if self._offset + need <= SIZE:
            return True
        try:
            self._sync_all()
        except OSError as error:
            # Files of earlier pushes may not have come to disk, though they look well in the kernel's
            # cache. They are in here: a replay looks at the disk itself.
            log().warning("a journal is left to be replayed: %s", error)
            return False
        self._offset = 0
        return True

    def append(self, messages: Sequence[Staged]) -> None:
        """Make messages durable that have no names yet."""
        parts = []
        for message in messages:
            self._number += 1
            directory = os.path.basename(message.directory)
            parts.append(encode(self._token, self._number, directory, message.name, message.data))
        self._write(b"".join(parts))
        self._disk.fdatasync(self._fd)

    def _write(self, data: bytes) -> None:
        size = -(-len(data) // _BLOCK) * _BLOCK
        offset, self._offset = self._offset, self._offset + size
        if self._direct == _CLOSED:
            self._disk.pwrite_all(self._fd, data, offset)
            return
        self._page[:size] = data.ljust(size, b"\0")
        with memoryview(self._page) as page:
            self._disk.pwrite_all(self._direct, page[:size], offset)

    def mark_applied(self) -> bool:
        """Say that all messages have their names. False if that cannot be: then everything was synced."""
        try:
            self._set_mark()
        except OSError:  # somebody removed it
            self._sync_files()
            return False
        return True

    def _set_mark(self) -> None:
        # Whole seconds: some file systems keep nothing finer.
        self._disk.utime(self._mark, self._number * NS)

    def _sync_all(self) -> None:
        """Make the files of all pushes durable, and the mark after them."""
        self._set_mark()
        self._sync_files()

    def _sync_files(self) -> None:
        # This descriptor was open when they were written: it reports every failure since, and each
        # only once. Asked again it would report that all is well.
        self._is_sound, was_sound = False, self._is_sound
        self._disk.syncfs(self._fd)
        self._is_sound = was_sound

    def checkpoint_and_remove(self) -> bool:
        """Make everything durable, and remove the journal. False if it may be replayed all the same."""
        if not self._is_sound:
            self.drop()
            return False
        is_marked = True
        try:
            try:
                self._sync_all()
            except FileNotFoundError:  # somebody removed the mark
                is_marked = False
                self._sync_files()
            for path in (self._path, self._mark):  # in this order: without its mark all of a journal is replayed
                with contextlib.suppress(FileNotFoundError):
                    self._disk.unlink(path)
        except OSError as error:
            log().warning("a journal is left to be replayed: %s", error)
            return False
        finally:
            self.drop()
        return is_marked

    def drop(self) -> None:
        """Let go of it, without a trace on disk."""
        # The one with the lock last: as long as somebody has that, nobody replays it.
        fd, self._direct = self._direct, _CLOSED
        if fd != _CLOSED:
            self._disk.drop(fd)
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            try:
                self._disk.close(fd)
            except OSError:  # what was to last was synced before
                pass

    def after_fork(self) -> None:
        """Leave it to the parent: a child's copy of its lock would keep it from being replayed."""
        self.drop()

    def __del__(self) -> None:
        """Close it. A thread that was interrupted before it could keep the journal leaves it to be replayed."""
        self.drop()


def _make_directory(layout: Layout, disk: Disk, settings: Settings) -> None:
    """Make the directory of the journals, durably; also where somebody died before it was."""
    with contextlib.suppress(FileExistsError):
        disk.make_directory(layout.journal, directory_mode(settings))
    if os.path.islink(layout.journal):
        raise NotADirectoryError(f"{layout.journal} is a symbolic link")
    disk.sync_directory(layout.root)


def encode(token: str, number: int, directory: str, name: str, data: bytes) -> bytes:
    """Spell a record: a line that names the journal and the message and ends in its own checksum, then the message.

    The journal's name, which nobody can know who only chooses what a message says,
    distinguishes a record from the middle of a body that looks like one.
    """
    line = _WORD + f"{token} {number} {directory}/{name}".encode()
    return line + f" {names.checksum(line):08x}\n".encode() + data


def opening(token: str) -> bytes:
    """What each record of a journal begins with."""
    return _WORD + token.encode() + b" "


def decode(token: str, content: bytes) -> Iterator[Entry]:
    """Every whole record of a journal, in no order: behind the last push there are older ones."""
    word = opening(token)
    place = 0
    while place < len(content):
        end = content.find(b"\n", place, place + _LONGEST)
        record = _record_at(content, place, end) if content.startswith(word, place) and end >= 0 else None
        if record is None:
            place = (place // _BLOCK + 1) * _BLOCK
        else:
            yield record
            place = end + 1 + len(record.data)


def _record_at(content: bytes, place: int, end: int) -> Entry | None:
    line, _, told = content[place:end].rpartition(b" ")
    try:
        _, _, number, path = line.decode("ascii").split(" ")
        count = int(number)
        if int(told, 16) != names.checksum(line) or not 0 <= count <= LAST:
            return None
    except ValueError:
        return None
    directory, _, name = path.partition("/")
    envelope = names.parse(name)
    if directory not in _STATES or envelope is None or envelope.size is None or envelope.crc is None:
        return None
    data = content[end + 1 : end + 1 + envelope.size]
    return Entry(count, _STATES[directory], name, envelope, data) if names.is_intact(envelope, data) else None
