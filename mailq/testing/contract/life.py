# ruff: noqa: PLR2004 - what a test expects are numbers
"""Bells, receipts that are taken up again, and how a lease or an attempt ends."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mailq.errors import (
    InvalidReceipt,
    LeaseLost,
    UsageError,
)
from mailq.queue import Queue
from mailq.settings import Settings
from mailq.testing.contract.base import LEASE, PATIENCE, ContractBase, lapse, take

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import EngineFactory

_NO_RECEIPTS: dict[str, Any] = {
    "empty": "",
    "a path": "../mailq.toml",
    "a NUL": "x\0y",
    "an id": "0" * 32,
    "bytes": b"x",
    "a number": 7,
    "None": None,
}

_NO_OUTCOMES: dict[str, Any] = {
    "rejected": "rejected",
    "a letter": "e",
    "in capitals": "TIMEOUT",
    "a path": "../timeout",
    "a number": 7,
    "a list": ["timeout"],
}


def _in_a_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    return thread, results


class _Bell:
    """Counts, and can be waited for."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def __call__(self) -> None:
        self._rung.set()

    def forget(self) -> None:
        """From here on."""
        self._rung.clear()

    def rang(self, patience: float = PATIENCE) -> bool:
        """Whether it rings before the patience ends."""
        return self._rung.wait(patience)


def _listening(queue: Queue) -> _Bell:
    """A bell on a queue that has nothing, relied on from now on."""
    bell = _Bell()
    assert queue.pop() is None
    while queue.subscribe(bell) == 0:
        assert queue.pop() is None
    bell.forget()
    return bell


