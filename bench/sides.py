"""What is measured: a side is one way to have a queue in a directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import mailq
from mailq.engines.maildir.disk import Disk, can_syncfs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

POWER_LOSS: Final = "power-loss"
PROCESS_CRASH: Final = "process-crash"
DURABILITIES: Final = (POWER_LOSS, PROCESS_CRASH)
POLL: Final = 0.001
"""Seconds between two looks of a consumer whose queue cannot wait."""

Taken = tuple[bytes, Any]
"""The body of a message that was popped, and what its ack wants to have."""


class Budget(NamedTuple):
    """When a measurement ends: when one of the two is used up."""

    seconds: float
    messages: int
    warm: int = 32
    """So many messages a process has pushed, popped and acked before: what is done once for a process is not measured."""


class Side(ABC):
    """A queue that can be measured. Peers are subclasses of a few lines, one module each in ``peers``."""

    name: ClassVar[str]
    distribution: ClassVar[str] = ""
    """What pip calls it, if that is another name."""
    claims: ClassVar[Sequence[str]] = DURABILITIES
    """What it says that it can do; whether it syncs for it is counted, see ``syncs``."""
    acks: ClassVar[bool] = True
    """Whether a message that was popped by somebody who then died comes back."""
    batches: ClassVar[bool] = False
    """Whether it has a way to push many at once."""
    shared: ClassVar[bool] = True
    """Whether several processes may pop from it at the same time."""
    server: ClassVar[str] = ""
    """The program that must be there to serve it."""
    note: ClassVar[str] = ""

    @classmethod
    @contextlib.contextmanager
    def served(cls, directory: str, *, durable: bool) -> Iterator[None]:  # noqa: ARG003 - for those with a server
        """Have its server run, if it has one."""
        yield

    @classmethod
    def version(cls) -> str:
        """Which one it is."""
        return metadata.version(cls.distribution or cls.name)

    @abstractmethod
    def __init__(self, directory: str, *, durable: bool) -> None:
        """Open it in a directory that is its own; other processes may have opened it there already."""

    @abstractmethod
    def push(self, body: bytes) -> None:
        """Push a message; as durable as was asked for when it returns."""

    @abstractmethod
    def pop(self) -> Taken | None:
        """Take the next message; None if there is none."""

    @abstractmethod
    def ack(self, receipt: Any) -> None:  # noqa: ANN401 - each has its own
        """Remove a message for good."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    def pop_waiting(self, seconds: float) -> Taken | None:  # noqa: ARG002 - for those that can wait
        """Take the next message; wait for one in the best way that there is, for about that long at most."""
        taken = self.pop()
        if taken is None:
            time.sleep(POLL)
        return taken

    def push_many(self, bodies: Sequence[bytes]) -> None:
        """Push messages, durable as a whole."""
        for body in bodies:
            self.push(body)

    def pop_many(self, limit: int) -> list[Taken]:
        """Take up to that many."""
        found: list[Taken] = []
        while len(found) < limit and (taken := self.pop()) is not None:
            found.append(taken)
        return found

    def ack_many(self, receipts: Sequence[Any]) -> None:
        """Remove them all."""
        for receipt in receipts:
            self.ack(receipt)


class Mailq(Side):
    """Mailq, as a program uses it."""

    name, batches = "mailq", True

    def __init__(self, directory: str, *, durable: bool) -> None:
        self._queue = mailq.open(os.path.join(directory, "queue"), durability=POWER_LOSS if durable else PROCESS_CRASH)

    def push(self, body: bytes) -> None:
        self._queue.push(body)

    def pop(self) -> Taken | None:
        return self._taken(self._queue.pop())

    def pop_waiting(self, seconds: float) -> Taken | None:
        return self._taken(self._queue.pop(wait=seconds))

    @staticmethod
    def _taken(delivery: mailq.Delivery | None) -> Taken | None:
        return None if delivery is None else (delivery.raw, delivery)

    def ack(self, receipt: mailq.Delivery) -> None:
        receipt.ack()

    def push_many(self, bodies: Sequence[bytes]) -> None:
        self._queue.push_many(bodies)

    def pop_many(self, limit: int) -> list[Taken]:
        return [(delivery.raw, delivery) for delivery in self._queue.pop_many(limit)]

    def close(self) -> None:
        self._queue.close()


def warm_up(side: Side, count: int) -> None:
    """Push, pop and ack; others may do so at the same time, and each has a message then."""
    for _ in range(count):
        side.push(bytes(1 << 10))
        while (taken := side.pop_waiting(0.05)) is None:
            pass
        side.ack(taken[1])


@contextlib.contextmanager
def fresh(kind: type[Side], directory: str, durability: str) -> Iterator[tuple[str, Side]]:
    """A side with nothing in it, and the directory of its own that others can open it in.

    What was written before is on disk when it begins, so that nobody pays for it.
    """
    durable = durability == POWER_LOSS
    path = tempfile.mkdtemp(prefix=f"{kind.name}-", dir=directory)
    try:
        with kind.served(path, durable=durable), contextlib.closing(kind(path, durable=durable)) as side:
            sync_disk(path)
            yield path, side
    finally:
        shutil.rmtree(path)


def sync_disk(path: str) -> None:
    """Have everything written that waits to be, on this file system if that can be said, else on all."""
    if not can_syncfs():
        os.sync()
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        Disk().syncfs(fd)
    finally:
        os.close(fd)
