"""The floor: the system calls that a queue of one file a message cannot do without, in a bare Python loop."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.sides import Side, Taken, sync_disk

if TYPE_CHECKING:
    from collections.abc import Sequence


class Floor(Side):
    """Create in tmp, write, [fsync], rename; [fsync the directory]; list, rename, read, unlink.

    With its fsyncs it is the textbook. No names that tell anything, no checks, no
    leases, no order across producers, no errors met. A listing is gone through to its
    end before there is another, so a pop from a backlog costs a part of one.
    """

    name, batches = "floor", True
    note = "a bare loop of system calls: no leases, no checks"

    @classmethod
    def version(cls) -> str:
        return "-"

    def __init__(self, directory: str, *, durable: bool) -> None:
        self._durable = durable
        self._directory = directory
        self._tmp, self._new, self._cur = (os.path.join(directory, name) for name in ("tmp", "new", "cur"))
        for path in (self._tmp, self._new, self._cur):
            os.makedirs(path, exist_ok=True)
        self._new_fd = os.open(self._new, os.O_RDONLY)
        self._pid = os.getpid()
        self._serial = 0
        self._listed: list[str] = []

    def push(self, body: bytes) -> None:
        name = self._write(body, sync=self._durable)
        os.rename(f"{self._tmp}/{name}", f"{self._new}/{name}")
        if self._durable:
            os.fsync(self._new_fd)

    def name_next(self) -> str:
        """What the next message is called: no other process's has that name."""
        self._serial += 1
        return f"{self._serial:012}.{self._pid}"

    def _write(self, body: bytes, *, sync: bool) -> str:
        name = self.name_next()
        fd = os.open(f"{self._tmp}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, body)
        if sync:
            os.fsync(fd)
        os.close(fd)
        return name

    def push_many(self, bodies: Sequence[bytes]) -> None:
        names = [self._write(body, sync=False) for body in bodies]
        if self._durable:
            sync_disk(self._tmp)
        for name in names:
            os.rename(f"{self._tmp}/{name}", f"{self._new}/{name}")
        if self._durable:
            os.fsync(self._new_fd)

    def pop(self) -> Taken | None:
        while True:
            if not self._listed:
                self._listed = sorted(os.listdir(self._new), reverse=True)
                if not self._listed:
                    return None
            name = self._listed.pop()
            held = f"{self._cur}/{name}"
            try:
                os.rename(f"{self._new}/{name}", held)
            except FileNotFoundError:  # another consumer was faster
                continue
            fd = os.open(held, os.O_RDONLY)
            body = os.read(fd, os.fstat(fd).st_size)
            os.close(fd)
            return body, held

    def ack(self, receipt: str) -> None:
        os.unlink(receipt)

    def close(self) -> None:
        os.close(self._new_fd)
