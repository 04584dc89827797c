"""A crew of threads in this process: for handlers that share its memory, and queues in memory.

They share its GIL too: so a process of its own keeps their leases (heart.py); where
there can be none, the supervisor's thread does. A thread cannot be killed: a job
that does not end when it is told to is left behind, and another thread takes its
slot.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import math
import os
import queue
import selectors
import sys
import threading
from typing import TYPE_CHECKING, Any

from mailq.connect import preload
from mailq.errors import TimeLimit, UsageError
from mailq.workers.channel import spawn
from mailq.workers.handler import PATIENCE, Handler, Input, failed, own_limit
from mailq.workers.loader import load
from mailq.workers.outcomes import Interrupted, Report
from mailq.workers.process_tree import can_fork

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

    from mailq.workers.channel import Channel
    from mailq.workers.job import Job, Options
    from mailq.workers.processes import Boss


class _Thread(threading.Thread):
    """One slot.

    An exception that is raised in a thread from outside arrives at any step, also
    just after the handler. Of these there are at most two a job, the soft limit and
    the interruption; whatever they break off goes on where it was.
    """

    def __init__(self, crew: Threads, number: int) -> None:
        super().__init__(name=f"mailq-worker-{number}", daemon=True)
        self.abandoned = False
        self._crew = crew
        self._job: Job | None = None
        self._given = queue.SimpleQueue[None]()  # no Semaphore: see Alarm
        self._begun = False
        self._report: Report | None = None
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._running: Input | None = None  # what may be interrupted; only with the lock held
        self._interruption: Interrupted | TimeLimit = Interrupted()

    def give(self, job: Job | None) -> None:
        """Have it do a job; None sends it home."""
        self._job, self._begun, self._report, self._timer = job, False, None, None
        self._given.put(None)

    def run(self) -> None:
        """One job after the other."""
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
            if os.getpid() != pid:  # a child that the handler forked and let return: nobody's thread
                os._exit(0)
            if self.abandoned:
                break
            self._crew.say(self, job, self._report)
        for handler in self._crew.handlers:
            handler.close()

    def _work(self, job: Job) -> None:
        """Run the handler, once, and see to it that nothing interrupts this thread any more."""
        if not self._begun:
            self._begun = True
            self._report = self._do(job)
        with self._lock:
            self._running = None
            _raise_in(self, None)  # what is on its way is taken back
        # Only now: an exception within this would leave a lock behind, for which the next try waited for ever.
        if self._timer is not None:
            self._timer.cancel()
        if self._report is None:
            self._report = failed(self._interruption)

    def _do(self, job: Job) -> Report:
        handler = self._crew.handlers[job.source.handler]
        job.delivery.on_settled = lambda: self._crew.say(self, job, None)
        given = Input(job.delivery)
        try:
            soft, hard = handler.limits(given)
        except Exception as error:  # noqa: BLE001 - it must not end the thread
            return Report("nack", error=repr(error), outcome="error")
        if hard is not None and own_limit(job.delivery) is None:
            self._crew.say(self, job, hard)
        soft = job.soft if soft is None else soft
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
    """Have an exception raised in a thread, or, with None, one that was not raised yet forgotten."""
    if thread.ident is not None:
        # Without an object it is NULL, whatever types others in this process have given the function's arguments.
        what = ctypes.py_object() if error is None else ctypes.py_object(error)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), what)


def is_crew(thread: threading.Thread) -> bool:
    """Whether a thread is a worker's slot."""
    return isinstance(thread, _Thread)


def _has_heart(job: Job) -> bool:
    """Whether another process can keep the lease. If it cannot be started, or not see the queue, our heartbeats must do."""
    return can_fork() and not job.source.queue.location.startswith("memory:")


def _class_of(error: Interrupted | TimeLimit, given: Input) -> type[BaseException]:
    """Its class, which takes no arguments: only a class can be raised in another thread. An instance is made where it arrives."""
    kind = type(error)

    def arrive(self: Any) -> None:  # noqa: ANN401 - an instance of a class that is only just made
        kind.__init__(self, *error.args)
        given.arrived(sys._getframe(1))  # noqa: SLF001 - its only name

    return type(kind.__name__, (kind,), {"__init__": arrive, "__module__": kind.__module__})


