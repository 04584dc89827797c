"""huey's SqliteHuey: its storage, without what it does to pickle a task."""

from __future__ import annotations

import os

from huey import SqliteHuey

from bench.sides import Side, Taken


class Peer(Side):
    """With ``fsync=True`` or False, which is ``synchronous`` FULL or OFF."""

    name, acks = "huey", False
    note = "a pop removes: what a consumer held when it died is lost"

    def __init__(self, directory: str, *, durable: bool) -> None:
        path = os.path.join(directory, "queue.db")
        self._storage = SqliteHuey(filename=path, fsync=durable, timeout=60).storage

    def push(self, body: bytes) -> None:
        self._storage.enqueue(body)

    def pop(self) -> Taken | None:
        body = self._storage.dequeue()
        return None if body is None else (body, None)

    def ack(self, receipt: None) -> None:
        pass

    def close(self) -> None:
        self._storage.close()