class LifeContract(ContractBase):
    """What a worker needs besides pop and settle."""

    # Listening

    def test_a_bell_rings_at_a_push(self, queue: Queue) -> None:
        bell = _listening(queue)
        queue.push("x")
        assert bell.rang()
        assert take(queue).body == "x"

    def test_a_bell_rings_at_every_push(self, queue: Queue) -> None:
        bell = _listening(queue)
        for n in range(3):
            bell.forget()
            queue.push(n)
            assert bell.rang()
            take(queue).ack()

    def test_a_bell_rings_at_a_push_from_another_thread(self, queue: Queue) -> None:
        bell = _listening(queue)
        thread, ids = _in_a_thread(lambda: queue.push("x"))
        assert bell.rang()
        thread.join(PATIENCE)
        assert take(queue).id == ids[0]

    def test_a_bell_rings_at_a_release(self, queue: Queue) -> None:
        queue.push("x")
        delivery = take(queue)
        bell = _listening(queue)
        delivery.release()
        assert bell.rang()
        assert take(queue).body == "x"

    def test_a_bell_rings_at_a_redrive(self, queue: Queue) -> None:
        queue.push("x")
        take(queue).reject()
        bell = _listening(queue)
        queue.redrive()
        assert bell.rang()
        assert take(queue).body == "x"

    def test_a_bell_rings_when_the_queue_is_resumed(self, queue: Queue) -> None:
        queue.push("x")
        queue.pause()
        bell = _listening(queue)
        queue.resume()
        assert bell.rang()
        assert take(queue).body == "x"

    def test_every_bell_rings(self, queue: Queue) -> None:
        one, other = _listening(queue), _listening(queue)
        queue.push("x")
        assert one.rang()
        assert other.rang()

    def test_a_bell_is_relied_on_for_no_longer_than_until_the_next_message_is_due(self, queue: Queue) -> None:
        queue.push("in an hour", delay=3600)
        queue.push("soon", delay=0.25)
        assert queue.pop() is None
        bell = _Bell()
        for _ in range(3):
            assert 0 <= queue.subscribe(bell) <= 0.25
            assert queue.pop() is None

    def test_a_bell_is_not_relied_on_for_a_message_that_is_due(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x", delay=0.25)
        bell = _listening(queue)
        clock.advance(0.3)
        assert queue.subscribe(bell) == 0
        assert take(queue).body == "x"

    def test_a_listener_polls_seldom_while_nothing_comes(self, queue: Queue) -> None:
        bell = _listening(queue)
        assert queue.subscribe(bell) >= 0.1

    def test_a_message_that_came_before_the_bell_is_not_slept_over(self, queue: Queue) -> None:
        """It came after the last pop, so no bell rang for it; and somebody in this process waited before."""
        assert queue.pop(wait=0.01) is None
        queue.push("x")
        bell = _Bell()
        assert queue.subscribe(bell) == 0 or bell.rang(0)

    def test_a_bell_that_raises_does_not_make_a_push_look_failed(self, queue: Queue) -> None:
        """An event loop that is closed by now, for one."""

        def broken() -> None:
            if threading.current_thread() is threading.main_thread():  # an engine's own thread is its own business
                raise RuntimeError("Event loop is closed")

        queue.subscribe(broken)
        id = queue.push("x")
        assert take(queue).id == id

    # Taking up a delivery by its receipt

    def test_a_delivery_is_taken_up_again_by_its_receipt(self, queue: Queue) -> None:
        queue.push({"n": 1}, headers={"trace": "7"}, priority=3)
        take(queue).nack(delay=0)
        first = take(queue)
        second = queue.delivery(first.receipt)
        assert (second.body, second.attempt, second.headers) == ({"n": 1}, 2, {"trace": "7"})
        assert (second.id, second.receipt, second.priority) == (first.id, first.receipt, 3)
        assert (second.deadline_at, second.content_type, second.size) == (
            first.deadline_at,
            first.content_type,
            first.size,
        )
        assert (second.history, second.state) == (first.history, "leased")
        second.ack()
        assert len(queue) == 0

    def test_an_engine_hands_out_a_claim_again_as_it_was(self, make_engine: EngineFactory, clock: ManualClock) -> None:
        engine = make_engine(Settings(), clock)
        queue = Queue(engine)
        queue.push("x", headers={"trace": "7"})
        (claim,) = engine.claim(1, lease=None, detached=True).claims
        assert engine.claimed(claim.receipt) == claim
        queue.close()

    def test_a_detached_delivery_is_taken_up_again_by_its_receipt(self, queue: Queue) -> None:
        queue.push("x")
        receipt = str(take(queue, detached=True).receipt)
        with queue.delivery(receipt) as body:
            assert body == "x"
        assert len(queue) == 0

    def test_a_delivery_that_is_taken_up_again_has_the_extended_deadline(
        self, queue: Queue, clock: ManualClock
    ) -> None:
        queue.push("x")
        first = take(queue)
        first.extend(300)
        second = queue.delivery(first.receipt)
        assert second.deadline_at == pytest.approx(clock.seconds + 300, abs=0.01)

    def test_looking_at_a_held_message_does_not_move_its_deadline(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x")
        delivery = take(queue)
        clock.advance(LEASE - 1)
        assert queue.delivery(delivery.receipt).deadline_at == delivery.deadline_at
        clock.advance(1)
        assert queue.reap().returned == 1

    def test_a_lease_that_has_run_out_is_not_taken_up(self, queue: Queue, clock: ManualClock) -> None:
        """Also when nobody has taken the message back yet: somebody may be about to."""
        queue.push("x")
        delivery = take(queue)
        delivery.extend(2 * LEASE)
        clock.advance(2 * LEASE)
        with pytest.raises(LeaseLost):
            queue.delivery(delivery.receipt)

    @pytest.mark.parametrize("how", ["acked", "nacked", "released", "rejected", "lapsed", "purged"])
    def test_what_is_not_held_any_more_cannot_be_taken_up(self, queue: Queue, clock: ManualClock, how: str) -> None:
        queue.push("x")
        delivery = take(queue)
        _lose(how, queue, clock, delivery.receipt)
        with pytest.raises(LeaseLost) as lost:
            queue.delivery(delivery.receipt)
        assert lost.value.receipt == delivery.receipt

    def test_the_old_holder_cannot_take_up_what_a_new_one_has(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x")
        old = take(queue)
        lapse(queue, clock)
        new = take(queue)
        with pytest.raises(LeaseLost):
            queue.delivery(old.receipt)
        assert queue.delivery(new.receipt).attempt == 2

    @pytest.mark.parametrize("receipt", _NO_RECEIPTS.values(), ids=_NO_RECEIPTS)
    def test_nonsense_is_not_taken_up(self, queue: Queue, receipt: Any) -> None:  # noqa: ANN401 - wrong on purpose
        queue.push("x")
        take(queue)
        with pytest.raises(InvalidReceipt):
            queue.delivery(receipt)
        assert queue.stats().leased == 1

    # Noticing a loss

    def test_a_delivery_is_not_lost_while_it_is_held(self, queue: Queue) -> None:
        queue.push("x")
        delivery = take(queue)
        assert not delivery.lost
        delivery.extend(2 * LEASE)
        assert not delivery.lost
        assert not queue.delivery(delivery.receipt).lost

    @pytest.mark.parametrize("how", ["acked", "nacked", "released", "rejected", "lapsed", "purged"])
    def test_a_delivery_is_lost_when_somebody_else_ended_it(self, queue: Queue, clock: ManualClock, how: str) -> None:
        queue.push("x")
        delivery = take(queue)
        _lose(how, queue, clock, delivery.receipt)
        assert delivery.lost
        assert not delivery.settled

    def test_a_delivery_is_lost_when_its_time_is_up_though_nobody_reaped(self, make_engine: EngineFactory) -> None:
        queue = Queue(make_engine(Settings(), time.time_ns))
        queue.push("x")
        delivery = take(queue, lease=0.01)
        end = time.monotonic() + PATIENCE
        while not delivery.lost:
            assert time.monotonic() < end
        assert time.time() >= (delivery.deadline_at or 0)
        assert queue.stats().leased == 1
        queue.close()

    def test_a_delivery_stays_lost_when_another_has_the_message(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x")
        old = take(queue)
        lapse(queue, clock)
        new = take(queue)
        assert old.lost
        assert not new.lost

    def test_a_delivery_that_its_holder_settled_is_not_lost(self, queue: Queue) -> None:
        queue.push("x")
        delivery = take(queue)
        delivery.ack()
        assert not delivery.lost

    # How an attempt ended

    @pytest.mark.parametrize("outcome", ["timeout", "killed", "error", "nack"])
    @pytest.mark.parametrize("error", [None, "it took 90 s"])
    def test_an_attempt_ends_as_its_holder_says(self, queue: Queue, outcome: str, error: str | None) -> None:
        queue.push("x")
        take(queue).nack(delay=0, error=error, outcome=outcome)
        delivery = take(queue)
        assert delivery.attempt == 2
        assert [(a.number, a.outcome, a.error) for a in delivery.history] == [(1, outcome, error)]

    def test_every_attempt_keeps_its_own_ending(self, queue: Queue) -> None:
        queue.push("x")
        for outcome in ("timeout", "killed", None):
            queue.nack(take(queue).receipt, delay=0, outcome=outcome)
        assert [attempt.outcome for attempt in take(queue).history] == ["timeout", "killed", "nack"]

    def test_an_attempt_that_timed_out_counts_like_any_other(self, queue: Queue) -> None:
        id = queue.push("x", max_retries=0)
        take(queue).nack(outcome="timeout")
        message = queue.get(id)
        assert (message.state, message.reason) == ("dead", "retries")
        assert [attempt.outcome for attempt in message.history] == ["timeout"]

    @pytest.mark.parametrize("outcome", _NO_OUTCOMES.values(), ids=_NO_OUTCOMES)
    def test_an_ending_that_there_is_not_is_refused_and_changes_nothing(
        self,
        queue: Queue,
        outcome: Any,  # noqa: ANN401 - wrong on purpose
    ) -> None:
        queue.push("x")
        delivery = take(queue)
        before = queue.stats()._replace(oldest_ready_age=None)
        with pytest.raises(UsageError):
            queue.nack(delivery.receipt, error="no", outcome=outcome)
        with pytest.raises(UsageError):
            delivery.nack(error="no", outcome=outcome)
        assert queue.stats()._replace(oldest_ready_age=None) == before
        assert not delivery.settled
        assert not delivery.lost
        delivery.release()
        assert (take(queue).attempt, delivery.history) == (1, [])


def _lose(how: str, queue: Queue, clock: ManualClock, receipt: str) -> None:
    """End a delivery behind its holder's back."""
    match how:
        case "acked":
            queue.ack(receipt)
        case "nacked":
            queue.nack(receipt, delay=0)
        case "released":
            queue.release(receipt)
        case "rejected":
            queue.reject(receipt)
        case "lapsed":
            lapse(queue, clock)
        case "purged":
            queue.purge("leased")
