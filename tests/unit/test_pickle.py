"""Queues that go to another process, as the start methods other than fork send them; and what does not."""

from __future__ import annotations

import asyncio
import pickle
import shutil
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from together import Child

import mailq
from mailq import aio


def push(pipe: Connection, queue: mailq.Queue) -> None:
    pipe.send(queue.push("from the child"))


def test_a_queue_is_opened_again_in_another_process(queue: mailq.Queue) -> None:
    with Child(push, queue) as child:
        id = child.hear()
    assert queue.get(id).body == "from the child"


def test_a_queue_is_pickled_as_its_place(queue: mailq.Queue, path: Path) -> None:
    queue.push("x")
    pickled = pickle.dumps(queue)
    with pickle.loads(pickled) as same:
        assert same is not queue
        assert same.location == queue.location
        assert same.stats().ready == 1
    assert queue.stats().ready == 1  # the other one was closed
    shutil.rmtree(path)
    with pytest.raises(mailq.QueueNotFound):
        pickle.loads(pickled)
    assert not path.exists()


def test_what_was_found_in_a_queue_goes_with_it(queue: mailq.Queue) -> None:
    id = queue.push("x")
    assert pickle.loads(pickle.dumps(queue.get(id))).body == "x"
    assert not pickle.loads(pickle.dumps(queue.reply_to(id))).ready


def test_an_asynchronous_queue_is_pickled_as_the_one_beneath(queue: mailq.Queue) -> None:
    async def push() -> str:
        async with pickle.loads(pickle.dumps(aio.AsyncQueue(queue))) as q:
            return str(await q.push("x"))

    assert asyncio.run(push()) in queue


def test_a_queue_in_memory_stays_where_it_is() -> None:
    with pytest.raises(mailq.UsageError, match="memory:// cannot be pickled: no other process sees it"):
        pickle.dumps(mailq.open("memory://"))


def test_a_delivery_stays_where_it_is(queue: mailq.Queue) -> None:
    queue.push("x")
    delivery = queue.pop()
    for one in (delivery, aio.AsyncDelivery(delivery, aio.AsyncQueue(queue)._threads) if delivery else None):
        with pytest.raises(mailq.UsageError, match="pass its receipt"):
            pickle.dumps(one)
    assert delivery is not None
    assert delivery.receipt == queue.delivery(pickle.loads(pickle.dumps(delivery.receipt))).receipt
