"""diskcache: the queue that its Cache has, push and pull, on SQLite."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from diskcache import Cache

from bench.sides import Side, Taken

if TYPE_CHECKING:
    from collections.abc import Sequence

FULL: Final = 2
OFF: Final = 0


class Peer(Side):
    """Nothing evicted, and everything in the database: the files that it makes of large values are not synced."""

    name, acks, batches = "diskcache", False, True
    note = "a pop removes: what a consumer held when it died is lost"

    def __init__(self, directory: str, *, durable: bool) -> None:
        self._cache = Cache(
            os.path.join(directory, "queue"),
            timeout=60,
            eviction_policy="none",
            cull_limit=0,
            disk_min_file_size=1 << 30,
            sqlite_synchronous=FULL if durable else OFF,
        )

    def push(self, body: bytes) -> None:
        self._cache.push(body)

    def push_many(self, bodies: Sequence[bytes]) -> None:
        with self._cache.transact():
            super().push_many(bodies)

    def pop(self) -> Taken | None:
        key, body = self._cache.pull()
        return None if key is None else (body, None)

    def pop_many(self, limit: int) -> list[Taken]:
        with self._cache.transact():
            return super().pop_many(limit)

    def ack(self, receipt: None) -> None:
        pass

    def close(self) -> None:
        self._cache.close()
