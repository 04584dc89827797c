"""What a handler can return, and what became of a job."""

from __future__ import annotations

from typing import Any, NamedTuple

from mailq.errors import UsageError
from mailq.settings import seconds


class Retry:
    """Returned by a handler: the attempt failed, is counted, and is to be made again.

    After ``delay`` seconds, by default the queue's back-off. ``error`` is kept for
    the message's history. A message past its retries dies all the same.
    """

    __slots__ = ("delay", "error")

    def __init__(self, delay: float | None = None, error: str | None = None) -> None:
        self.delay = None if delay is None else seconds(delay, "delay")
        self.error = _text(error, "error")

    def __repr__(self) -> str:
        """Show the arguments."""
        return f"Retry(delay={self.delay!r}, error={self.error!r})"


class Reject:
    """Returned by a handler: give up on the message at once; it goes to the dead with the reason."""

    __slots__ = ("reason",)

    def __init__(self, reason: str | None = None) -> None:
        self.reason = _text(reason, "reason")

    def __repr__(self) -> str:
        """Show the argument."""
        return f"Reject({self.reason!r})"


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
    """What a handler's return value means."""
    match value:
        case Retry():
            return Report("nack", delay=value.delay, error=value.error)
        case Reject():
            return Report("reject", error=value.reason)
        case Report():
            return value
    return Report("ack", reply=reply)


def _text(value: object, what: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise UsageError(f"{what} is {value!r}; it must be text")
