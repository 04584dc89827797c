"""The asyncio face: every verb, what wakes a waiting pop, and what cancellation leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import mailq
from mailq import aio
from mailq.engine import Claim

LONG = 60.0
"""Seconds after which what was to happen is taken not to happen."""

Open = Callable[[], mailq.Queue]
Test = Callable[[aio.AsyncQueue], Coroutine[Any, Any, None]]


@pytest.fixture(params=["memory", "directory"])
def opened(request: pytest.FixtureRequest, path: Path) -> mailq.Queue:
    return mailq.open("memory://" if request.param == "memory" else path, backoff=mailq.Backoff(0.001, 0.001))


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
        self._listen = queue.listen
        self._patience = patience
        self._empty = threading.Semaphore(0)
        self._local = threading.local()
        self.bells: list[object] = []
        monkeypatch.setattr(queue, "listen", self)

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


# Verbs


def test_push_pop_ack(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        id = await q.push({"n": 1}, headers={"a": "b"}, priority=3)
        d = await take(q)
        assert (d.id, d.body, d.raw, d.headers, d.attempt) == (id, {"n": 1}, b'{"n":1}', {"a": "b"}, 1)
        assert (d.content_type, d.priority, d.settled, d.wants_reply) == ("application/json", 3, False, False)
        assert d.size == d.delivery.size
        assert d.pushed_at == d.delivery.pushed_at
        assert d.deadline_at == d.delivery.deadline_at
        assert not await d.lost()
        assert await d.history() == []
        await d.ack()
        assert d.settled
        assert sum((await q.stats())[:4]) == 0
        with pytest.raises(mailq.LeaseLost):
            await d.ack()

    run(opened, test)


def test_push_many_push_file_and_pop_many(opened: mailq.Queue, tmp_path: Path) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        file = tmp_path / "note.txt"
        file.write_text("hello")
        ids = await q.push_many(["a", "b"], content_type="text/plain")
        ids.append(await q.push_file(file))
        deliveries = await q.pop_many(5)
        assert [d.id for d in deliveries] == ids
        assert [d.body for d in deliveries] == ["a", "b", "hello"]
        assert await q.pop_many(5) == []

    run(opened, test)


def test_settling_by_delivery(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        await q.push("x")
        d = await take(q, lease=10)
        before = d.deadline_at
        await d.extend(500)
        assert before is not None
        assert d.deadline_at is not None
        assert d.deadline_at > before
        await d.release()
        d = await take(q)
        assert d.attempt == 1
        await d.nack(0, "oops")
        d = await take(q)
        assert d.attempt == 2
        assert [attempt.error for attempt in await d.history()] == ["oops"]
        await d.reject("no")
        assert (await q.get(d.id)).state == "dead"

    run(opened, test)


def test_settling_by_receipt(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        await q.push("x")
        d = await take(q, detached=True)
        assert await q.extend(d.receipt, 900) == pytest.approx(d.pushed_at + 900, abs=LONG)
        assert (await q.delivery(d.receipt)).body == "x"
        await q.release(d.receipt)
        await q.nack((await take(q)).receipt, delay=0)
        await q.reject((await take(q)).receipt, "no")
        assert await q.redrive() == 1
        await q.ack((await take(q)).receipt)
        assert sum((await q.stats())[:4]) == 0
        with pytest.raises(mailq.InvalidReceipt):
            await q.ack("nonsense")

    run(opened, test)


def test_looking_and_mending(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        id = await q.push("x")
        (message,) = await q.peek()
        assert (message.id, message.body) == (id, "x")
        await q.edit(message, b"y")
        assert (await q.get(id)).raw == b"y"
        with pytest.raises(mailq.MessageNotFound):
            await q.get("0" * 32)
        await q.pause()
        assert (await q.stats()).paused
        assert await q.pop() is None
        await q.resume()
        assert isinstance(await q.reap(), mailq.Reaped)
        assert isinstance(await q.owners(), list)
        assert (await q.configure(lease=7)).lease == 7
        assert q.settings.lease == 7
        assert await q.purge("ready") == 1
        assert q.location in repr(q)
        assert q.location == opened.location

    run(opened, test)


@pytest.mark.parametrize("target", ["memory", "directory"])
def test_opening(target: str, path: Path) -> None:
    async def main() -> None:
        async with await aio.open("memory://" if target == "memory" else path, lease=3) as q:
            assert q.settings.lease == 3
            await q.push("x")
            await take(q)
        q.queue.reap()
        assert q.queue.stats().leased == 0  # closing ended the lease

    asyncio.run(main())


def test_opening_what_is_not_there(path: Path) -> None:
    with pytest.raises(mailq.QueueNotFound):
        asyncio.run(aio.open(path, create=False))
    assert not path.exists()


def test_iterating_waits_for_messages_and_draining_does_not(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        await q.push_many([1, 2, 3])
        got = []
        async for d in q.drain():
            async with d as body:
                got.append(body)
        assert got == [1, 2, 3]
        task = asyncio.create_task(take(q, wait=LONG))
        await q.push(0)
        await (await task).ack()
        await q.push(4)
        async for d in q:
            async with d as body:
                got.append(body)
            if body == 5:
                break
            await q.push(5, delay=0.01)
        assert got == [1, 2, 3, 4, 5]

    run(opened, test)


@pytest.mark.parametrize("wait", [-1, "1", True, None, math.nan])
def test_a_wait_that_is_none_is_refused(wait: Any) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        with pytest.raises(mailq.UsageError, match="wait is"):
            await q.pop(wait=wait)

    run(mailq.open("memory://"), test)


# Replies


def test_a_reply_comes_round(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        reply = await q.request(20, headers={"a": "b"})
        assert not await reply.ready()
        waiting = asyncio.create_task(reply.result(timeout=LONG))
        async with await take(q) as body:
            pass
        d = await q.push("other"), await take(q)
        assert not d[1].wants_reply
        opened_reply = q.reply_to(reply.id)
        opened._engine.put_reply(reply.id, b'{"ok": true, "result": 40}\n')
        assert body == 20
        assert await waiting == 40
        assert await opened_reply.ready()
        assert await opened_reply.result() == 40

    run(opened, test)


def test_a_delivery_replies(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        reply = await q.request("ping")
        d = await take(q)
        assert d.wants_reply
        await d.reply("pong")
        await d.ack()
        assert await reply.result(timeout=LONG) == "pong"

    run(opened, test)


def test_a_reply_that_does_not_come(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        reply = await q.request("x")
        with pytest.raises(mailq.UsageError, match="timeout is"):
            await reply.result(timeout=-1)
        with pytest.raises(mailq.ReplyTimeout):
            await reply.result(timeout=0.02)
        await (await take(q)).reject("never")
        with pytest.raises(mailq.JobFailed, match="never"):
            await reply.result(timeout=LONG)
        await q.purge("dead")
        with pytest.raises(mailq.JobFailed, match="gone"):
            await reply.result(timeout=LONG)

    run(opened, test)


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


def test_closing_does_not_leave_a_waiting_pop_deaf(opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(opened, monkeypatch)

    async def test(q: aio.AsyncQueue) -> None:
        waiting = asyncio.create_task(take(q, wait=LONG))
        await looks.wait_for(1)
        await q.close()
        await looks.wait_for(1)
        await asyncio.to_thread(opened.push, "x")
        assert (await waiting).body == "x"

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
        gate = Gate(opened._engine.ack)
        monkeypatch.setattr(opened._engine, "ack", gate)
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


# async with


def test_leaving_acks(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        await q.push("x")
        async with await take(q) as body:
            assert body == "x"
        assert sum((await q.stats())[:4]) == 0

    run(opened, test)


def test_what_was_settled_inside_stays_so(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        await q.push("x")
        d = await take(q)
        async with d:
            await d.reject("no")
        assert (await q.stats()).dead == 1

    run(opened, test)


def test_an_exception_nacks_with_the_traceback(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        await q.push("x")
        with pytest.raises(ZeroDivisionError):
            async with await take(q):
                raise ZeroDivisionError("on purpose")
        d = await take(q, wait=LONG)
        assert d.attempt == 2
        (attempt,) = await d.history()
        assert attempt.outcome == "error"
        assert attempt.error is not None
        assert "test_aio.py" in attempt.error
        assert "on purpose" in attempt.error

    run(opened, test)


def test_a_job_whose_lease_is_lost_tells_its_own_error(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        await q.push("x")
        d = await take(q)
        await q.purge("leased")
        with pytest.raises(KeyError) as caught:
            async with d:
                raise KeyError("k")
        assert "not given back" in caught.value.__notes__[0]

    run(opened, test)


def test_a_cancelled_job_is_released_uncounted(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        await q.push("x")
        begun = asyncio.Event()

        async def job() -> None:
            async with await take(q):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(job())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        d = await take(q)
        assert (d.attempt, await d.history()) == (1, [])

    run(opened, test)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_job_is_released_uncounted(opened: mailq.Queue, kind: type[BaseException]) -> None:
    async def main() -> None:
        async with await take(aio.AsyncQueue(opened)):
            raise kind

    opened.push("x")
    with pytest.raises(kind):
        asyncio.run(main())
    delivery = opened.pop()
    assert delivery is not None
    assert delivery.attempt == 1


def test_a_job_that_is_closed_is_released_uncounted(opened: mailq.Queue) -> None:
    async def job(d: aio.AsyncDelivery) -> None:
        async with d:
            await asyncio.get_running_loop().create_future()

    async def test(q: aio.AsyncQueue) -> None:
        await q.push("x")
        coroutine = job(await take(q))
        coroutine.send(None)
        coroutine.close()
        assert (await take(q)).attempt == 1

    run(opened, test)


def test_a_body_that_does_not_decode_is_nacked(opened: mailq.Queue) -> None:
    async def test(q: aio.AsyncQueue) -> None:
        await q.push(b"{", content_type="application/json")
        with pytest.raises(mailq.CodecError):
            async with await take(q):
                pytest.fail("there is no body")
        assert (await take(q, wait=LONG)).attempt == 2

    run(opened, test)
