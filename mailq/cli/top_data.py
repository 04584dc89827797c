"""What ``mailq top`` looks up: queues, their workers, the newest dead letters."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mailq.cli import output
from mailq.cli.options import open_queue
from mailq.errors import MailqError, QueueNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailq.engines.base import LeaseHolder, Stats
    from mailq.queue import Queue

_LINGER: Final = 10.0
"""A worker that was killed is shown for so many seconds: the queue itself tells of it once."""

LISTED: Final = 10_000
"""The newest dead letters are looked for among so many."""

_RELIST: Final = 10.0
"""They are looked for anew when their number changes, or after so many seconds."""

_SHARE: Final = 0.1
"""Looking for them takes at most this part of the time."""

SHOWN: Final = 10
"""So many dead letters are told of."""

_LONGEST: Final = 500  # characters of a text that others wrote


class RunningJob(NamedTuple):
    """What a worker runs, and since when."""

    id: str
    since: float


class WorkerStatus(NamedTuple):
    """An owner with its story, as far as that is one: None is what it does not tell."""

    queue: str
    token: str
    state: str
    host: str
    pid: int | None
    slots: int | None
    done: int | None
    failed: int | None
    run_times: tuple[float, ...]
    running: int | None
    jobs: tuple[RunningJob, ...]


class Letter(NamedTuple):
    """A dead letter, with the last line of its last error."""

    queue: str
    id: str
    died_at: float
    reason: str
    error: str


class View(NamedTuple):
    """One queue at one look. ``note`` says what is the matter if there are no ``stats``."""

    queue: str
    stats: Stats | None = None
    workers: tuple[WorkerStatus, ...] = ()
    letters: tuple[Letter, ...] = ()
    note: str = ""


class Look(NamedTuple):
    """All queues at one look; ``at`` is on the monotonic clock."""

    at: float
    views: tuple[View, ...]


def look_at(watches: Sequence[QueueMonitor]) -> Look:
    """Look at all queues, one after the other."""
    return Look(time.monotonic(), tuple(watch.look() for watch in watches))


class QueueMonitor:
    """Looks at one queue again and again, and remembers what is dear to find out."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self._letters: tuple[Letter, ...] = ()
        self._dead = 0
        self._list_after = 0.0
        self._list_by = 0.0
        self._killed: dict[str, tuple[float, WorkerStatus]] = {}

    def look(self) -> View:
        """Look; a queue that is gone, or cannot be read, is told of as such."""
        try:
            with open_queue(self.queue) as queue:  # anew: it may be gone, or have other settings
                stats = queue.stats()
                return View(self.queue, stats, self._workers(queue), self._newest(queue, stats.dead))
        except QueueNotFound:
            return View(self.queue, note="gone")
        except (MailqError, OSError, ValueError, ArithmeticError) as error:  # owners' files hold anything
            return View(self.queue, note=_text(f"unreadable: {error}"))

    def _workers(self, queue: Queue) -> tuple[WorkerStatus, ...]:
        now = time.monotonic()
        workers = {owner.token: read_owner(self.queue, owner) for owner in queue.workers()}
        self._killed |= {token: (now, worker) for token, worker in workers.items() if worker.state == "dead"}
        self._killed = {token: (at, worker) for token, (at, worker) in self._killed.items() if now < at + _LINGER}
        return tuple({**{token: worker for token, (_, worker) in self._killed.items()}, **workers}.values())

    def _newest(self, queue: Queue, dead: int) -> tuple[Letter, ...]:
        """The newest dead letters.

        When they died is known of each only by asking, so that is done for the first
        in line, up to a bound, when their number has changed, and if it took long, less
        often.
        """
        began = time.monotonic()
        if began >= (self._list_by if dead == self._dead else self._list_after):
            found = queue.peek("dead", LISTED) if dead else []
            found.sort(key=lambda message: message.died_at or 0.0, reverse=True)
            self._letters = tuple(
                Letter(self.queue, m.id, m.died_at or 0.0, m.reason, last_line(m.history)) for m in found[:SHOWN]
            )
            now = time.monotonic()
            self._dead, self._list_after = dead, now + (now - began) / _SHARE
            self._list_by = max(self._list_after, now + _RELIST)
        return self._letters


def last_line(history: Sequence[Any]) -> str:
    """The last line of the last error of these attempts; if there is none, how the last one ended."""
    texts = [text for attempt in history if (text := (attempt.error or "").strip())]
    return _text(texts[-1].splitlines()[-1] if texts else history[-1].outcome if history else "")


def read_owner(queue: str, owner: LeaseHolder) -> WorkerStatus:
    """Take from a story what is as it should be; anybody can write one."""
    story = owner.status
    stage = story.get("stage", "consumer")
    times = story.get("run_times")
    numbers = tuple(map(_seconds, times)) if isinstance(times, list) and len(times) == 3 else ()  # noqa: PLR2004 - p50, p95, p99
    jobs = story.get("jobs")
    return WorkerStatus(
        queue=queue,
        token=owner.token,
        state=(_text(stage)[:12] if isinstance(stage, str) else "?") if owner.alive else "dead",
        host=_text(owner.host),
        pid=_count(owner.pid),
        slots=_count(story.get("slots")),
        done=_count(story.get("done")),
        failed=_count(story.get("failed")),
        run_times=tuple(number for number in numbers if number is not None) if None not in numbers else (),
        running=len(jobs) if isinstance(jobs, list) else None,
        jobs=tuple(_jobs(jobs)) if isinstance(jobs, list) else (),
    )


def _jobs(jobs: Sequence[object]) -> Iterator[RunningJob]:
    for job in jobs:
        id, since = (job.get("id"), _seconds(job.get("since"))) if isinstance(job, dict) else (None, None)
        if isinstance(id, str) and since is not None:
            yield RunningJob(_text(id)[:40], since)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 10**12 else None


def _seconds(value: object) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value < 10**12 else None  # type: ignore[operator, arg-type]


def _text(text: str) -> str:
    return output.plain(text[:_LONGEST])


def rates(before: Sequence[WorkerStatus], after: Sequence[WorkerStatus], seconds: float) -> tuple[float, float] | None:
    """Done and failed jobs a second, of the workers that were there at both looks; None if there are none."""
    known = {worker.token: worker for worker in before if None not in (worker.done, worker.failed)}
    pairs = [(known[w.token], w) for w in after if w.token in known and None not in (w.done, w.failed)]
    if not pairs or seconds <= 0:
        return None
    done = sum(max(0, (new.done or 0) - (old.done or 0)) for old, new in pairs)
    failed = sum(max(0, (new.failed or 0) - (old.failed or 0)) for old, new in pairs)
    return done / seconds, failed / seconds
