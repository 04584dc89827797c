from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from janitor import memory
from queue_model import Model

import mailq
from mailq.engines.base import Engine
from mailq.engines.maildir import ready
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.layout import Layout, create
from mailq.engines.memory import MemoryEngine
from mailq.message import STATES, State
from mailq.testing import ManualClock

delays = st.sampled_from((0, 0, 5_000, 40_000))


class TickingClock(ManualClock):
    """Moved by hand, and a little each time that it is read: what was just done is before what is done now."""

    def __call__(self) -> int:
        self.advance(1e-9)
        return super().__call__()


class QueueMachine(RuleBasedStateMachine):
    """Does whatever it likes to a queue, and the same to the model."""

    receipts: Bundle[str] = Bundle("receipts")
    on_disk: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        # Away from the real time: the lock file of the reaping is stamped with that when it is made.
        self.clock = TickingClock()
        self.clock.advance(3600)
        self.start = self.clock()
        self.clock.advance(0.0007)  # leases are rounded up to milliseconds, and what is compared here to the nearest
        self.root = tempfile.mkdtemp(dir=memory()) if self.on_disk else ""

    @initialize(order=st.sampled_from(("front", "back")))
    def open(self, order: str) -> None:
        settings = mailq.Settings(
            retry_order=order,
            max_retries=2,
            reap_interval=0.001,
            durability="process-crash",
            backoff=mailq.Backoff(5, 5),
        )
        self.model = Model(front=order == "front")
        self.queue = mailq.Queue(self._engine(settings))

    def _engine(self, settings: mailq.Settings) -> Engine:
        if not self.on_disk:
            return MemoryEngine(settings, clock=self.clock)
        create(Layout(self.root), settings, Disk())
        return MaildirEngine(self.root, clock=self.clock)

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            self.queue.close()
        if self.root:
            shutil.rmtree(self.root)

    def tick(self, seconds: float = 0.0) -> int:
        """No two acts happen in the same millisecond, so that the order of all of them is certain."""
        self.clock.advance(seconds + 0.001)
        return round((self.clock() - self.start) / 1_000_000)

    def settle(self, verb: str, receipt: str, act: Callable[[], object]) -> bool:
        """Act on a receipt; whether the lease was good, which the model foresaw."""
        held = self.model.held(receipt) is not None
        if held:
            act()
        else:
            with pytest.raises(mailq.LeaseLost) as lost:
                act()
            assert (lost.value.verb, lost.value.receipt) == (verb, receipt)
        return held

    # The verbs

    @rule(
        bodies=st.lists(st.text(max_size=3), max_size=4),
        delay=delays,
        priority=st.sampled_from((0, 0, 1, 9)),
        max_retries=st.sampled_from((None, None, 0, 1)),
    )
    def push(self, bodies: list[str], delay: int, priority: int, max_retries: int | None) -> None:
        now = self.tick()
        ids = self.queue.push_many(bodies, delay=delay / 1000, priority=priority, max_retries=max_retries)
        self.model.push(ids, now, delay=delay, priority=priority, max_retries=2 if max_retries is None else max_retries)

    @rule(target=receipts, limit=st.integers(1, 3))
    def pop(self, limit: int) -> MultipleResults[str]:
        now = self.tick()
        deliveries = self.queue.pop_many(limit)
        self.model.reap(now)
        for delivery in deliveries:
            assert delivery.id in self.model.next()
            entry = self.model.pop(delivery.id, delivery.receipt, now)
            assert delivery.attempt == entry.since + 1
            outcomes = [attempt.outcome for attempt in delivery.history]
            assert outcomes == entry.story[len(entry.story) - len(outcomes) :]
        assert len(deliveries) == limit or not self.model.next()
        return multiple(*(delivery.receipt for delivery in deliveries))

    @rule(receipt=receipts)
    def ack(self, receipt: str) -> None:
        self.tick()
        if self.settle("ack", receipt, lambda: self.queue.ack(receipt)):
            entry = self.model.held(receipt)
            assert entry is not None
            self.model.ack(entry)

    @rule(receipt=receipts, delay=delays, error=st.none() | st.text(max_size=3))
    def nack(self, receipt: str, delay: int, error: str | None) -> None:
        now = self.tick()
        if self.settle("nack", receipt, lambda: self.queue.nack(receipt, delay=delay / 1000, error=error)):
            entry = self.model.held(receipt)
            assert entry is not None
            self.model.fail(entry, "nack" if error is None else "error", now, delay=delay)

    @rule(receipt=receipts, delay=delays)
    def release(self, receipt: str, delay: int) -> None:
        now = self.tick()
        if self.settle("release", receipt, lambda: self.queue.release(receipt, delay=delay / 1000)):
            entry = self.model.held(receipt)
            assert entry is not None
            self.model.release(entry, now, delay=delay)

    @rule(receipt=receipts)
    def reject(self, receipt: str) -> None:
        now = self.tick()
        if self.settle("reject", receipt, lambda: self.queue.reject(receipt, "why")):
            entry = self.model.held(receipt)
            assert entry is not None
            self.model.fail(entry, "rejected", now)

    @rule(receipt=receipts, by=st.sampled_from((0, 30_000, 90_000)))
    def extend(self, receipt: str, by: int) -> None:
        now = self.tick()
        entry = self.model.held(receipt)
        if entry is None or not self.model.extend(entry, now, by):
            with pytest.raises(mailq.LeaseLost):
                self.queue.extend(receipt, by / 1000)
        else:
            at = self.queue.extend(receipt, by / 1000)
            assert round(at * 1000 - self.start / 1_000_000) == entry.deadline

    @rule(seconds=st.sampled_from((5, 40, 61)))
    def expire(self, seconds: int) -> None:
        self.tick(seconds)

    @rule()
    def reap(self) -> None:
        now = self.tick()
        assert self.queue.reap()[:3] == self.model.reap(now)

    @rule()
    def redrive_all(self) -> None:
        now = self.tick()
        assert self.queue.redrive() == self.model.redrive(None, now)

    @rule(data=st.data())
    def redrive_some(self, data: st.DataObject) -> None:
        now = self.tick()
        ids = (
            data.draw(st.sets(st.sampled_from(sorted(self.model.entries)), max_size=3)) if self.model.entries else set()
        )
        assert self.queue.redrive(ids) == self.model.redrive(ids, now)

    @precondition(lambda self: len(self.model.entries) > 5)
    @rule(state=st.sampled_from(STATES))
    def purge(self, state: State) -> None:
        self.tick()
        assert self.queue.purge(state) == self.model.purge(state)

    # What must always hold

    @invariant()
    def every_message_is_where_the_model_has_it(self) -> None:
        if not hasattr(self, "queue"):
            return
        stats = self.queue.stats()._asdict()
        for state in STATES:
            listed = self.queue.peek(state, limit=None)
            expected = self.model.state(state)
            assert sorted(message.id for message in listed) == sorted(entry.id for entry in expected)
            assert stats[state] == len(expected)
            lines = [self.model.entries[message.id].line for message in listed]
            assert lines == sorted(lines)
            for message in listed:
                entry = self.model.entries[message.id]
                assert message.attempt == entry.since + 1
                if state == "leased":
                    assert round((message.deadline_at or 0) * 1000 - self.start / 1_000_000) == entry.deadline


class MaildirMachine(QueueMachine):
    """The same on disk."""

    on_disk = True


STEADY = settings(
    max_examples=250,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


WAYS = pytest.mark.parametrize(
    ("machine", "much"),
    [
        pytest.param(QueueMachine, 0.0, id="memory"),
        pytest.param(MaildirMachine, 3600.0, id="listing"),
        pytest.param(MaildirMachine, 0.0, id="hearing"),  # the kernel's word is believed from the first listing on
    ],
)


@WAYS
def test_a_queue_does_what_the_model_does(
    machine: type[QueueMachine], much: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_MUCH", much)
    run_state_machine_as_test(machine, settings=STEADY)


@WAYS
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_queue_does_what_the_model_does_for_long(
    machine: type[QueueMachine], much: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_MUCH", much)
    long = settings(STEADY, max_examples=1500, stateful_step_count=80, derandomize=False)
    run_state_machine_as_test(machine, settings=long)
