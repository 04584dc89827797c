"""Handlers whose end says what becomes of the message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

import mailq


def _deep(error: BaseException) -> NoReturn:
    raise error


def _fail() -> NoReturn:
    raise KeyError("width")


def returned(body: str) -> Any:
    """What the body names."""
    return {"Retry": mailq.Retry, "Reject": mailq.Reject, "generator": _numbers(), "async": _later_numbers()}[body]


def _numbers() -> Iterator[int]:
    yield 1


async def _later_numbers() -> AsyncIterator[int]:
    yield 1


def raised(body: str) -> NoReturn:
    try:
        match body:
            case "Retry":
                _deep(mailq.Retry(delay=3600, error="again later"))
            case "Reject":
                _deep(mailq.Reject("not for me"))
            case "class":
                raise mailq.Reject
            case _:
                _fail()
    except KeyError as error:
        if body == "Reject from":
            raise mailq.Reject from error
        raise mailq.Retry(delay=3600) from error


async def raised_in_a_task(body: str) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(raised, body))


def raised_in_a_block(delivery: mailq.Delivery) -> None:
    with delivery as body:
        raised(body)


async def coroutine_without_an_await(body: Any) -> Any:
    async def work() -> Any:
        return ["done", body]

    return work()


def of_a_future(body: Any) -> Any:
    """A plain function that returns what is to be awaited."""
    return coroutine_without_an_await(body)
