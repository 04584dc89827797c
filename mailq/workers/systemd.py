"""Notifications to systemd."""

from __future__ import annotations

import contextlib
import os
import socket
import time


class Systemd:
    """Notifies systemd of a worker's state, in a service with ``Type=notify`` (sd_notify(3))."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        usec = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(usec) / 2e6 if usec.isdigit() and int(usec) and ours and self._address else None
        """Seconds between two watchdog notifications; None without a watchdog."""

    def tell(self, *lines: str) -> None:
        """Send some ``KEY=value`` lines."""
        if not self._address or not hasattr(socket, "AF_UNIX"):
            return
        # A name that begins with @ is abstract: the kernel spells it with a NUL.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(lines).encode(), address)

    def reloading(self) -> None:
        """Notify that a reload has begun, and when: the time distinguishes it from an older one."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
