"""What systemd is told of a worker."""

from __future__ import annotations

import contextlib
import os
import socket
import time


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
