"""What a handler's end means, and what became of a job."""

from __future__ import annotations

import inspect
from typing import Any, Final, NamedTuple

from mailq.delivery import Reject, Retry, reason_of

_NOTHING_DONE: Final = (
    "the handler returned a generator, so nothing was done; have it run that to its end, and redrive the message"
)


class Interrupted(BaseException):
    """Raised in a job by its worker that wants it to end now. No Exception: ``except Exception`` must not eat it."""


class Report(NamedTuple):
    """What became of a job, as a slot tells its supervisor.

    ``verb`` is what to do with the message: ack, nack, release or reject;
    ``settled`` if the handler did that itself, ``lost`` if the lease was gone
    before the job began, ``interrupted`` if it ended because it was told to.
    ``reply`` is a reply to keep first.
    """

    verb: str
    delay: float | None = None
    error: str | None = None
    outcome: str | None = None
    reply: str | None = None


def reported(value: Any, reply: str | None) -> Report:  # noqa: ANN401 - handlers return what they like
    """What it means that a handler returned a value, or raised an outcome."""
    if inspect.isclass(value) and issubclass(value, Retry | Reject):
        value = value()
    match value:
        case Retry():
            return Report("nack", delay=value.delay, error=reason_of(value))
        case Reject():
            return Report("reject", error=reason_of(value))
        case Report():
            return value
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        return Report("nack", error=_NOTHING_DONE, outcome="error")
    return Report("ack", reply=reply)
