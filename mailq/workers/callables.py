"""Which objects can be a handler or a task, and whether a handler takes the delivery."""

from __future__ import annotations

import functools
import inspect
import types
from typing import TYPE_CHECKING, Any, Final

from mailq.delivery import Delivery
from mailq.errors import UsageError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEEPEST: Final = 100
"""An object may say without end that it wraps another."""


def require_function(value: Any, what: str) -> None:  # noqa: ANN401 - whatever a name stands for
    """Refuse what does nothing when it is called. Raises UsageError; ``what`` it was to be: a handler, or a task."""
    if inspect.isclass(value):
        raise UsageError(
            f"{spelled(value)} is a class, and cannot be a {what}: a call would only make an instance; "
            f"use a function, or an instance that can be called"
        )
    if not callable(value):
        raise UsageError(f"{shown(value)} cannot be called, and so cannot be a {what}; use a function")
    if inspect.isclass(made := _called(value)):
        raise UsageError(f"{shown(value)} only makes a {spelled(made)}, and cannot be a {what}; use a function")
    if any(inspect.isgeneratorfunction(layer) or inspect.isasyncgenfunction(layer) for layer in _layers(value)):
        raise UsageError(
            f"{spelled(value)} is a generator, and cannot be a {what}: a call would do nothing; "
            f"write it without yield, or use a function that runs it to its end"
        )


def require_handler(value: Any) -> None:  # noqa: ANN401 - as above
    """Refuse what cannot be called with a message alone, too. Raises UsageError."""
    require_function(value, "handler")
    try:
        signature = inspect.signature(value, follow_wrapped=False)
    except (TypeError, ValueError):  # a builtin that does not tell
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise UsageError(
            f"{spelled(value)} cannot be called with a message alone: {error}; "
            f"a handler takes one argument: the body, or the delivery if it is named so"
        ) from None


def wants_delivery(function: Any) -> bool:  # noqa: ANN401 - as above
    """Whether the first parameter is named ``delivery``, or annotated as one.

    Of a wrapper that passes on whatever it gets it is the first of what that wraps.
    """
    first = _first_parameter(function, follow_wrapped=False)
    if first is not None and first.kind is inspect.Parameter.VAR_POSITIONAL:
        first = _first_parameter(function, follow_wrapped=True)
    if first is None:
        return False
    annotation = first.annotation if isinstance(first.annotation, str) else getattr(first.annotation, "__name__", "")
    return first.name == "delivery" or annotation.rpartition(".")[2] == Delivery.__name__


def _first_parameter(function: Any, *, follow_wrapped: bool) -> inspect.Parameter | None:  # noqa: ANN401 - as above
    try:
        parameters = inspect.signature(function, follow_wrapped=follow_wrapped).parameters.values()
    except (TypeError, ValueError):
        return None
    return next(iter(parameters), None)


def spelled(value: Any) -> str:  # noqa: ANN401 - as above
    """The name of a function or class, with its module; else what Python shows of it."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else shown(value)


def _called(value: Any) -> Any:  # noqa: ANN401 - as above
    """What a call runs: of a partial, a method or an instance the function behind it."""
    while True:
        if isinstance(value, functools.partial):
            value = value.func
        elif isinstance(value, types.MethodType | staticmethod):
            value = value.__func__
        elif inspect.isclass(value) or inspect.isroutine(value):
            return value
        else:
            value = type(value).__call__


def _layers(value: Any) -> Iterator[Any]:  # noqa: ANN401 - as above
    """What a call runs, and what that says it wraps: most wrappers only pass on what that returns."""
    for _ in range(_DEEPEST):
        called = _called(value)
        yield called
        value = getattr(value, "__wrapped__", getattr(called, "__wrapped__", None))
        if not callable(value):
            return
