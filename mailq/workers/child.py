"""A worker process: one job after the other, as its supervisor sends them.

It knows nothing of claims, heartbeats or retries. It reads the message by its
receipt, runs the handler, and reports. Whatever happens to it, its supervisor
and the nursery that forked it clean up.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

from mailq.connect import open as open_queue
from mailq.errors import LeaseLost, MailqError, TimeLimit
from mailq.workers.command import Command
from mailq.workers.handler import Handler, Input, Interrupter, failed, own_limit, to_line
from mailq.workers.loader import load
from mailq.workers.outcomes import Interrupted, Report

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from mailq.queue import Queue


class Slot:
    """The process, from its first line to the end of its socket."""

    def __init__(self, supervisor: socket.socket) -> None:
        self._pid = os.getpid()
        self._supervisor = supervisor
        self._lines = supervisor.makefile("rb")
        self._queues: dict[str, Queue] = {}
        self._interrupter = Interrupter()
        self._handlers: list[Handler | Command] = []

    def run(self, handlers: list[Any], *, echo: bool) -> None:
        """Load the handlers, say so, and do jobs until there are no more."""
        try:
            self._handlers = [_make(handler, echo=echo) for handler in handlers]
        except BaseException as error:  # noqa: BLE001 - whatever a module does when it is imported
            usage = isinstance(error, MailqError)
            text = str(error) if usage else traceback.format_exc()
            self._say({"failed": text, "usage": usage})
            return
        self._say({"ready": os.getpid(), "queues": [handler.queues for handler in self._handlers]})
        for line in self._lines:
            self._do(json.loads(line))

    def _do(self, job: Mapping[str, Any]) -> None:
        report = self._run(job)
        if os.getpid() != self._pid:  # a child that the handler forked and let return: nobody's slot
            os._exit(0)
        size = memory() if job["weigh"] else None
        self._write(to_line(report, job["job"], size))

    def _run(self, job: Mapping[str, Any]) -> Report:
        handler: Handler | Command = self._handlers[job["handler"]]
        try:
            delivery = self._queue(job["queue"]).delivery(job["receipt"])
        except LeaseLost:
            return Report("lost")
        except MailqError as error:  # the disk refuses: not the message's fault
            return Report("release", delay=1.0, error=str(error))
        if isinstance(handler, Command):
            former = signal.signal(signal.SIGUSR2, handler.terminate)
            try:
                return handler(delivery, lambda text: self._say({"job": job["job"], "output": text}))
            finally:
                signal.signal(signal.SIGUSR2, former)
        delivery.on_settled = lambda: self._say({"job": job["job"], "settled": True})
        given = Input(delivery)
        soft, hard = handler.limits(given)
        if hard is not None and own_limit(delivery) is None:
            self._say({"job": job["job"], "limit": hard})
        report = None
        try:
            with self._interrupter.arm(soft if soft is not None else job["soft"], given):
                report = handler(given)
        except (Interrupted, TimeLimit) as error:  # just before or after the handler: what that said holds
            report = report or failed(error)
        return report

    def _queue(self, location: str) -> Queue:
        if location not in self._queues:
            self._queues[location] = open_queue(location, create=False)
        return self._queues[location]

    def _say(self, words: Mapping[str, Any]) -> None:
        self._write(json.dumps(words).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        """Send a line whole: what raises at a signal, or speaks, has to wait for its end."""
        former = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            # Within the try: it raises for a signal that came just before, and then they are blocked already.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR2, signal.SIGALRM))
            self._supervisor.sendall(line)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _make(handler: Any, *, echo: bool) -> Handler | Command:  # noqa: ANN401 - a name, or a command's arguments
    return Handler(load(handler)) if isinstance(handler, str) else Command(handler, echo=echo)


def main(supervisor: socket.socket, handlers: list[Any], *, echo: bool) -> None:
    """Be a slot until the supervisor closes the socket."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("500")  # if memory runs out, take the job, and not the supervisor that holds all leases
    Slot(supervisor).run(handlers, echo=echo)


def memory() -> int:
    """How many bytes of memory this process takes: at present where the system tells, else at most so far."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        import resource  # noqa: PLC0415 - not on Windows, where no slot runs

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
