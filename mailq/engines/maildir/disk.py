"""Every durable system call that mailq makes, and nothing else.

The engine reaches the file system only through a :class:`Disk`, so that tests
can record each call, make it fail, or let the process die at it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
import sys
from functools import cache, partial
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import filesystems

try:
    import fcntl
except ImportError:  # Windows has no fcntl: no F_FULLFSYNC there, and no flock
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

_BINARY: Final = getattr(os, "O_BINARY", 0)
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_CREATE: Final = os.O_CREAT | os.O_EXCL | _NOFOLLOW | _BINARY
# O_NONBLOCK: opening a FIFO that somebody planted must not wait for a writer.
_READ: Final = os.O_RDONLY | _NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | _BINARY
_DIRECTORY: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
# To make something in a directory one need not be able to read it.
_PLACE: Final = _DIRECTORY | getattr(os, "O_PATH", 0)
# Of linux/fs.h and fcntl.h.
_NOREPLACE: Final = 1
_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100
_INT: Final = struct.Struct("i")
_LONG: Final = struct.calcsize("l")
_GETFLAGS: Final = 2 << 30 | _LONG << 16 | 0x6601
_SETFLAGS: Final = 1 << 30 | _LONG << 16 | 0x6602
_NOCOW: Final = 0x80_0000

_LOOKS: Final = 16
"""The number of syncs without a fast commit after which none is expected."""


class Disk:
    """The system calls, one a method; below them the few sequences that callers share. One for each file system."""

    _looks_left = _LOOKS
    _syncs_all = False
    gives_to: tuple[int, int] | None = None
    """The user and group that get what this process makes in their queue; None if that belongs to the right user anyway."""

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """open(2)"""
        # Called by C and unpacked: an exception from outside, which may arrive right after any call, would leave it open.
        (fd,) = map(os.open, (path,), (flags,), (mode,))
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """write(2)"""
        return os.write(fd, data)

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """pwrite(2)"""
        return os.pwrite(fd, data, offset)

    def read(self, fd: int, size: int) -> bytes:
        """read(2)"""
        return os.read(fd, size)

    def fsync(self, fd: int) -> None:
        """fsync(2), down to the medium: on macOS only F_FULLFSYNC is, on an ext4 with fast commits syncfs(2)."""
        if sys.platform == "darwin":
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        elif self._syncs_all:
            self.syncfs(fd)
        else:
            os.fsync(fd)
            if self._looks_left and self._was_fast(fd):
                self._syncs_all = True
                self.syncfs(fd)

    def fdatasync(self, fd: int) -> None:
        """fdatasync(2): what is in the file, and not its times. Linux only."""
        os.fdatasync(fd)

    def syncfs(self, fd: int) -> None:
        """syncfs(2): everything dirty on the file system that ``fd`` is on."""
        if libc().syncfs(fd) != 0:
            raise libc_error()

    close = staticmethod(os.close)
    """close(2); no function of ours, at whose beginning an exception from outside might come before it."""

    def rename(self, source: str, target: str) -> None:
        """rename(2); replaces the target, so callers pass only targets that are unique."""
        os.replace(source, target)

    def rename_new(self, source: str, target: str) -> None:
        """renameat2(2) with RENAME_NOREPLACE; fails if the target exists. ENOSYS where there is no such call."""
        _renameat2(source, target, _NOREPLACE)

    def exchange(self, one: str, other: str) -> None:
        """renameat2(2) with RENAME_EXCHANGE: each gets the other's name, at once. ENOSYS where there is no such call."""
        _renameat2(one, other, _EXCHANGE)

    def link(self, source: str, target: str) -> None:
        """link(2); fails if the target exists."""
        os.link(source, target)

    def unlink(self, path: str) -> None:
        """unlink(2)"""
        os.unlink(path)

    def utime(self, path: str, ns: int) -> None:
        """utimensat(2) on the name itself, never through a symlink."""
        if os.utime in os.supports_follow_symlinks:
            os.utime(path, ns=(ns, ns), follow_symlinks=False)
        else:
            os.utime(path, ns=(ns, ns))

    def touch(self, path: str) -> None:
        """utimensat(2) to the present: every user that may write a file may do so, not only its owner."""
        if os.utime in os.supports_follow_symlinks:
            os.utime(path, follow_symlinks=False)
        else:
            os.utime(path)

    def chmod(self, path: str | int, mode: int) -> None:
        """chmod(2), or fchmod(2) of a descriptor"""
        os.chmod(path, mode)

    def chown(self, fd: int, user: int, group: int) -> None:
        """fchown(2)"""
        os.fchown(fd, user, group)

    def mkdir(self, path: str, mode: int = 0o700) -> None:
        """mkdir(2)"""
        os.mkdir(path, mode)

    def open_in(self, directory: int, name: str, flags: int, mode: int = 0o600) -> int:
        """openat(2)"""
        (fd,) = map(partial(os.open, dir_fd=directory), (name,), (flags,), (mode,))  # as in open
        return fd

    def mkdir_in(self, directory: int, name: str, mode: int) -> None:
        """mkdirat(2)"""
        os.mkdir(name, mode, dir_fd=directory)

    def rmdir(self, path: str) -> None:
        """rmdir(2); fails if there is anything in it."""
        os.rmdir(path)

    # Sequences

    def give_to_owner_of(self, root: str) -> None:
        """As root, give what is made in a queue from now on to the user and group of its directory.

        That user could not read it otherwise. Any other user's files stay that user's.
        """
        self.gives_to = None
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            return
        with contextlib.suppress(OSError):  # there is none yet, or root may not give files away here
            if os.stat(root).st_uid == 0:
                return
            fd = self.open_directory(root)
            try:
                status = os.fstat(fd)
                # This changes nothing. It fails where giving a file would fail: on a server that knows no root, or
                # in a container in which that user is unknown.
                self.chown(fd, status.st_uid, status.st_gid)
                self.gives_to = status.st_uid, status.st_gid
            finally:
                self.drop(fd)

    def leaves_its_own_in(self, root: str) -> bool:
        """Whether this process is root in another user's queue, to whom it does not give what it makes. Raises OSError."""
        owner = os.stat(root).st_uid
        return owner != 0 and os.geteuid() == 0 and (self.gives_to is None or self.gives_to[0] != owner)

    def create(self, path: str, flags: int, mode: int) -> int:
        """Create a file and open it; never one that is there. On failure nothing is left of it."""
        flags |= _CREATE
        fd = self.open(path, flags, mode) if self.gives_to is None else self._create_to_give(path, flags, mode)
        if mode & 0o077:  # the umask must not take back what the settings share
            try:
                self.chmod(fd, mode)
            except BaseException:
                self.drop(fd)
                self._give_up(path)
                raise
        return fd

    def _create_to_give(self, path: str, flags: int, mode: int) -> int:
        with self._place_of(path) as (place, name):
            fd = self.open_in(place, name, flags, mode)
            try:
                self._give(fd, place)
            except BaseException:
                self.drop(fd)
                self._give_up(path)
                raise
            return fd

    @contextlib.contextmanager
    def _place_of(self, path: str) -> Iterator[tuple[int, str]]:
        """The directory that a path is in, opened, and the name there."""
        directory, name = os.path.split(path)
        place = self.open(directory, _PLACE)
        try:
            yield place, name
        finally:
            self.drop(place)

    def _give(self, fd: int, place: int, *, also_in_roots: bool = False) -> None:
        """Give what was made in a directory to the queue's user, who could have made it there.

        Nowhere else: a link that this user has put in the place of a directory must not make files of theirs
        in directories of others.
        """
        if (to := self.gives_to) is None:
            return
        if os.fstat(place).st_uid in ((to[0], 0) if also_in_roots else (to[0],)):
            try:
                self.chown(fd, *to)
            except PermissionError:  # this process has ceased to be root since
                self.gives_to = None

    def make_directory(self, path: str, mode: int = 0o700, *, also_in_roots: bool = False) -> None:
        """Make a directory with these permissions, whatever the umask takes from others.

        As root in another user's queue it is given to that user; also in a directory of root's, if asked for.
        """
        if self.gives_to is None:
            self.mkdir(path, mode)
            if mode & 0o7077:
                self.chmod(path, mode)
            return
        with self._place_of(path) as (place, name):
            self.mkdir_in(place, name, mode)
            fd = self.open_in(place, name, _DIRECTORY | _NOFOLLOW)
            try:
                # Another may have been put in its place since. An empty one is worth no more than a fresh one.
                if os.fstat(fd).st_uid == os.geteuid() and not os.listdir(fd):
                    if mode & 0o7077:
                        self.chmod(fd, mode)
                    self._give(fd, place, also_in_roots=also_in_roots)
            finally:
                self.drop(fd)

    def write_file(self, path: str, data: bytes, *, mode: int, sync: bool) -> None:
        """Create a file with this content; on failure nothing is left of it."""
        fd = self.create(path, os.O_WRONLY, mode)
        try:
            self.write_all(fd, data)
            if sync:
                self.fsync(fd)
        except BaseException:
            # Never a second fsync of this descriptor: after a failed one the kernel has marked
            # the lost pages clean, and the next would report success.
            with contextlib.suppress(OSError):
                self.close(fd)
            self._give_up(path)
            raise
        try:
            self.close(fd)
        except BaseException:  # network file systems report a failed write here
            self._give_up(path)
            raise

    def _give_up(self, path: str) -> None:
        with contextlib.suppress(OSError):
            self.unlink(path)

    def write_all(self, fd: int, data: bytes) -> None:
        """Write it to the end, in one call as a rule."""
        written = self.write(fd, data)
        if written < len(data):
            rest = memoryview(data)[written:]
            while rest:
                rest = rest[self.write(fd, rest) :]

    def pwrite_all(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Write it from a place on, in one call as a rule."""
        written = self.pwrite(fd, data, offset)
        while written < len(data):
            written += self.pwrite(fd, data[written:], offset + written)

    def drop(self, fd: int) -> None:
        """Close a descriptor that nothing was written through: whatever close reports, nothing is lost."""
        try:
            self.close(fd)
        except OSError:
            pass

    def open_to_read(self, path: str) -> int:
        """Open a file for reading; never follows a symlink, never blocks."""
        return self.open(path, _READ)

    def read_all(self, fd: int, size: int) -> bytes:
        """Read a file of ``size`` bytes, as fstat says, and one byte more if there is one: then it has changed.

        Never more than that: a file may grow, and a device may have no end. One
        read(2) as a rule, so that a large message is in memory once.
        """
        data = self.read(fd, size + 1)
        if len(data) == size:
            return data
        parts, left = [data], size + 1 - len(data)
        while left and (data := self.read(fd, left)):
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def _was_fast(self, fd: int) -> bool:
        """Whether an fsync was a fast commit, which a power cut may make damage of; see mounts.makes_fast_commits.

        That shows only afterwards, and not after a sync that had nothing to do.
        """
        is_fast = None
        if sys.platform == "linux":
            number = os.fstat(fd).st_dev
            is_fast = filesystems.makes_fast_commits(f"{os.major(number)}:{os.minor(number)}")
        self._looks_left = 0 if is_fast is None else self._looks_left - 1
        return bool(is_fast) and can_syncfs()  # in this order: to know that takes a library that most never need

    def sync_file(self, path: str) -> None:
        """Make durable what is in a file, and its times."""
        fd = self.open_to_read(path)
        try:
            self.fsync(fd)
        finally:
            self.drop(fd)

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable. Windows has no such call and needs none."""
        if os.name == "nt":
            return
        fd = self.open_directory(path)
        try:
            self.sync_names(fd)
        finally:
            self.drop(fd)

    def sync_names(self, fd: int) -> os.stat_result:
        """Make the names in an opened directory durable. Returns its status."""
        self.fsync(fd)
        # An XFS that has shut itself down, since its disk failed, reports success for the fsync
        # of a directory that it has not written. Asked for its status it tells.
        return os.fstat(fd)

    def forget(self, fd: int) -> None:
        """Have a file read from the disk again: after a failed writing its copy in memory looks as if all were well."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def write_in_place(self, fd: int) -> None:
        """Have the blocks of a file that is empty yet overwritten where they are, as is usual but on btrfs.

        There each write goes to new blocks, and to sync it is to sync the tables that lead to them, too.
        """
        # See ioctl_iflags(2). It is read and written as an int, whatever its number says.
        with contextlib.suppress(OSError):
            flags = bytearray(_LONG)
            fcntl.ioctl(fd, _GETFLAGS, flags)
            fcntl.ioctl(fd, _SETFLAGS, _INT.pack(_INT.unpack_from(flags)[0] | _NOCOW))

    def keeps_order(self, path: str) -> bool:
        """See mounts.keeps_order."""
        return filesystems.keeps_order(path)

    def open_directory(self, path: str) -> int:
        """Open a directory, to sync it. Not on Windows."""
        return self.open(path, _DIRECTORY)


@cache
def can_syncfs() -> bool:
    """Whether syncfs exists and reports write errors: Linux since 5.8, says syncfs(2)."""
    if sys.platform != "linux":
        return False
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return version is not None and (int(version[1]), int(version[2])) >= (5, 8) and hasattr(libc(), "syncfs")


def _renameat2(source: str, target: str, flags: int) -> None:
    if sys.platform != "linux" or not hasattr(libc(), "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), source)
    if libc().renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) != 0:
        raise libc_error(source, target)


def libc_error(source: str | None = None, target: str | None = None) -> OSError:
    """What the last call of ``libc()`` in this thread failed with."""
    import ctypes  # noqa: PLC0415 - loaded already by libc

    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), source, None, target)


@cache
def libc():  # type: ignore[no-untyped-def] # noqa: ANN201 - a ctypes library has no useful type
    """The C library, for the calls that Python has no function for."""
    import ctypes  # noqa: PLC0415 - seldom needed, and slow to load

    return ctypes.CDLL(None, use_errno=True)
