"""A disk that keeps the books of its calls, and fails at those that it is told to."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from mailq.engines.maildir.disk import Disk

CALLS: Final = (
    "create",
    "open",
    "write",
    "pwrite",
    "read",
    "fsync",
    "fdatasync",
    "syncfs",
    "close",
    "rename",
    "exchange",
    "link",
    "unlink",
    "utime",
    "chmod",
    "mkdir",
)
"""The kinds of calls. To open with O_CREAT is ``create``: a full disk refuses that, and no other open."""


class Fault(NamedTuple):
    """What goes wrong: the ``number``-th call of these kinds from when the fault is armed, from 0; with it, every later one.

    ``made``: the call is carried out and reported as failed all the same, as network file systems may.
    ``part``: a write takes a half, and the next write fails.
    """

    kinds: frozenset[str]
    number: int = 0
    error: BaseException = OSError(errno.EIO, os.strerror(errno.EIO))
    made: bool = False
    part: bool = False
    lasting: bool = False


def fault(*kinds: str, number: int = 0, error: int | BaseException = errno.EIO, **how: bool) -> Fault:
    """A fault of these kinds of calls."""
    exception = OSError(error, os.strerror(error)) if isinstance(error, int) else error
    return Fault(frozenset(kinds), number, exception, **how)


class FaultyDisk(Disk):
    """Fails as its fault says; ``most`` is how much a write takes or a read gives at once.

    The inodes that are ``foreign`` are another user's: nobody else may set their times. If it is ``ordered``,
    names come to it in order, and pushes may go through a journal. That no commit is fast it takes for granted:
    its calls are the same wherever the tests are run.
    """

    _looks_left = 0

    def __init__(self, fault: Fault | None = None, *, most: int | None = None) -> None:
        self.calls: list[str] = []
        self.open_files: set[int] = set()
        self.foreign: set[int] = set()
        self.ordered = False
        self._most = most
        self.arm(fault)

    def arm(self, fault: Fault | None) -> None:
        """Count from here on; None disarms."""
        self._fault = fault
        self._seen = 0
        self._since = len(self.calls)
        self.fired = False

    @property
    def armed_calls(self) -> list[str]:
        """The calls since it was last armed."""
        return self.calls[self._since :]

    def _strikes(self, kind: str) -> bool:
        fault = self._fault
        if fault is None or kind not in fault.kinds:
            return False
        self._seen += 1
        over = self._seen - 1 - fault.number - fault.part
        if over == 0 or (over > 0 and fault.lasting):
            self.fired = True
            return True
        return False

    def strike(self) -> None:
        """The moment of the fault."""
        assert self._fault is not None
        raise self._fault.error

    def _make(self, kind: str, call: Callable[..., Any], *arguments: Any) -> Any:
        self.calls.append(kind)
        if not self._strikes(kind):
            return call(*arguments)
        if self._fault is not None and self._fault.made:
            with contextlib.suppress(OSError):
                call(*arguments)
        return self.strike()

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        def call() -> int:
            fd = super(FaultyDisk, self).open(path, flags, mode)
            self.open_files.add(fd)
            return fd

        kind = "create" if flags & os.O_CREAT else "open"
        before = set(self.open_files)
        try:
            return int(self._make(kind, call))
        except BaseException:
            for fd in self.open_files - before:  # made, and reported as failed: nobody has the descriptor
                self.open_files.discard(fd)
                os.close(fd)
            raise

    def write(self, fd: int, data: bytes | memoryview) -> int:
        fault = self._fault
        if fault is not None and fault.part and "write" in fault.kinds and self._seen == fault.number:
            data = data[: len(data) // 2]
            self.fired = True  # whoever does not go on with the rest never sees a failure
        return int(self._make("write", super().write, fd, data[: self._most]))

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        return int(self._make("pwrite", super().pwrite, fd, data, offset))

    def read(self, fd: int, size: int) -> bytes:
        data = self._make("read", super().read, fd, size if self._most is None else min(size, self._most))
        assert isinstance(data, bytes)
        return data

    def fsync(self, fd: int) -> None:
        self._make("fsync", super().fsync, fd)

    def fdatasync(self, fd: int) -> None:
        self._make("fdatasync", super().fdatasync, fd)

    def keeps_order(self, path: str) -> bool:
        return self.ordered

    def syncfs(self, fd: int) -> None:
        self._make("syncfs", super().syncfs, fd)

    def close(self, fd: int) -> None:
        # Like the kernel's: the descriptor is gone whatever close reports.
        self.calls.append("close")
        self.open_files.discard(fd)
        super().close(fd)
        if self._strikes("close"):
            self.strike()

    def rename(self, source: str, target: str) -> None:
        self._make("rename", super().rename, source, target)

    def exchange(self, one: str, other: str) -> None:
        self._make("exchange", super().exchange, one, other)

    def link(self, source: str, target: str) -> None:
        self._make("link", super().link, source, target)

    def unlink(self, path: str) -> None:
        self._make("unlink", super().unlink, path)

    def utime(self, path: str, ns: int) -> None:
        if self.foreign and os.lstat(path).st_ino in self.foreign:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        self._make("utime", super().utime, path, ns)

    def chmod(self, path: str | int, mode: int) -> None:
        self._make("chmod", super().chmod, path, mode)

    def mkdir(self, path: str, mode: int = 0o700) -> None:
        self._make("mkdir", super().mkdir, path, mode)
