"""The queue under examination: how to examine it, and how to list and read what it holds."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import zlib
from collections import Counter
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Final, Literal

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import leases, reaper
from mailq.engines.maildir.ready import ReadyQueue
from mailq.engines.maildir.recovery import replay
from mailq.errors import MailqError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from mailq.engines.maildir.disk import Disk
    from mailq.engines.maildir.doctor.machine import Machine
    from mailq.engines.maildir.files import Store
    from mailq.engines.maildir.layout import Layout
    from mailq.engines.maildir.names import MessageName
    from mailq.settings import Settings

Condition = Literal["whole", "torn", "unreadable", "gone"]

_PART: Final = 1 << 20
_MOST_HOLDERS: Final = 10_000
"""The number of lease holders that are remembered: what lies in ``cur/`` may name any number of them."""


class Context:
    """A queue with a marker that can be read.

    ``fix`` is whether to mend, ``full`` whether to read every message, ``now`` when the
    examination began, ``mount`` what the queue is on, if that is known. ``ids`` are those
    of its messages, ``leases`` and ``overdue`` the leases of each holder: they are
    known after the messages have been looked at.
    """

    def __init__(self, store: Store, machine: Machine, *, fix: bool, full: bool) -> None:
        self.store, self.machine, self.fix, self.full = store, machine, fix, full
        self.layout: Layout = store.layout
        self.disk: Disk = store.disk
        self.settings: Settings = store.settings
        self.now = store.clock()
        self.mount = machine.mount_of(self.layout.root)
        self.is_dead = lru_cache(_MOST_HOLDERS)(partial(leases.is_dead, self.layout, self.disk))
        self.ids: Container[object] = ()
        self.leases, self.overdue = Counter[str](), Counter[str]()

    @property
    def writable(self) -> bool:
        """Whether this process may use the queue."""
        directories = (self.layout.root, *filter(os.path.isdir, self.layout.directories()))
        return all(os.access(path, os.R_OK | os.W_OK | os.X_OK) for path in directories)

    @cached_property
    def root_status(self) -> os.stat_result:
        """Whose the queue is, and who may enter it."""
        return os.stat(self.layout.root)

    @cached_property
    def journals_are_done(self) -> bool:
        """Replay the journals of dead producers, once; whether what is torn after that stays so."""
        return replay(self.store, waits=True)

    @cached_property
    def reaped(self) -> str | None:
        """Reap, once; what that did, for a person, and None if it failed."""
        with contextlib.suppress(MailqError, OSError):  # then nothing was mended, and the findings say so
            done = reaper.Reaper(self.store, ReadyQueue(self.store)).reap()
            return f"reaped: {done.returned} to be tried again, {done.died} dead, {done.due} due"
        return None

    def short(self, path: str) -> str:
        """A path as a person would name it: from the queue on."""
        return os.path.relpath(path, self.layout.root)

    def holds(self, owner: str, end: int | None) -> bool:
        """Whether a lease is held: its time is not over, and its holder is not known to be dead."""
        return end is not None and self.now < end and not (owner and self.is_dead(owner))

    def note_lease(self, owner: str, *, is_overdue: bool) -> None:
        """Count a lease for its holder."""
        if owner in self.leases or len(self.leases) < _MOST_HOLDERS:
            self.leases[owner] += 1
            self.overdue[owner] += is_overdue

    def condition_of(self, path: str, envelope: MessageName) -> Condition:
        """Read a message and compare it with its name, without holding it in memory; follows no link, waits for no FIFO."""
        try:
            fd, crc = self.disk.open_to_read(path), 0
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    return "unreadable"
                if not fits(envelope, status.st_size):
                    return "torn"
                while envelope.crc is not None and (part := self.disk.read(fd, _PART)):
                    crc = zlib.crc32(part, crc)
            finally:
                self.disk.drop(fd)
        except OSError as error:
            return "gone" if error.errno in layouts.GONE else "unreadable"
        return "whole" if envelope.crc in {None, crc} else "torn"


def fits(envelope: MessageName, size: int) -> bool:
    """Whether the length of a file is what its name says."""
    return envelope.size in {None, size} and envelope.header_bytes <= size


def message_files(directory: str) -> Iterator[os.DirEntry[str]]:
    """The files that can be messages. That the directory is missing is for another check to say."""
    if os.path.isdir(directory):
        yield from layouts.entries(directory)


def everything(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry by name, with its lstat(2); none if the directory is missing. Raises OSError for a link: what is there is not the queue's."""
    if os.path.islink(directory):
        raise OSError(errno.ELOOP, "a symbolic link is in the place of a directory", directory)
    try:
        scan = os.scandir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    with scan:
        for entry in scan:
            with contextlib.suppress(OSError):  # a consumer took it meanwhile
                yield entry.name, entry.stat(follow_symlinks=False)


def old_files(directory: str, horizon: float) -> Iterator[tuple[str, os.stat_result]]:
    """The regular files, dot-names too, that were written before a time, in seconds."""
    for name, status in everything(directory):
        if stat.S_ISREG(status.st_mode) and status.st_mtime < horizon:
            yield name, status
