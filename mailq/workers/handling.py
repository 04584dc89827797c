"""One job: a handler called with a message, and what came of it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import signal
import threading
import traceback
from typing import TYPE_CHECKING, Any, Final

from mailq import reply
from mailq.delivery import Delivery
from mailq.errors import CodecError, TimeLimit, UsageError
from mailq.message import TIMEOUT
from mailq.settings import parse_duration
from mailq.workers.app import App
from mailq.workers.outcomes import Interrupted, Report, reported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


_LONGEST_ERROR: Final = 65_536
"""Of an error text so many characters are told, the last: an engine keeps no more."""


class Input:
    """What a handler is called with: a delivery, whose body is decoded once, when it is first wanted."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery

    @functools.cached_property
    def body(self) -> Any:  # noqa: ANN401 - any JSON value is a body
        """The body. Raises CodecError."""
        return self.delivery.body


class Handler:
    """A Python function of a body, or of a delivery; plain, or a coroutine.

    It gets the delivery if its first parameter is named ``delivery`` or annotated
    as one, else the body. An App's tasks are one handler: it brings its queues and
    time limits. Each thread that runs coroutines keeps one event loop
    for all of them, so that connections bound to a loop last.
    """

    def __init__(self, function: Any) -> None:  # noqa: ANN401 - whatever a name stands for
        app = function if isinstance(function, App) else None
        if app is None and not callable(function):
            raise UsageError(f"{function!r} is no handler; name a function of one argument, or a mailq.App")
        self._function: Callable[[Any], Any] = function if app is None else app.handle
        self._wants_delivery = _wants_delivery(self._function)
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
                value = self._run(value)
            if delivery.settled:
                return Report("settled")
            return reported(value, _reply(delivery, value))
        except (Interrupted, TimeLimit) as error:
            report = cut_off(error)
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt of a job end the job alone
            report = Report("nack", error=_trace(error), outcome="error")
        return Report("settled") if delivery.settled else report

    def _run(self, awaitable: Any) -> Any:  # noqa: ANN401 - any awaitable of anything
        import asyncio  # noqa: PLC0415 - slow to load, and only for coroutines

        runner = getattr(self._local, "runner", None)
        if runner is None:
            runner = self._local.runner = asyncio.Runner()
        try:
            return runner.run(_awaited(awaitable))
        except (Interrupted, TimeLimit):
            # It broke into the loop, not into the job: closing the loop cancels what is left of that.
            self._local.runner = None
            runner.close()
            raise


def cut_off(error: Interrupted | TimeLimit) -> Report:
    """The report of a job that ended because it was told to, or at its soft limit."""
    if isinstance(error, Interrupted):
        return Report("interrupted", error=_trace(error))
    return Report("nack", error=_trace(error), outcome="timeout")


async def _awaited(value: Any) -> Any:  # noqa: ANN401 - any awaitable of anything
    return await value


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


def _wants_delivery(function: Callable[[Any], Any]) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin that does not tell
        return False
    if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise UsageError(f"{function!r} takes no message; a handler is a function of one argument")
    first = parameters[0]
    annotation = first.annotation if isinstance(first.annotation, str) else getattr(first.annotation, "__name__", "")
    return first.name == "delivery" or annotation.rpartition(".")[2] == Delivery.__name__


def own_limit(delivery: Delivery) -> float | None:
    """The limit that the message itself has. Headers may come from anywhere: nonsense is none."""
    text = delivery.headers.get(TIMEOUT)
    try:
        return parse_duration(text) if text else None
    except ValueError:
        return None


class Alarm:
    """What interrupts a job in the main thread of a process: its soft limit, or SIGUSR2.

    SIGTERM does nothing here. It is for what a job has started; and who sends it to
    every process, as systemd does by default, means the supervisor, who decides.
    """

    def __init__(self) -> None:
        self._busy = False
        self._soft = 0.0
        signal.signal(signal.SIGTERM, lambda _number, _frame: None)  # not ignored: commands would inherit that
        signal.signal(signal.SIGUSR2, self._interrupted)
        signal.signal(signal.SIGALRM, self._rang)

    @contextlib.contextmanager
    def set(self, soft: float | None) -> Iterator[None]:
        """While inside, SIGUSR2 raises Interrupted, and the soft limit, in seconds, TimeLimit."""
        self._busy, self._soft = True, soft or 0.0
        if soft is not None:
            signal.setitimer(signal.ITIMER_REAL, soft)
        try:
            yield
        finally:
            self._busy = False
            if soft is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        if self._busy:
            self._busy = False  # once: what cleans up must not be interrupted again
            raise Interrupted

    def _rang(self, _number: int, _frame: FrameType | None) -> None:
        if self._busy:
            raise TimeLimit(self._soft)


def to_line(report: Report, number: int, memory: int | None) -> bytes:
    """A report as a slot writes it; with the slot's memory in bytes, if that was asked for."""
    told = {key: value for key, value in report._asdict().items() if value is not None}
    if report.error is not None:
        told["error"] = report.error[-_LONGEST_ERROR:]
    if memory is not None:
        told["memory"] = memory
    return json.dumps({"job": number, **told}).encode() + b"\n"
