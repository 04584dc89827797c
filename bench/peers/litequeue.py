"""litequeue: a table in SQLite."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from litequeue import LiteQueue

from bench.sides import Side, Taken

if TYPE_CHECKING:
    from collections.abc import Sequence


class Peer(Side):
    """With ``synchronous`` FULL, or OFF: its own NORMAL syncs in WAL mode at checkpoints only."""

    name, batches = "litequeue", True

    def __init__(self, directory: str, *, durable: bool) -> None:
        self._queue = LiteQueue(os.path.join(directory, "queue.db"), timeout=60)
        self._queue.conn.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")

    def push(self, body: bytes) -> None:
        self._queue.put(body)

    def push_many(self, bodies: Sequence[bytes]) -> None:
        with self._queue.transaction():
            super().push_many(bodies)

    def pop(self) -> Taken | None:
        message = self._queue.pop()
        return message and (message.data, message.message_id)

    def ack(self, receipt: str) -> None:
        self._queue.done(receipt)

    def ack_many(self, receipts: Sequence[str]) -> None:
        with self._queue.transaction():  # a pop begins its own: those cannot be put into one
            super().ack_many(receipts)

    def close(self) -> None:
        self._queue.close()
