"""dirq: one file a message, in directories by time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from dirq.QueueSimple import QueueSimple

from bench.sides import PROCESS_CRASH, Side, Taken

if TYPE_CHECKING:
    from collections.abc import Iterator


class Peer(Side):
    """QueueSimple, the faster of its two. It has no way to sync."""

    name = "dirq"
    claims: ClassVar = [PROCESS_CRASH]
    note = "a lock that a dead consumer left is taken away by `purge`, after its time"

    def __init__(self, directory: str, *, durable: bool) -> None:  # noqa: ARG002 - it has one way
        self._queue = QueueSimple(os.path.join(directory, "queue"))
        self._names: Iterator[str] = iter(())

    def push(self, body: bytes) -> None:
        self._queue.add(body)

    def pop(self) -> Taken | None:
        for _ in range(2):  # what is left of the last listing, then a new one
            for name in self._names:
                if self._queue.lock(name):
                    return self._queue.get(name), name
            self._names = iter(self._queue)
        return None

    def ack(self, receipt: str) -> None:
        self._queue.remove(receipt)

    def close(self) -> None:
        pass
