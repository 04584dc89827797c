"""A crew of threads in this process: for handlers that share its memory, and queues in memory.

They share its GIL too. A job that holds it for longer than a lease keeps the
heartbeats from happening, and a thread cannot be killed: a job that does not
end when it is told to is left behind, and another thread takes its slot.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import threading
from typing import TYPE_CHECKING, Any

from mailq.errors import TimeLimit, UsageError
from mailq.message import TIMEOUT
from mailq.workers.handling import Handler
from mailq.workers.outcomes import Interrupted, Report
from mailq.workers.targets import load

if TYPE_CHECKING:
    import selectors
    from collections.abc import Callable, Sequence

    from mailq.workers.crew import Boss
    from mailq.workers.jobs import Job


class _Thread(threading.Thread):
    """One slot."""

    def __init__(self, crew: Threads, number: int) -> None:
        super().__init__(name=f"mailq-worker-{number}", daemon=True)
        self.crew = crew
        self.job: Job | None = None
        self.abandoned = False
        self.interruptible = False
        self.lock = threading.Lock()
        self._given = threading.Semaphore(0)
        self.closing = False

    def give(self, job: Job | None) -> None:
        self.job, self.closing = job, job is None
        self._given.release()

    def run(self) -> None:
        while True:
            self._given.acquire()
            job = self.job
            if job is None:
                return
            report = self._do(job)
            if self.abandoned:
                return
            self.crew.report(self, job, report)

    def _do(self, job: Job) -> Report:
        handler = self.crew.handlers[job.source.handler]
        timer = None
        try:
            soft, hard = handler.limits(job.delivery)
            if hard is not None and TIMEOUT not in job.delivery.headers:
                self.crew.report(self, job, hard)
            soft = job.soft if soft is None else soft
            with self.lock:
                self.interruptible = True
            if soft is not None:
                timer = threading.Timer(soft, self.interrupt, [_limit(soft)])
                timer.start()
            return handler(job.delivery)
        except (Interrupted, TimeLimit):  # it came just before or after the handler
            return Report("interrupted")
        finally:
            with self.lock:
                self.interruptible = False
            if timer is not None:
                timer.cancel()

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise something in the job, at its next step in Python."""
        with self.lock:
            if self.interruptible and self.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(error))


def _limit(soft: float) -> type[TimeLimit]:
    """TimeLimit as a class without arguments: only a class can be raised in another thread."""

    class Limit(TimeLimit):
        def __init__(self) -> None:
            super().__init__(soft)

    Limit.__name__ = Limit.__qualname__ = TimeLimit.__name__
    return Limit


class Threads:
    """A crew of threads. Handlers are functions, or names of functions."""

    def __init__(self, handlers: Sequence[Any], concurrency: int, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.handlers: list[Handler] = []
        self._given = list(handlers)
        self._concurrency = concurrency
        self._threads: list[_Thread] = []
        self._idle: list[_Thread] = []
        self._words: collections.deque[tuple[_Thread, Job, Report | float]] = collections.deque()
        self._started = 0

    def start(self, boss: Boss, _selector: selectors.BaseSelector) -> None:
        """Start the threads."""
        self._boss = boss
        self._load()
        for _ in range(self._concurrency):
            self._add()
        boss.ready([handler.queues for handler in self.handlers])

    def _load(self) -> None:
        for handler in self._given:
            if isinstance(handler, list | tuple):
                raise UsageError("commands run as processes; leave threads out")
            self.handlers.append(Handler(load(handler) if isinstance(handler, str) else handler))

    def _add(self) -> None:
        self._started += 1
        thread = _Thread(self, self._started)
        thread.start()
        self._threads.append(thread)
        self._idle.append(thread)

    def idle(self) -> int:
        """How many threads are idle."""
        return len(self._idle)

    def give(self, job: Job) -> None:
        """Have an idle thread do a job."""
        job.slot = self._idle.pop()
        job.slot.give(job)

    def report(self, thread: _Thread, job: Job, word: Report | float) -> None:
        """What a thread has to say, from that thread: its report, or its handler's own limit."""
        self._words.append((thread, job, word))
        self._wake()

    def tick(self, _now: float) -> float:
        """Pass on what the threads have said."""
        while self._words:
            thread, job, word = self._words.popleft()
            if thread.abandoned:
                continue
            if isinstance(word, Report):
                thread.job = None
                self._idle.append(thread)
                self._boss.finished(job, word)
            else:
                self._boss.limited(job, word)
        return float("inf")

    def terminate(self, job: Job) -> None:
        """Raise Interrupted in the job."""
        job.slot.interrupt(Interrupted)

    def kill(self, job: Job) -> None:
        """Leave the thread behind: nothing can end it."""
        thread = job.slot
        thread.abandoned = True
        self._threads.remove(thread)
        self._boss.complain(f"{thread.name} does not end; it is left behind, its result will not count")
        self._add()
        self._boss.died(job, "its thread did not end and was left behind")

    def reload(self) -> None:
        """Code in this process cannot be loaded anew."""
        self._boss.complain("threads cannot load code anew; restart the worker, or run it with processes")

    def close(self) -> None:
        """Send the idle threads home. The others are daemons: the end of the process ends them."""
        for thread in self._threads:
            if thread in self._idle:
                thread.give(None)
        for thread in self._threads:
            if thread in self._idle:
                with contextlib.suppress(RuntimeError):
                    thread.join(timeout=5)
