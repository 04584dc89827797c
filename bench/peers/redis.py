"""Redis: two lists and an append-only file, as its manual describes a reliable queue."""

from __future__ import annotations

import contextlib
from importlib import metadata
from typing import TYPE_CHECKING, ClassVar

import redis

from bench.peers.serving import address, said_by, serving
from bench.sides import Side, Taken

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READY, LEASED = "ready", "leased"
MOVE = (READY, LEASED, "RIGHT", "LEFT")


class Peer(Side):
    """``appendfsync always`` or ``no``, over a socket of this machine."""

    name, batches = "redis", True
    server: ClassVar = "redis-server"
    note = "LPUSH, LMOVE, LREM; no lease ends: what a dead consumer held is put back by hand"

    @classmethod
    def version(cls) -> str:
        return f"{said_by(cls.server, '--version')}, redis {metadata.version('redis')}"

    @classmethod
    @contextlib.contextmanager
    def served(cls, directory: str, *, durable: bool) -> Iterator[None]:
        where = ("--port", "0", "--unixsocket", address(directory), "--dir", directory)
        how = ("--save", "", "--appendonly", "yes", "--appendfsync", "always" if durable else "no")
        with serving(directory, (cls.server, *where, *how)):
            yield

    def __init__(self, directory: str, *, durable: bool) -> None:  # noqa: ARG002 - the server knows
        self._redis = redis.Redis(unix_socket_path=address(directory))

    def push(self, body: bytes) -> None:
        self._redis.lpush(READY, body)

    def push_many(self, bodies: Sequence[bytes]) -> None:
        self._redis.lpush(READY, *bodies)

    def pop(self) -> Taken | None:
        body = self._redis.lmove(*MOVE)
        return None if body is None else (body, body)

    def pop_waiting(self, seconds: float) -> Taken | None:
        body = self._redis.blmove(READY, LEASED, seconds, "RIGHT", "LEFT")
        return None if body is None else (body, body)

    def pop_many(self, limit: int) -> list[Taken]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for _ in range(limit):
                pipeline.lmove(*MOVE)
            return [(body, body) for body in pipeline.execute() if body is not None]

    def ack(self, receipt: bytes) -> None:
        self._redis.lrem(LEASED, -1, receipt)

    def ack_many(self, receipts: Sequence[bytes]) -> None:
        with self._redis.pipeline(transaction=False) as pipeline:
            for receipt in receipts:
                pipeline.lrem(LEASED, -1, receipt)
            pipeline.execute()

    def close(self) -> None:
        self._redis.close()
