"""The contract of giving back: nack, release, reject, back-off, and the story of the attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mailq.errors import CodecError, UsageError
from mailq.testing.contract.base import ContractBase, bodies, lapse, take

if TYPE_CHECKING:
    from mailq.queue import Queue
    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import OpenQueue


class RetryContract(ContractBase):
    """What each way of giving a message back does to its place, its count and its story."""

    # Ack

    def test_an_acked_message_is_gone(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x")
        take(queue).ack()
        assert (queue.stats().bytes, len(queue)) == (0, 0)
        lapse(queue, clock, 1000)
        assert queue.pop() is None

    def test_an_ack_takes_only_its_own_message(self, queue: Queue) -> None:
        queue.push_many(["a", "b", "c"])
        first, second = queue.pop_many(2)
        second.ack()
        first.release()
        assert bodies(queue) == ["a", "c"]

    # Nack

    def test_a_nack_counts_the_attempt(self, queue: Queue) -> None:
        id = queue.push("x")
        take(queue).nack(delay=0)
        delivery = take(queue)
        assert (delivery.id, delivery.body, delivery.attempt) == (id, "x", 2)
        assert [(attempt.number, attempt.outcome, attempt.error) for attempt in delivery.history] == [(1, "nack", None)]

    def test_a_nack_with_an_error_keeps_its_text(self, queue: Queue) -> None:
        queue.push("x")
        take(queue).nack(delay=0, error="first\nGröße \udcff")
        take(queue).nack(delay=0)
        take(queue).nack(delay=0, error="")
        history = take(queue).history
        assert [(attempt.number, attempt.outcome) for attempt in history] == [(1, "error"), (2, "nack"), (3, "error")]
        first, second, third = history
        assert (first.error or "").startswith("first\nGröße ")
        assert (second.error, second.at) == (None, None)
        assert third.error == ""
        assert first.at is not None

    def test_an_error_text_too_long_to_keep_keeps_its_end(self, queue: Queue) -> None:
        queue.push("x")
        take(queue).nack(delay=0, error="x" * 1_000_000 + "ValueError: the end")
        (attempt,) = take(queue).history
        assert (attempt.error or "").endswith("ValueError: the end")

    @pytest.mark.parametrize("delay", [0.5, 30, 3600])
    def test_a_nacked_message_comes_back_after_its_delay(self, queue: Queue, clock: ManualClock, delay: float) -> None:
        queue.push("x")
        take(queue).nack(delay=delay)
        clock.advance(delay - 0.1)
        assert queue.pop() is None
        clock.advance(0.2)
        assert take(queue).attempt == 2  # noqa: PLR2004 - the second

    @pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "30"])
    def test_a_delay_out_of_range_is_refused_and_the_lease_holds(self, queue: Queue, delay: Any) -> None:  # noqa: ANN401 - wrong on purpose
        queue.push("x")
        delivery = take(queue)
        with pytest.raises(UsageError):
            delivery.nack(delay=delay)
        with pytest.raises(UsageError):
            delivery.release(delay=delay)
        delivery.ack()

    def test_the_default_delay_doubles_up_to_the_longest(self, open_queue: OpenQueue, clock: ManualClock) -> None:
        queue = open_queue(backoff=(10, 60), max_retries=10)
        id = queue.push("x")
        for longest in (10, 20, 40, 60, 60):
            take(queue).nack()
            due_at = queue.get(id).due_at
            assert due_at is not None
            assert longest / 2 - 0.01 <= due_at - clock.seconds <= longest + 0.01
            clock.advance(longest + 1)

    def test_messages_that_fail_together_do_not_come_back_together(self, open_queue: OpenQueue) -> None:
        queue = open_queue(backoff=(60, 600))
        queue.push_many(range(20))
        for delivery in queue.pop_many(20):
            delivery.nack()
        due = {round(message.due_at or 0, 3) for message in queue.peek("delayed", limit=None)}
        assert len(due) > 1

    def test_a_nacked_message_comes_back_first_in_line(self, queue: Queue) -> None:
        queue.push_many(["a", "b", "c"])
        take(queue).nack(delay=0)
        assert bodies(queue) == ["a", "b", "c"]

    def test_a_nacked_message_comes_back_first_in_line_after_its_delay_too(
        self, queue: Queue, clock: ManualClock
    ) -> None:
        queue.push_many(["a", "b", "c"])
        take(queue).nack(delay=5)
        take(queue).ack()
        clock.advance(6)
        assert bodies(queue) == ["a", "c"]

    def test_a_nacked_message_goes_to_the_end_if_so_set(self, open_queue: OpenQueue, clock: ManualClock) -> None:
        queue = open_queue(retry_order="back")
        queue.push_many(["a", "b"])
        clock.advance(1)
        take(queue).nack(delay=0)
        queue.push("c")
        assert bodies(queue) == ["b", "a", "c"]

    def test_a_delayed_retry_stands_in_line_by_its_due_time_if_so_set(
        self, open_queue: OpenQueue, clock: ManualClock
    ) -> None:
        queue = open_queue(retry_order="back")
        queue.push("a")
        take(queue).nack(delay=30)
        clock.advance(10)
        queue.push("b")
        clock.advance(30)
        queue.push("c")
        assert bodies(queue) == ["b", "a", "c"]

    # Release

    def test_a_release_is_as_if_it_had_never_been_popped(self, queue: Queue, clock: ManualClock) -> None:
        queue.push_many(["a", "b"])
        clock.advance(5)
        take(queue).release()
        delivery = take(queue)
        assert (delivery.body, delivery.attempt, delivery.history) == ("a", 1, [])

    def test_a_release_can_wait(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x")
        take(queue).release(delay=30)
        clock.advance(29)
        assert queue.pop() is None
        clock.advance(1.1)
        assert take(queue).attempt == 1

    def test_releases_never_use_up_the_retries(self, open_queue: OpenQueue) -> None:
        queue = open_queue(max_retries=0)
        queue.push("x")
        for _ in range(10):
            take(queue).release()
        delivery = take(queue)
        assert (delivery.attempt, delivery.history) == (1, [])

    def test_a_release_keeps_the_story_of_earlier_attempts(self, queue: Queue) -> None:
        queue.push("x")
        take(queue).nack(delay=0, error="broken")
        take(queue).release()
        delivery = take(queue)
        assert (delivery.attempt, [attempt.error for attempt in delivery.history]) == (2, ["broken"])

    # Reject

    def test_a_rejected_message_is_dead_with_its_reason(self, queue: Queue, clock: ManualClock) -> None:
        id = queue.push("x")
        clock.advance(5)
        take(queue).reject("not a picture")
        message = queue.get(id)
        assert (message.state, message.reason, message.body) == ("dead", "rejected", "x")
        assert message.died_at == pytest.approx(clock.seconds, abs=0.01)
        assert [(a.number, a.outcome, a.error) for a in message.history] == [(1, "rejected", "not a picture")]
        assert queue.pop() is None

    def test_a_reason_need_not_be_given(self, queue: Queue) -> None:
        id = queue.push("x")
        take(queue).reject()
        assert [(a.number, a.outcome, a.error) for a in queue.get(id).history] == [(1, "rejected", None)]

    # Retries

    def test_three_retries_are_four_deliveries_and_one_dead_letter(self, open_queue: OpenQueue) -> None:
        queue = open_queue(max_retries=3)
        id = queue.push({"n": 1}, headers={"trace": "t"})
        deliveries = 0
        while (delivery := queue.pop()) is not None:
            deliveries += 1
            assert delivery.attempt == deliveries
            delivery.nack(delay=0, error=f"failure {deliveries}")
        assert deliveries == 4  # noqa: PLR2004 - the first and three retries
        (dead,) = queue.peek("dead")
        assert (dead.id, dead.body, dead.headers, dead.reason) == (id, {"n": 1}, {"trace": "t"}, "retries")
        assert [(a.number, a.outcome, a.error) for a in dead.history] == [
            (n, "error", f"failure {n}") for n in (1, 2, 3, 4)
        ]
        assert queue.redrive() == 1
        again = take(queue)
        assert (again.id, again.body, again.attempt) == (id, {"n": 1}, 1)

    @pytest.mark.parametrize(("of_the_queue", "of_the_message", "deliveries"), [(0, None, 1), (5, 0, 1), (0, 2, 3)])
    def test_the_messages_own_retries_come_before_the_queues(
        self, open_queue: OpenQueue, of_the_queue: int, of_the_message: int | None, deliveries: int
    ) -> None:
        queue = open_queue(max_retries=of_the_queue)
        queue.push("x", max_retries=of_the_message)
        count = 0
        for delivery in queue.drain():
            count += 1
            delivery.nack(delay=0)
        assert count == deliveries
        assert queue.stats().dead == 1

    def test_every_kind_of_failure_counts_and_is_told_apart(self, open_queue: OpenQueue, clock: ManualClock) -> None:
        queue = open_queue(max_retries=3)
        id = queue.push("x")
        take(queue).nack(delay=0)
        take(queue).nack(delay=0, error="broken")
        take(queue)
        lapse(queue, clock)
        take(queue).reject("enough")
        assert [attempt.outcome for attempt in queue.get(id).history] == ["nack", "error", "timeout", "rejected"]

    def test_a_story_of_many_attempts_keeps_the_count(self, open_queue: OpenQueue, clock: ManualClock) -> None:
        queue = open_queue(max_retries=100)
        id = queue.push("x")
        for attempt in range(1, 61):
            delivery = take(queue)
            assert (delivery.id, delivery.attempt) == (id, attempt)
            if attempt % 3 == 0:
                lapse(queue, clock)
            else:
                delivery.nack(delay=0, error=f"failure {attempt}" if attempt % 3 == 1 else None)
        delivery = take(queue)
        assert delivery.attempt == 61  # noqa: PLR2004 - sixty are over
        last = [(attempt.number, attempt.outcome) for attempt in delivery.history][-3:]
        assert last == [(58, "error"), (59, "nack"), (60, "timeout")]

    # Bodies that cannot be read

    @pytest.mark.parametrize(
        ("raw", "content_type"),
        [(b"{broken", "application/json"), (b"\xff", "text/plain"), (b"[" * 100_000, "application/json")],
    )
    def test_a_body_that_will_not_decode_has_its_bytes_at_hand(
        self, queue: Queue, raw: bytes, content_type: str
    ) -> None:
        queue.push(raw, content_type=content_type)
        delivery = take(queue)
        with pytest.raises(CodecError) as broken:
            _ = delivery.body
        assert (broken.value.raw, broken.value.content_type) == (raw, content_type)
        assert delivery.raw == raw

    def test_a_body_that_will_not_decode_can_be_nacked_and_rejected(self, queue: Queue) -> None:
        id = queue.push(b"{broken", content_type="application/json")
        take(queue).nack(delay=0)
        take(queue).reject("not JSON")
        message = queue.get(id)
        assert (message.state, message.raw) == ("dead", b"{broken")

    def test_a_body_that_will_not_decode_blocks_nobody(self, queue: Queue) -> None:
        queue.push(b"{broken", content_type="application/json")
        queue.push("good")
        with pytest.raises(CodecError), take(queue):
            pass
        with take(queue) as body:
            assert body == "good"
        assert (queue.stats().delayed, len(queue)) == (1, 1)
