"""persist-queue's SQLiteAckQueue."""

from __future__ import annotations

import os

from persistqueue import Empty, SQLiteAckQueue

from bench.sides import Side, Taken


class Peer(Side):
    """It has no setting for its syncs: it is left at SQLite's own FULL, or its connections are told OFF."""

    name, shared = "persist-queue", False
    note = "one process: two would pop the same message"

    def __init__(self, directory: str, *, durable: bool) -> None:
        self._queue = SQLiteAckQueue(os.path.join(directory, "queue"), timeout=60)
        if not durable:
            for connection in (self._queue._putter, self._queue._getter):  # noqa: SLF001 - there is no other way
                connection.execute("PRAGMA synchronous = OFF")

    def push(self, body: bytes) -> None:
        self._queue.put(body)

    def pop(self) -> Taken | None:
        try:
            item = self._queue.get(block=False, raw=True)
        except Empty:
            return None
        return item["data"], item["pqid"]

    def ack(self, receipt: int) -> None:
        self._queue.ack(id=receipt)

    def close(self) -> None:
        self._queue.close()
