"""A pool of processes: the supervisor's view of the children that the fork server forks."""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from mailq.errors import UsageError, WorkerFailed
from mailq.workers.channel import Channel, Helper
from mailq.workers.command import how_it_ended
from mailq.workers.outcomes import Result
from mailq.workers.process_tree import can_fork, kill_group, reap_orphans

if TYPE_CHECKING:
    import selectors
    from collections.abc import Sequence

    from mailq.workers.job import Job, Options
    from mailq.workers.pool import PoolEvents

# Seconds to wait before a child that could not be started is tried again.
_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 30.0

_FORKS_AT_ONCE: Final = 64
"""The number of forks requested ahead of the fork server's answers: each is a socket in flight, and a kernel takes few."""

_EARLY_DEATHS: Final = 3
"""The number of processes that may be killed at the very start before the worker gives up."""

_FLUSH: Final = 0.02
"""Seconds after which the fork server is offered again what it could not take."""


class _Child:
    """One process. ``pid`` is 0 until the fork server reports it."""

    def __init__(self, channel: Channel, generation: int) -> None:
        self.channel = channel
        self.generation = generation
        self.pid = 0
        self.born = time.monotonic()
        self.ready = False
        self.expired = False
        self.draining = False
        self.killed = False
        self.done = 0
        self.job: Job | None = None


def _parsed(told: dict[str, Any]) -> tuple[str, int, Any]:
    """The kind, the job's number and the value of a child's message. Raises ValueError, KeyError or TypeError for nonsense."""
    if "ready" in told:
        return "ready", 0, [[str(name) for name in names] for names in told["queues"]]
    if "failed" in told:
        return "failed", 0, (str(told["failed"]), bool(told["usage"]))
    number = int(told.pop("job"))
    if "output" in told:
        return "output", number, str(told["output"])
    for what in ("limit", "settled"):
        if what in told:
            return what, number, float(told[what])
    memory = int(told.pop("memory", 0))
    result = Result(**told)
    texts = (result.verb, result.error or "", result.outcome or "", result.reply or "")
    if not all(isinstance(text, str) for text in texts) or not isinstance(result.delay, int | float | None):
        raise ValueError(told)
    return "result", number, (result, memory)


