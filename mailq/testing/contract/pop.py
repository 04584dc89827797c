# ruff: noqa: PLR2004 - what a test expects are numbers
"""The contract of pop: who is first, who waits, and nobody gets what another has."""

from __future__ import annotations

import itertools
import math
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mailq.errors import UsageError
from mailq.queue import Queue
from mailq.settings import Settings
from mailq.testing.contract.base import LEASE, PATIENCE, ContractBase, bodies, take

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import EngineFactory


def _in_a_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    return thread, results


def _polled(queue: Queue, limit: int) -> list[Any]:
    """The bodies that a poll finds at last."""
    while (deliveries := queue.poll(limit)) is None:
        pass
    return [delivery.body for delivery in deliveries]


class PopContract(ContractBase):
    """Order, delays, waiting, and several consumers at once."""

    def test_an_empty_queue_delivers_nothing(self, queue: Queue) -> None:
        assert queue.pop() is None
        assert queue.pop_many(10) == []
        assert list(queue.drain()) == []

    def test_a_poll_is_a_pop_of_many_that_may_come_back_too_early(self, queue: Queue, clock: ManualClock) -> None:
        assert _polled(queue, 2) == []
        queue.push_many(range(500), ttl=10)
        queue.push_many(["a", "b", "c"])
        clock.advance(20)
        assert [_polled(queue, 2), _polled(queue, 2), _polled(queue, 2)] == [["a", "b"], ["c"], []]
        assert queue.stats()[:4] == (0, 0, 3, 500)
        with pytest.raises(UsageError):
            queue.poll(0)

    def test_what_was_pushed_first_is_popped_first(self, queue: Queue) -> None:
        for n in range(50):
            queue.push(n)
        assert bodies(queue) == list(range(50))

    def test_the_order_holds_when_the_clock_steps_back(self, queue: Queue, clock: ManualClock) -> None:
        for n in range(10):
            queue.push(n)
            clock.advance(-1)
        assert bodies(queue) == list(range(10))

    def test_pushes_and_pops_in_turn_keep_the_order(self, queue: Queue) -> None:
        seen = []
        for n in range(20):
            queue.push_many([2 * n, 2 * n + 1])
            delivery = take(queue)
            seen.append(delivery.body)
            delivery.ack()
        assert seen + bodies(queue) == list(range(40))

    def test_a_higher_priority_comes_first_and_the_order_holds_within_one(self, queue: Queue) -> None:
        for n in range(30):
            queue.push(n, priority=n % 10)
        assert bodies(queue) == sorted(range(30), key=lambda n: (-(n % 10), n))

    def test_an_urgent_message_overtakes_those_that_wait_already(self, queue: Queue) -> None:
        queue.push_many(["a", "b", "c"])
        take(queue).ack()
        queue.push("urgent", priority=1)
        assert bodies(queue) == ["urgent", "b", "c"]

    def test_a_delivery_says_what_it_is(self, queue: Queue, clock: ManualClock) -> None:
        id = queue.push("x", priority=2)
        delivery = take(queue)
        assert (delivery.id, delivery.state, delivery.attempt, delivery.history) == (id, "leased", 1, [])
        assert (delivery.priority, delivery.size, delivery.reason, delivery.headers) == (2, 1, "", {})
        assert delivery.deadline_at == pytest.approx(clock.seconds + LEASE, abs=0.01)
        assert delivery.due_at is None
        assert delivery.died_at is None
        assert id in repr(delivery)

    # Many

    def test_pop_many_takes_the_first_in_line(self, queue: Queue) -> None:
        queue.push_many(range(5))
        first, rest = queue.pop_many(3), queue.pop_many(3)
        assert [delivery.body for delivery in first] == [0, 1, 2]
        assert [delivery.body for delivery in rest] == [3, 4]
        assert len({delivery.receipt for delivery in first + rest}) == 5

    @pytest.mark.parametrize("limit", [0, -1, True, 1.5, "3"])
    def test_pop_many_of_an_impossible_number_is_refused(self, queue: Queue, limit: Any) -> None:  # noqa: ANN401 - wrong on purpose
        queue.push("x")
        with pytest.raises(UsageError):
            queue.pop_many(limit)
        assert queue.stats().ready == 1

    @pytest.mark.parametrize("options", [{"lease": 0}, {"lease": -1}, {"wait": -1}, {"wait": math.nan}], ids=str)
    def test_an_option_out_of_range_is_refused_and_nothing_leased(self, queue: Queue, options: dict[str, Any]) -> None:
        queue.push("x")
        with pytest.raises(UsageError):
            queue.pop(**options)
        assert queue.stats().ready == 1

    def test_drain_stops_when_nothing_is_ready(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("later", delay=30)
        queue.push_many(["a", "b"])
        assert bodies(queue) == ["a", "b"]
        clock.advance(31)
        assert bodies(queue) == ["later"]

    def test_drain_leases_for_as_long_as_it_is_told(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x")
        delivery = next(queue.drain(lease=5))
        assert delivery.deadline_at == pytest.approx(clock.seconds + 5, abs=0.01)

    def test_a_loop_over_the_queue_delivers_each_message(self, queue: Queue) -> None:
        queue.push_many(range(3))
        assert [delivery.body for delivery in itertools.islice(queue, 3)] == [0, 1, 2]

    # Delays

    def test_a_delayed_message_is_not_delivered_before_its_time(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x", delay=30)
        assert queue.pop() is None
        clock.advance(29.9)
        assert queue.pop() is None
        clock.advance(0.2)
        assert take(queue).body == "x"

    def test_a_delayed_message_stands_in_line_by_its_due_time(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("second", delay=30)
        queue.push("third", delay=40)
        clock.advance(20)
        queue.push("first")
        clock.advance(50)
        assert bodies(queue) == ["first", "second", "third"]

    def test_a_message_that_comes_due_overtakes_those_pushed_after_that(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("due", delay=1)
        clock.advance(2)
        queue.push_many(["a", "b"])
        assert bodies(queue) == ["due", "a", "b"]

    def test_a_message_that_comes_due_while_others_are_consumed_takes_its_place(
        self, queue: Queue, clock: ManualClock
    ) -> None:
        queue.push("due", delay=5, priority=1)
        queue.push_many(["a", "b", "c"])
        assert take(queue).body == "a"
        clock.advance(6)
        assert bodies(queue) == ["due", "b", "c"]

    # Waiting

    def test_a_wait_for_nothing_ends(self, queue: Queue) -> None:
        assert queue.pop(wait=0.01) is None
        assert queue.pop_many(3, wait=0.01) == []

    def test_what_is_there_is_not_waited_for(self, queue: Queue) -> None:
        queue.push("x")
        assert take(queue, wait=math.inf).body == "x"

    def test_a_push_wakes_a_waiting_consumer(self, queue: Queue) -> None:
        thread, results = _in_a_thread(lambda: take(queue, wait=10 * PATIENCE).body)
        queue.push("x")
        thread.join(PATIENCE)
        assert results == ["x"]

    def test_a_message_given_back_wakes_a_waiting_consumer(self, queue: Queue) -> None:
        queue.push("x")
        delivery = take(queue)
        thread, results = _in_a_thread(lambda: take(queue, wait=10 * PATIENCE).body)
        delivery.release()
        thread.join(PATIENCE)
        assert results == ["x"]

    def test_a_redriven_message_wakes_a_waiting_consumer(self, queue: Queue) -> None:
        queue.push("x")
        take(queue).reject()
        thread, results = _in_a_thread(lambda: take(queue, wait=10 * PATIENCE).body)
        queue.redrive()
        thread.join(PATIENCE)
        assert results == ["x"]

    def test_a_wait_ends_although_another_consumer_was_woken_by_the_same_push(self, make_engine: EngineFactory) -> None:
        """Between one consumer's look and its wait two messages come and another consumer takes one."""
        engine = make_engine(Settings(), time.time_ns)
        queue = Queue(engine)
        engine.wait(0.0)  # an engine may return from its first wait at once
        assert queue.pop() is None
        queue.push_many(["for the other", "for me"])
        assert take(queue).body == "for the other"
        thread, _ = _in_a_thread(lambda: engine.wait(10 * PATIENCE))
        thread.join(PATIENCE)
        hangs = thread.is_alive()
        queue.push("wake up")
        thread.join(PATIENCE)
        queue.close()
        assert not hangs

    def test_a_waiting_consumer_gets_a_delayed_message_in_time(self, make_engine: EngineFactory) -> None:
        queue = Queue(make_engine(Settings(), time.time_ns))
        queue.push("x", delay=0.05)
        assert take(queue, wait=PATIENCE).body == "x"
        queue.close()

    def test_a_waiting_consumer_gets_a_message_whose_lease_runs_out(self, make_engine: EngineFactory) -> None:
        queue = Queue(make_engine(Settings(reap_interval=0.05), time.time_ns))
        queue.push("x")
        take(queue, lease=0.05)
        assert take(queue, wait=PATIENCE).attempt == 2
        queue.close()

    # Several at once

    def test_no_two_threads_get_the_same_message(self, queue: Queue) -> None:
        ids = queue.push_many(range(200))
        start = threading.Barrier(4)
        popped: list[str] = []

        def consume() -> None:
            start.wait(PATIENCE)
            for delivery in queue.drain():
                popped.append(delivery.id)
                delivery.ack()

        threads = [threading.Thread(target=consume) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(popped) == sorted(ids)
        assert len(queue) == 0

    def test_consumers_race_producers_and_nothing_is_lost_or_delivered_twice(self, queue: Queue) -> None:
        popped: list[int] = []
        done = threading.Event()

        def consume() -> None:
            while True:
                last = done.is_set()
                for delivery in queue.drain():
                    popped.append(delivery.body)
                    delivery.ack()
                if last:
                    return

        threads = [threading.Thread(target=consume) for _ in range(2)]
        for thread in threads:
            thread.start()
        for n in range(200):
            queue.push(n)
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(popped) == list(range(200))
