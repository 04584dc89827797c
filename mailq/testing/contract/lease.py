"""The contract of a lease: it ends by time, it can be moved on, and it leaves no trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mailq.errors import LeaseLost, UsageError
from mailq.testing.contract.base import LEASE, ContractBase, bodies, lapse, take

if TYPE_CHECKING:
    from mailq.delivery import Delivery
    from mailq.queue import Queue
    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import OpenQueue


def _give_back(how: str, queue: Queue, clock: ManualClock, delivery: Delivery) -> None:
    """Give a message back in one of the ways there are, and wait until it is ready."""
    match how:
        case "released":
            delivery.release()
        case "released with a delay":
            delivery.release(delay=5)
        case "nacked":
            delivery.nack(delay=0)
        case "nacked with a delay":
            delivery.nack(delay=5)
        case "rejected and redriven":
            delivery.reject()
            queue.redrive()
        case "lapsed":
            lapse(queue, clock, 1000)
    clock.advance(6)


_WAYS_BACK = (
    "released",
    "released with a delay",
    "nacked",
    "nacked with a delay",
    "rejected and redriven",
    "lapsed",
)


class LeaseContract(ContractBase):
    """Deadlines, extensions and what becomes of a lease that ran out."""

    def test_a_leased_message_is_not_delivered_again(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x")
        take(queue)
        assert queue.pop() is None
        lapse(queue, clock, LEASE - 1)
        assert queue.pop() is None

    def test_a_lease_that_ran_out_gives_the_message_back(self, queue: Queue, clock: ManualClock) -> None:
        id = queue.push("x")
        first = take(queue)
        clock.advance(LEASE)
        reaped = queue.reap()
        assert (reaped.returned, reaped.died, reaped.due) == (1, 0, 0)
        second = take(queue)
        assert (second.id, second.body, second.attempt) == (id, "x", 2)
        assert second.receipt != first.receipt
        assert [(attempt.number, attempt.outcome) for attempt in second.history] == [(1, "timeout")]

    def test_consumers_reap_by_themselves(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x")
        take(queue)
        clock.advance(LEASE + queue.settings.reap_interval)
        assert take(queue).body == "x"

    def test_reaping_finds_nothing_where_nothing_ran_out(self, queue: Queue) -> None:
        queue.push("ready")
        queue.push("leased", priority=1)
        queue.push("delayed", delay=30)
        take(queue)
        assert queue.reap()[:3] == (0, 0, 0)

    def test_reaping_readies_what_is_due(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x", delay=30)
        clock.advance(31)
        assert queue.reap().due == 1
        assert queue.stats().ready == 1
        assert queue.reap().due == 0

    @pytest.mark.parametrize(
        ("of_the_call", "of_the_message", "expected"), [(None, None, 60), (None, 30, 30), (10, None, 10), (90, 30, 90)]
    )
    def test_the_calls_lease_comes_before_the_messages_and_that_before_the_queues(
        self,
        queue: Queue,
        clock: ManualClock,
        of_the_call: float | None,
        of_the_message: float | None,
        expected: float,
    ) -> None:
        queue.push("x", lease=of_the_message)
        delivery = take(queue, lease=of_the_call)
        assert delivery.deadline_at == pytest.approx(clock.seconds + expected, abs=0.01)
        lapse(queue, clock, expected - 1)
        assert queue.pop() is None
        lapse(queue, clock, 1.01)
        assert take(queue, lease=of_the_call).attempt == 2  # noqa: PLR2004 - the second

    def test_a_retry_has_the_messages_own_lease_again(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x", lease=30)
        take(queue, lease=10).nack(delay=0)
        assert take(queue).deadline_at == pytest.approx(clock.seconds + 30, abs=0.01)

    # Extending

    def test_an_extended_lease_holds_until_its_new_deadline(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x")
        delivery = take(queue)
        clock.advance(50)
        delivery.extend(100)
        assert delivery.deadline_at == pytest.approx(clock.seconds + 100, abs=0.01)
        lapse(queue, clock, 99)
        assert queue.pop() is None
        lapse(queue, clock, 1.01)
        assert take(queue).attempt == 2  # noqa: PLR2004 - the second

    def test_an_extension_by_receipt_returns_the_new_deadline(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x")
        delivery = take(queue)
        assert queue.extend(delivery.receipt, 300) == pytest.approx(clock.seconds + 300, abs=0.01)
        (seen,) = queue.peek("leased")
        assert seen.deadline_at == pytest.approx(clock.seconds + 300, abs=0.01)

    def test_a_lease_can_be_extended_again_and_again(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x")
        delivery = take(queue)
        for _ in range(5):
            clock.advance(50)
            delivery.extend(60)
            queue.reap()
        delivery.ack()
        assert len(queue) == 0

    @pytest.mark.parametrize("seconds", [0, 1, 59])
    def test_an_extension_never_shortens_a_lease(self, queue: Queue, clock: ManualClock, seconds: float) -> None:
        queue.push("x")
        delivery = take(queue)
        deadline_at = delivery.deadline_at
        delivery.extend(seconds)
        assert delivery.deadline_at == pytest.approx(deadline_at, abs=0.01)
        lapse(queue, clock, LEASE - 1)
        assert queue.pop() is None

    @pytest.mark.parametrize("late", [0.0, 1.0, 3600.0])
    def test_an_extension_after_the_deadline_comes_too_late_even_if_nobody_noticed(
        self, queue: Queue, clock: ManualClock, late: float
    ) -> None:
        queue.push("x")
        delivery = take(queue)
        clock.advance(LEASE + late)
        with pytest.raises(LeaseLost) as lost:
            delivery.extend(60)
        assert (lost.value.verb, lost.value.receipt) == ("extend", delivery.receipt)
        assert queue.reap().returned == 1
        assert take(queue).body == "x"

    def test_an_extended_lease_cannot_be_extended_after_its_new_deadline(
        self, queue: Queue, clock: ManualClock
    ) -> None:
        queue.push("x")
        delivery = take(queue)
        delivery.extend(100)
        clock.advance(100)
        with pytest.raises(LeaseLost):
            delivery.extend(60)

    @pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), "60", None])
    def test_an_extension_by_an_impossible_time_is_refused(self, queue: Queue, seconds: float) -> None:
        queue.push("x")
        delivery = take(queue)
        with pytest.raises(UsageError):
            delivery.extend(seconds)
        delivery.ack()

    @pytest.mark.parametrize("how", _WAYS_BACK)
    def test_an_extension_does_not_lengthen_the_next_lease(self, queue: Queue, clock: ManualClock, how: str) -> None:
        queue.push("x")
        delivery = take(queue)
        delivery.extend(900)
        _give_back(how, queue, clock, delivery)
        delivery = take(queue)
        assert delivery.deadline_at == pytest.approx(clock.seconds + LEASE, abs=0.01)
        clock.advance(LEASE)
        assert queue.reap().returned == 1

    # After the deadline

    def test_a_late_ack_is_good_while_nobody_has_given_the_message_to_another(
        self, queue: Queue, clock: ManualClock
    ) -> None:
        queue.push("x")
        delivery = take(queue)
        clock.advance(LEASE + 1)
        delivery.ack()
        assert queue.reap()[:3] == (0, 0, 0)
        assert len(queue) == 0

    def test_a_message_that_is_given_back_by_reaping_stands_where_it_stood(
        self, queue: Queue, clock: ManualClock
    ) -> None:
        queue.push_many(["a", "b", "c"])
        take(queue)
        lapse(queue, clock)
        assert bodies(queue) == ["a", "b", "c"]

    def test_a_message_that_is_given_back_by_reaping_stands_at_the_end_if_so_set(
        self, open_queue: OpenQueue, clock: ManualClock
    ) -> None:
        queue = open_queue(retry_order="back")
        queue.push_many(["a", "b", "c"])
        take(queue)
        lapse(queue, clock)
        assert bodies(queue) == ["b", "c", "a"]

    def test_every_lapse_counts_as_an_attempt(self, open_queue: OpenQueue, clock: ManualClock) -> None:
        queue = open_queue(max_retries=2)
        id = queue.push("x")
        for attempt in (1, 2, 3):
            assert take(queue).attempt == attempt
            clock.advance(LEASE)
            reaped = queue.reap()
        assert (reaped.returned, reaped.died) == (0, 1)
        message = queue.get(id)
        assert (message.state, message.reason) == ("dead", "retries")
        assert [attempt.outcome for attempt in message.history] == ["timeout"] * 3
