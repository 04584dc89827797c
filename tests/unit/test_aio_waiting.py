"""The asyncio face: what wakes a waiting pop, and what cancellation leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from aio_queues import LONG, Gate, Looks, cancel_at, run, take

import mailq
from mailq import aio
from mailq.engines.base import Claim

# Waiting


def test_a_pop_that_waits_is_woken_by_a_push_from_a_thread(
    opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(opened, monkeypatch)

    async def test(q: aio.AsyncQueue) -> None:
        waiting = asyncio.create_task(take(q, wait=math.inf))
        await looks.wait_for(1)
        thread = threading.Thread(target=opened.push, args=("x",))
        thread.start()
        assert (await waiting).body == "x"
        await asyncio.to_thread(thread.join)

    run(opened, test)


def test_a_pop_that_waits_is_woken_from_elsewhere(path: Path) -> None:
    """Another engine on the same directory, as another process has it."""
    queue, other = mailq.open(path), mailq.open(path)

    async def test(q: aio.AsyncQueue) -> None:
        waiting = asyncio.create_task(take(q, wait=math.inf))
        await asyncio.to_thread(other.push, "x")
        assert (await waiting).body == "x"

    run(queue, test)


def test_two_pops_that_wait_get_a_message_each(opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(opened, monkeypatch)

    async def test(q: aio.AsyncQueue) -> None:
        waiting = [asyncio.create_task(take(q, wait=LONG)) for _ in range(2)]
        await looks.wait_for(2)
        await asyncio.to_thread(opened.push_many, ["a", "b"])
        assert sorted([(await task).body for task in waiting]) == ["a", "b"]
        assert len({id(bell) for bell in looks.bells}) == 1
        assert q._waiting == {}

    run(opened, test)


def test_more_pops_wait_than_there_are_threads(opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(opened, monkeypatch)
    count = aio._THREADS * 3

    async def test(q: aio.AsyncQueue) -> None:
        waiting = [asyncio.create_task(take(q, wait=math.inf)) for _ in range(count)]
        await looks.wait_for(count)
        await q.push_many(range(count))
        assert sorted([(await task).body for task in waiting]) == list(range(count))

    run(opened, test)


def test_a_pop_waits_no_longer_than_told(opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    Looks(opened, monkeypatch)

    async def test(q: aio.AsyncQueue) -> None:
        assert await q.pop(wait=0.01) is None
        assert await q.pop() is None
        assert q._waiting == {}

    run(opened, test)


def test_what_is_due_while_a_pop_waits_is_delivered(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        await q.push("later", delay=0.05)
        assert (await take(q, wait=LONG)).body == "later"

    run(opened, test)


def test_pops_wait_on_the_loops_of_two_threads(opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(opened, monkeypatch)
    got: list[object] = []

    async def test(q: aio.AsyncQueue) -> None:
        def elsewhere() -> None:
            got.append(asyncio.run(take(q, wait=LONG)).body)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        waiting = asyncio.create_task(take(q, wait=LONG))
        await looks.wait_for(2)
        await q.push_many(["a", "b"])
        got.append((await waiting).body)
        await asyncio.to_thread(thread.join)
        assert sorted(map(str, got)) == ["a", "b"]

    run(opened, test)


def test_a_bell_for_a_closed_loop_does_no_harm(opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(opened, monkeypatch)
    q = aio.AsyncQueue(opened)
    left = q.pop(wait=math.inf)
    loop = asyncio.new_event_loop()
    task = loop.create_task(left)  # held, as a program would
    loop.run_until_complete(looks.wait_for(1))
    loop.set_exception_handler(lambda *_: None)  # for its complaint that the task is left behind
    loop.close()
    assert q._waiting
    opened.push("x")
    assert not q._waiting
    left.close()
    assert not task.done()
    asyncio.run(q.close())


@pytest.mark.parametrize("beneath", [False, True])
def test_closing_ends_a_waiting_pop(opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch, *, beneath: bool) -> None:
    looks = Looks(opened, monkeypatch)

    async def test(q: aio.AsyncQueue) -> None:
        waiting = asyncio.create_task(take(q, wait=LONG))
        await looks.wait_for(1)
        await (asyncio.to_thread(opened.close) if beneath else q.close())
        with pytest.raises(mailq.QueueClosed):
            await waiting
        with pytest.raises(mailq.QueueClosed):
            await q.push("x")
        await q.close()

    run(opened, test)


# Cancellation


def test_a_pop_cancelled_while_it_waits_leaves_nothing(opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(opened, monkeypatch)

    async def test(q: aio.AsyncQueue) -> None:
        waiting = asyncio.create_task(q.pop(wait=math.inf))
        await looks.wait_for(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert q._waiting == {}
        await q.push("x")
        assert (await q.stats()).leased == 0

    run(opened, test)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("wait", [0, math.inf])
def test_a_pop_cancelled_in_its_claim_releases_it(
    opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch, wait: float, times: int
) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        await q.push_many(["a", "b"])
        gate = Gate(opened._engine.claim)
        with monkeypatch.context() as patch:
            patch.setattr(opened._engine, "claim", gate)
            await cancel_at(gate, asyncio.create_task(q.pop_many(2, wait=wait)), times)
        stats = await q.stats()
        assert (stats.ready, stats.leased) == (2, 0)
        deliveries = await q.pop_many(2)
        assert [d.attempt for d in deliveries] == [1, 1]
        assert [d.body for d in deliveries] == ["a", "b"]

    run(opened, test)


def test_a_pop_cancelled_when_its_claim_is_done_releases_it(
    opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread has come back, the task has not seen it yet."""
    monkeypatch.setattr(aio, "_THREADS", 1)

    async def test(q: aio.AsyncQueue) -> None:
        await q.push("x")
        for turns in range(12):
            task = asyncio.create_task(q.pop(wait=LONG))
            for _ in range(turns):
                await asyncio.sleep(0)
            q._threads._pool.submit(lambda: None).result()  # it stood in line behind the claim
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                delivery = await task
                assert delivery is not None
                await delivery.release()
            assert (await q.stats())[:3] == (1, 0, 0)
        assert (await take(q)).attempt == 1

    run(opened, test)


