"""What ``mailq top`` reads: queues, their workers, the newest dead letters."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mailq.cli.options import open_queue
from mailq.cli.workers import WorkerStatus, read_status, shown
from mailq.errors import MailqError, QueueNotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailq.engines.base import Stats
    from mailq.queue import Queue

_LINGER: Final = 10.0
"""Seconds for which a killed worker is shown: the queue itself reports it once."""

LISTED: Final = 10_000
"""The number of dead letters among which the newest are found."""

_RELIST: Final = 10.0
"""Seconds after which they are listed again, if their number does not change before."""

_SHARE: Final = 0.1
"""Listing them takes at most this part of the time."""

SHOWN: Final = 10
"""The number of dead letters that are shown."""


class DeadLetter(NamedTuple):
    """A dead letter, with the last line of its last error."""

    queue: str
    id: str
    died_at: float
    reason: str
    error: str


class View(NamedTuple):
    """One queue at one look. Without ``stats``, ``note`` says why."""

    queue: str
    stats: Stats | None = None
    workers: tuple[WorkerStatus, ...] = ()
    letters: tuple[DeadLetter, ...] = ()
    note: str = ""


class Look(NamedTuple):
    """All queues at one look; ``at`` is on the monotonic clock."""

    at: float
    views: tuple[View, ...]


def look_at(monitors: Sequence[QueueMonitor]) -> Look:
    """Look at all queues, one after the other."""
    return Look(time.monotonic(), tuple(monitor.look() for monitor in monitors))


class QueueMonitor:
    """Looks at one queue repeatedly, and caches what is slow to read."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self._letters: tuple[DeadLetter, ...] = ()
        self._dead = 0
        self._list_after = 0.0
        self._list_by = 0.0
        self._killed: dict[str, tuple[float, WorkerStatus]] = {}

    def look(self) -> View:
        """Look once. A queue that is gone or cannot be read is a view with a note."""
        try:
            with open_queue(self.queue) as queue:  # each time: it may be gone, or have other settings
                stats = queue.stats()
                return View(self.queue, stats, self._workers(queue), self._newest(queue, stats.dead))
        except QueueNotFound:
            return View(self.queue, note="gone")
        except (MailqError, OSError, ValueError, ArithmeticError) as error:  # any process may write its status
            return View(self.queue, note=shown(f"unreadable: {error}"))

    def _workers(self, queue: Queue) -> tuple[WorkerStatus, ...]:
        now = time.monotonic()
        workers = {holder.token: read_status(holder) for holder in queue.workers()}
        self._killed |= {token: (now, worker) for token, worker in workers.items() if worker.state == "dead"}
        self._killed = {token: (at, worker) for token, (at, worker) in self._killed.items() if now < at + _LINGER}
        return tuple({**{token: worker for token, (_, worker) in self._killed.items()}, **workers}.values())

    def _newest(self, queue: Queue, dead: int) -> tuple[DeadLetter, ...]:
        """The newest dead letters.

        Only reading each shows when it died, so they are read up to a bound, when their
        number has changed, and less often if that took long.
        """
        began = time.monotonic()
        if began >= (self._list_by if dead == self._dead else self._list_after):
            found = queue.peek("dead", LISTED) if dead else []
            found.sort(key=lambda message: message.died_at or 0.0, reverse=True)
            self._letters = tuple(
                DeadLetter(self.queue, m.id, m.died_at or 0.0, m.reason, last_line(m.history)) for m in found[:SHOWN]
            )
            now = time.monotonic()
            self._dead, self._list_after = dead, now + (now - began) / _SHARE
            self._list_by = max(self._list_after, now + _RELIST)
        return self._letters


def last_line(history: Sequence[Any]) -> str:
    """The last line of the last error of these attempts; if there is none, how the last one ended."""
    texts = [text for attempt in history if (text := (attempt.error or "").strip())]
    return shown(texts[-1].splitlines()[-1] if texts else history[-1].outcome if history else "")


def rates(before: Sequence[WorkerStatus], after: Sequence[WorkerStatus], seconds: float) -> tuple[float, float] | None:
    """Done and failed jobs a second, of the workers that were there at both looks; None if there are none."""
    known = {worker.token: worker for worker in before if None not in (worker.done, worker.failed)}
    pairs = [(known[w.token], w) for w in after if w.token in known and None not in (w.done, w.failed)]
    if not pairs or seconds <= 0:
        return None
    done = sum(max(0, (new.done or 0) - (old.done or 0)) for old, new in pairs)
    failed = sum(max(0, (new.failed or 0) - (old.failed or 0)) for old, new in pairs)
    return done / seconds, failed / seconds
