"""LMDB, with a queue of a few lines: what an embedded store with one writer at a time can do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import lmdb

from bench.sides import Side, Taken

if TYPE_CHECKING:
    from collections.abc import Sequence


class Peer(Side):
    """Two tables, ready and leased; a push, a pop and an ack are each a transaction. No lease ever ends."""

    name, batches = "lmdb", True
    note = "not a library: a queue of a few lines, without leases that end"

    def __init__(self, directory: str, *, durable: bool) -> None:
        path = os.path.join(directory, "queue")
        self._store = lmdb.open(path, map_size=1 << 32, max_dbs=2, sync=durable, metasync=durable)
        self._ready, self._leased = (self._store.open_db(name) for name in (b"ready", b"leased"))

    def push(self, body: bytes) -> None:
        self.push_many([body])

    def push_many(self, bodies: Sequence[bytes]) -> None:
        with self._store.begin(self._ready, write=True) as transaction:
            cursor = transaction.cursor()
            last = int.from_bytes(cursor.key(), "big") if cursor.last() else self._leased_last(transaction)
            for number, body in enumerate(bodies, last + 1):
                cursor.put(number.to_bytes(8, "big"), body, append=True)

    def _leased_last(self, transaction: lmdb.Transaction) -> int:
        cursor = transaction.cursor(self._leased)
        return int.from_bytes(cursor.key(), "big") if cursor.last() else 0

    def pop(self) -> Taken | None:
        return next(iter(self.pop_many(1)), None)

    def pop_many(self, limit: int) -> list[Taken]:
        found: list[Taken] = []
        with self._store.begin(self._ready, write=True) as transaction:
            cursor = transaction.cursor()
            while len(found) < limit and cursor.first():
                key, body = cursor.item()
                transaction.put(key, body, db=self._leased)
                cursor.delete()
                found.append((body, key))
        return found

    def ack(self, receipt: bytes) -> None:
        self.ack_many([receipt])

    def ack_many(self, receipts: Sequence[bytes]) -> None:
        with self._store.begin(self._leased, write=True) as transaction:
            for receipt in receipts:
                transaction.delete(receipt)

    def close(self) -> None:
        self._store.close()