class Threads:
    """A crew of threads. Handlers are functions, or names of functions."""

    def __init__(self, handlers: Sequence[Any], options: Options, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.handlers: list[Handler] = []
        self._given = list(handlers)
        self._concurrency = options.concurrency
        self._insist = options.insist
        self._jobs: dict[int, Job] = {}
        self._heart: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._beats = False
        self._threads: list[_Thread] = []
        self._idle: list[_Thread] = []
        self._words: collections.deque[tuple[_Thread, Job, Report | float | None]] = collections.deque()
        self._started = 0

    def start(self, boss: Boss, selector: selectors.BaseSelector) -> None:
        """Start the threads."""
        from mailq.workers import coroutines  # noqa: F401, PLC0415 - slow to load, and only for threads needed in advance

        self._boss, self._selector = boss, selector
        preload()
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
        """Have an idle thread do a job, and the heart keep its lease."""
        job.slot = self._idle.pop()
        self._jobs[job.number] = job
        self._keep(job)
        job.slot.give(job)

    def _keep(self, job: Job) -> None:
        if not _has_heart(job):
            return
        if self._heart is None:
            self._heart, self._process = spawn("mailq.workers.heartbeat")
            self._selector.register(self._heart.sock, selectors.EVENT_READ, self._hear)
        limit = None if job.limit is None else job.limit + self._insist
        order = {
            "job": job.number,
            "queue": job.source.queue.location,
            "receipt": job.delivery.receipt,
            "lease": job.lease,
            "beat_every": job.beat_every,
        }
        try:
            self._heart.send({**order, "limit": limit})
        except OSError:  # it died: the next read of it says so
            return
        if self._beats:
            job.next_beat = math.inf

    def _hear(self) -> None:
        words = None if self._heart is None else self._heart.receive()
        if words is None:
            self._boss.complain("the process that keeps the leases died; the next job starts another")
            self._lose_heart()
            for job in self._jobs.values():
                job.next_beat = 0.0
            return
        for told in words:
            if "ready" in told:  # until then our own heartbeats go on
                self._beats = True
                for job in self._jobs.values():
                    if _has_heart(job):
                        job.next_beat = math.inf
                continue
            if "failed" in told:
                self._boss.complain(told["failed"])
                continue
            found = self._jobs.get(told["lost"])
            if found is not None and not found.delivery.settled:
                self._boss.lost(found)

    def _lose_heart(self) -> None:
        if self._heart is not None and self._process is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(self._heart.sock)
            self._heart.close()
            self._process.wait()
        self._heart, self._process, self._beats = None, None, False

    def _forget(self, job: Job) -> None:
        job.delivery.on_settled = None  # from here on it is the supervisor who settles it
        del self._jobs[job.number]
        self._drop(job)

    def _drop(self, job: Job) -> None:
        if self._heart is not None:
            with contextlib.suppress(OSError):
                self._heart.send({"job": job.number})

    def say(self, thread: _Thread, job: Job, word: Report | float | None) -> None:
        """What a thread has to say, from that thread: its report, its handler's own limit, or that it settled (None)."""
        self._words.append((thread, job, word))
        self._wake()

    @property
    def next_at(self) -> float:
        """Never: a thread that has something to say wakes the supervisor."""
        return math.inf

    def tick(self, _now: float) -> None:
        """Pass on what the threads have said."""
        while self._words:
            thread, job, word = self._words.popleft()
            if thread.abandoned:
                continue
            if isinstance(word, Report):
                self._idle.append(thread)
                self._forget(job)
                self._boss.finished(job, word)
            elif word is None:
                self._drop(job)
                self._boss.settled(job)
            else:
                self._boss.limited(job, word)
                self._keep(job)

    def interrupt(self, job: Job) -> None:
        """Raise Interrupted in the job."""
        job.slot.interrupt(job, Interrupted())

    def kill(self, job: Job) -> None:
        """Leave the thread behind: nothing can end it."""
        thread = job.slot
        thread.abandoned = True
        self._threads.remove(thread)
        self._boss.complain(f"{thread.name} does not end; it is left behind, its result will not count")
        self._add()
        self._forget(job)
        self._boss.died(job, "its thread did not end and was left behind")

    def reload(self) -> None:
        """Code in this process cannot be loaded anew."""
        self._boss.complain("threads cannot load code anew; restart the worker, or run it with processes")

    def close(self) -> None:
        """Send the idle threads home. The others are daemons: the end of the process ends them."""
        self._lose_heart()
        for thread in self._threads:
            if thread in self._idle:
                thread.give(None)
        for thread in self._threads:
            if thread in self._idle:
                with contextlib.suppress(RuntimeError):
                    thread.join(timeout=5)
