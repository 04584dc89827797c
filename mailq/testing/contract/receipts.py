"""The contract of receipts: a stale holder can do no harm, and a text is never a path."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from mailq.errors import InvalidReceipt, LeaseLost, MessageNotFound, UsageError
from mailq.testing.contract.base import LEASE, ContractBase, lapse, take

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailq.delivery import Delivery
    from mailq.queue import Queue
    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import Forge

_VERBS: dict[str, Callable[[Queue, Any], object]] = {
    "ack": lambda queue, receipt: queue.ack(receipt),
    "nack": lambda queue, receipt: queue.nack(receipt, error="stale"),
    "release": lambda queue, receipt: queue.release(receipt),
    "reject": lambda queue, receipt: queue.reject(receipt, "stale"),
    "extend": lambda queue, receipt: queue.extend(receipt, 600),
}

_LOSING: dict[str, Callable[[Queue, ManualClock, Delivery], object]] = {
    "acked": lambda queue, clock, delivery: delivery.ack(),  # noqa: ARG005 - one signature for all
    "nacked": lambda queue, clock, delivery: delivery.nack(delay=0),  # noqa: ARG005
    "nacked with a delay": lambda queue, clock, delivery: delivery.nack(delay=30),  # noqa: ARG005
    "released": lambda queue, clock, delivery: delivery.release(),  # noqa: ARG005
    "rejected": lambda queue, clock, delivery: delivery.reject(),  # noqa: ARG005
    "lapsed": lambda queue, clock, delivery: lapse(queue, clock),  # noqa: ARG005
    "purged": lambda queue, clock, delivery: queue.purge("leased"),  # noqa: ARG005
}

_NO_RECEIPTS: dict[str, Any] = {
    "empty": "",
    "a dot": ".",
    "a relative path": "../x",
    "an absolute path": "/etc/passwd",
    "a path into the queue": "../mailq.toml",
    "a NUL": "x\0y",
    "10 kB": "x" * 10_240,
    "10 kB of slashes": "/" * 10_240,
    "a newline": "\n",
    "not ASCII": "Größe",
    "a lone surrogate": "\udcff",
    "bytes": b"x",
    "a number": 7,
    "None": None,
    "a list": [],
    "an id": "0" * 32,
}

# What somebody may make of a good receipt.
_DISTORTIONS: dict[str, Callable[[str], Any]] = {
    "with a path": lambda receipt: "./" + receipt,
    "with a way out": lambda receipt: "../cur/" + receipt,
    "with a NUL": lambda receipt: receipt + "\0",
    "with a newline": lambda receipt: receipt + "\n",
    "with a blank": lambda receipt: " " + receipt,
    "as bytes": lambda receipt: receipt.encode(),
    "twice": lambda receipt: receipt + receipt,
    "with other digits": lambda receipt: receipt.translate({ord("0") + n: 0x0660 + n for n in range(10)}),
    "with a wide digit": lambda receipt: re.sub("[0-9]", lambda digit: chr(0xFF10 + int(digit[0])), receipt, count=1),
}


def _state(queue: Queue) -> object:
    """Everything about the queue that a stale holder must not change."""
    peeked = [queue.peek(state, limit=None) for state in ("ready", "delayed", "leased", "dead")]
    return (
        queue.stats(),
        [(m.id, m.location, m.attempt, m.deadline_at, m.history, m.raw) for listed in peeked for m in listed],
    )


class ReceiptsContract(ContractBase):
    """Every verb with every receipt that is not, or no longer, good."""

    @pytest.mark.parametrize("verb", _VERBS)
    @pytest.mark.parametrize("how", _LOSING)
    def test_a_stale_receipt_loses_and_changes_nothing(
        self, queue: Queue, clock: ManualClock, how: str, verb: str
    ) -> None:
        queue.push("x")
        delivery = take(queue)
        _LOSING[how](queue, clock, delivery)
        before = _state(queue)
        with pytest.raises(LeaseLost) as lost:
            _VERBS[verb](queue, delivery.receipt)
        assert (lost.value.verb, lost.value.receipt) == (verb, delivery.receipt)
        assert _state(queue) == before

    @pytest.mark.parametrize("verb", _VERBS)
    def test_a_stale_holder_cannot_touch_the_new_holder(self, queue: Queue, clock: ManualClock, verb: str) -> None:
        queue.push("x")
        old = take(queue)
        lapse(queue, clock)
        new = take(queue)
        before = _state(queue)
        with pytest.raises(LeaseLost):
            _VERBS[verb](queue, old.receipt)
        assert _state(queue) == before
        new.extend(120)
        new.ack()
        assert len(queue) == 0

    @pytest.mark.parametrize("verb", _VERBS)
    def test_a_stale_delivery_cannot_settle_either(self, queue: Queue, clock: ManualClock, verb: str) -> None:
        queue.push("x")
        old = take(queue)
        lapse(queue, clock)
        new = take(queue)
        with pytest.raises(LeaseLost):
            getattr(old, verb)(*([60] if verb == "extend" else []))
        new.ack()

    @pytest.mark.parametrize("verb", _VERBS)
    def test_a_stale_receipt_stays_stale_when_the_message_comes_back_unchanged(self, queue: Queue, verb: str) -> None:
        """A release puts the message back as it was: the next lease at the same instant differs all the same."""
        queue.push("x")
        old = take(queue)
        old.release()
        new = take(queue)
        assert new.deadline_at == old.deadline_at
        with pytest.raises(LeaseLost):
            _VERBS[verb](queue, old.receipt)
        new.ack()

    def test_receipts_of_one_message_are_never_the_same(self, queue: Queue) -> None:
        queue.push("x")
        receipts = set()
        for _ in range(50):
            delivery = take(queue)
            receipts.add(delivery.receipt)
            delivery.release()
        assert len(receipts) == 50  # noqa: PLR2004 - as many as there were

    @pytest.mark.parametrize("verb", _VERBS)
    def test_a_receipt_alone_settles_a_message(self, queue: Queue, verb: str) -> None:
        queue.push("x")
        receipt = str(take(queue, detached=True).receipt)
        _VERBS[verb](queue, receipt)
        stats = queue.stats()
        expected = {"ack": None, "nack": "delayed", "release": "ready", "reject": "dead", "extend": "leased"}[verb]
        assert (stats.ready, stats.delayed, stats.leased, stats.dead) == tuple(
            int(state == expected) for state in ("ready", "delayed", "leased", "dead")
        )

    @pytest.mark.parametrize("receipt", _NO_RECEIPTS.values(), ids=_NO_RECEIPTS)
    def test_what_is_not_a_receipt_is_called_so(self, queue: Queue, receipt: Any) -> None:  # noqa: ANN401 - anything
        queue.push("x")
        take(queue)
        before = _state(queue)
        for verb in _VERBS.values():
            with pytest.raises(InvalidReceipt) as invalid:
                verb(queue, receipt)
            assert invalid.value.receipt == receipt
            assert len(str(invalid.value)) < 200  # noqa: PLR2004 - two lines of a terminal
        assert _state(queue) == before

    @pytest.mark.parametrize("how", _DISTORTIONS)
    def test_a_receipt_that_was_changed_is_not_a_receipt(self, queue: Queue, how: str) -> None:
        queue.push("x")
        delivery = take(queue)
        for verb in _VERBS.values():
            with pytest.raises(InvalidReceipt):
                verb(queue, _DISTORTIONS[how](delivery.receipt))
        delivery.ack()

    @pytest.mark.parametrize("verb", _VERBS)
    def test_the_name_of_a_message_that_nobody_holds_is_not_a_receipt(self, queue: Queue, verb: str) -> None:
        queue.push("x")
        (message,) = queue.peek()
        with pytest.raises(InvalidReceipt):
            _VERBS[verb](queue, message.location.rpartition("/")[2])
        assert queue.stats().ready == 1

    @pytest.mark.parametrize("verb", _VERBS)
    def test_a_well_formed_receipt_of_no_message_is_lost(self, queue: Queue, forge: Forge, verb: str) -> None:
        queue.push("x")
        delivery = take(queue)
        with pytest.raises(LeaseLost):
            _VERBS[verb](queue, forge(delivery.receipt))
        delivery.ack()

    @pytest.mark.parametrize("id", _NO_RECEIPTS.values(), ids=_NO_RECEIPTS)
    def test_an_id_of_no_message_finds_nothing(self, queue: Queue, id: Any) -> None:  # noqa: ANN401 - anything
        queue.push("x")
        take(queue).reject()
        with pytest.raises(MessageNotFound) as missing:
            queue.get(id)
        assert missing.value.id == id
        assert len(str(missing.value)) < 300  # noqa: PLR2004 - three lines of a terminal
        if isinstance(id, str):
            assert queue.redrive([id]) == 0
        assert queue.stats().dead == 1

    @pytest.mark.parametrize("state", ["", "new", "../dead", "READY", None])
    def test_a_state_that_there_is_not_is_refused(self, queue: Queue, state: Any) -> None:  # noqa: ANN401 - anything
        queue.push("x")
        with pytest.raises(UsageError):
            queue.peek(state)
        with pytest.raises(UsageError):
            queue.purge(state)
        assert queue.stats().ready == 1

    def test_the_deadline_of_a_stale_delivery_does_not_move(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("x")
        delivery = take(queue)
        deadline_at = delivery.deadline_at
        clock.advance(LEASE)
        with pytest.raises(LeaseLost):
            delivery.extend(60)
        assert delivery.deadline_at == deadline_at
