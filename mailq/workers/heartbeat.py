"""A process that keeps the leases of jobs in threads: those may hold the GIL, which the supervisor shares with them.

It is told which receipts to hold, and until when at most: a job that has
stopped its whole process for good must not keep its message for ever.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

from mailq.connect import open as open_queue
from mailq.errors import LeaseLost, MailqError
from mailq.workers.channel import Channel
from mailq.workers.process_tree import die_with_parent

if TYPE_CHECKING:
    from mailq.queue import Queue


class _Lease:
    """One lease to keep. Times are monotonic."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.queue: str = told["queue"]
        self.receipt: str = told["receipt"]
        self.seconds: float = told["lease"]
        self.beat_every: float = told["beat_every"]
        self.next_beat = time.monotonic()  # at once: the order may have waited while we started
        self.end_at = math.inf if told["limit"] is None else time.monotonic() + told["limit"]


class Heart:
    """The process: reads orders, extends leases, tells of those that are lost."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._leases: dict[int, _Lease] = {}
        self._queues: dict[str, Queue] = {}

    def run(self) -> None:
        """Beat until the channel is closed."""
        self._channel.send({"ready": os.getpid()})
        while True:
            times = [lease.next_beat for lease in self._leases.values()]
            patience = max(0.0, min(times) - time.monotonic()) if times else None
            select.select([self._channel.sock], [], [], patience)
            words = self._channel.receive()
            if words is None:
                return
            for told in words:
                if "receipt" in told:
                    self._leases[told["job"]] = _Lease(told)
                else:
                    self._leases.pop(told["job"], None)
            now = time.monotonic()
            for number, lease in list(self._leases.items()):
                if now >= lease.end_at:
                    del self._leases[number]
                elif now >= lease.next_beat:
                    self._beat(number, lease, now)

    def _beat(self, number: int, lease: _Lease, now: float) -> None:
        lease.next_beat = now + lease.beat_every
        try:
            if lease.queue not in self._queues:
                self._queues[lease.queue] = open_queue(lease.queue, create=False)
            self._queues[lease.queue].extend(lease.receipt, lease.seconds)
        except LeaseLost:
            del self._leases[number]
            self._channel.send({"lost": number})
        except MailqError as error:
            lease.next_beat = now + min(1.0, lease.beat_every)
            self._channel.send({"failed": str(error)})


def main(fd: int, supervisor: int) -> None:
    """Be the heart of the process at the other end of a socket; ``supervisor`` is its process id."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the supervisor, whose end is ours
    die_with_parent()
    if os.getppid() != supervisor:
        return
    # A run may be over before we have started: nobody to report to any more.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Heart(Channel(socket.socket(fileno=fd))).run()
