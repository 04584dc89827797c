"""lmdb-queue, whose module is called equeue: jobs with leases, in LMDB."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from equeue import Queue, QueueEmpty

from bench.sides import Side, Taken

if TYPE_CHECKING:
    from equeue import Record


class Peer(Side):
    """Its ``sync=True`` leaves LMDB to write to the disk later (``map_async``), as the counting shows."""

    name = "lmdb-queue"
    note = "leases that end; opening it counts all that is there"

    def __init__(self, directory: str, *, durable: bool) -> None:
        self._queue = Queue(os.path.join(directory, "queue"), map_size=1 << 32, sync=durable)

    def push(self, body: bytes) -> None:
        self._queue.put(body)

    def pop(self) -> Taken | None:
        return self.pop_waiting(1.0)  # it looks at the clock before it looks for a job: with no time it finds none

    def pop_waiting(self, seconds: float) -> Taken | None:
        try:
            record = self._queue.get(timeout=seconds)
        except QueueEmpty:
            return None
        return record.payload, record

    def ack(self, receipt: Record[bytes]) -> None:
        receipt.ack()

    def close(self) -> None:
        self._queue.close()
