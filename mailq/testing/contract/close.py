# ruff: noqa: PLR2004 - what a test expects are numbers
"""The contract of a queue's end: leases, waits and bells end with it, and no verb goes on in silence."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from mailq.errors import QueueClosed, UsageError
from mailq.queue import Queue
from mailq.settings import Settings
from mailq.testing.contract.base import PATIENCE, Claims, ContractBase, in_a_thread, take

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailq.delivery import Delivery, Message
    from mailq.engines.base import Claimed
    from mailq.reply import Reply
    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import EngineFactory


class _Had(NamedTuple):
    """A closed queue, and what was got from it while it was open."""

    queue: Queue
    delivery: Delivery
    message: Message
    reply: Reply


_VERBS: Final[dict[str, Callable[[_Had], object]]] = {
    "push": lambda had: had.queue.push("y"),
    "push_many": lambda had: had.queue.push_many("yz"),
    "push_many of nothing": lambda had: had.queue.push_many([]),
    "push_file": lambda had: had.queue.push_file(__file__),
    "request": lambda had: had.queue.request("y"),
    "pop": lambda had: had.queue.pop(),
    "pop with a wait": lambda had: had.queue.pop(wait=PATIENCE),
    "pop_many": lambda had: had.queue.pop_many(3),
    "iteration": lambda had: next(iter(had.queue)),
    "drain": lambda had: next(had.queue.drain()),
    "delivery": lambda had: had.queue.delivery(had.delivery.receipt),
    "subscribe": lambda had: had.queue.subscribe(lambda: None),
    "ack": lambda had: had.queue.ack(had.delivery.receipt),
    "nack": lambda had: had.queue.nack(had.delivery.receipt),
    "release": lambda had: had.queue.release(had.delivery.receipt),
    "reject": lambda had: had.queue.reject(had.delivery.receipt),
    "extend": lambda had: had.queue.extend(had.delivery.receipt, 60),
    "stats": lambda had: had.queue.stats(),
    "len": lambda had: len(had.queue),
    "in": lambda had: had.message.id in had.queue,
    "peek": lambda had: had.queue.peek(),
    "get": lambda had: had.queue.get(had.message.id),
    "edit": lambda had: had.queue.edit(had.message, b"y"),
    "redrive": lambda had: had.queue.redrive(),
    "purge": lambda had: had.queue.purge("ready"),
    "workers": lambda had: had.queue.workers(),
    "publish": lambda had: had.queue.publish({"n": 1}),
    "reap": lambda had: had.queue.reap(),
    "pause": lambda had: had.queue.pause(),
    "resume": lambda had: had.queue.resume(),
    "configure": lambda had: had.queue.configure(lease=7.0),
    "delivery.ack": lambda had: had.delivery.ack(),
    "delivery.nack": lambda had: had.delivery.nack(),
    "delivery.release": lambda had: had.delivery.release(),
    "delivery.reject": lambda had: had.delivery.reject(),
    "delivery.extend": lambda had: had.delivery.extend(60),
    "delivery.lost": lambda had: had.delivery.lost,
    "delivery.reply": lambda had: had.delivery.reply("y"),
    "delivery.history": lambda had: had.delivery.history,
    "message.body": lambda had: had.message.body,
    "reply.ready": lambda had: had.reply.ready,
    "reply.result": lambda had: had.reply.result(timeout=PATIENCE),
}


class CloseContract(ContractBase):
    """What a queue does when it is closed, and after that."""

    @pytest.mark.parametrize("verb", _VERBS.values(), ids=_VERBS)
    def test_a_closed_queue_refuses_every_verb(self, queue: Queue, verb: Callable[[_Had], object]) -> None:
        engine = queue.engine
        queue.push("leased")
        delivery = take(queue, detached=True)
        had = _Had(queue, delivery, queue.get(queue.push("ready")), queue.reply_to(queue.push("asks")))
        before = queue.stats()._replace(oldest_ready_age=None)
        queue.close()
        with pytest.raises(QueueClosed) as closed:
            verb(had)
        assert (closed.value.location, isinstance(closed.value, UsageError)) == (queue.location, True)
        again = Queue(engine)
        assert again.stats()._replace(oldest_ready_age=None) == before
        assert again.settings.lease != 7
        again.ack(delivery.receipt)
        again.close()

    def test_a_closed_queue_can_be_closed_again_and_says_what_it_was(self, queue: Queue) -> None:
        location, settings = queue.location, queue.settings
        queue.push("x")
        delivery = take(queue)
        queue.close()
        queue.close()
        assert (queue.location, queue.settings, bool(queue)) == (location, settings, True)
        assert (delivery.body, delivery.attempt, delivery.settled, delivery.is_last_attempt) == ("x", 1, False, False)
        queue.unsubscribe(lambda: None)

    def test_leaving_a_queues_block_closes_it(self, queue: Queue) -> None:
        with queue as same:
            assert same is queue
            queue.push("x")
        with pytest.raises(QueueClosed):
            queue.push("y")

    def test_closing_ends_the_leases_that_are_bound_to_the_process(self, queue: Queue, clock: ManualClock) -> None:
        engine = queue.engine
        queue.push("x")
        take(queue)
        queue.close()
        clock.advance(queue.settings.reap_interval)
        again = Queue(engine)
        delivery = take(again)
        assert delivery.attempt == 2
        assert [attempt.outcome for attempt in delivery.history] == ["killed"]
        again.close()

    def test_a_job_whose_queue_is_closed_meanwhile_is_not_acked(self, queue: Queue) -> None:
        engine = queue.engine
        queue.push("x")
        with pytest.raises(QueueClosed), take(queue):
            queue.close()
        again = Queue(engine)
        assert len(again) == 1
        again.close()

    def test_a_detached_lease_outlives_the_close(self, queue: Queue, clock: ManualClock) -> None:
        engine = queue.engine
        queue.push("x")
        delivery = take(queue, detached=True)
        queue.close()
        clock.advance(queue.settings.reap_interval)
        again = Queue(engine)
        assert again.pop() is None
        again.ack(delivery.receipt)
        assert len(again) == 0
        again.close()

    @pytest.mark.parametrize("consume", [lambda queue: queue.pop(wait=10 * PATIENCE), lambda queue: next(iter(queue))])
    def test_a_consumer_that_waits_is_told(
        self, make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch, consume: Callable[[Queue], object]
    ) -> None:
        queue = Queue(make_engine(Settings(), time.time_ns))
        claims = Claims(queue.engine, monkeypatch)

        def wait() -> str:
            with pytest.raises(QueueClosed) as closed:
                consume(queue)
            return closed.value.location

        thread, told = in_a_thread(wait)
        claims.until(1)
        queue.close()
        thread.join(PATIENCE)
        assert told == [queue.location]

    def test_what_is_claimed_while_the_queue_is_closed_goes_back(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine, claim = queue.engine, queue.engine.claim

        def claim_late(*arguments: Any, **options: Any) -> Claimed:  # noqa: ANN401 - those of claim
            queue.close()
            return claim(*arguments, **options)

        queue.push("x")
        monkeypatch.setattr(engine, "claim", claim_late)
        with pytest.raises(QueueClosed):
            queue.pop()
        again = Queue(engine)
        monkeypatch.undo()
        assert (again.stats().ready, again.stats().leased) == (1, 0)
        assert take(again).attempt == 1
        again.close()

    def test_a_bell_that_is_passed_to_listen_beside_the_close_rings(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        listen, rings = queue.engine.subscribe, list[int]()

        def listen_late(bell: Callable[[], None]) -> float:
            queue.close()
            return listen(bell)

        monkeypatch.setattr(queue.engine, "subscribe", listen_late)
        queue.subscribe(lambda: rings.append(1))
        assert rings

    def test_a_bell_rings_at_the_close_and_not_after_it(self, queue: Queue) -> None:
        engine, rings = queue.engine, list[int]()
        queue.pop()
        queue.subscribe(lambda: rings.append(1))
        rings.clear()
        queue.close()
        assert rings
        rings.clear()
        again = Queue(engine)
        again.push("x")
        assert not rings
        assert take(again).body == "x"
        again.close()
