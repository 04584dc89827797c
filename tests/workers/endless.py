"""Handlers that go on for ever, each in its own way: only what comes from outside ends them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import mailq
from mailq import aio


def push_and_pop(path: str) -> NoReturn:
    """Every step of the queue's own code, all the time."""
    queue = mailq.open(path)
    while True:
        queue.push("x")
        if (delivery := queue.pop()) is not None:
            delivery.ack()


async def push_and_pop_in_a_coroutine(path: str) -> NoReturn:
    """It keeps its event loop from everything else."""
    push_and_pop(path)


async def push_and_pop_beside_the_loop(path: str) -> NoReturn:
    async with await aio.open(path) as queue:
        while True:
            await queue.push("x")
            if (delivery := await queue.pop()) is not None:
                await delivery.ack()


async def yield_all_the_time(body: Any) -> NoReturn:
    while True:  # noqa: ASYNC110 - it waits for nothing
        await asyncio.sleep(0)


async def wait_for_busy_children(body: Any) -> None:
    """Nearly always it is a step of a child that is running."""
    await asyncio.gather(*(yield_all_the_time(body) for _ in range(3)))


async def leave_children_and_wait(body: Any) -> None:
    """What takes place is in tasks that nobody waits for."""
    children = [asyncio.create_task(yield_all_the_time(body)) for _ in range(3)]
    await asyncio.Event().wait()
    del children


async def call_back_all_the_time(body: Any) -> None:
    """It is asyncio's own code that runs, and callbacks, which are in no task."""
    loop = asyncio.get_running_loop()

    def again() -> None:
        loop.call_soon(again)

    again()
    await asyncio.Event().wait()


async def wait_for_a_thread(body: Any) -> None:
    await asyncio.to_thread(threading.Event().wait)


def run_a_busy_loop(path: str) -> None:
    asyncio.run(yield_all_the_time(path))


def run_a_loop_of_children(path: str) -> None:
    asyncio.run(leave_children_and_wait(path))


def run_a_loop_and_keep_it_from_everything(path: str) -> None:
    asyncio.run(push_and_pop_in_a_coroutine(path))


def read_files(body: Any) -> NoReturn:
    while True:
        try:
            with open(__file__, encoding="utf-8") as file:
                json.dumps(file.read().splitlines())
        except OSError:
            continue


def sleep_and_lock(body: Any) -> NoReturn:
    lock = threading.Condition()
    while True:
        try:
            with lock:
                lock.wait(0.001)
            time.sleep(0.001)
        except Exception:  # noqa: BLE001 - as many a loop has it
            continue


def wrap_every_exception(body: Any) -> None:
    """As some libraries do."""
    try:
        read_files(body)
    except BaseException:  # noqa: BLE001
        raise ValueError("the connection is broken") from None


class _Slow:
    def __del__(self) -> None:
        time.sleep(3600)


def delete_for_ever(body: Any) -> None:
    """What is raised in a ``__del__`` Python ignores."""
    _Slow()
    time.sleep(3600)


def hold_in_a_block(delivery: mailq.Delivery) -> None:
    with delivery as body:
        Path(body).touch()
        while True:  # a thread is interrupted between two steps only
            time.sleep(0.01)


async def clean_up_at_leisure(path: str) -> None:
    try:
        await yield_all_the_time(path)
    except asyncio.CancelledError:
        await asyncio.sleep(0.001)
        async with await aio.open(path) as queue:
            await queue.push("cleaned up")


def by_name(body: list[str]) -> Any:
    """One of these handlers, named by the message."""
    name, argument = body
    return globals()[name](argument)
