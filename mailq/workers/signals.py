"""Words from outside: the wake-up pipe, Unix signals, and systemd."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType


class Wakeup:
    """Ends a select from any thread or signal handler."""

    def __init__(self) -> None:
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Be what a select waits for, too."""
        selector.register(self._woken, selectors.EVENT_READ, self._clear)

    def __call__(self) -> None:
        """Wake it. A full pipe wakes as well as one byte."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b"!")

    def _clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 65_536)

    def __del__(self) -> None:
        """Close the pipe: not before nobody can wake any more, or a late wake would write to another's file."""
        os.close(self._woken)
        os.close(self._wake)


class Signals:
    """While inside: SIGTERM and SIGINT call ``stop``, SIGHUP calls ``reload``.

    But a SIGHUP that comes because the terminal is closed calls ``stop``: nobody would
    see, or end, what works on behind it.

    Only the main thread can handle signals; in any other this does nothing, and
    whoever started the thread stops the worker.
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


def reap_orphans(ours: int) -> None:
    """As the first process of a container, bury what others left behind; but not our own child."""
    if os.getpid() != 1:
        return
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and found.si_pid != ours:
            os.waitpid(found.si_pid, 0)


class Systemd:
    """Tells systemd how we are, if it asked: a service with ``Type=notify`` (sd_notify(3))."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        usec = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(usec) / 2e6 if usec.isdigit() and int(usec) and ours and self._address else None
        """So often a sign of life is wanted, in seconds."""

    def tell(self, *lines: str) -> None:
        """Send some ``KEY=value`` lines."""
        if not self._address or not hasattr(socket, "AF_UNIX"):
            return
        # A name that begins with @ is an abstract one, which the kernel spells with a NUL.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(lines).encode(), address)

    def reloading(self) -> None:
        """Say that a reload has begun, and when: systemd tells it from an older one by the time."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
