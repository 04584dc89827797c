"""What the supervisor knows: the queues it works for, the jobs it has out, what it was told to do."""

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
"""A story names so many running jobs."""

_RUN_TIMES: Final = 1000
"""Percentiles are those of so many jobs."""


@dataclass(frozen=True)
class Options:
    """How a worker works. Durations are seconds; None is no limit.

    ``grace`` is how long jobs may take to finish after the first signal to stop,
    ``insist`` how long after SIGTERM a job gets SIGKILL. A slot is replaced,
    between two jobs, after ``max_jobs`` jobs, at ``max_age`` seconds, or when it
    takes more than ``max_memory`` bytes. As the first process of a container it is to
    ``bury_orphans``. With ``echo`` commands are heard: what they print passes through.
    """

    concurrency: int = 1
    lease: float | None = None
    soft_timeout: float | None = None
    timeout: float | None = None
    grace: float = 30.0
    insist: float = 5.0
    kill_lost: bool = False
    drain: bool = False
    max_jobs: int | None = None
    max_age: float | None = None
    max_memory: int | None = None
    bury_orphans: bool = False
    echo: bool = True


class Source:
    """A queue to work for, and which handler is for its messages."""

    def __init__(self, queue: Queue, handler: int, wake: Callable[[], None]) -> None:
        self.queue = queue
        self.handler = handler
        self.dry = False
        self.done = self.failed = 0
        self.run_times: collections.deque[float] = collections.deque(maxlen=_RUN_TIMES)
        self.complained = False
        self._wake = wake
        self._rung = True
        self._look_at = 0.0

    def ring(self) -> None:
        """Something may have come; from any thread."""
        self._rung = True
        self._wake()

    def is_due(self, now: float) -> bool:
        """Whether a pop may find something."""
        return self._rung or now >= self._look_at

    @property
    def look_at(self) -> float:
        """When to pop again without being told to; a monotonic time."""
        return 0.0 if self._rung else self._look_at

    def pop(self, limit: int, lease: float | None) -> list[Delivery]:
        """Take up to ``limit`` messages, in a time that no heartbeat misses; remember when there is nothing more for now."""
        self._rung = False  # before the look: what comes during it must be looked for again
        deliveries = self.queue.poll(limit, lease=lease)
        self.dry = deliveries is not None and len(deliveries) < limit
        self.complained = False
        if self.dry:
            self._look_at = time.monotonic() + self.queue.subscribe(self.ring)
        else:
            self._rung = True
        return deliveries or []

    def story(self, jobs: Iterable[Job]) -> dict[str, Any]:
        """What to tell of this queue: the counts, the run times, the jobs, each with when it began."""
        times, now, mono = sorted(self.run_times), time.time(), time.monotonic()
        ours = [job for job in jobs if job.source is self][:_TOLD]
        return {
            "done": self.done,
            "failed": self.failed,
            "run_times": [round(times[int(len(times) * part)], 4) for part in (0.5, 0.95, 0.99)] if times else None,
            "jobs": [{"id": job.delivery.id, "since": round(now - (mono - job.started), 3)} for job in ours],
        }

    def look_again(self) -> None:
        """What ended here may have brought something: a job that pushed, a message that died elsewhere."""
        self._rung, self.dry = True, False

    def close(self) -> None:
        """Listen no more."""
        self.queue.unsubscribe(self.ring)

    def rest(self, seconds: float) -> bool:
        """Leave the queue alone for a while after an error. True if that is the first of a row."""
        self._look_at = time.monotonic() + seconds
        first, self.complained = not self.complained, True
        return first


@dataclass(eq=False)
class Job:
    """A message that a slot works on. Times are monotonic."""

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
    slot: Any = field(default=None, repr=False)

    @property
    def beat_every(self) -> float:
        """Seconds from one heartbeat to the next."""
        return self.lease / _BEATS

    @property
    def next_at(self) -> float:
        """When something is to be done about it."""
        return min(self.next_beat, self.end_at, self.kill_at)

    def limit_to(self, seconds: float) -> None:
        """Have it ended when it has run for so long."""
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
