"""A process that extends the leases of jobs in threads, since those may hold the GIL that the supervisor needs.

Each order has a receipt and a time limit: a job that has stopped its whole process
must not keep its message for ever.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import select
import signal
import socket
import time
from typing import Any

from mailq.connect import open as open_queue
from mailq.errors import LeaseLost, MailqError
from mailq.workers.channel import Channel
from mailq.workers.process_tree import die_with_parent


class _Lease:
    """One lease to extend. Times are monotonic."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.queue: str = order["queue"]
        self.receipt: str = order["receipt"]
        self.seconds: float = order["lease"]
        self.beat_every: float = order["beat_every"]
        self.next_beat = time.monotonic()  # at once: the order may be older than this process
        self.end_at = math.inf if order["limit"] is None else time.monotonic() + order["limit"]


class Heartbeat:
    """The process: reads orders, extends leases, reports those that are lost."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._leases: dict[int, _Lease] = {}
        self._queue = functools.cache(functools.partial(open_queue, create=False))

    def run(self) -> None:
        """Extend leases until the channel is closed."""
        self._channel.send({"ready": os.getpid()})
        while True:
            times = [lease.next_beat for lease in self._leases.values()]
            timeout = max(0.0, min(times) - time.monotonic()) if times else None
            select.select([self._channel.sock], [], [], timeout)
            orders = self._channel.receive()
            if orders is None:
                return
            for order in orders:
                if "receipt" in order:
                    self._leases[order["job"]] = _Lease(order)
                else:
                    self._leases.pop(order["job"], None)
            now = time.monotonic()
            for number, lease in list(self._leases.items()):
                if now >= lease.end_at:
                    del self._leases[number]
                elif now >= lease.next_beat:
                    self._beat(number, lease, now)

    def _beat(self, number: int, lease: _Lease, now: float) -> None:
        lease.next_beat = now + lease.beat_every
        try:
            self._queue(lease.queue).extend(lease.receipt, lease.seconds)
        except LeaseLost:
            del self._leases[number]
            self._channel.send({"lost": number})
        except MailqError as error:
            lease.next_beat = now + min(1.0, lease.beat_every)
            self._channel.send({"failed": str(error)})


def main(fd: int, supervisor: int) -> None:
    """Extend leases for the process at the other end of a socket; ``supervisor`` is its process id."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the supervisor gets them too, and this process ends with it
    die_with_parent()
    if os.getppid() != supervisor:
        return
    # The supervisor may have ended before this process has started.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Heartbeat(Channel(socket.socket(fileno=fd))).run()
