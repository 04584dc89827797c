"""The asyncio face: ``async with`` a delivery, and how it is left."""

from __future__ import annotations

import asyncio

import pytest
from aio_queues import LONG, run, take

import mailq
from mailq import aio


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
        assert "test_aio_with.py" in attempt.error
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
