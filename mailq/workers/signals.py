"""What interrupts the supervisor's wait: the wake-up, and Unix signals."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


ENDING: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
"""The signals by which a user, a terminal or a supervisor ends a program, as far as the system has them."""


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


@contextlib.contextmanager
def handled(handler: Callable[[int], object], numbers: Sequence[int] = ENDING) -> Iterator[None]:
    """Call ``handler(number)`` for these signals in the block."""
    former = {number: signal.signal(number, lambda number, _frame: handler(number)) for number in numbers}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)


@contextlib.contextmanager
def stop_and_reload(stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` for SIGTERM and SIGINT, and ``reload`` for SIGHUP, in the block.

    A SIGHUP that comes because the terminal is closed calls ``stop``: a worker without
    its terminal cannot be seen or ended there.

    Only the main thread can handle signals; in any other this does nothing, and the
    program that started the thread stops the worker.
    """
    had_terminal = _has_terminal()

    def handle(number: int) -> None:
        is_hangup = number not in (signal.SIGTERM, signal.SIGINT)
        if is_hangup and (_has_terminal() or not had_terminal):
            reload()
        else:
            stop()

    is_main = threading.current_thread() is threading.main_thread()
    with handled(handle) if is_main else contextlib.nullcontext():
        yield


def _has_terminal() -> bool:
    """Whether a standard stream is on a terminal that is not hung up."""
    return any(os.isatty(fd) for fd in range(3))
