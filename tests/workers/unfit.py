"""What cannot be a handler, although it can be called; and what is unusual, but can."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import mailq


def generator(body: Any) -> Iterator[Any]:
    yield body


async def asynchronous_generator(body: Any) -> AsyncIterator[Any]:
    yield body


def no_argument() -> None:
    pass


def two_arguments(delivery: mailq.Delivery, body: Any) -> None:
    pass


def keyword(body: Any, *, width: int) -> None:
    pass


class AClass:
    def __init__(self, body: Any) -> None:
        pass

    def method(self, body: Any) -> None:
        pass


class _Instance:
    """Its class has no say in what a call of it is."""

    def method(self, body: Any) -> Iterator[Any]:
        yield body

    def __call__(self, body: Any) -> Iterator[Any]:
        yield body


def passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def giving_width(function: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper that takes another number of arguments than what it wraps."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args, width=200)

    return wrapper


def losing_the_body(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper() -> Any:
        return function("another")

    return wrapper


def fit(body: Any) -> Any:
    return body


a_method = AClass("x").method
unbound_method = AClass.method
instance = _Instance()
generator_method = _Instance().method
partial_generator = functools.partial(generator)
partial_class = functools.partial(AClass)
partial_without_the_rest = functools.partial(two_arguments, None)  # type: ignore[arg-type] # it looks at neither
partial_with_too_much = functools.partial(fit, "x")
wrapped_generator = passing_on(generator)
twice_wrapped_generator = passing_on(functools.lru_cache(asynchronous_generator))
context_manager = contextlib.contextmanager(generator)
wrapped_without_an_argument = losing_the_body(fit)
wrapped_with_the_rest = giving_width(keyword)
outcome = mailq.Reject
is_lambda = lambda body: body  # noqa: E731 - that is what is tried
two_in_a_lambda = lambda body, more: more  # noqa: E731 - as above
generator_in_a_lambda = lambda body: (yield body)  # noqa: E731 - as above
a_number = 7
a_generator = generator("x")


class Asynchronous:
    async def __call__(self, body: Any) -> Any:
        return body


asynchronous_instance = Asynchronous()


@passing_on
def decorated(delivery: mailq.Delivery) -> int:
    return delivery.attempt


def partial_of(width: int, delivery: mailq.Delivery) -> int:
    return width + delivery.attempt


partial_that_fits = functools.partial(partial_of, 200)
