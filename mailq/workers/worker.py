"""The worker, as Python programs use it."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from mailq.alarm import Alarm
from mailq.connect import open as open_queue
from mailq.errors import UsageError, shown
from mailq.queue import Queue
from mailq.settings import seconds, whole
from mailq.tasks import App
from mailq.workers.callables import require_handler
from mailq.workers.job import Options
from mailq.workers.loader import IN_CHILD, name_of
from mailq.workers.processes import ProcessPool
from mailq.workers.signals import Wakeup, stop_and_reload
from mailq.workers.supervisor import Supervisor
from mailq.workers.threads import ThreadPool, is_worker_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from mailq.workers.pool import Pool

    Handler = Callable[..., Any] | str | Sequence[str] | App
    QueueLike = Queue | str | os.PathLike[str]

_MOMENT: Final = 5.0
"""Seconds after which a thread that was being started has run, and, with nothing to do, has ended."""


class Worker:
    """Runs a handler for every message of one or more queues.

    ``queues`` is a queue or its path, several of them, or an App. ``handler`` is a
    function of the body (of the delivery, if its parameter is called ``delivery``
    or annotated so; it may be a coroutine function), the name of one
    (``"pkg.module:function"``), or a command as a list, for each message. It
    returns to ack; returns or raises a Retry or Reject; any other exception nacks
    with the back-off. What cannot work, such as a generator, is refused at the start.

    ``processes`` (the default, 1) run Python handlers apart from each other and
    from the heartbeats: they import the handler, so it must stand at the top of a
    module. ``threads`` run it in this process, and share its memory and GIL.
    ``dead`` maps further queues to handlers of their own: for dead letters.

    Durations are seconds. ``timeout`` ends a job (SIGTERM, SIGKILL ``kill_after``
    seconds later), ``soft_timeout`` raises TimeLimit in it; both default to the
    queue's settings, and a message's own timeout goes first. ``kill_on_lost_lease`` ends a
    job whose lease is lost, too. ``max_jobs``, ``max_age`` and ``max_memory``
    (bytes) replace a process between two jobs. ``grace`` is how long running jobs
    may take to finish when the worker is stopped; then they are interrupted, and
    their messages released uncounted. ``reap_children`` is for the first process of
    a container that starts no processes of its own: it reaps what others left.
    With ``echo`` what commands print passes through to this process's streams.
    ``on_change(status)`` is called about once a second while something changes.

    The processes import the module of the handler. A script that starts a worker
    does so behind ``if __name__ == "__main__":``, or each of them would start one.
    """

    def __init__(
        self,
        queues: QueueLike | App | Iterable[QueueLike],
        handler: Handler | None = None,
        *,
        processes: int | None = None,
        threads: int | None = None,
        dead: Mapping[str, Handler] | None = None,
        lease: float | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        grace: float = 30.0,
        kill_after: float = 5.0,
        kill_on_lost_lease: bool = False,
        max_jobs: int | None = None,
        max_age: float | None = None,
        max_memory: int | None = None,
        reap_children: bool = False,
        echo: bool = True,
        on_change: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        if processes is not None and threads is not None:
            raise UsageError("processes or threads, not both; leave one out")
        self._threads = threads is not None
        what, count = ("threads", threads) if threads is not None else ("processes", processes)
        self._options = Options(
            concurrency=whole(1 if count is None else count, what, least=1, most=10_000),
            lease=_duration(lease, "lease"),
            soft_timeout=_duration(soft_timeout, "soft_timeout"),
            timeout=_duration(timeout, "timeout"),
            grace=seconds(grace, "grace"),
            kill_after=seconds(kill_after, "kill_after"),
            kill_on_lost_lease=kill_on_lost_lease,
            max_jobs=None if max_jobs is None else whole(max_jobs, "max_jobs", least=1, most=1 << 62),
            max_age=_duration(max_age, "max_age"),
            max_memory=None if max_memory is None else whole(max_memory, "max_memory", least=1, most=1 << 62),
            reap_children=reap_children,
            echo=echo,
        )
        self._on_change = on_change
        self._opened: list[Queue] = []
        self._handlers: list[Any] = []
        self._queues = self._all_queues(queues, handler, dead or {})
        self._supervisor: Supervisor | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._ended = Alarm()

    def _all_queues(
        self, queues: QueueLike | App | Iterable[QueueLike], handler: Handler | None, dead: Mapping[str, Handler]
    ) -> list[tuple[Queue, int]]:
        if isinstance(queues, App):
            handler, queues = queues, [queues.queue(name) for name in queues.queues]
        if handler is None:
            raise UsageError("a worker needs a handler: a function, its name, a command as a list, or an App")
        if isinstance(queues, Queue | str | os.PathLike):
            queues = [queues]
        pairs = [(self._queue(queue), 0) for queue in queues]
        pairs += [(self._queue(queue), number) for number, queue in enumerate(dead, 1)]
        self._handlers = [self._checked(handler) for handler in (handler, *dead.values())]
        locations = [queue.location for queue, _ in pairs]
        if twice := [location for location in locations if locations.count(location) > 1]:
            raise UsageError(f"{twice[0]} is named twice; name each queue once")
        return pairs

    def _queue(self, queue: QueueLike) -> Queue:
        if not isinstance(queue, Queue):
            queue = open_queue(queue, create=False)
            self._opened.append(queue)
        if not self._threads and queue.location.startswith("memory:"):
            raise UsageError("a queue in memory is not seen by other processes; use threads=")
        return queue

    def _checked(self, handler: Handler) -> Any:  # noqa: ANN401 - a function, a name, or a list of text
        if isinstance(handler, str):
            return handler
        if isinstance(handler, Sequence):
            if not all(isinstance(part, str | os.PathLike) for part in handler):
                raise UsageError(f"the command {shown(handler)} has parts that are not text; write each as text")
            return [os.fspath(part) for part in handler]
        if not isinstance(handler, App):
            require_handler(handler)
        return handler if self._threads else name_of(handler)

    # Life

    def run(self, *, drain: bool = False) -> None:
        """Work until stopped; with ``drain`` until nothing is ready and nothing runs. Blocks.

        In the main thread SIGTERM and SIGINT stop the worker, a second one at once; SIGHUP
        loads the handlers again. Raises UsageError or WorkerFailed if the handler cannot
        be loaded; QueueNotFound for a missing queue.
        """
        supervisor = self._begin(drain=drain)
        with stop_and_reload(supervisor.stop, supervisor.reload):
            self._work(supervisor, None)

    def start(self) -> None:
        """Work in a thread of this process, until stop(). Returns when the worker is ready; raises what run does."""
        supervisor = self._begin(drain=False)
        ready, ended = Alarm(), Alarm()

        def work() -> None:
            try:
                self._work(supervisor, ready.ring)
            except BaseException as error:  # noqa: BLE001 - start or stop raises it in its caller's thread
                self._failure = error
            finally:
                ended.ring()
                ready.ring()

        self._failure, self._ended = None, ended
        self._thread = threading.Thread(target=work, name="mailq-supervisor", daemon=True)
        self._thread.start()
        ready.wait(threading.TIMEOUT_MAX)
        self._raise_failure()

    def stop(self, *, at_once: bool = False) -> None:
        """Claim nothing more, let the running jobs finish within the grace, then interrupt and release them.

        ``at_once`` leaves the grace out. Returns when no job runs; raises what has ended
        the worker before. A job, or on_change, may call it, and does not wait for its own
        end. Does nothing if the worker does not run.
        """
        supervisor, thread = self._supervisor, self._thread
        if supervisor is not None:
            supervisor.stop()
            if at_once:
                supervisor.stop()
        # A job, or on_change, would wait here for its own end.
        caller = threading.current_thread()
        if thread is not None and thread is not caller and not is_worker_thread(caller):
            try:
                thread.join()
            except RuntimeError:  # a signal came during its start: it runs in a moment, or never
                self._ended.wait(_MOMENT)
                self._supervisor = None
            self._thread = None
            self._raise_failure()

    def reload(self) -> None:
        """Load the handlers again, in new processes; running jobs end in the old ones."""
        if self._supervisor is not None:
            self._supervisor.reload()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; after an error at once."""
        self.stop(at_once=error is not None)

    def _begin(self, *, drain: bool) -> Supervisor:
        if self._supervisor is not None:
            raise UsageError("this worker runs already")
        wake = Wakeup()
        options = dataclasses.replace(self._options, drain=drain)
        pool: Pool
        if self._threads:
            pool = ThreadPool(self._handlers, options, wake)
        elif os.environ.get(IN_CHILD) == str(os.getpid()):
            raise UsageError(
                "a worker's process would start a worker when it loads the handler; "
                "put that behind: if __name__ == '__main__'"
            )
        else:
            pool = ProcessPool(self._handlers, options)
        self._supervisor = Supervisor(self._queues, pool, options, wake, self._on_change)
        return self._supervisor

    def _work(self, supervisor: Supervisor, on_ready: Callable[[], None] | None) -> None:
        try:
            supervisor.run(on_ready)
        finally:
            self._supervisor = None
            for queue in self._opened:
                queue.engine.close()  # the queue itself stays open: the worker may start again

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


def _duration(value: float | None, what: str) -> float | None:
    return None if value is None else seconds(value, what, least=0.001)
