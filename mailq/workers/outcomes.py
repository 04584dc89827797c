"""The result of a job, from what its handler returns or raises."""

from __future__ import annotations

import inspect
from typing import Any, Final, NamedTuple

from mailq.delivery import Reject, Retry, reason_of

_NOTHING_DONE: Final = (
    "the handler returned a generator, so nothing was done; have it run that to its end, and redrive the message"
)


class Interrupted(BaseException):
    """Raised in a job by its worker to end it now. Not an Exception: ``except Exception`` must not catch it."""


class Result(NamedTuple):
    """The result of a job, as its runner reports it.

    ``verb`` is what to do with the message: ack, nack, release or reject;
    ``settled`` if the handler did that itself, ``lost`` if the lease was lost
    before the job began, ``interrupted`` if an interruption ended it.
    ``reply`` is a reply to store first.
    """

    verb: str
    delay: float | None = None
    error: str | None = None
    outcome: str | None = None
    reply: str | None = None


def result_of(value: Any, reply: str | None) -> Result:  # noqa: ANN401 - handlers return what they like
    """The result when a handler returns a value, or raises an outcome."""
    if inspect.isclass(value) and issubclass(value, Retry | Reject):
        value = value()
    match value:
        case Retry():
            return Result("nack", delay=value.delay, error=reason_of(value))
        case Reject():
            return Result("reject", error=reason_of(value))
        case Result():
            return value
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        return Result("nack", error=_NOTHING_DONE, outcome="error")
    return Result("ack", reply=reply)
