"""One message file at a time: written, taken, moved, given up on.

What the verbs and the reaper share. Each move is one rename, and the target's
name is unique: rename replaces in silence.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from mailq.engines.maildir import dead_letters, error_texts, names
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.disk import can_syncfs
from mailq.engines.maildir.held import Held
from mailq.engines.maildir.journal import Journal
from mailq.engines.maildir.layout import GONE
from mailq.errors import StorageError
from mailq.ids import NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mailq.engines.maildir.disk import Disk
    from mailq.engines.maildir.layout import Layout
    from mailq.engines.maildir.names import MessageName
    from mailq.ids import MonotonicIds
    from mailq.policy import Step
    from mailq.settings import Marker

_T = TypeVar("_T")

BATCH: Final = 16
"""From this many messages on one syncfs is cheaper than an fsync each."""

_MANY: Final = 1024
"""The most dead letters that are synced together."""


class Undeliverable(Exception):
    """A claimed message cannot be delivered; ``why`` is a word of :data:`mailq.engines.maildir.names.DEATHS`."""

    def __init__(self, why: str, text: str) -> None:
        self.why = why
        self.text = text
        super().__init__(text)


def _gone_or_refused(error: OSError, path: str) -> OSError:
    if error.errno in GONE:
        return FileNotFoundError(error.errno, error.strerror, path)
    return StorageError("move the message", error)


class Store:
    """Moves single messages through a queue's directories."""

    def __init__(self, layout: Layout, disk: Disk, clock: Callable[[], int], ids: MonotonicIds, marker: Marker) -> None:
        self.layout = layout
        self.disk = disk
        self.clock = clock
        self.ids = ids
        self.journal = Journal(layout, disk)
        self._synced_roots: set[str] = set()
        self.apply(marker)

    def apply(self, marker: Marker) -> None:
        """Use these settings from now on.

        ``queue_tag`` is what distinguishes this queue's dead letters in a shared
        dead-letter queue, ``durable`` whether a finished push must survive a power cut.
        """
        self.queue_tag = marker.queue[:8]
        self.settings = replace(marker.settings, paused=layouts.is_there(self.layout.paused))
        self.durable = marker.settings.durability == "power-loss"
        self.mode = int(marker.settings.file_mode, 8)

    def set_paused(self, is_paused: bool) -> None:  # noqa: FBT001 - what it is about
        """Use this setting from now on: it is not in the settings file."""
        self.settings = replace(self.settings, paused=is_paused)

    def synced(self, directories: Iterable[str], rename: Callable[[], _T]) -> _T:
        """Sync the directories that ``rename()`` renames messages into, also those that are exchanged meanwhile."""
        if os.name == "nt":  # there is no such call, and none is needed
            return rename()
        held = [Held(self.disk, directory, self.layout.marker) for directory in directories]
        try:
            done = rename()
            for one in held:
                one.sync()
            self._sync_root(self.layout.root)
            return done
        finally:
            for one in held:
                one.close()

    def _sync_root(self, root: str) -> None:
        """Make a queue's own directories and marker durable, once: the process that made them may have died before it did."""
        if root not in self._synced_roots:
            with contextlib.suppress(PermissionError):  # then others make directories there
                self.disk.sync_directory(root)
            self._synced_roots.add(root)

    def open_for_syncfs(self) -> int:
        """Any descriptor on the queue's file system; the marker is what everybody may open who may push."""
        try:
            return self.disk.open(self.layout.tmp, os.O_RDONLY)
        except PermissionError:
            return self.disk.open_to_read(self.layout.marker)

    # Along

    def move(self, source: str, target: str, *, unique: bool = False) -> None:
        """Rename a message. Raises FileNotFoundError if somebody else was faster.

        ``unique`` says that nobody else could have made the target: then its being
        there proves that the rename happened, whatever it reported. NFS may carry
        out a rename and report an error.
        """
        try:
            self.disk.rename(source, target)
        except OSError as error:
            if unique and os.path.lexists(target):
                return
            # Not: is the source gone? It may be back already under the same name, released by the process that was faster.
            if error.errno in GONE and os.path.isdir(os.path.dirname(target)):
                raise FileNotFoundError(error.errno, error.strerror, source) from error
            raise StorageError("move the message", error) from error

    def swap_in(self, ours: str, path: str) -> None:
        """Put a file of ours in a message's place. Raises FileNotFoundError if that is gone.

        The two are exchanged: a rename would succeed all the same, and bring back a message
        that was acked a moment ago, or double one that was reaped. What was there has our
        file's name then, for the caller to remove. Without that call, a look before must do.
        """
        try:
            self.disk.exchange(ours, path)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
                raise
            os.lstat(path)
            self.disk.rename(ours, path)

    def settle(
        self,
        path: str,
        message: MessageName,
        step: Step,
        *,
        text: str | None = None,
        buried: list[str] | None = None,
    ) -> str:
        """Move a message to where a step says. Returns its new path. Raises FileNotFoundError if it is gone.

        A dead letter is synced; if it is put into a list of those ``buried``, when there are many, or
        when the caller has those synced together. The error text is written after the rename, which decides
        whose message it is: a stale holder must not write.
        """
        after = message.after(step)
        number = after.total_attempts if step.outcome else 0
        if step.state == "dead":
            target = self._bury(path, after, text, number)
            letters = [] if buried is None else buried
            letters.append(target)
            if buried is None or len(letters) >= _MANY:
                self.sync_dead(letters)
            return target
        # A deadline that was extended by mtime would count for the next lease too. Not quite to the
        # present: a reaper that looks before the rename would find the lease run out, and the holder
        # would lose the race.
        self.clamp_mtime(path, self.clock() + NS)
        target = f"{self.layout.directory(step.state)}/{names.format_name(after)}"
        self.move(path, target)
        if text is not None:
            error_texts.write(self.disk, self.layout.errors, after.id, number, text, mode=self.mode)
        return target

    def mtime(self, path: str) -> int:
        """The mtime of a message, in nanoseconds. Raises FileNotFoundError if it is gone, or no file but something else."""
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _gone_or_refused(error, path) from error
        if not layouts.is_regular(status):  # the kernel reports directories and links, too
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return status.st_mtime_ns

    def clamp_mtime(self, path: str, most: int) -> None:
        """Take back an mtime beyond ``most``, in nanoseconds. Raises FileNotFoundError if the message is gone.

        Of another user's file, and of one with several names, it stays until a claim reads the
        message: see ``own``. A message that comes back is worth more than its next lease's end.
        """
        if self.mtime(path) > most:
            self.reset_mtime(path, most)

    def reset_mtime(self, path: str, most: int) -> None:
        """The same, of one that is known to be beyond."""
        try:
            if os.lstat(path).st_nlink > 1:
                return  # the claim that reads it makes a copy
            try:
                self.disk.utime(path, most)
            except PermissionError:
                with contextlib.suppress(PermissionError):
                    self.disk.touch(path)
        except OSError as error:
            raise _gone_or_refused(error, path) from error

    def set_mtime(self, path: str, ns: int, *, before: int | None = None) -> None:
        """Set the mtime of a message; where only a copy may have another, put one in its place: see ``own``."""
        if os.lstat(path).st_nlink <= 1:
            with contextlib.suppress(PermissionError):
                self.disk.utime(path, ns)
                return
        self.replace_with_own_copy(path, ns, before=before)

    def _bury(self, path: str, message: MessageName, text: str | None, number: int) -> str:
        """Move a message to the dead; to the shared dead-letter queue if there is one."""
        target = ""
        home = dead_letters.shared_queue(self.layout, self.settings)
        if home is not None and self.durable and not self._is_synced(path):
            home = None  # no journal of ours would mend it there
        if home is not None:
            sent = message._replace(source_queue=self.queue_tag)
            target = f"{home.new}/{names.format_name(sent)}"
            try:
                self.move(path, target)
            except StorageError:
                home = None  # it is not there any more, or not on this file system: keep the message at home
        if home is None:
            home = self.layout
            target = f"{self.layout.dead}/{names.format_name(message)}"
            self.move(path, target)
        with contextlib.suppress(OSError):
            self.set_mtime(target, self.clock())  # when it died; an extended deadline must not stay either
        if text is not None:
            error_texts.write(self.disk, self.layout.errors, message.id, number, text, mode=self.mode)
        if home is not self.layout:
            error_texts.move(self.disk, self.layout.errors, home.errors, message)
        return target

    def sync_dead(self, letters: list[str]) -> None:
        """Make dead letters durable where they were moved to, and empty the list."""
        try:
            if self.durable and len(letters) >= BATCH and can_syncfs():
                fd = self.open_for_syncfs()
                try:
                    self.disk.syncfs(fd)
                finally:
                    self.disk.drop(fd)
            elif self.durable:
                self._sync_each(letters)
        except OSError as error:
            # They are dead, synced or not: raising would have the caller believe otherwise.
            layouts.log().warning("%d messages are dead, but that is not synced: %s", len(letters), error)
        letters.clear()

    def _sync_each(self, letters: Iterable[str]) -> None:
        # The files too: their pushes may have synced a journal only; and to sync nothing but the
        # directory brings btrfs to keep them under their old names as well.
        for path in letters:
            with contextlib.suppress(FileNotFoundError, PermissionError):  # somebody has it, or it is another user's
                self.disk.sync_file(path)
        for directory in {os.path.dirname(path) for path in letters}:
            self.disk.sync_directory(directory)
            self._sync_root(os.path.dirname(directory))

    def _is_synced(self, path: str) -> bool:
        """Sync a file that may be durable only in a journal; before it goes where no journal can mend it."""
        try:
            self.disk.sync_file(path)
        except OSError:
            return False
        return True

    # Out

    def read(self, path: str, message: MessageName, *, until: int | None = None) -> bytes:
        """Read a message whole. Raises FileNotFoundError, or Undeliverable if it is not fit to be delivered.

        ``until`` is given by a claim: an mtime beyond it would lengthen the lease. Where
        it could not be taken back before the claim, a copy takes the file's place.
        """
        try:
            fd = self.disk.open_to_read(path)
        except OSError as error:
            raise self._verdict(error, path) from error
        try:
            status = os.fstat(fd)
            if (status.st_mode & 0o170000) != 0o100000:  # noqa: PLR2004 - S_ISREG, without importing stat
                raise Undeliverable("unreadable", "this is not a regular file")
            if status.st_size > self.settings.max_message_bytes:
                raise Undeliverable(
                    "too-large",
                    f"the file has {status.st_size} bytes, the queue delivers {self.settings.max_message_bytes}; "
                    f"raise max_message_bytes and redrive it",
                )
            data = self.disk.read_all(fd, status.st_size)
            if until is not None and status.st_mtime_ns > until:
                with contextlib.suppress(OSError):  # no room for a copy: then the lease is longer
                    self.replace_with_own_copy(path, self.clock(), before=until)
        except OSError as error:
            raise self._verdict(error, path) from error
        finally:
            try:
                self.disk.close(fd)
            except OSError:  # nothing was written through it
                pass
        if not names.is_intact(message, data):
            raise Undeliverable(
                "torn", f"the file has {len(data)} bytes and is not what its name says; 'mailq edit' re-seals it"
            )
        return data

    def replace_with_own_copy(self, path: str, ns: int, *, before: int | None = None) -> None:
        """Replace a file by a copy with this mtime: another user's, who alone may set it, or one with several names.

        By another name it may be leased in another queue. Raises FileNotFoundError if the message was settled
        meanwhile, or its lease has ended (``before``) and it may be reaped: the copy would be a second message.
        """
        fd = self.disk.open_to_read(path)
        try:
            size = os.fstat(fd).st_size
            if size > self.settings.max_message_bytes:  # it has grown since it was claimed
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
            data = self.disk.read_all(fd, size)
        finally:
            self.disk.drop(fd)
        copy = f"{self.layout.tmp}/.copy.{os.urandom(8).hex()}"
        self.disk.write_file(copy, data, mode=self.mode, sync=self.durable)
        try:
            self.disk.utime(copy, ns)
            if before is not None and self.clock() >= before:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self.swap_in(copy, path)
        finally:
            # The copy, or what was there. In a sticky tmp/ only its owner, or that of tmp/, may: else it is litter.
            with contextlib.suppress(OSError):
                self.disk.unlink(copy)

    def _verdict(self, error: OSError, path: str) -> Exception:
        """Whose fault it is that a file cannot be read: nobody's, the machine's for now, or the file's."""
        if error.errno in GONE:
            return FileNotFoundError(error.errno, error.strerror, path)
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR):
            return StorageError("read the message", error)
        remedy = "; as root: chown -R --reference=QUEUE QUEUE; then redrive it" if error.errno == errno.EACCES else ""
        return Undeliverable("unreadable", f"the file cannot be read: {error.strerror}{remedy}")
