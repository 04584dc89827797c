"""The asyncio face: every verb, and replies."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from aio_queues import LONG, run, take

import mailq
from mailq import aio, reply


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
        assert isinstance(await q.workers(), list)
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
            engine = q.queue.engine
        engine.reap()
        assert engine.stats().leased == 0  # closing ended the lease

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
        opened.replies.put_reply(reply.id, b'{"ok": true, "result": 40}\n')
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


def test_a_reply_that_does_not_come(opened: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply, "_CHECK", 0.01)

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
