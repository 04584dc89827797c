"""A queue on which a verb is tried while its disk fails or its process dies."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from fault_books import Book, Change
from faulty import Fault, FaultyDisk

import mailq
from mailq.engines.maildir.engine import MaildirEngine
from mailq.testing import ManualClock


class Stage:
    """Prepares on a sound disk; ``act`` is the one moment at which the fault is armed."""

    def __init__(self, base: str, disk: FaultyDisk, fault: Fault | None = None) -> None:
        self.base = base
        self.disk = disk
        self.clock = ManualClock()
        self.book = Book()
        self.fault = fault
        self.fired = False
        self.called: Counter[str] = Counter()
        self.raised: BaseException | None = None
        self.returned = False
        self.misled = False
        self.failures: list[str] = []
        self.announce: Callable[[Book], None] = lambda book: None
        self._queue: mailq.Queue | None = None
        self._bodies = 0

    @property
    def path(self) -> str:
        return f"{self.base}/{self.book.roots[0]}"

    @property
    def home(self) -> str:
        """The queue for shared dead letters."""
        return f"{self.base}/{self.book.roots[1]}"

    @property
    def q(self) -> mailq.Queue:
        assert self._queue is not None
        return self._queue

    @property
    def engine(self) -> Any:
        return self.q._engine

    def another(self) -> mailq.Queue:
        """The queue as another process has it, whose disk is sound."""
        return mailq.Queue(MaildirEngine(self.path, clock=self.clock))

    def make(self, **settings: Any) -> None:
        """Make the queue on a sound disk, and open it on one's own."""
        mailq.open(self.path, **settings).close()
        self.book.is_made = True
        self._queue = mailq.Queue(MaildirEngine(self.path, disk=self.disk, clock=self.clock))

    def open(self, **settings: Any) -> None:
        """What ``mailq.open`` does, on this disk."""
        with mock.patch("mailq.engines.maildir.disk.Disk", return_value=self.disk):
            queue = mailq.open(self.path, **settings)
        if self._queue is not None:
            self._queue.close()
        self._queue = queue

    # To prepare

    def bodies(self, count: int) -> list[bytes]:
        """So many bodies that no other message has."""
        self._bodies += count
        return [b"message %d" % number for number in range(self._bodies - count, self._bodies)]

    def pushed(self, count: int = 1, **options: Any) -> list[str]:
        bodies = self.bodies(count)
        ids = self.q.push_many(bodies, **options)
        self.book.pushed(ids, bodies)
        return ids

    def taken(self, **options: Any) -> mailq.Delivery:
        delivery = self.q.pop(**options)
        assert delivery is not None
        self.allow({delivery.id: "dead"} if delivery.is_last_attempt else {})
        return delivery

    def died(self, count: int = 1, **options: Any) -> list[str]:
        """So many messages that were given up on, with a text."""
        ids = self.pushed(count, **options)
        for delivery in self.q.pop_many(1000):
            delivery.reject("given up on")
            self.book.places[delivery.id] = {"dead"}
        return ids

    def allow(self, places: dict[str, str]) -> None:
        for id, place in places.items():
            self.book.places[id].add(place)

    # The verb itself

    def act(self, verb: Callable[[], Any], **changes: Any) -> Any:
        """Call it with the fault armed, at the first time; if it raises, once more on a disk that is sound again."""
        change = Change(**changes)
        self.book.begin(change)
        self.announce(self.book)
        fault, self.fault = self.fault, None
        self.returned, self.misled = False, fault is not None and misleading(fault)
        with self._armed(fault):
            try:
                result = verb()
            except mailq.MailqError as error:
                if fault is None:
                    raise
                self.raised = error
        if fault is None or self.raised is None:
            return self._done(change, result, fault)
        if not isinstance(self.raised, mailq.StorageError) and not misleading(fault):
            self.failures.append(f"raised {self.raised!r}")
        self.book.failed(self.raised)
        self._require_tidy(fault)
        # After a call that was made, what was left as it is must be sound: trying again might mend it.
        return None if fault.made else self._again(verb, change, fault)

    @contextlib.contextmanager
    def _armed(self, fault: Fault | None) -> Iterator[None]:
        self.disk.arm(fault)
        try:
            yield
        finally:
            if fault is not None:
                self.fired = self.disk.fired
                self.called = Counter(self.disk.armed_calls)
            self.disk.arm(None)

    def _done(self, change: Change, result: Any, fault: Fault | None) -> Any:
        if fault is None or not misleading(fault):
            self.book.done(change, result)
        elif change.pushing:
            self.book.pushed(result, change.pushing)
        self.announce(self.book)
        self.returned = True
        return result

    def _again(self, verb: Callable[[], Any], change: Change, fault: Fault) -> Any:
        self.book.begin(change)
        try:
            result = verb()
        except mailq.MailqError as error:
            if not misleading(fault):
                self.failures.append(f"raised {self.raised!r}, and when tried again {error!r}")
            return None
        return self._done(change, result, fault)

    def _require_tidy(self, fault: Fault) -> None:
        """Who fails takes away at once what he wrote; if the disk lets him, reaping does else."""
        if fault.lasting or fault.made or "unlink" in fault.kinds:
            return
        for root in (self.path, self.home):
            with contextlib.suppress(FileNotFoundError):
                self.failures += [f"litter: {root}/tmp/{name}" for name in os.listdir(f"{root}/tmp")]

    def expect(self, condition: object, what: str) -> None:
        """Holds once the verb has returned."""
        if self.returned and not condition:
            self.failures.append(f"returned, but not so: {what}")


def misleading(fault: Fault) -> bool:
    """Whether the disk said what was not so: that a call failed which was made, or that a file is gone."""
    return fault.made or getattr(fault.error, "errno", 0) == errno.ESTALE


def descriptors() -> int:
    """How many this process has open, where the system tells."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
