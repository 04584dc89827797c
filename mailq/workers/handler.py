"""One job: a handler is called with a message, and returns a result."""

from __future__ import annotations

import contextlib
import inspect
import json
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, Final

from mailq import reply
from mailq.delivery import Reject, Retry
from mailq.errors import CodecError, TimeLimit
from mailq.message import TIMEOUT
from mailq.settings import parse_duration
from mailq.tasks import App
from mailq.workers.callables import require_handler, wants_delivery
from mailq.workers.job_input import PATIENCE, JobInput
from mailq.workers.outcomes import Interrupted, Result, result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from mailq.delivery import Delivery
    from mailq.workers.coroutines import Loop


_LONGEST_ERROR: Final = 65_536
"""The number of characters of an error text that a result keeps, from its end: an engine keeps no more."""


class Handler:
    """A Python function of a body, or of a delivery; plain, or a coroutine.

    It gets the delivery if its first parameter is named ``delivery`` or annotated
    as one, else the body. An App's tasks are one handler: it brings its queues and
    time limits.
    """

    def __init__(self, function: Any) -> None:  # noqa: ANN401 - whatever a name stands for
        app = function if isinstance(function, App) else None
        if app is None:
            require_handler(function)
        self._function: Callable[[Any], Any] = function if app is None else app.handle
        self._wants_delivery = wants_delivery(self._function)
        self._app = app
        self.queues: list[str] = [] if app is None else app.queues
        self._local = threading.local()

    def limits(self, given: JobInput, soft: float | None) -> tuple[float | None, float | None]:
        """Return the soft limit, by default ``soft``, and the hard one of the message's task unless the message has its own."""
        if self._app is None or not self._app.has_limits:
            return soft, None
        try:
            own, hard = self._app.limits(given.body)
        except Exception:  # noqa: BLE001 - the call raises it again, and reports it
            return soft, None
        return soft if own is None else own, hard if own_limit(given.delivery) is None else None

    def __call__(self, given: JobInput) -> Result:
        """Run the job. Raises nothing, except what ends the process."""
        delivery = given.delivery
        try:
            value = self._function(delivery if self._wants_delivery else given.body)
            if inspect.isawaitable(value):
                value = self._loop().run(value, given)
            result = result_of(value, _reply(delivery, value))
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt of a job end the job alone
            result = failed(error, given.interruption)
        return Result("settled") if delivery.settled else result

    def _loop(self) -> Loop:
        """The event loop of this thread."""
        from mailq.workers.coroutines import Loop  # noqa: PLC0415 - slow to load, and only for coroutines

        loop: Loop | None = getattr(self._local, "loop", None)
        if loop is None:
            loop = self._local.loop = Loop()
        return loop

    def close(self) -> None:
        """Close what this thread has opened for its jobs."""
        if hasattr(self._local, "loop"):
            self._local.loop.close()


def failed(error: BaseException, interruption: Interrupted | TimeLimit | None = None) -> Result:
    """The result of a job that ended by an exception; ``interruption`` is what interrupted it before.

    Then that is the cause, although cleaning up, or a library that wraps every
    exception, raises something else. A Retry or Reject counts in any case.
    """
    outcome = error
    while isinstance(outcome, BaseExceptionGroup) and len(outcome.exceptions) == 1:  # of asyncio's TaskGroup
        (outcome,) = outcome.exceptions
    if isinstance(outcome, Retry | Reject):
        return result_of(outcome, None)
    text = _trace(error)
    if interruption is None and isinstance(error, Interrupted | TimeLimit):
        interruption = error
    match interruption:
        case None:
            return Result("nack", error=text, outcome="error")
        case Interrupted():
            return Result("interrupted", error=text)
    if not isinstance(error, TimeLimit):
        text += "".join(traceback.format_exception_only(interruption))
    return Result("nack", error=text, outcome="timeout")


def _reply(delivery: Delivery, value: Any) -> str | None:  # noqa: ANN401 - handlers return what they like
    if not delivery.wants_reply:
        return None
    try:
        return reply.encode(value).decode()
    except CodecError as error:
        # The job is done; doing it again would change nothing about what it returns.
        return reply.encode_failure(str(error)).decode()


def _trace(error: BaseException) -> str:
    """The traceback, without our own frames at its top."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_globals.get("__name__", "").startswith("mailq.workers"):
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame or error.__traceback__))


def own_limit(delivery: Delivery) -> float | None:
    """The limit in the message's header, in seconds; None without one, and for nonsense: any program may write headers."""
    text = delivery.headers.get(TIMEOUT)
    try:
        return parse_duration(text) if text else None
    except ValueError:
        return None


class Interrupter:
    """Interrupts a job in the main thread of a process: at its soft limit, or at SIGUSR2.

    SIGTERM does nothing here. It is for what a job has started; where every process
    gets it, as from systemd by default, the supervisor decides what it means.
    """

    def __init__(self) -> None:
        self._given: JobInput | None = None
        self._soft = 0.0
        self._is_interrupted = False
        self._again: Interrupted | TimeLimit | None = None
        signal.signal(signal.SIGTERM, lambda _number, _frame: None)  # not ignored: commands would inherit that
        signal.signal(signal.SIGUSR2, self._interrupted)
        signal.signal(signal.SIGALRM, self._rang)
        sys.unraisablehook = self._unraisable

    @contextlib.contextmanager
    def arm(self, soft: float | None, given: JobInput) -> Iterator[None]:
        """Raise Interrupted in the block at SIGUSR2, and TimeLimit at the soft limit, in seconds."""
        self._soft, self._is_interrupted, self._again = soft or 0.0, False, None
        self._given = given
        if soft is not None:
            signal.setitimer(signal.ITIMER_REAL, soft)
        try:
            yield
        finally:
            self._given = None
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _interrupted(self, _number: int, frame: FrameType | None) -> None:
        if not self._is_interrupted:
            self._is_interrupted = True  # once: a job that cleans up must not be interrupted again
            self._end(Interrupted(), frame)

    def _rang(self, _number: int, frame: FrameType | None) -> None:
        self._end(self._again or TimeLimit(self._soft), frame)

    def _end(self, error: Interrupted | TimeLimit, frame: FrameType | None) -> None:
        if self._given is None:
            return
        if self._given.interrupt(error, frame):
            raise error
        if not self._given.is_cancelled:
            self._once_more(error)

    def _once_more(self, error: Interrupted | TimeLimit) -> None:
        self._again = error
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def _unraisable(self, ignored: sys.UnraisableHookArgs) -> None:
        """Repeat what is raised in a ``__del__``: Python ignores it there."""
        if not isinstance(ignored.exc_value, Interrupted | TimeLimit):
            sys.__unraisablehook__(ignored)
        elif self._given is not None:
            self._once_more(ignored.exc_value)


def to_line(result: Result, number: int, memory: int | None) -> bytes:
    """A result as a child sends it; with the child's memory in bytes, if ``memory`` is given."""
    told = {key: value for key, value in result._asdict().items() if value is not None}
    if result.error is not None:
        told["error"] = result.error[-_LONGEST_ERROR:]
    if memory is not None:
        told["memory"] = memory
    return json.dumps({"job": number, **told}).encode() + b"\n"
