"""The contract of a pause: nothing is delivered, and everything else goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mailq.queue import Queue
from mailq.settings import Settings
from mailq.testing.contract.base import LEASE, PATIENCE, Claims, ContractBase, bodies, in_a_thread, lapse, take

if TYPE_CHECKING:
    import pytest

    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import EngineFactory


class PauseContract(ContractBase):
    """Pausing and resuming, with consumers that wait."""

    def test_a_paused_queue_delivers_nothing_until_it_is_resumed(self, queue: Queue) -> None:
        queue.push_many(["a", "b"])
        queue.pause()
        assert queue.pop() is None
        assert queue.pop_many(5) == []
        assert queue.pop(wait=0.01) is None
        assert list(queue.drain()) == []
        queue.resume()
        assert bodies(queue) == ["a", "b"]

    def test_the_count_of_a_queue_says_whether_it_is_paused(self, queue: Queue) -> None:
        queue.push("x")
        assert not queue.stats().paused
        queue.pause()
        assert queue.stats().paused
        assert queue.stats().ready == 1
        queue.resume()
        assert not queue.stats().paused

    def test_pausing_and_resuming_twice_is_the_same_as_once(self, queue: Queue) -> None:
        queue.push("x")
        queue.resume()
        queue.pause()
        queue.pause()
        assert queue.pop() is None
        queue.resume()
        assert take(queue).body == "x"
        queue.resume()
        assert not queue.stats().paused

    def test_a_paused_queue_takes_pushes(self, queue: Queue) -> None:
        queue.pause()
        queue.push("x")
        assert queue.pop() is None
        assert queue.stats().ready == 1
        queue.resume()
        assert bodies(queue) == ["x"]

    def test_what_is_out_can_be_settled_while_the_queue_is_paused(self, queue: Queue) -> None:
        queue.push_many(["ack", "nack", "release", "reject", "extend"])
        ack, nack, release, reject, extend = queue.pop_many(5)
        queue.pause()
        ack.ack()
        nack.nack(delay=0)
        release.release()
        reject.reject()
        extend.extend(2 * LEASE)
        assert queue.delivery(extend.receipt).body == "extend"
        stats = queue.stats()
        assert (stats.ready, stats.leased, stats.dead) == (2, 1, 1)
        assert queue.pop() is None

    def test_what_comes_due_or_lapses_while_the_queue_is_paused_waits_for_the_end(
        self, queue: Queue, clock: ManualClock
    ) -> None:
        queue.push("lapsed")
        take(queue)
        queue.push("due", delay=5)
        queue.pause()
        lapse(queue, clock)
        assert queue.pop() is None
        queue.resume()
        assert sorted(bodies(queue)) == ["due", "lapsed"]

    def test_a_consumer_that_waits_at_a_paused_queue_does_not_spin(
        self, make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = make_engine(Settings(), time.time_ns)
        queue = Queue(engine)
        queue.push("ready")
        queue.push("due meanwhile", delay=0.05)
        queue.pause()
        claims = Claims(engine, monkeypatch)
        assert queue.pop(wait=0.3) is None
        # One, one behind the first wait, one when the message is due, one at the end; and a few to spare.
        assert claims.count <= 8  # noqa: PLR2004 - as said
        queue.resume()
        assert sorted(bodies(queue)) == ["due meanwhile", "ready"]
        queue.close()

    def test_a_consumer_that_waits_at_a_paused_queue_wakes_when_it_is_resumed(
        self, make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = make_engine(Settings(), time.time_ns)
        queue = Queue(engine)
        queue.push("x")
        queue.pause()
        claims = Claims(engine, monkeypatch)
        thread, results = in_a_thread(lambda: take(queue, wait=10 * PATIENCE).body)
        claims.until(1)
        queue.resume()
        thread.join(PATIENCE)
        assert results == ["x"]
        queue.close()

    def test_a_consumer_that_waits_already_gets_nothing_from_a_queue_that_is_paused(
        self, make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = make_engine(Settings(), time.time_ns)
        queue = Queue(engine)
        claims = Claims(engine, monkeypatch)
        thread, results = in_a_thread(lambda: take(queue, wait=10 * PATIENCE).body)
        claims.until(1)
        with claims:
            queue.pause()
            queue.push("x")
            before = claims.count
        claims.until(before + 1)  # the push woke it
        assert results == []
        queue.resume()
        thread.join(PATIENCE)
        assert results == ["x"]
        queue.close()
