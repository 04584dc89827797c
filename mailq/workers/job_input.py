"""What a handler is called with, and how the job is interrupted from outside."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    from types import FrameType

    from mailq.delivery import Delivery
    from mailq.errors import TimeLimit
    from mailq.workers.outcomes import Interrupted

PATIENCE: Final = 0.1
"""An interruption that has not begun to end a job is repeated after this number of seconds."""


class JobInput:
    """What a handler is called with: a delivery, whose body is decoded once, when it is first used.

    ``interruption`` is the last exception that was to end the job; None if there was none.
    """

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        delivery.in_worker = True
        self.interruption: Interrupted | TimeLimit | None = None
        self.is_cancelled = False

    def interrupt(self, error: Interrupted | TimeLimit, frame: FrameType | None) -> bool:
        """Have the job end; from any thread. True if ``error`` is to be raised in the job's thread, which is at ``frame``.

        Where an event loop runs, its task is cancelled instead: the loop would catch the
        exception, or lose a step by it and wait for that for ever. Call this again after
        PATIENCE, until the job ``is_cancelled``: only an exception ends a step that blocks
        the loop.
        """
        running = _run_by_a_loop(frame)
        if error is not self.interruption:
            self.interruption, self.is_cancelled = error, False
            if running is not None:
                self._have_cancelled(running)
                return False
        return not self.is_cancelled and (running is None or not _is_of_the_loop(frame))

    def arrived(self, frame: FrameType) -> None:
        """The exception has arrived at ``frame``. If an event loop has started meanwhile, its task is cancelled."""
        running = _run_by_a_loop(frame)
        if running is not None:
            self._have_cancelled(running)

    def _have_cancelled(self, running: asyncio.Future[Any]) -> None:
        running.get_loop().call_soon_threadsafe(self._cancel, running)

    def _cancel(self, running: asyncio.Future[Any]) -> None:
        if not self.is_cancelled:  # once: it may clean up
            self.is_cancelled = True
            running.cancel()

    @functools.cached_property
    def body(self) -> Any:  # noqa: ANN401 - any JSON value is a body
        """The body. Raises CodecError."""
        return self.delivery.body


def _run_by_a_loop(frame: FrameType | None) -> asyncio.Future[Any] | None:
    """The task that an event loop runs in a thread, from the thread's frames: asyncio tells it to no other thread."""
    while frame is not None:
        if frame.f_code.co_name == "run_until_complete" and frame.f_globals.get("__name__") == "asyncio.base_events":
            future = frame.f_locals["future"]
            return future if hasattr(future, "get_loop") else None  # a coroutine is not a task yet
        frame = frame.f_back
    return None


def _is_of_the_loop(frame: FrameType | None) -> bool:
    """Whether a frame is in the event loop's own code, and not in a step."""
    return frame is None or frame.f_globals.get("__name__", "").partition(".")[0] in ("asyncio", "selectors")
