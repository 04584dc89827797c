"""What interrupts the supervisor's wait: the wake-up, and Unix signals."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType


class Wakeup:
    """Ends a select from any thread or signal handler. Sockets: on Windows a select takes nothing else."""

    def __init__(self) -> None:
        self._woken, self._wake = socket.socketpair()
        self._woken.settimeout(0)
        self._wake.settimeout(0)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Have a select wait for this, too."""
        selector.register(self._woken, selectors.EVENT_READ, self._clear)

    def __call__(self) -> None:
        """End the select. A full buffer wakes as well as one byte."""
        with contextlib.suppress(BlockingIOError):
            self._wake.send(b"!")

    def _clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(65_536)

    def __del__(self) -> None:
        """Close them: only when no other thread can call this any more."""
        self._woken.close()
        self._wake.close()


class Signals:
    """In the block SIGTERM and SIGINT call ``stop``, and SIGHUP calls ``reload``.

    A SIGHUP that comes because the terminal is closed calls ``stop``: a worker without
    its terminal cannot be seen or ended there.

    Only the main thread can handle signals; in any other this does nothing, and the
    program that started the thread stops the worker.
    """

    def __init__(self, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        self._had_terminal = _has_terminal()
        self._actions = {
            "SIGTERM": stop,
            "SIGINT": stop,
            "SIGHUP": lambda: stop() if self._had_terminal and not _has_terminal() else reload(),
        }
        self._former: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name, action in self._actions.items():
                if hasattr(signal, name):
                    number = getattr(signal, name)
                    self._former[number] = signal.signal(number, _handler(action))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)  # type: ignore[arg-type]


def _has_terminal() -> bool:
    """Whether a standard stream is on a terminal that is not hung up."""
    return any(os.isatty(fd) for fd in range(3))


def _handler(action: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
    return lambda _number, _frame: action()
