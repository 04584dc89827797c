"""A disk that records its calls and fails when it is told to."""

from __future__ import annotations

import errno
import os

from mailq.engines.disk import Disk


class FaultyDisk(Disk):
    """Fails at the call named ``fail``, the first time; ``most`` is how much a write takes or a read gives."""

    def __init__(self, fail: str = "", *, error: BaseException | None = None, most: int | None = None) -> None:
        self.calls: list[str] = []
        self.open_files: set[int] = set()
        self._fail = fail
        self._error = error or OSError(errno.EIO, "Input/output error")
        self._most = most

    def _step(self, call: str) -> None:
        self.calls.append(call)
        if call == self._fail and self.calls.count(call) == 1:
            raise self._error

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        self._step("open")
        fd = super().open(path, flags, mode)
        self.open_files.add(fd)
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        # A disk that fills up takes a part before it refuses.
        if self._fail == "write" and "write" not in self.calls:
            os.write(fd, data[: len(data) // 2])
        self._step("write")
        return super().write(fd, data[: self._most])

    def read(self, fd: int, size: int) -> bytes:
        self._step("read")
        return super().read(fd, size if self._most is None else min(size, self._most))

    def fsync(self, fd: int) -> None:
        self._step("fsync")
        super().fsync(fd)

    def close(self, fd: int) -> None:
        # Like the kernel's: the descriptor is gone whatever close reports.
        self.open_files.discard(fd)
        super().close(fd)
        self._step("close")

    def unlink(self, path: str) -> None:
        self._step("unlink")
        super().unlink(path)

    def chmod(self, path: str | int, mode: int) -> None:
        self._step("chmod")
        super().chmod(path, mode)
