# ruff: noqa: PLR2004 - what a test expects are numbers
"""The contract of looking and mending: peek, get, edit, stats, len, configure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mailq.errors import MessageNotFound, SettingsError, UsageError
from mailq.message import STATES
from mailq.testing.contract.base import LEASE, ContractBase, bring, lapse, take

if TYPE_CHECKING:
    from mailq.message import State
    from mailq.queue import Queue
    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import OpenQueue


class LookContract(ContractBase):
    """What somebody sees who does not hold the message, and what may be changed."""

    # Peek and get

    def test_peek_shows_the_first_in_line_and_takes_nothing(self, queue: Queue) -> None:
        queue.push_many(range(12))
        queue.push("urgent", priority=1)
        assert [message.body for message in queue.peek()] == ["urgent", *range(9)]
        assert [message.body for message in queue.peek("ready", 2)] == ["urgent", 0]
        assert len(queue.peek(limit=None)) == 13
        assert queue.stats().ready == 13

    def test_peek_with_no_room_shows_nothing(self, queue: Queue) -> None:
        queue.push("x")
        assert queue.peek(limit=0) == []

    @pytest.mark.parametrize("state", ["ready", "delayed", "leased", "dead"])
    def test_a_message_is_found_in_every_state(self, queue: Queue, state: State) -> None:
        id = bring(queue, state, {"n": 1}, headers={"h": "1"}, priority=2)
        for message in (queue.get(id), *queue.peek(state)):
            assert (message.id, message.state, message.body, message.headers) == (id, state, {"n": 1}, {"h": "1"})
            assert (message.priority, message.content_type) == (2, "application/json")
            assert id in repr(message)
        for other in STATES:
            assert len(queue.peek(other)) == (other == state)

    def test_each_state_tells_its_own_time(self, queue: Queue, clock: ManualClock) -> None:
        ids = {state: bring(queue, state) for state in ("delayed", "dead", "leased", "ready")}
        expected = {
            "ready": (None, None, None),
            "delayed": (clock.seconds + 30, None, None),
            "leased": (None, clock.seconds + LEASE, None),
            "dead": (None, None, clock.seconds),
        }
        for state, id in ids.items():
            message = queue.get(id)
            for seen, time in zip((message.due_at, message.deadline_at, message.died_at), expected[state], strict=True):
                assert seen == (None if time is None else pytest.approx(time, abs=0.01))

    def test_the_attempt_of_a_message_that_nobody_holds_is_the_next_one(self, queue: Queue) -> None:
        id = queue.push("x")
        assert queue.get(id).attempt == 1
        take(queue).nack(delay=0)
        assert queue.get(id).attempt == 2

    def test_a_message_that_is_gone_is_not_found(self, queue: Queue) -> None:
        id = queue.push("x")
        take(queue).ack()
        with pytest.raises(MessageNotFound) as missing:
            queue.get(id)
        assert missing.value.id == id

    @pytest.mark.parametrize("state", STATES)
    def test_asking_whether_a_message_is_in_the_queue_only_looks(self, queue: Queue, state: State) -> None:
        id = bring(queue, state)
        before = queue.stats()
        assert id in queue
        assert id[:-1] not in queue
        assert "x" not in queue
        assert queue.stats() == before
        queue.purge(state)
        assert id not in queue

    def test_only_an_id_can_be_in_a_queue(self, queue: Queue) -> None:
        queue.push({"n": 1})
        with pytest.raises(UsageError, match="push returned"):
            assert {"n": 1} in queue
        assert queue.stats().ready == 1

    def test_a_body_is_read_wherever_its_message_is_by_then(self, queue: Queue) -> None:
        queue.push_many(["a", "b"])
        first, second = queue.peek()
        take(queue).reject()
        assert first.body == "a"
        take(queue).ack()
        with pytest.raises(MessageNotFound):
            _ = second.body

    # Edit

    # Count

    def test_stats_count_each_state(self, queue: Queue) -> None:
        for state in ("delayed", "dead", "leased", "ready"):
            bring(queue, state)
        queue.push("x", headers={"h": "1"})
        stats = queue.stats()
        assert (stats.ready, stats.delayed, stats.leased, stats.dead) == (2, 1, 1, 1)
        assert stats.bytes == 5 + len('{"h":"1"}\n')
        assert len(queue) == 4

    def test_stats_of_an_empty_queue_have_nothing_to_measure(self, queue: Queue) -> None:
        assert queue.stats() == (0, 0, 0, 0, 0, None, None, 0, False)
        assert len(queue) == 0

    def test_a_queue_is_true_also_an_empty_one(self, queue: Queue) -> None:
        assert queue

    def test_stats_tell_ages(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("oldest")
        clock.advance(10)
        queue.push("younger")
        queue.push("delayed", delay=100)
        clock.advance(5)
        stats = queue.stats()
        assert stats.oldest_ready_age == pytest.approx(15, abs=0.01)
        assert stats.next_due_in == pytest.approx(95, abs=0.01)
        clock.advance(200)
        assert queue.stats().next_due_in == 0

    def test_stats_tell_overdue_leases_until_they_are_reaped(self, queue: Queue, clock: ManualClock) -> None:
        queue.push_many(["a", "b"])
        take(queue)
        take(queue).extend(600)
        assert queue.stats().overdue == 0
        clock.advance(LEASE)
        assert queue.stats().overdue == 1
        queue.reap()
        assert queue.stats().overdue == 0

    # Settings

    def test_changed_settings_hold_from_then_on(self, queue: Queue, clock: ManualClock) -> None:
        queue.push("a")
        assert queue.configure(lease=10).lease == 10
        assert queue.settings.lease == 10
        delivery = take(queue)
        assert delivery.deadline_at == pytest.approx(clock.seconds + 10, abs=0.01)
        lapse(queue, clock, 10)
        assert take(queue).attempt == 2

    def test_none_puts_a_setting_back_to_its_default(self, open_queue: OpenQueue) -> None:
        queue = open_queue(lease=10, max_length=1)
        settings = queue.configure(lease=None, max_length=None)
        assert (settings.lease, settings.max_length) == (60, None)
        queue.push_many(["a", "b"])

    @pytest.mark.parametrize(
        "changes",
        [{"lease": -1}, {"max_retries": "many"}, {"leese": 5}, {"lease": 5, "retry_order": "random"}],
        ids=str,
    )
    def test_an_impossible_setting_is_refused_and_nothing_changed(self, queue: Queue, changes: dict[str, Any]) -> None:
        before = queue.settings
        with pytest.raises(SettingsError) as refused:
            queue.configure(**changes)
        assert refused.value.key == list(changes)[-1]
        assert queue.settings == before

    def test_a_queue_says_where_it_is(self, queue: Queue) -> None:
        assert queue.location
        assert queue.location in repr(queue)