def test_a_claim_that_fails_when_cancelled_is_still_a_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = mailq.open("memory://")
    broken = threading.Event()

    def claim(limit: int, *, lease: float | None, detached: bool) -> list[Claim]:
        broken.set()
        raise mailq.StorageError("claim", OSError(5, "disk"))

    def test_claim(*args: Any, **options: Any) -> list[Claim]:
        gate.reached.set()
        assert gate.open.wait(LONG)
        return claim(*args, **options)

    gate = Gate(claim)

    async def test(q: aio.AsyncQueue) -> None:
        monkeypatch.setattr(queue._engine, "claim", test_claim)
        await cancel_at(gate, asyncio.create_task(q.pop()))
        assert broken.is_set()

    run(queue, test)


def test_a_cancelled_push_is_whole(opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        gate = Gate(opened._engine.push)
        monkeypatch.setattr(opened._engine, "push", gate)
        await cancel_at(gate, asyncio.create_task(q.push_many(["a", "b"])))
        assert [message.body for message in await q.peek()] == ["a", "b"]

    run(opened, test)


def test_a_cancelled_ack_is_done(opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        await q.push("x")
        d = await take(q)
        gate = Gate(opened._engine.settle)
        monkeypatch.setattr(opened._engine, "settle", gate)
        await cancel_at(gate, asyncio.create_task(d.ack()), times=2)
        assert d.settled
        assert sum((await q.stats())[:4]) == 0

    run(opened, test)


def test_the_end_of_the_program_releases_a_claim(opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio.run cancels all that is left."""
    gate = Gate(opened._engine.claim)
    opened.push("x")
    monkeypatch.setattr(opened._engine, "claim", gate)

    async def main() -> None:
        q = aio.AsyncQueue(opened)
        task = asyncio.create_task(q.pop())
        assert await asyncio.to_thread(gate.reached.wait, LONG)
        task.add_done_callback(lambda _: None)
        asyncio.get_running_loop().call_soon(gate.open.set)

    asyncio.run(main())
    assert opened.stats()[:3] == (1, 0, 0)
