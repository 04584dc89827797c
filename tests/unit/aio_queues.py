"""What the tests of the asyncio face share: a queue that runs a test, gates, and counted looks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

import mailq
from mailq import aio

LONG: Final = 60.0
"""Seconds after which what was to happen is taken not to happen."""

Test = Callable[[aio.AsyncQueue], Coroutine[Any, Any, None]]


def run(queue: mailq.Queue, test: Test) -> None:
    """Run a test on the queue's asyncio face, closed afterwards."""

    async def main() -> None:
        async with asyncio.timeout(LONG), aio.AsyncQueue(queue) as q:
            await test(q)

    asyncio.run(main())


async def take(q: aio.AsyncQueue, **options: Any) -> aio.AsyncDelivery:
    delivery = await q.pop(**options)
    assert delivery is not None
    return delivery


class Gate:
    """Holds a function back at its end until opened."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, *args: Any, **options: Any) -> Any:
        result = self._function(*args, **options)
        self.reached.set()
        assert self.open.wait(LONG)
        return result


async def cancel_at(gate: Gate, task: asyncio.Task[Any], times: int = 1) -> None:
    """Cancel a task while its thread stands at the gate, then open."""
    assert await asyncio.to_thread(gate.reached.wait, LONG)
    for _ in range(times):
        task.cancel()
        for _ in range(5):  # the cancellation gets as far as it can
            await asyncio.sleep(0)
    assert not task.done()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task


class Looks:
    """Counts the looks of waiting pops that found nothing, and has only the bell end their waits."""

    def __init__(self, queue: mailq.Queue, monkeypatch: pytest.MonkeyPatch, patience: float = 3600) -> None:
        self._listen = queue.subscribe
        self._patience = patience
        self._empty = threading.Semaphore(0)
        self._local = threading.local()
        self.bells: list[object] = []
        monkeypatch.setattr(queue, "subscribe", self)

    def __call__(self, bell: Callable[[], None]) -> float:
        self._listen(bell)
        self.bells.append(bell)
        self._local.calls = getattr(self._local, "calls", 0) + 1
        if self._local.calls % 2 == 0:  # once before the claim, once after it in vain
            self._empty.release()
        return self._patience

    async def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert await asyncio.to_thread(self._empty.acquire, timeout=LONG)
