"""The verbs whose system calls are counted, in a process that does nothing else meanwhile.

python calling.py DIRECTORY CLASS: carry them out; a look at ``/begin-of/<verb>`` comes before each, one at
``/end-of/<verb>`` after it, for whoever traces the process.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from unittest import mock

import mailq
from mailq import ids
from mailq.engines.maildir import delayed, journal, ready
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine

SINGLES: Final = 8
BATCH: Final = 64
BODY: Final = b"x" * 1024
_LONG: Final = 3600.0
"""What comes due from time to time does not come due in so many seconds."""

CLASSES: Final = ("process-crash", "power-loss", "power-loss with a journal")


class Scene(NamedTuple):
    """Some turns of a verb, with so many messages in all."""

    verb: str
    turns: int
    messages: int
    act: Callable[[], None]


class _Disk(Disk):
    """A disk that is said to keep the order of changes, or not to, and to make no fast commits, wherever it is."""

    _looks_left = 0

    def __init__(self, *, keeps_order: bool) -> None:
        self._keeps_order = keeps_order

    def keeps_order(self, path: str) -> bool:
        return self._keeps_order


@contextlib.contextmanager
def scenes(directory: str, kind: str) -> Iterator[Iterator[Scene]]:
    """The scenes of one class of durability, each to be played before the next is asked for."""
    path = os.path.join(directory, "jobs")
    mailq.open(path, durability=kind.split(maxsplit=1)[0], reap_interval=_LONG).close()
    disk = _Disk(keeps_order=kind == CLASSES[2])
    with (
        mock.patch.object(ready, "_FRESH", _LONG),
        mock.patch.object(ready, "_MUCH", _LONG),
        mock.patch.object(delayed, "_FRESH", _LONG),
        mock.patch.object(ids, "_RANDOM_NUMBERS", 1000),  # one draw for all of them
        mailq.Queue(MaildirEngine(path, disk=disk)) as queue,
    ):
        yield _scenes(_Stage(queue))


class _Stage:
    """The verbs on one queue, and what is held there."""

    def __init__(self, queue: mailq.Queue) -> None:
        self._queue = queue
        self._held: list[mailq.Delivery] = []

    def push(self) -> None:
        for _ in range(SINGLES):
            self._queue.push(BODY)

    def push_many(self) -> None:
        self._queue.push_many([BODY] * BATCH)

    def pop(self) -> None:
        for _ in range(SINGLES):
            self._take(self._queue.pop())

    def pop_many(self, limit: int = BATCH) -> None:
        for delivery in self._queue.pop_many(limit):
            self._take(delivery)

    def _take(self, delivery: mailq.Delivery | None) -> None:
        assert delivery is not None
        assert delivery.body == BODY
        self._held.append(delivery)

    def ack(self) -> None:
        while self._held:
            self._held.pop().ack()

    def in_turn(self) -> None:
        for _ in range(SINGLES):
            self._queue.push(BODY)
            self._take(self._queue.pop())
            self.ack()

    def rely_on_the_kernel(self) -> None:
        with mock.patch.object(ready, "_MUCH", 0.0):
            self._queue.pop()

    def warm_up(self) -> None:
        """What is done once: the owner's file, the random numbers, the journal."""
        for _ in range(journal.PUSHES_BEFORE_JOURNAL + 1):
            self._queue.push(BODY)
        self.pop_many(1000)
        self.ack()


def _scenes(stage: _Stage) -> Iterator[Scene]:
    stage.warm_up()
    stage.push()  # with these, those that come now are listed
    yield Scene("push", SINGLES, SINGLES, stage.push)
    stage.pop()
    stage.ack()
    yield Scene("pop", SINGLES, SINGLES, stage.pop)
    yield Scene("ack", SINGLES, SINGLES, stage.ack)
    yield Scene("push, pop, ack in turn", SINGLES, SINGLES, stage.in_turn)
    yield Scene("push_many", 1, BATCH, stage.push_many)
    yield Scene("pop_many", 1, BATCH, stage.pop_many)
    yield Scene("acks of many", 1, BATCH, stage.ack)
    stage.rely_on_the_kernel()
    yield Scene("push, pop, ack in turn, told by the kernel", SINGLES, SINGLES, stage.in_turn)


def main(directory: str, kind: str) -> None:
    with scenes(directory, kind) as played:
        for scene in played:
            os.path.exists(f"/begin-of/{scene.verb}")
            scene.act()
            os.path.exists(f"/end-of/{scene.verb}")


if __name__ == "__main__":
    main(*sys.argv[1:])
