"""What the supervisor knows of its queues."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

import mailq
from mailq.workers.job import Source


def test_what_comes_during_a_look_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with mailq.open("memory://") as queue:
        source = Source(queue, 0, lambda: None)
        poll = queue.poll

        def slow(limit: int, **options: Any) -> list[mailq.Delivery] | None:
            found = poll(limit, **options)
            source.notify()
            return found

        monkeypatch.setattr(queue, "subscribe", lambda _callback: 3600.0)
        assert source.pop(1, None) == []
        assert not source.is_due(time.monotonic())
        with monkeypatch.context() as patch:
            patch.setattr(queue, "poll", slow)
            assert source.pop(1, None) == []
        assert source.is_due(-math.inf)
        assert source.next_poll == 0.0
        assert source.pop(1, None) == []
        assert not source.is_due(time.monotonic())
