"""A pool of threads in this process: for handlers that share its memory, and queues in memory.

They share its GIL too, so a separate process extends their leases (heartbeat.py);
where there can be none, the supervisor's thread does. A thread cannot be killed: a
job that does not end when it is interrupted is abandoned, and another thread takes
its place.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import math
import os
import queue
import sys
import threading
from typing import TYPE_CHECKING, Any

from mailq.connect import preload
from mailq.errors import TimeLimit, UsageError
from mailq.workers.channel import Helper
from mailq.workers.handler import Handler, failed
from mailq.workers.job_input import PATIENCE, JobInput
from mailq.workers.loader import load
from mailq.workers.outcomes import Interrupted, Result
from mailq.workers.process_tree import can_fork

if TYPE_CHECKING:
    import selectors
    from collections.abc import Callable, Sequence

    from mailq.workers.job import Job, Options
    from mailq.workers.pool import PoolEvents


class _Thread(threading.Thread):
    """One thread.

    An exception that is raised in a thread from outside arrives at any step, also
    just after the handler. There are at most two a job, the soft limit and the
    interruption; ``run`` continues the step that they interrupt.
    """

    def __init__(self, pool: ThreadPool, number: int) -> None:
        super().__init__(name=f"mailq-worker-{number}", daemon=True)
        self.abandoned = False
        self._pool = pool
        self._job: Job | None = None
        self._given = queue.SimpleQueue[None]()  # not a Semaphore: see alarm.py
        self._begun = False
        self._result: Result | None = None
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._running: JobInput | None = None  # only with the lock held
        self._interruption: Interrupted | TimeLimit = Interrupted()

    def give(self, job: Job | None) -> None:
        """Have it run a job; None ends it."""
        self._job, self._begun, self._result, self._timer = job, False, None, None
        self._given.put(None)

    def run(self) -> None:
        """Run one job after the other."""
        pid = os.getpid()
        while True:
            self._given.get()
            job = self._job
            if job is None:
                break
            try:
                try:
                    self._work(job)
                except (Interrupted, TimeLimit):
                    self._work(job)
            except (Interrupted, TimeLimit):
                self._work(job)
            if os.getpid() != pid:  # a process that the handler forked and let return
                os._exit(0)
            if self.abandoned:
                break
            self._pool.report(self, job, self._result)
        for handler in self._pool.handlers:
            handler.close()

    def _work(self, job: Job) -> None:
        """Run the handler, once, and end what may interrupt this thread."""
        if not self._begun:
            self._begun = True
            self._result = self._run_handler(job)
        with self._lock:
            self._running = None
            _raise_in(self, None)  # cancel what has not arrived
        # Only now: an exception within cancel would leave its lock held, and the next call would wait for ever.
        if self._timer is not None:
            self._timer.cancel()
        if self._result is None:
            self._result = failed(self._interruption)

    def _run_handler(self, job: Job) -> Result:
        handler = self._pool.handlers[job.source.handler]
        job.delivery.on_settled = lambda: self._pool.report(self, job, None)
        given = JobInput(job.delivery)
        soft, hard = handler.limits(given, job.soft)
        if hard is not None:
            self._pool.report(self, job, hard)
        if soft is not None:
            self._timer = threading.Timer(soft, self.interrupt, [job, TimeLimit(soft)])
            self._timer.start()
        with self._lock:
            self._running = given
        return handler(given)

    def interrupt(self, job: Job, error: Interrupted | TimeLimit) -> None:
        """Raise something in a job, at its next step in Python, if it still runs."""
        with self._lock:
            given = self._running
            if given is not None and given.delivery is job.delivery:
                self._interruption = error
                kind = _class_of(error, given)
                if given.interrupt(error, sys._current_frames().get(self.ident or 0)):  # noqa: SLF001 - its only name
                    _raise_in(self, kind)
                elif not given.is_cancelled:
                    if self._timer is not None:  # of the soft limit: the end of the program would wait for it
                        self._timer.cancel()
                    self._timer = threading.Timer(PATIENCE, self.interrupt, [job, error])
                    self._timer.start()


def _raise_in(thread: threading.Thread, error: type[BaseException] | None) -> None:
    """Raise an exception in a thread; with None, cancel one that has not arrived."""
    if thread.ident is not None:
        # py_object() is NULL, also if other code in this process has set the function's argument types.
        what = ctypes.py_object() if error is None else ctypes.py_object(error)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), what)


def is_worker_thread(thread: threading.Thread) -> bool:
    """Whether a worker runs jobs in this thread."""
    return isinstance(thread, _Thread)


def _has_heartbeat(job: Job) -> bool:
    """Whether the heartbeat process can extend the lease: it must be able to start, and to open the queue."""
    return can_fork() and not job.source.queue.location.startswith("memory:")


def _class_of(error: Interrupted | TimeLimit, given: JobInput) -> type[BaseException]:
    """A class that makes this error: only a class can be raised in another thread, and the instance is made where it arrives."""
    kind = type(error)

    def arrive(self: Any) -> None:  # noqa: ANN401 - an instance of a class made below
        kind.__init__(self, *error.args)
        given.arrived(sys._getframe(1))  # noqa: SLF001 - its only name

    return type(kind.__name__, (kind,), {"__init__": arrive, "__module__": kind.__module__})


class ThreadPool:
    """A pool of threads. Handlers are functions, or names of functions."""

    def __init__(self, handlers: Sequence[Any], options: Options, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.handlers: list[Handler] = []
        self._given = list(handlers)
        self._concurrency = options.concurrency
        self._kill_after = options.kill_after
        self._jobs: dict[int, Job] = {}
        self._heartbeat: Helper | None = None
        self._beats = False
        self._idle: list[_Thread] = []
        self._reports: collections.deque[tuple[_Thread, Job, Result | float | None]] = collections.deque()
        self._started = 0

    def start(self, events: PoolEvents, selector: selectors.BaseSelector) -> None:
        """Start the threads."""
        from mailq.workers import coroutines  # noqa: F401, PLC0415 - slow to load, and only for threads needed in advance

        self._events, self._selector = events, selector
        preload()
        self._load()
        for _ in range(self._concurrency):
            self._add()
        events.ready([handler.queues for handler in self.handlers])

    def _load(self) -> None:
        for handler in self._given:
            if isinstance(handler, list | tuple):
                raise UsageError("commands run as processes; leave threads out")
            self.handlers.append(Handler(load(handler) if isinstance(handler, str) else handler))

    def _add(self) -> None:
        self._started += 1
        thread = _Thread(self, self._started)
        thread.start()
        self._idle.append(thread)

    def idle(self) -> int:
        """The number of idle threads."""
        return len(self._idle)

    def give(self, job: Job) -> None:
        """Have an idle thread run a job, and the heartbeat process extend its lease."""
        job.runner = self._idle.pop()
        self._jobs[job.number] = job
        self._extend(job)
        job.runner.give(job)

    def _extend(self, job: Job) -> None:
        if not _has_heartbeat(job):
            return
        if self._heartbeat is None:
            self._heartbeat = Helper("mailq.workers.heartbeat")
            self._heartbeat.watch(self._selector, self._read_heartbeat)
        order = {
            "job": job.number,
            "queue": job.source.queue.location,
            "receipt": job.delivery.receipt,
            "lease": job.lease,
            "beat_every": job.beat_every,
            "limit": None if job.limit is None else job.limit + self._kill_after,
        }
        try:
            self._heartbeat.send(order)
        except OSError:  # it died: the next read of it says so
            return
        if self._beats:
            job.next_beat = math.inf

    def _read_heartbeat(self) -> None:
        messages = None if self._heartbeat is None else self._heartbeat.receive()
        if messages is None:
            self._events.complain("the process that keeps the leases died; the next job starts another")
            self._close_heartbeat()
            for job in self._jobs.values():
                job.next_beat = 0.0
            return
        for message in messages:
            if "ready" in message:  # until then the supervisor's heartbeats go on
                self._beats = True
                for job in filter(_has_heartbeat, self._jobs.values()):
                    job.next_beat = math.inf
            elif "failed" in message:
                self._events.complain(message["failed"])
            elif (found := self._jobs.get(message["lost"])) is not None and not found.delivery.settled:
                self._events.lost(found)

    def _close_heartbeat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.close()
        self._heartbeat, self._beats = None, False

    def _forget(self, job: Job) -> None:
        job.delivery.on_settled = None  # from here on the supervisor settles it
        del self._jobs[job.number]
        self._stop_extending(job)

    def _stop_extending(self, job: Job) -> None:
        if self._heartbeat is not None:
            with contextlib.suppress(OSError):
                self._heartbeat.send({"job": job.number})

    def report(self, thread: _Thread, job: Job, what: Result | float | None) -> None:
        """Report a result, the handler's own limit, or that it has settled the message (None); from the thread itself."""
        self._reports.append((thread, job, what))
        self._wake()

    @property
    def next_at(self) -> float:
        """Never: a thread that reports something wakes the supervisor."""
        return math.inf

    def tick(self, _now: float) -> None:
        """Pass on what the threads have reported."""
        while self._reports:
            thread, job, what = self._reports.popleft()
            if thread.abandoned:
                continue
            if isinstance(what, Result):
                self._idle.append(thread)
                self._forget(job)
                self._events.finished(job, what)
            elif what is None:
                self._stop_extending(job)
                self._events.settled(job)
            else:
                self._events.limited(job, what)
                self._extend(job)

    def interrupt(self, job: Job) -> None:
        """Raise Interrupted in the job."""
        job.runner.interrupt(job, Interrupted())

    def kill(self, job: Job) -> None:
        """Abandon the thread: nothing can end it."""
        thread = job.runner
        thread.abandoned = True
        self._events.complain(f"{thread.name} does not end; it is left behind, its result will not count")
        self._add()
        self._forget(job)
        self._events.died(job, "its thread did not end and was left behind")

    def reload(self) -> None:
        """Refuse: code in this process cannot be loaded again."""
        self._events.complain("threads cannot reload code; restart the worker, or run it with processes")

    def close(self) -> None:
        """End the idle threads. The others are daemons: the end of the process ends them."""
        self._close_heartbeat()
        for thread in self._idle:
            thread.give(None)
        for thread in self._idle:
            with contextlib.suppress(RuntimeError):
                thread.join(timeout=5)
