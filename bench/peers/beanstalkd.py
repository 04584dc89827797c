"""beanstalkd, with its binlog."""

from __future__ import annotations

import contextlib
from importlib import metadata
from typing import TYPE_CHECKING, ClassVar

import greenstalk

from bench.peers.serving import address, said_by, serving
from bench.sides import Side, Taken

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 1 << 24


class Peer(Side):
    """``-f0``, which syncs each write, or ``-F``, which never does; over a socket of this machine."""

    name = "beanstalkd"
    server: ClassVar = "beanstalkd"

    @classmethod
    def version(cls) -> str:
        return f"{said_by(cls.server, '-v')}, greenstalk {metadata.version('greenstalk')}"

    @classmethod
    @contextlib.contextmanager
    def served(cls, directory: str, *, durable: bool) -> Iterator[None]:
        where = ("-l", f"unix:{address(directory)}", "-b", directory)
        how = ("-z", str(LARGEST), "-s", str(LARGEST), "-f0" if durable else "-F")
        with serving(directory, (cls.server, *where, *how)):
            yield

    def __init__(self, directory: str, *, durable: bool) -> None:  # noqa: ARG002 - the server knows
        self._client = greenstalk.Client(address(directory), encoding=None)

    def push(self, body: bytes) -> None:
        self._client.put(body)

    def pop(self) -> Taken | None:
        return self._reserve(0)

    def pop_waiting(self, seconds: float) -> Taken | None:
        return self._reserve(max(1, round(seconds)))  # it counts in whole ones

    def _reserve(self, seconds: int) -> Taken | None:
        try:
            job = self._client.reserve(timeout=seconds)
        except greenstalk.TimedOutError:
            return None
        return job.body, job

    def ack(self, receipt: greenstalk.Job) -> None:
        self._client.delete(receipt)

    def close(self) -> None:
        self._client.close()
