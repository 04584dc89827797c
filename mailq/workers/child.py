"""A child process of a worker: runs the jobs that the supervisor sends, one after the other.

It reads the message by its receipt, runs the handler, and sends the result. The
supervisor claims, extends and settles; the fork server reaps the child.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

from mailq.connect import open as open_queue
from mailq.errors import LeaseLost, MailqError, TimeLimit
from mailq.workers.command import Command
from mailq.workers.handler import Handler, Interrupter, failed, to_line
from mailq.workers.job_input import JobInput
from mailq.workers.loader import load
from mailq.workers.outcomes import Interrupted, Result

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping


class ChildProcess:
    """The process, from its first message to the end of its socket."""

    def __init__(self, supervisor: socket.socket) -> None:
        self._pid = os.getpid()
        self._supervisor = supervisor
        self._lines = supervisor.makefile("rb")
        self._queue = functools.cache(functools.partial(open_queue, create=False))
        self._interrupter = Interrupter()
        self._handlers: list[Handler | Command] = []

    def run(self, handlers: list[Any], *, echo: bool) -> None:
        """Load the handlers, report that, and run jobs until the socket ends."""
        try:
            self._handlers = [_make(handler, echo=echo) for handler in handlers]
        except BaseException as error:  # noqa: BLE001 - whatever a module does when it is imported
            usage = isinstance(error, MailqError)
            text = str(error) if usage else traceback.format_exc()
            self._send({"failed": text, "usage": usage})
            return
        self._send({"ready": os.getpid(), "queues": [handler.queues for handler in self._handlers]})
        for line in self._lines:
            self._do(json.loads(line))

    def _do(self, job: Mapping[str, Any]) -> None:
        result = self._run(job)
        if os.getpid() != self._pid:  # a process that the handler forked and let return
            os._exit(0)
        size = memory() if job["weigh"] else None
        self._write(to_line(result, job["job"], size))

    def _run(self, job: Mapping[str, Any]) -> Result:
        handler: Handler | Command = self._handlers[job["handler"]]
        try:
            delivery = self._queue(job["queue"]).delivery(job["receipt"])
        except LeaseLost:
            return Result("lost")
        except MailqError as error:  # the disk refuses: the message is not the cause
            return Result("release", delay=1.0, error=str(error))
        if isinstance(handler, Command):
            former = signal.signal(signal.SIGUSR2, handler.terminate)
            try:
                return handler(delivery, lambda text: self._send({"job": job["job"], "output": text}))
            finally:
                signal.signal(signal.SIGUSR2, former)
        delivery.on_settled = lambda: self._send({"job": job["job"], "settled": True})
        given = JobInput(delivery)
        soft, hard = handler.limits(given, job["soft"])
        if hard is not None:
            self._send({"job": job["job"], "limit": hard})
        result = None
        try:
            with self._interrupter.arm(soft, given):
                result = handler(given)
        except (Interrupted, TimeLimit) as error:  # just before or after the handler: its result counts
            result = result or failed(error)
        return result

    def _send(self, message: Mapping[str, Any]) -> None:
        self._write(json.dumps(message).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        """Send a whole line: a signal that raises, or sends a line itself, waits for its end."""
        former = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            # Within the try: a signal that came just before raises here, with the signals blocked already.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR2, signal.SIGALRM))
            self._supervisor.sendall(line)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _make(handler: Any, *, echo: bool) -> Handler | Command:  # noqa: ANN401 - a name, or a command's arguments
    return Handler(load(handler)) if isinstance(handler, str) else Command(handler, echo=echo)


def main(supervisor: socket.socket, handlers: list[Any], *, echo: bool) -> None:
    """Run jobs until the supervisor closes the socket."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("500")  # if memory runs out, the job goes, and not the supervisor that holds all leases
    ChildProcess(supervisor).run(handlers, echo=echo)


def memory() -> int:
    """The memory of this process in bytes: at present where the system tells, else at most so far."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        import resource  # noqa: PLC0415 - not on Windows, where no child runs

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
