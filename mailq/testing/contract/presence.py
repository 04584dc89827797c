"""The contract of presence: which processes work on the queue, and what they publish of themselves."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from mailq.testing.contract.base import ContractBase, needs, take

if TYPE_CHECKING:
    from mailq.queue import Queue


@needs("presence")
class PresenceContract(ContractBase):
    """Holders of leases and their status."""

    def test_a_status_comes_back(self, queue: Queue) -> None:
        before = time.time()
        queue.publish({"running": ["a", "b"], "done": 3, "name": "Größe", "nested": {"x": None}})
        (holder,) = queue.workers()
        assert holder.status == {"running": ["a", "b"], "done": 3, "name": "Größe", "nested": {"x": None}}
        assert (holder.pid, holder.alive) == (os.getpid(), True)
        assert before - 60 < holder.since < time.time() + 60
        assert holder.host
        assert holder.token

    def test_a_status_is_replaced_by_the_next_longer_or_shorter(self, queue: Queue) -> None:
        for length in (10, 1000, 0, 30_000, 1, 500):
            queue.publish({"text": "x" * length})
            (holder,) = queue.workers()
            assert holder.status == {"text": "x" * length}
        queue.publish({})
        (holder,) = queue.workers()
        assert holder.status == {}

    def test_a_holder_of_leases_is_listed(self, queue: Queue) -> None:
        queue.push("x")
        take(queue)
        (holder,) = queue.workers()
        assert (holder.pid, holder.alive, holder.status) == (os.getpid(), True, {})

    def test_publishing_a_status_changes_nothing_about_leases(self, queue: Queue) -> None:
        queue.push("x")
        delivery = take(queue)
        for n in range(10):
            queue.publish({"n": "x" * n})
            assert queue.reap()[:3] == (0, 0, 0)
        delivery.ack()

    @pytest.mark.parametrize("value", [object(), b"x", {1, 2}, "\udcff"], ids=["object", "bytes", "set", "surrogate"])
    def test_a_status_that_is_no_json_does_no_harm(self, queue: Queue, value: Any) -> None:  # noqa: ANN401 - anything
        queue.publish({"before": 1})
        queue.publish({"value": value})
        (holder,) = queue.workers()
        assert (holder.pid, holder.alive) == (os.getpid(), True)

    def test_a_status_does_not_change_whose_it_is(self, queue: Queue) -> None:
        queue.publish({"pid": 1, "host": "elsewhere", "since": 0.0, "boot": "never", "n": 1})
        (holder,) = queue.workers()
        assert (holder.pid, holder.alive) == (os.getpid(), True)
        assert holder.host != "elsewhere"
        assert holder.status["n"] == 1
