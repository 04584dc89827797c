# ruff: noqa: PLR2004 - what a test expects are numbers
"""The contract of the dead: how messages get there, what stays of them, how they come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mailq.errors import MessageNotFound
from mailq.testing.contract.base import LEASE, ContractBase, bodies, lapse, take

if TYPE_CHECKING:
    from mailq.message import State
    from mailq.queue import Queue
    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import OpenQueue


def bury(queue: Queue, *texts: str) -> list[str]:
    """Push messages and reject them; return their ids."""
    ids = queue.push_many(texts)
    for delivery in queue.pop_many(len(texts)):
        delivery.reject(f"reason of {delivery.body}")
    return ids


class DeadContract(ContractBase):
    """Time to live, redrive, purge, and the story across lives."""

    # Time to live

    @pytest.mark.parametrize(
        ("of_the_queue", "of_the_message", "expected"), [(None, 30, 30), (30, None, 30), (30, 90, 90), (90, 30, 30)]
    )
    def test_a_message_past_its_time_to_live_is_not_delivered(
        self,
        open_queue: OpenQueue,
        clock: ManualClock,
        of_the_queue: float | None,
        of_the_message: float | None,
        expected: float,
    ) -> None:
        queue = open_queue(ttl=of_the_queue)
        id = queue.push("x", ttl=of_the_message)
        clock.advance(expected - 0.1)
        take(queue).release()
        clock.advance(0.2)
        assert queue.pop() is None
        message = queue.get(id)
        assert (message.state, message.reason, message.body, message.history) == ("dead", "expired", "x", [])

    def test_an_expired_message_does_not_hold_up_the_next(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("old", ttl=10)
        queue.push("good")
        clock.advance(20)
        assert bodies(queue) == ["good"]

    def test_many_expired_messages_hold_up_no_other_and_are_all_buried(self, queue: Queue, clock: ManualClock) -> None:
        queue.push_many(range(500), ttl=10)
        queue.push_many(["good", "too"])
        clock.advance(20)
        assert bodies(queue) == ["good", "too"]
        assert queue.stats()[:4] == (0, 0, 0, 500)

    def test_a_message_does_not_expire_in_its_holders_hands(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x", ttl=10)
        delivery = take(queue)
        lapse(queue, clock, 30)
        delivery.ack()
        assert queue.stats().dead == 0

    def test_a_retry_past_the_time_to_live_is_not_delivered(self, queue: Queue, clock: ManualClock) -> None:
        id = queue.push("x", ttl=10)
        clock.advance(5)
        take(queue).nack(delay=10, error="broken")
        clock.advance(11)
        assert queue.pop() is None
        message = queue.get(id)
        assert (message.state, message.reason) == ("dead", "expired")
        assert [attempt.error for attempt in message.history] == ["broken"]

    def test_the_time_to_live_counts_from_the_push_not_from_the_due_time(
        self, queue: Queue, clock: ManualClock
    ) -> None:
        id = queue.push("x", ttl=20, delay=30)
        clock.advance(31)
        assert queue.pop() is None
        assert queue.get(id).reason == "expired"

    @pytest.mark.parametrize("whose", ["queue", "message"])
    def test_an_expired_message_can_be_redriven_and_never_expires_again(
        self, open_queue: OpenQueue, clock: ManualClock, whose: str
    ) -> None:
        queue = open_queue(ttl=30 if whose == "queue" else None)
        queue.push("x", ttl=30 if whose == "message" else None)
        clock.advance(31)
        assert queue.pop() is None
        assert queue.redrive() == 1
        clock.advance(3600)
        delivery = take(queue)
        assert (delivery.body, delivery.attempt) == ("x", 1)
        delivery.nack(delay=3600)
        clock.advance(3601)
        assert take(queue).attempt == 2

    # Too large for now

    def test_a_message_larger_than_a_lowered_limit_is_kept_among_the_dead(self, queue: Queue) -> None:
        id = queue.push(b"x" * 1000)
        queue.push(b"small")
        queue.configure(max_message_bytes=100)
        assert bodies(queue) == [b"small"]
        message = queue.get(id)
        assert (message.state, message.reason, message.raw) == ("dead", "too-large", b"x" * 1000)
        (attempt,) = message.history
        assert (attempt.number, attempt.outcome) == (0, "too-large")
        assert "1000" in (attempt.error or "")
        queue.configure(max_message_bytes=1000)
        assert queue.redrive() == 1
        assert take(queue).attempt == 1

    # Redrive

    def test_redrive_takes_back_all_of_them_in_their_order(self, queue: Queue) -> None:
        bury(queue, "a", "b", "c")
        assert queue.redrive() == 3
        assert bodies(queue) == ["a", "b", "c"]
        assert queue.redrive() == 0

    def test_redriven_messages_stand_at_the_end_of_the_line(self, queue: Queue, clock: ManualClock) -> None:
        bury(queue, "old")
        clock.advance(1)
        queue.push("new")
        queue.redrive()
        assert bodies(queue) == ["new", "old"]

    def test_redrive_takes_only_those_asked_for(self, queue: Queue) -> None:
        a, b, c = bury(queue, "a", "b", "c")
        assert queue.redrive([a, c, "0" * 32]) == 2
        assert bodies(queue) == ["a", "c"]
        assert queue.redrive(b) == 1
        assert bodies(queue) == ["b"]
        assert queue.redrive([]) == 0

    def test_redrive_takes_no_more_than_its_limit_the_oldest_first(self, queue: Queue) -> None:
        a, _, c = bury(queue, "a", "b", "c")
        assert queue.redrive(limit=2) == 2
        assert bodies(queue) == ["a", "b"]
        assert queue.redrive([a, c], limit=5) == 1

    def test_redrive_of_no_more_than_none_is_none(self, queue: Queue) -> None:
        bury(queue, "a")
        assert queue.redrive(limit=0) == 0
        assert queue.stats().dead == 1

    def test_redrive_leaves_the_living_alone(self, queue: Queue) -> None:
        id = queue.push("x", delay=30)
        assert queue.redrive([id]) == 0
        assert queue.get(id).state == "delayed"

    def test_a_redriven_message_keeps_its_own_settings(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x", priority=3, lease=15, max_retries=1, headers={"h": "1"}, content_type="text/markdown")
        take(queue).reject()
        queue.redrive()
        delivery = take(queue)
        assert (delivery.priority, delivery.headers, delivery.content_type) == (3, {"h": "1"}, "text/markdown")
        assert delivery.deadline_at == pytest.approx(clock.seconds + 15, abs=0.01)
        delivery.nack(delay=0)
        take(queue).nack(delay=0)
        assert queue.stats().dead == 1

    def test_the_story_goes_on_across_a_redrive_and_the_count_begins_again(self, open_queue: OpenQueue) -> None:
        queue = open_queue(max_retries=1)
        id = queue.push("x")
        for number, attempt in enumerate((1, 2, 1, 2), start=1):
            delivery = take(queue)
            assert delivery.attempt == attempt
            delivery.nack(delay=0, error=f"failure {number}")
            if attempt == 2:
                assert queue.get(id).state == "dead"
                queue.redrive()
        delivery = take(queue)
        assert delivery.attempt == 1
        assert [(a.number, a.outcome, a.error) for a in delivery.history] == [
            (n, "error", f"failure {n}") for n in (1, 2, 3, 4)
        ]

    def test_a_redriven_message_is_not_dead_any_more(self, queue: Queue) -> None:
        (id,) = bury(queue, "x")
        queue.redrive()
        message = queue.get(id)
        assert (message.state, message.died_at) == ("ready", None)

    def test_a_message_can_die_and_come_back_many_times(self, queue: Queue) -> None:
        id = queue.push("x")
        for _ in range(30):
            delivery = take(queue)
            assert (delivery.id, delivery.attempt) == (id, 1)
            delivery.reject("again")
            assert queue.redrive() == 1
        assert take(queue).body == "x"

    def test_the_origin_of_a_dead_letter_is_its_queue(self, queue: Queue) -> None:
        (id,) = bury(queue, "x")
        assert queue.get(id).origin == queue.location

    # Purge

    @pytest.mark.parametrize("state", ["ready", "delayed", "leased", "dead"])
    def test_purge_deletes_what_is_in_one_state_and_nothing_else(self, queue: Queue, state: State) -> None:
        bury(queue, "dead", "dead too")
        queue.push("leased", priority=9)
        queue.push("leased too", priority=9)
        queue.pop_many(2)
        queue.push_many(["ready", "ready too"])
        queue.push_many(["delayed", "delayed too"], delay=30)
        doomed = queue.peek(state)
        assert queue.purge(state) == 2
        stats = queue.stats()
        counts = {"ready": stats.ready, "delayed": stats.delayed, "leased": stats.leased, "dead": stats.dead}
        assert counts == {s: 0 if s == state else 2 for s in counts}
        assert queue.purge(state) == 0
        for message in doomed:
            with pytest.raises(MessageNotFound):
                queue.get(message.id)

    def test_a_purged_message_does_not_come_back(self, queue: Queue, clock: ManualClock) -> None:
        queue.push_many(["a", "b"])
        take(queue)
        queue.purge("leased")
        queue.purge("ready")
        lapse(queue, clock, LEASE + 1)
        assert queue.pop() is None
        queue.push("c")
        assert bodies(queue) == ["c"]
