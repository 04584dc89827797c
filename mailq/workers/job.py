"""What the supervisor knows: its options, its queues, and the jobs that run."""

from __future__ import annotations

import collections
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mailq.workers.handler import own_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mailq.delivery import Delivery
    from mailq.queue import Queue

_BEATS: Final = 3
"""Heartbeats in a lease: two may fail or be late without losing it."""

_TOLD: Final = 100
"""The number of running jobs that a status names."""

_RUN_TIMES: Final = 1000
"""The number of last jobs that percentiles are made of."""


@dataclass(frozen=True)
class Options:
    """The options of a worker. Durations are seconds; None is no limit.

    After the first signal to stop, jobs have ``grace`` to finish. SIGKILL follows
    SIGTERM after ``kill_after``. A child is replaced, between two jobs, after
    ``max_jobs`` jobs, at ``max_age``, or when it takes more than ``max_memory``
    bytes. With ``reap_children`` the worker reaps orphans, if it is the first process
    of a container. With ``echo`` what commands print passes through.
    """

    concurrency: int = 1
    lease: float | None = None
    soft_timeout: float | None = None
    timeout: float | None = None
    grace: float = 30.0
    kill_after: float = 5.0
    kill_on_lost_lease: bool = False
    drain: bool = False
    max_jobs: int | None = None
    max_age: float | None = None
    max_memory: int | None = None
    reap_children: bool = False
    echo: bool = True


class Source:
    """A queue to claim from, and the number of the handler for its messages."""

    def __init__(self, queue: Queue, handler: int, wake: Callable[[], None]) -> None:
        self.queue = queue
        self.handler = handler
        self.dry = False
        self.done = self.failed = 0
        self.run_times: collections.deque[float] = collections.deque(maxlen=_RUN_TIMES)
        self._has_failed = False
        self._wake = wake
        self._notified = True
        self._next_poll = 0.0

    def notify(self) -> None:
        """Note that a message may have come; from any thread."""
        self._notified = True
        self._wake()

    def is_due(self, now: float) -> bool:
        """Whether a pop may find something."""
        return self._notified or now >= self._next_poll

    @property
    def next_poll(self) -> float:
        """The monotonic time of the next pop."""
        return 0.0 if self._notified else self._next_poll

    def pop(self, limit: int, lease: float | None) -> list[Delivery]:
        """Claim up to ``limit`` messages, in a time that delays no heartbeat. An empty queue is ``dry`` until it notifies."""
        self._notified = False  # before the poll: what comes during it must be polled again
        deliveries = self.queue.poll(limit, lease=lease)
        self.dry = deliveries is not None and len(deliveries) < limit
        self._has_failed = False
        if self.dry:
            self._next_poll = time.monotonic() + self.queue.subscribe(self.notify)
        else:
            self._notified = True
        return deliveries or []

    def status(self, jobs: Iterable[Job]) -> dict[str, Any]:
        """The status of this queue: the counts, the run times, and the running jobs, each with its start."""
        times, now, mono = sorted(self.run_times), time.time(), time.monotonic()
        ours = [job for job in jobs if job.source is self][:_TOLD]
        return {
            "done": self.done,
            "failed": self.failed,
            "run_times": [round(times[int(len(times) * part)], 4) for part in (0.5, 0.95, 0.99)] if times else None,
            "jobs": [{"id": job.delivery.id, "since": round(now - (mono - job.started), 3)} for job in ours],
        }

    def poll_again(self) -> None:
        """Pop again: a job that ended may have pushed, and a dead message may be in another queue of this worker."""
        self._notified, self.dry = True, False

    def close(self) -> None:
        """Unsubscribe."""
        self.queue.unsubscribe(self.notify)

    def back_off(self, seconds: float) -> bool:
        """Leave the queue alone for a while after an error. True if that is the first in a row."""
        self._next_poll = time.monotonic() + seconds
        first, self._has_failed = not self._has_failed, True
        return first


@dataclass(eq=False)
class Job:
    """A message that a runner works on. Times are monotonic."""

    number: int
    source: Source
    delivery: Delivery
    started: float
    lease: float
    soft: float | None
    next_beat: float = math.inf
    end_at: float = math.inf
    kill_at: float = math.inf
    limit: float | None = None
    ending: str = ""
    in_doubt: bool = False
    lost: bool = False
    output: str = ""
    runner: Any = field(default=None, repr=False)

    @property
    def beat_every(self) -> float:
        """Seconds from one heartbeat to the next."""
        return self.lease / _BEATS

    @property
    def next_at(self) -> float:
        """The time of the next heartbeat, limit or kill."""
        return min(self.next_beat, self.end_at, self.kill_at)

    def limit_to(self, seconds: float) -> None:
        """End it when it has run for this long."""
        self.limit = seconds
        self.end_at = self.started + seconds


def new_job(number: int, source: Source, delivery: Delivery, options: Options) -> Job:
    """A job for a message that was just popped, with its heartbeat and limits."""
    now, settings = time.monotonic(), source.queue.settings
    lease = max(0.0, (delivery.deadline_at or 0.0) - time.time())
    soft = settings.soft_timeout if options.soft_timeout is None else options.soft_timeout
    job = Job(number, source, delivery, now, lease, soft)
    job.next_beat = now + job.beat_every
    limit = settings.timeout if options.timeout is None else options.timeout
    if (own := own_limit(delivery)) is not None:
        limit = own
    if limit is not None:
        job.limit_to(limit)
    return job
