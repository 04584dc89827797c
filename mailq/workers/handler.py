"""One job: a handler called with a message, and what came of it."""

from __future__ import annotations

import contextlib
import functools
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
from mailq.workers.outcomes import Interrupted, Report, reported

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from types import FrameType

    from mailq.delivery import Delivery
    from mailq.workers.coroutines import Loop


_LONGEST_ERROR: Final = 65_536
"""Of an error text so many characters are told, the last: an engine keeps no more."""

PATIENCE: Final = 0.1
"""The number of seconds after which an interruption that has not begun to end a job is repeated."""


class Input:
    """What a handler is called with: a delivery, whose body is decoded once, when it is first wanted.

    ``interruption`` is what has come from outside to end the job, if something has.
    """

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        delivery.in_worker = True
        self.interruption: Interrupted | TimeLimit | None = None
        self.is_cancelled = False

    def interrupt(self, error: Interrupted | TimeLimit, frame: FrameType | None) -> bool:
        """Have the job end; from any thread. True if ``error`` is to be raised in the job's thread, which is at ``frame``.

        Where an event loop runs, what it runs is cancelled instead: the loop would catch the
        exception, or lose a step by it and wait for that for ever. Call this again after
        PATIENCE, until the job ``is_cancelled``: a step may keep the loop from everything,
        and only an exception ends that.
        """
        running = _run_by_a_loop(frame)
        if error is not self.interruption:
            self.interruption, self.is_cancelled = error, False
            if running is not None:
                self._have_cancelled(running)
                return False
        return not self.is_cancelled and (running is None or not _is_of_the_loop(frame))

    def arrived(self, frame: FrameType) -> None:
        """What was raised in the job's thread is at ``frame`` now: in an event loop, perhaps, since the thread was looked at."""
        running = _run_by_a_loop(frame)
        if running is not None:
            self._have_cancelled(running)

    def _have_cancelled(self, running: asyncio.Future[Any]) -> None:
        running.get_loop().call_soon_threadsafe(self._cancel, running)

    def _cancel(self, running: asyncio.Future[Any]) -> None:
        if not self.is_cancelled:  # once: it may be cleaning up
            self.is_cancelled = True
            running.cancel()

    @functools.cached_property
    def body(self) -> Any:  # noqa: ANN401 - any JSON value is a body
        """The body. Raises CodecError."""
        return self.delivery.body


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

    def limits(self, given: Input) -> tuple[float | None, float | None]:
        """The soft and the hard time limit that the handler itself has for this message."""
        if self._app is None or not self._app.has_limits:
            return None, None
        try:
            return self._app.limits(given.body)
        except CodecError:  # for the call to say
            return None, None

    def __call__(self, given: Input) -> Report:
        """Run the job. Never raises, but for what ends the process."""
        delivery = given.delivery
        try:
            value = self._function(delivery if self._wants_delivery else given.body)
            if inspect.isawaitable(value):
                value = self._loop().run(value, given)
            report = reported(value, _reply(delivery, value))
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt of a job end the job alone
            report = failed(error, given.interruption)
        return Report("settled") if delivery.settled else report

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


def failed(error: BaseException, interruption: Interrupted | TimeLimit | None = None) -> Report:
    """The report of a job that ended by an exception; ``interruption`` is what had come to end it before.

    Then it ended because of that, whatever its cleaning up, or a library that wraps
    every exception, has made of it. An outcome is what the job has to say all the same.
    """
    outcome = error
    while isinstance(outcome, BaseExceptionGroup) and len(outcome.exceptions) == 1:  # of asyncio's TaskGroup
        (outcome,) = outcome.exceptions
    if isinstance(outcome, Retry | Reject):
        return reported(outcome, None)
    text = _trace(error)
    if interruption is None and isinstance(error, Interrupted | TimeLimit):
        interruption = error
    match interruption:
        case None:
            return Report("nack", error=text, outcome="error")
        case Interrupted():
            return Report("interrupted", error=text)
    if not isinstance(error, TimeLimit):
        text += "".join(traceback.format_exception_only(interruption))
    return Report("nack", error=text, outcome="timeout")


def _run_by_a_loop(frame: FrameType | None) -> asyncio.Future[Any] | None:
    """What an event loop runs in a thread, by the thread's frames: from another thread asyncio does not say."""
    while frame is not None:
        if frame.f_code.co_name == "run_until_complete" and frame.f_globals.get("__name__") == "asyncio.base_events":
            future = frame.f_locals["future"]
            return future if hasattr(future, "get_loop") else None  # a coroutine is not a task yet
        frame = frame.f_back
    return None


def _is_of_the_loop(frame: FrameType | None) -> bool:
    """Whether a frame is of the event loop's own code, and not of a step."""
    return frame is None or frame.f_globals.get("__name__", "").partition(".")[0] in ("asyncio", "selectors")


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
    """The limit that the message itself has. Headers may come from anywhere: nonsense is none."""
    text = delivery.headers.get(TIMEOUT)
    try:
        return parse_duration(text) if text else None
    except ValueError:
        return None


class Interrupter:
    """What interrupts a job in the main thread of a process: its soft limit, or SIGUSR2.

    SIGTERM does nothing here. It is for what a job has started; and who sends it to
    every process, as systemd does by default, means the supervisor, who decides.
    """

    def __init__(self) -> None:
        self._given: Input | None = None
        self._soft = 0.0
        self._is_interrupted = False
        self._again: Interrupted | TimeLimit | None = None
        signal.signal(signal.SIGTERM, lambda _number, _frame: None)  # not ignored: commands would inherit that
        signal.signal(signal.SIGUSR2, self._interrupted)
        signal.signal(signal.SIGALRM, self._rang)
        sys.unraisablehook = self._unraisable

    @contextlib.contextmanager
    def arm(self, soft: float | None, given: Input) -> Iterator[None]:
        """While inside, SIGUSR2 ends the job by Interrupted, and the soft limit, in seconds, by TimeLimit."""
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
            self._is_interrupted = True  # once: what cleans up must not be interrupted again
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
        """Python ignores what is raised in a ``__del__``, and the job would go on."""
        if not isinstance(ignored.exc_value, Interrupted | TimeLimit):
            sys.__unraisablehook__(ignored)
        elif self._given is not None:
            self._once_more(ignored.exc_value)


def to_line(report: Report, number: int, memory: int | None) -> bytes:
    """A report as a slot writes it; with the slot's memory in bytes, if that was asked for."""
    told = {key: value for key, value in report._asdict().items() if value is not None}
    if report.error is not None:
        told["error"] = report.error[-_LONGEST_ERROR:]
    if memory is not None:
        told["memory"] = memory
    return json.dumps({"job": number, **told}).encode() + b"\n"
