"""The contract of ``with delivery as body``: the block's end settles the message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mailq.errors import CodecError, LeaseLost
from mailq.testing.contract.base import ContractBase, lapse, take

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailq.delivery import Delivery
    from mailq.queue import Queue
    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import OpenQueue

_SETTLING: dict[str, Callable[[Delivery], object]] = {
    "ack": lambda delivery: delivery.ack(),
    "nack": lambda delivery: delivery.nack(),
    "release": lambda delivery: delivery.release(),
    "reject": lambda delivery: delivery.reject(),
}


class Broken(Exception):
    """What a handler raises here."""


class ScopeContract(ContractBase):
    """Leaving the block normally, by an exception, by an interrupt, and without the lease."""

    def test_leaving_the_block_acks(self, queue: Queue) -> None:
        queue.push({"n": 1})
        with take(queue) as body:
            assert body == {"n": 1}
            assert queue.stats().leased == 1
        stats = queue.stats()
        assert (stats.ready, stats.delayed, stats.leased, stats.dead) == (0, 0, 0, 0)

    def test_an_exception_nacks_with_its_traceback_and_goes_on(self, open_queue: OpenQueue, clock: ManualClock) -> None:
        queue = open_queue(backoff=(10, 100))
        queue.push("x")
        with pytest.raises(Broken), take(queue):
            raise Broken("the picture has no pixels")
        assert queue.pop() is None
        clock.advance(10.1)
        delivery = take(queue)
        assert delivery.attempt == 2  # noqa: PLR2004 - the second
        (attempt,) = delivery.history
        assert attempt.outcome == "error"
        text = attempt.error or ""
        assert text.startswith("Traceback")
        assert "test_an_exception_nacks_with_its_traceback_and_goes_on" in text
        assert text.rstrip().endswith("Broken: the picture has no pixels")

    def test_the_traceback_tells_the_cause(self, queue: Queue) -> None:
        id = queue.push("x")
        with pytest.raises(Broken), take(queue):  # noqa: PT012 - the block is what is tested
            try:
                raise KeyError("width")
            except KeyError as error:
                raise Broken("no width") from error
        (attempt,) = queue.get(id).history
        assert "KeyError: 'width'" in (attempt.error or "")

    @pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_an_interrupt_releases_uncounted_and_goes_on(self, queue: Queue, interrupt: type[BaseException]) -> None:
        queue.push("x")
        with pytest.raises(interrupt), take(queue):
            raise interrupt
        delivery = take(queue)
        assert (delivery.attempt, delivery.history) == (1, [])

    @pytest.mark.parametrize("verb", _SETTLING)
    def test_what_was_settled_in_the_block_is_not_settled_again(self, queue: Queue, verb: str) -> None:
        queue.push("x")
        delivery = take(queue)
        with delivery:
            _SETTLING[verb](delivery)
            before = queue.stats()
        assert queue.stats() == before

    @pytest.mark.parametrize("verb", _SETTLING)
    def test_an_exception_after_settling_changes_nothing_and_goes_on(self, queue: Queue, verb: str) -> None:
        queue.push("x")
        delivery = take(queue)
        with pytest.raises(Broken) as raised, delivery:  # noqa: PT012 - the block is what is tested
            _SETTLING[verb](delivery)
            before = queue.stats()
            raise Broken
        assert queue.stats() == before
        assert not getattr(raised.value, "__notes__", [])

    def test_an_extended_delivery_is_still_settled_by_the_block(self, queue: Queue) -> None:
        queue.push("x")
        delivery = take(queue)
        with delivery:
            delivery.extend(600)
        assert len(queue) == 0

    def test_leaving_the_block_without_the_lease_says_so(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x")
        with pytest.raises(LeaseLost) as lost, take(queue):
            lapse(queue, clock)
        assert lost.value.verb == "ack"
        assert queue.stats().ready == 1

    @pytest.mark.parametrize("raised", [Broken, KeyboardInterrupt])
    def test_an_exception_without_the_lease_goes_on_with_a_note(
        self, queue: Queue, clock: ManualClock, raised: type[BaseException]
    ) -> None:
        queue.push("x")
        with pytest.raises(raised) as seen, take(queue):  # noqa: PT012 - the block is what is tested
            lapse(queue, clock)
            raise raised
        assert any("lease" in note for note in seen.value.__notes__)
        assert queue.stats().ready == 1

    def test_a_body_that_will_not_decode_is_nacked_on_entering(self, queue: Queue) -> None:
        id = queue.push(b"{broken", content_type="application/json")
        entered = []
        with pytest.raises(CodecError) as broken, take(queue) as body:
            entered.append(body)
        assert entered == []
        assert broken.value.raw == b"{broken"
        message = queue.get(id)
        assert (message.state, [attempt.outcome for attempt in message.history]) == ("delayed", ["error"])

    def test_always_failing_blocks_end_in_one_dead_letter_with_every_traceback(
        self, open_queue: OpenQueue, clock: ManualClock
    ) -> None:
        queue = open_queue(max_retries=3, backoff=(1, 4))
        queue.push("x")
        for number in (1, 2, 3, 4):
            with pytest.raises(Broken), take(queue):
                raise Broken(f"failure {number}")
            clock.advance(5)
        assert queue.pop() is None
        (dead,) = queue.peek("dead")
        assert [attempt.number for attempt in dead.history] == [1, 2, 3, 4]
        assert all(f"failure {attempt.number}" in (attempt.error or "") for attempt in dead.history)