class ProcessPool:
    """A pool of processes. The fork server starts, signals and reaps them.

    A child is starting, then idle or busy. It is *expired* after ``max_jobs``, at
    ``max_age`` or above ``max_memory``, and gets no more jobs. When its successor is
    ready it is *draining*: it ends after its job. A reload starts a new generation,
    which replaces the old one in the same way. If a successor cannot start, the
    expired child goes on.
    """

    def __init__(self, handlers: Sequence[Any], options: Options) -> None:
        if not can_fork():
            raise UsageError(
                "this system cannot fork worker processes; run the handler in threads: --threads, threads="
            )
        self._handlers = list(handlers)
        self._options = options
        self._generation = 0
        self._children: list[_Child] = []
        self._forking: collections.deque[_Child] = collections.deque()
        self._idle: list[_Child] = []
        self._delay = 0.0
        self._retry_at = 0.0
        self._worked_once = False
        self._early_deaths = 0
        self._forkserver: Helper | None = None

    # Begin and end

    def start(self, events: PoolEvents, selector: selectors.BaseSelector) -> None:
        """Start the fork server, and have it fork the children."""
        self._events, self._selector = events, selector
        self._start_forkserver()
        self._fill()

    def _start_forkserver(self) -> None:
        self._forkserver = Helper("mailq.workers.forkserver")
        self._forkserver.watch(self._selector, functools.partial(self._read_forkserver, self._forkserver))
        self._ask(do="begin", handlers=self._handlers, echo=self._options.echo)

    def _ask(self, sockets: Sequence[socket.socket] = (), **request: Any) -> None:  # noqa: ANN401 - JSON values
        with contextlib.suppress(OSError):  # it died: the next read of it says so
            if self._forkserver is not None:
                self._forkserver.send(request, sockets)

    def close(self) -> None:
        """Close the fork server's socket: it kills the children and ends."""
        for child in self._children:
            child.channel.close()
        self._children.clear()
        self._idle.clear()
        self._forking.clear()
        if self._forkserver is not None:
            self._forkserver.close()
            self._forkserver = None

    # Children

    def _fill(self) -> None:
        """Have the missing children forked. Expired and old ones have a successor, and so do not count."""
        if time.monotonic() < self._retry_at:
            return
        current = sum(c.generation == self._generation and not c.expired and not c.draining for c in self._children)
        for _ in range(min(self._options.concurrency - current, _FORKS_AT_ONCE - len(self._forking))):
            try:
                ours, theirs = socket.socketpair()
            except OSError as error:  # too many open files
                self._back_off(f"cannot start a worker process: {error}")
                return
            child = _Child(Channel(ours), self._generation)
            self._children.append(child)
            self._forking.append(child)
            child.channel.watch(self._selector, functools.partial(self._read, child))
            self._ask([theirs], do="fork")

    def idle(self) -> int:
        """The number of idle children."""
        return len(self._idle)

    def give(self, job: Job) -> None:
        """Send the receipt to an idle child: the one that worked last, whose caches are warm."""
        child = self._idle.pop()
        child.job, job.runner = job, child
        order = {
            "job": job.number,
            "queue": job.source.queue.location,
            "handler": job.source.handler,
            "receipt": job.delivery.receipt,
            "soft": job.soft,
            "weigh": self._options.max_memory is not None,
        }
        try:
            child.channel.send(order)
        except OSError:  # it died before it could begin
            child.job = None
            self._events.finished(job, Result("release"))

    def _read(self, child: _Child) -> bool:
        """Read a child's messages; False when there are no more."""
        if not child.channel.is_watched:  # it exited after the select that found it
            return False
        try:
            received = child.channel.receive()
            messages = None if received is None else [_parsed(message) for message in received]
        except (ValueError, KeyError, TypeError) as error:
            # A handler can write to any of its process's files. The other messages cannot be trusted either.
            self._events.complain(f"worker process {child.pid} says what makes no sense, so it is killed: {error!r}")
            self._ask(do="kill", pid=child.pid)
            messages = None
        if messages is None:  # it has ended, or will: the fork server reports how
            child.channel.unwatch()
            self._not_idle(child)
            return False
        for message in messages:
            self._handle(child, *message)
        return bool(messages)

    def _handle(self, child: _Child, what: str, number: int, value: Any) -> None:  # noqa: ANN401 - as _parsed
        """Act on a child's message."""
        job = child.job
        if what == "ready":
            self._on_ready(child, value)
        elif what == "failed":
            text, usage = value
            self._back_off(text, usage=usage)
        elif job is None or job.number != number:
            return  # not of this job: a process that a handler forked writes to the child's channel
        elif what == "limit":
            self._events.limited(job, value)
        elif what == "settled":
            self._events.settled(job)
        elif what == "output":
            job.output = value
        else:
            result, memory = value
            child.job = None
            self._job_done(child, memory)
            self._events.finished(job, result)

    def _on_ready(self, child: _Child, queues: list[list[str]]) -> None:
        child.ready = self._worked_once = True
        self._delay = 0.0
        self._idle.append(child)
        old = [
            c for c in self._children if c.ready and not c.draining and (c.expired or c.generation < child.generation)
        ]
        if old:
            self._drain(min(old, key=lambda c: c.generation))
        self._events.ready(queues)

    def _job_done(self, child: _Child, memory: int) -> None:
        """A job is over: the child is idle again, or expired."""
        child.done += 1
        options = self._options
        expired = (
            child.killed  # a signal may still be on its way, which must not hit another job
            or (options.max_jobs is not None and child.done >= options.max_jobs)
            or (options.max_age is not None and time.monotonic() - child.born >= options.max_age)
            or (options.max_memory is not None and memory > options.max_memory)
        )
        if child.draining:
            self._shut_down(child)
        elif expired:
            self._expire(child)
        else:
            self._idle.append(child)

    def _expire(self, child: _Child) -> None:
        """Give it no more jobs; it ends when its successor is ready."""
        child.expired = True
        self._not_idle(child)
        if child.killed:
            self._drain(child)
        self._fill()

    def _drain(self, child: _Child) -> None:
        """Give it no more jobs; it ends when it has none."""
        child.draining = True
        self._not_idle(child)
        if child.job is None:
            self._shut_down(child)

    def _shut_down(self, child: _Child) -> None:
        """Close its input: it ends by itself."""
        with contextlib.suppress(OSError):
            child.channel.sock.shutdown(socket.SHUT_WR)

    def _not_idle(self, child: _Child) -> None:
        if child in self._idle:
            self._idle.remove(child)

    def reload(self) -> None:
        """Start new children; each that is ready replaces an old one. If the new code does not load, the old goes on."""
        self._generation += 1
        self._retry_at = self._delay = 0.0
        for child in self._children:
            if not child.ready:  # it loads code that is out of date
                child.draining = True
                self._ask(do="kill", pid=child.pid)
        self._fill()

    def interrupt(self, job: Job) -> None:
        """Send SIGUSR2 to the child, which raises in the job, and SIGTERM to what the job has started."""
        job.runner.killed = True
        self._ask(do="interrupt", pid=job.runner.pid)

    def kill(self, job: Job) -> None:
        """Send SIGKILL to the process group."""
        job.runner.killed = True
        self._ask(do="kill", pid=job.runner.pid)

    # Deaths

    def _read_forkserver(self, forkserver: Helper) -> None:
        messages = forkserver.receive() if forkserver.is_watched else []
        if messages is None:
            self._replace_forkserver(forkserver)
            return
        for message in messages:
            if "forked" in message:
                child = self._forking.popleft()
                child.pid = message["forked"]
                if child.draining:  # a reload came before it had an id
                    self._ask(do="kill", pid=child.pid)
                self._fill()
            elif "failed" in message:
                self._back_off(f"cannot fork a worker process: {message['failed']}")
                self._on_exit(self._forking.popleft(), "")
            else:
                child = next(child for child in self._children if child.pid == message["died"])
                self._on_exit(child, how_it_ended(message["code"]))

    def _on_exit(self, child: _Child, how: str) -> None:
        """A child is dead: read its last messages, report its job, start a successor."""
        while self._read(child):
            pass
        self._children.remove(child)
        self._not_idle(child)
        child.channel.close()
        if child.job is not None and child.channel.unread:
            self._events.finished(child.job, Result("release"))  # it never began
        elif child.job is not None:
            self._events.died(child.job, how)
        elif not child.draining and child.ready:
            self._events.complain(f"worker process {child.pid} died without a job: {how}")
        elif not child.draining and time.monotonic() >= self._retry_at:
            retried = self._may_retry(killed=how.startswith("killed"))
            self._back_off(f"a worker process died while it was starting: {how}", retried=retried)
        self._fill()

    def _replace_forkserver(self, forkserver: Helper) -> None:
        """The fork server died, and its children with it: report their jobs, start another."""
        forkserver.close()
        if not self._may_retry(killed=(forkserver.process.returncode or 0) < 0):
            raise WorkerFailed("the process that forks the workers died at its start; see what it wrote to stderr")
        self._events.complain("the fork server of the worker processes died; starting another")
        self._retry_at = math.inf  # no successors yet
        self._forking.clear()
        for child in list(self._children):
            # Where a parent's death kills (Linux), this only reaches what they had started.
            if child.pid:
                kill_group(child.pid, signal.SIGKILL)
            self._on_exit(child, "its parent died")
        time.sleep(_FIRST_DELAY / 5)  # no job waits for this, and what killed the fork server may come again
        self._retry_at = 0.0
        self._start_forkserver()
        self._fill()

    def _may_retry(self, *, killed: bool) -> bool:
        """Whether to try again after a death. At the start only if it was killed, a few times."""
        self._early_deaths += 1
        return self._worked_once or (killed and self._early_deaths <= _EARLY_DEATHS)

    def _back_off(self, text: str, *, usage: bool = False, retried: bool = False) -> None:
        """A child could not start: try again later. Raises WorkerFailed or UsageError if none has started yet."""
        if not self._worked_once and not retried:
            raise (UsageError if usage else WorkerFailed)(text)
        self._events.complain(text)
        self._delay = min(max(_FIRST_DELAY, 2 * self._delay), _LONGEST_DELAY)
        self._retry_at = time.monotonic() + self._delay
        for child in self._children:  # without a successor they go on
            if child.expired and not child.draining and child.job is None and child not in self._idle:
                self._idle.append(child)

    def tick(self, now: float) -> None:
        """Try again to start children and to send, when it is time; expire idle ones."""
        if self._forkserver is not None and self._options.reap_children:
            reap_orphans(self._forkserver.process.pid)
        with contextlib.suppress(OSError):
            if self._forkserver is not None:
                self._forkserver.flush()
        if self._retry_at and now >= self._retry_at:
            self._retry_at = 0.0
            self._fill()
        for child in self._aging():
            if now >= child.born + (self._options.max_age or 0.0):
                self._expire(child)

    @property
    def next_at(self) -> float:
        """The monotonic time when something will be due."""
        times = [child.born + (self._options.max_age or 0.0) for child in self._aging()]
        if self._retry_at:
            times.append(self._retry_at)
        if self._forkserver is not None and self._forkserver.is_full:
            times.append(time.monotonic() + _FLUSH)
        return min(times, default=math.inf)

    def _aging(self) -> list[_Child]:
        """The idle children that reach ``max_age``. One that has run no job does not age."""
        if self._options.max_age is None:
            return []
        return [child for child in self._idle if child.done and not child.expired]
