"""The contract of edits: another body, and everything else stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mailq.errors import MessageNotFound, MessageTooLarge, UsageError
from mailq.testing.contract.base import ContractBase, bodies, bring, needs, take

if TYPE_CHECKING:
    from mailq.message import State
    from mailq.queue import Queue
    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import OpenQueue


@needs("edit")
class EditContract(ContractBase):
    """What an edit changes, and what it refuses."""

    @pytest.mark.parametrize("state", ["ready", "delayed", "dead"])
    def test_an_edited_message_is_delivered_with_its_new_body(
        self, queue: Queue, clock: ManualClock, state: State
    ) -> None:
        id = bring(queue, state, {"old": 1}, headers={"h": "1"}, priority=4, lease=15)
        queue.edit(queue.get(id), b'{"new": 22}')
        message = queue.get(id)
        assert (message.state, message.body, message.headers) == (state, {"new": 22}, {"h": "1"})
        clock.advance(31)
        queue.redrive()
        delivery = take(queue)
        assert (delivery.id, delivery.body, delivery.headers, delivery.priority) == (id, {"new": 22}, {"h": "1"}, 4)
        assert delivery.deadline_at == pytest.approx(clock.seconds + 15, abs=0.01)

    def test_an_edited_message_keeps_its_place_its_type_and_its_story(self, queue: Queue) -> None:
        queue.push("a", content_type="text/markdown")
        queue.push("b")
        take(queue).nack(delay=0, error="broken")
        queue.edit(queue.peek()[0], b"A")
        delivery = take(queue)
        assert (delivery.body, delivery.content_type, delivery.attempt) == ("A", "text/markdown", 2)
        assert [attempt.error for attempt in delivery.history] == ["broken"]
        assert bodies(queue) == ["b"]

    def test_an_edited_dead_letter_stays_dead_for_the_same_reason(self, queue: Queue) -> None:
        id = bring(queue, "dead")
        died_at = queue.get(id).died_at
        queue.edit(queue.get(id), b"y")
        message = queue.get(id)
        assert (message.state, message.reason, message.raw) == ("dead", "rejected", b"y")
        assert message.died_at == died_at
        assert [attempt.error for attempt in message.history] == ["gone bad"]

    def test_an_edit_to_the_same_body_is_no_loss(self, queue: Queue) -> None:
        id = queue.push("x")
        queue.edit(queue.get(id), b"x")
        queue.edit(queue.get(id), b"")
        queue.edit(queue.get(id), b"x")
        assert bodies(queue) == ["x"]

    def test_a_leased_message_cannot_be_edited(self, queue: Queue) -> None:
        id = bring(queue, "leased")
        with pytest.raises(UsageError):
            queue.edit(queue.get(id), b"y")
        assert queue.get(id).raw == b"x"

    @pytest.mark.parametrize("taken", ["popped", "purged"])
    def test_a_message_that_somebody_took_cannot_be_edited(self, queue: Queue, taken: str) -> None:
        queue.push("x")
        (message,) = queue.peek()
        before = take(queue) if taken == "popped" else queue.purge("ready")
        with pytest.raises(MessageNotFound):
            queue.edit(message, b"y")
        assert len(queue) == (1 if taken == "popped" else 0)
        if not isinstance(before, int):
            assert queue.get(before.id).raw == b"x"
            before.ack()

    def test_an_edit_larger_than_the_queue_takes_is_refused(self, open_queue: OpenQueue) -> None:
        queue = open_queue(max_message_bytes=10)
        id = queue.push("x")
        with pytest.raises(MessageTooLarge) as refused:
            queue.edit(queue.get(id), b"y" * 11)
        assert (refused.value.size, refused.value.limit) == (11, 10)
        assert queue.get(id).raw == b"x"
