"""A disk that does what it is told, and keeps a log of it: what crash_states.py makes power cuts of."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mailq.engines.maildir.disk import Disk


class Op(NamedTuple):
    """One call that changed the disk, or synced it. Paths are relative to the recorded tree.

    ``ino`` tells one file or directory from another, whatever its name is by then;
    0 is the tree itself.
    """

    kind: str
    path: str = ""
    target: str = ""
    ino: int = 0
    data: bytes = b""
    offset: int = 0
    ns: int = 0


class Killed(BaseException):
    """The process died at a call."""


class RecordingDisk(Disk):
    """Records what happens below one directory; what stands there at the beginning is taken for synced."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._dies_after = 0
        self._is_dead = False
        self.ops: list[Op] = []
        self.first_files: dict[str, tuple[int, bytes, int]] = {}
        self._inos: dict[str, int] = {}
        self._directories = {"": 0}
        self._open: dict[int, tuple[str, int, int]] = {}
        self._last = 0
        self._steps = 0
        self.foreign: set[int] = set()
        """The inodes of another user's files: nobody else may set their times."""
        self._interruption: tuple[int, Callable[[], object]] = 0, lambda: None
        for directory, _, files in os.walk(base):
            if directory != base:
                self._made(self._relative(directory) or "")
            for file in files:
                path = f"{directory}/{file}"
                with open(path, "rb") as stream:
                    data = stream.read()
                self.first_files[self._relative(path) or ""] = self._born(path), data, os.stat(path).st_mtime_ns

        self.first_directories = dict(self._directories)

    def _log(self, op: Op) -> None:
        self.ops.append(op)
        if len(self.ops) == self._dies_after:
            self._is_dead = True
            raise Killed
        self._step()

    def _step(self) -> None:
        self._steps += 1
        if self._steps == self._interruption[0]:
            self._interruption[1]()

    def interrupted_after(self, steps: int, by: Callable[[], object]) -> None:
        """Another process does something after so many steps from now: logged calls, and openings of directories."""
        self._interruption = self._steps + steps, by

    @contextlib.contextmanager
    def killed_after(self, calls: int) -> Iterator[None]:
        """A process that dies at a call from now; the one that comes afterwards lives."""
        self._dies_after = self.now + calls
        with contextlib.suppress(Killed):
            yield
        self._is_dead, self._dies_after = False, 0

    @property
    def now(self) -> int:
        """How many calls there were."""
        return len(self.ops)

    def _relative(self, path: str) -> str | None:
        if path == self.base:
            return ""
        return path.removeprefix(self.base + "/") if path.startswith(self.base + "/") else None

    def _born(self, path: str) -> int:
        self._last += 1
        self._inos[self._relative(path) or ""] = self._last
        return self._last

    def _made(self, name: str) -> int:
        self._last += 1
        self._directories[name] = self._last
        return self._last

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        is_there = os.path.lexists(path)
        fd = super().open(path, flags, mode)
        name = self._relative(path)
        if name is not None:
            if not is_there:
                self._log(Op("create", name, ino=self._born(path)))
            self._open[fd] = name, (self._directories | self._inos).get(name, -1), 0
            if name in self._directories:
                self._step()
        return fd

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)
        super().close(fd)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        count = super().write(fd, data)
        if fd in self._open:
            name, ino, offset = self._open[fd]
            self._log(Op("write", name, ino=ino, data=bytes(data[:count]), offset=offset))
            self._open[fd] = name, ino, offset + count
        return count

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        count = super().pwrite(fd, data, offset)
        if fd in self._open:
            name, ino, _ = self._open[fd]
            self._log(Op("write", name, ino=ino, data=bytes(data[:count]), offset=offset))
        return count

    def is_file(self, fd: int) -> bool:
        """Whether a recorded descriptor is that of a file; any other is that of a directory."""
        return fd in self._open and self._open[fd][1] not in self._directories.values()

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        if fd in self._open:
            name, ino, _ = self._open[fd]
            self._log(Op("fsync" if self.is_file(fd) else "dirsync", name, ino=ino))

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        if fd in self._open:
            name, ino, _ = self._open[fd]
            self._log(Op("fdatasync", name, ino=ino))

    def syncfs(self, fd: int) -> None:
        super().syncfs(fd)
        self._log(Op("syncfs"))

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        self._renamed(source, target)

    def rename_new(self, source: str, target: str) -> None:
        super().rename_new(source, target)
        self._renamed(source, target)

    def _renamed(self, source: str, target: str) -> None:
        old, new = self._relative(source), self._relative(target)
        assert old is not None
        assert new is not None
        ino = self._inos.pop(old)
        self._inos[new] = ino
        self._log(Op("rename", old, new, ino))

    def link(self, source: str, target: str) -> None:
        super().link(source, target)
        old, new = self._relative(source), self._relative(target)
        assert old is not None
        assert new is not None
        self._inos[new] = self._inos[old]
        self._log(Op("link", old, new, self._inos[old]))

    def unlink(self, path: str) -> None:
        if self._is_dead:  # who was killed takes nothing back
            raise Killed
        super().unlink(path)
        name = self._relative(path)
        assert name is not None
        self._log(Op("unlink", name, ino=self._inos.pop(name)))

    def utime(self, path: str, ns: int) -> None:
        if os.lstat(path).st_ino in self.foreign:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        super().utime(path, ns)
        # The stamps of lock files are no business of a power cut: another makes the files, unseen.
        if (name := self._relative(path)) in self._inos:
            self._log(Op("utime", name, ino=self._inos[name], ns=ns))

    def mkdir(self, path: str, mode: int = 0o700) -> None:
        super().mkdir(path, mode)
        if (name := self._relative(path)) is not None:
            self._log(Op("mkdir", name, ino=self._made(name)))

    def rmdir(self, path: str) -> None:
        if self._is_dead:
            raise Killed
        super().rmdir(path)
        name = self._relative(path)
        assert name is not None
        self._log(Op("rmdir", name, ino=self._directories.pop(name)))

    def exchange(self, one: str, other: str) -> None:
        """Of two files, or of two directories that hold only files."""
        super().exchange(one, other)
        first, second = self._relative(one), self._relative(other)
        assert first is not None
        assert second is not None
        self._inos = {_exchanged(path, first, second): ino for path, ino in self._inos.items()}
        self._directories = {_exchanged(path, first, second): ino for path, ino in self._directories.items()}
        self._log(Op("exchange", first, second))


def _exchanged(path: str, one: str, other: str) -> str:
    """What a path is called when the two have each other's name; what is in them goes along."""
    for name, new in ((one, other), (other, one)):
        if path == name or path.startswith(f"{name}/"):
            return new + path.removeprefix(name)
    return path


class OrderedDisk(RecordingDisk):
    """Says that names come to it in order, so that pushes may have a journal."""

    def keeps_order(self, path: str) -> bool:
        """So it is."""
        return path.startswith(self.base)


class WithoutDataSync(OrderedDisk):
    """Says that it synced a journal, and did not."""

    def fdatasync(self, fd: int) -> None:
        """Nothing."""


class WithoutDirectorySync(RecordingDisk):
    """Says that it synced a directory, and did not."""

    def fsync(self, fd: int) -> None:
        if self.is_file(fd):
            super().fsync(fd)


class WithoutFileSync(RecordingDisk):
    """Says that it synced a file, and did not."""

    def fsync(self, fd: int) -> None:
        if not self.is_file(fd):
            super().fsync(fd)

    def syncfs(self, fd: int) -> None:
        """Nothing."""
