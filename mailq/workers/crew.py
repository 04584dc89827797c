"""The slots of one worker, as its supervisor sees them: processes that the nursery forks."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from mailq.errors import UsageError, WorkerFailed
from mailq.workers.commands import how_it_ended
from mailq.workers.outcomes import Report
from mailq.workers.signals import reap_orphans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailq.workers.jobs import Job, Options

# How long to wait before a slot that could not be started is tried again, in seconds.
_FIRST_REST: Final = 0.5
_LONGEST_REST: Final = 30.0

_BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from mailq.workers.nursery import main; main(int(sys.argv[1]))"
)


class Boss(Protocol):
    """What a crew tells its supervisor."""

    def ready(self, queues: list[list[str]]) -> None:
        """A slot has loaded the handlers; each brings these queues."""

    def finished(self, job: Job, report: Report) -> None:
        """A job has come to its end."""

    def died(self, job: Job, how: str) -> None:
        """The slot of a job died with it."""

    def limited(self, job: Job, seconds: float) -> None:
        """The handler has a time limit of its own for this job."""

    def complain(self, text: str) -> None:
        """Something is wrong that stops nothing."""


class Crew(Protocol):
    """Slots: each does one job at a time. Only the supervisor's thread calls these."""

    def start(self, boss: Boss, selector: selectors.BaseSelector) -> None:
        """Begin to be. What is registered has a function without arguments as its data."""

    def idle(self) -> int:
        """How many jobs could begin now."""

    def give(self, job: Job) -> None:
        """Have an idle slot do a job."""

    def terminate(self, job: Job) -> None:
        """Interrupt a job; it can clean up."""

    def kill(self, job: Job) -> None:
        """End a job and its slot at once."""

    def reload(self) -> None:
        """Load the handlers anew, in new slots; running jobs end in the old ones."""

    def tick(self, now: float) -> float:
        """Do what is due; returns when to be called again, a monotonic time."""

    def close(self) -> None:
        """End every slot at once, and wait for that."""


class _Slot:
    """One process. ``pid`` is 0 until the nursery says."""

    def __init__(self, sock: socket.socket, generation: int) -> None:
        self.sock = sock
        self.generation = generation
        self.pid = 0
        self.born = time.monotonic()
        self.ready = False
        self.retired = False
        self.done = 0
        self.job: Job | None = None
        self.rest = b""


class Processes:
    """A crew of processes, with the nursery between them and us."""

    def __init__(self, handlers: Sequence[Any], options: Options) -> None:
        self._handlers = list(handlers)
        self._options = options
        self._generation = 0
        self._slots: list[_Slot] = []
        self._forking: list[_Slot] = []
        self._idle: list[_Slot] = []
        self._rest = 0.0
        self._again_at = 0.0
        self._worked_once = False
        self._nursery: subprocess.Popen[bytes] | None = None

    # Begin and end

    def start(self, boss: Boss, selector: selectors.BaseSelector) -> None:
        """Start the nursery, and have it fork the slots."""
        self._boss, self._selector = boss, selector
        self._start_nursery()
        self._fill()

    def _start_nursery(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # A group of its own: Ctrl-C in a terminal is meant for the supervisor alone.
            self._nursery = subprocess.Popen(  # noqa: S603 - this very interpreter
                [sys.executable, "-c", _BOOT, str(theirs.fileno()), json.dumps(sys.path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        self._control, self._control_rest = ours, b""
        self._ask(do="begin", handlers=self._handlers)
        self._selector.register(ours, selectors.EVENT_READ, self._hear_nursery)

    def _ask(self, sockets: Sequence[int] = (), **request: Any) -> None:  # noqa: ANN401 - JSON values
        data = json.dumps(request).encode() + b"\n"
        with contextlib.suppress(OSError):  # it died: the next read of it says so
            sent = socket.send_fds(self._control, [data], sockets) if sockets else 0
            self._control.sendall(data[sent:])

    def close(self) -> None:
        """Close the nursery's socket: it kills the slots and ends."""
        for slot in self._slots:
            self._forget(slot)
        self._slots.clear()
        self._idle.clear()
        if self._nursery is not None:
            self._selector.unregister(self._control)
            self._control.close()
            try:
                self._nursery.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._nursery.kill()
                self._nursery.wait()
            self._nursery = None

    # Slots

    def _fill(self) -> None:
        """Fork as many slots as are missing: the old ones count until their successor is ready."""
        wanted = self._options.concurrency
        fresh = sum(slot.generation == self._generation and not slot.retired for slot in self._slots)
        for _ in range(wanted - fresh):
            ours, theirs = socket.socketpair()
            ours.settimeout(0)
            slot = _Slot(ours, self._generation)
            with theirs:
                self._ask([theirs.fileno()], do="fork")
            self._slots.append(slot)
            self._forking.append(slot)
            self._selector.register(ours, selectors.EVENT_READ, lambda slot=slot: self._hear(slot))

    def idle(self) -> int:
        """How many slots are idle."""
        return len(self._idle)

    def give(self, job: Job) -> None:
        """Send the receipt to an idle slot: the one that worked last, whose caches are warm."""
        slot = self._idle.pop()
        slot.job, job.slot = job, slot
        order = {
            "job": job.number,
            "queue": job.source.queue.location,
            "handler": job.source.handler,
            "receipt": job.delivery.receipt,
            "soft": job.soft,
            "weigh": self._options.max_memory is not None,
        }
        try:
            # Never blocks: an idle slot has read all that it was sent, and this is far smaller than the buffer.
            slot.sock.sendall(json.dumps(order).encode() + b"\n")
        except OSError:  # it died before it could begin
            slot.job = None
            self._boss.finished(job, Report("release", delay=0.0))

    def _hear(self, slot: _Slot) -> bool:
        """Read what a slot says; False when there is nothing more."""
        if slot.sock.fileno() < 0:  # buried since the select that found it
            return False
        try:
            data = slot.sock.recv(65_536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:  # it ended: what became of it, the nursery will tell
            self._selector.unregister(slot.sock)
            if slot in self._idle:
                self._idle.remove(slot)
            return False
        *lines, slot.rest = (slot.rest + data).split(b"\n")
        for line in lines:
            self._take(slot, json.loads(line))
        return True

    def _take(self, slot: _Slot, told: dict[str, Any]) -> None:
        """Something that a slot says: it is ready, it failed to be, a limit, or a report."""
        if "ready" in told:
            self._begin(slot, told["queues"])
        elif "failed" in told:
            self._rest_after(told["failed"], usage=told["usage"])
        elif slot.job is None:
            return
        elif "limit" in told:
            self._boss.limited(slot.job, told["limit"])
        else:
            job, slot.job = slot.job, None
            del told["job"]
            self._release(slot, told.pop("memory", 0))
            self._boss.finished(job, Report(**told))

    def _begin(self, slot: _Slot, queues: list[list[str]]) -> None:
        slot.ready = self._worked_once = True
        self._rest = 0.0
        if slot.retired:
            return
        self._idle.append(slot)
        old = next((s for s in self._slots if s.generation < slot.generation and not s.retired), None)
        if old is not None:
            self._retire(old)
        self._boss.ready(queues)

    def _release(self, slot: _Slot, memory: int) -> None:
        """A job is over: the slot is idle again, or has served its time."""
        slot.done += 1
        options = self._options
        if (
            (options.max_jobs is not None and slot.done >= options.max_jobs)
            or (options.max_age is not None and time.monotonic() - slot.born >= options.max_age)
            or (options.max_memory is not None and memory > options.max_memory)
        ):
            self._retire(slot)
            self._fill()
        elif slot.retired:
            self._dismiss(slot)
        else:
            self._idle.append(slot)

    def _retire(self, slot: _Slot) -> None:
        """Give it no more jobs; let it go when it has none."""
        slot.retired = True
        if slot in self._idle:
            self._idle.remove(slot)
        if slot.job is None:
            self._dismiss(slot)

    def _dismiss(self, slot: _Slot) -> None:
        """End of its input: it ends by itself."""
        with contextlib.suppress(OSError):
            slot.sock.shutdown(socket.SHUT_WR)

    def reload(self) -> None:
        """New slots; each that is ready replaces an old one. If the new code does not load, the old goes on."""
        self._generation += 1
        self._again_at, self._rest = 0.0, 0.0
        self._fill()

    def terminate(self, job: Job) -> None:
        """SIGTERM to the group."""
        self._ask(do="kill", slot=job.slot.pid, signal=signal.SIGTERM)

    def kill(self, job: Job) -> None:
        """SIGKILL to the group."""
        self._ask(do="kill", slot=job.slot.pid, signal=signal.SIGKILL)

    # Deaths

    def _hear_nursery(self) -> None:
        try:
            data = self._control.recv(65_536)
        except OSError:
            data = b""
        if not data:
            self._replace_nursery()
            return
        *lines, self._control_rest = (self._control_rest + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "forked" in told:
                self._forking.pop(0).pid = told["forked"]
            elif "failed" in told:
                slot = self._forking.pop(0)
                self._bury(slot, "")
                self._rest_after(f"cannot fork a worker process: {told['failed']}", usage=False)
            else:
                slot = next(slot for slot in self._slots if slot.pid == told["died"])
                self._bury(slot, how_it_ended(told["code"]))

    def _bury(self, slot: _Slot, how: str) -> None:
        """A slot is dead: its last words first, then its job, then a successor."""
        with contextlib.suppress(KeyError, ValueError):  # at the end of its words it is registered no more
            while self._selector.get_key(slot.sock) and self._hear(slot):
                pass
        self._slots.remove(slot)
        if slot in self._idle:
            self._idle.remove(slot)
        self._forget(slot)
        if slot.job is not None:
            self._boss.died(slot.job, how)
        elif not slot.retired and slot.ready:
            self._boss.complain(f"worker process {slot.pid} died without a job: {how}")
        elif not slot.retired and time.monotonic() >= self._again_at:
            self._rest_after(f"a worker process died while it was starting: {how}", usage=False)
        if time.monotonic() >= self._again_at:
            self._fill()

    def _forget(self, slot: _Slot) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(slot.sock)
        slot.sock.close()

    def _replace_nursery(self) -> None:
        """The nursery died, and its slots with it: bury them all, begin again."""
        self._selector.unregister(self._control)
        self._control.close()
        if self._nursery is not None:
            self._nursery.wait()
        if not self._worked_once:
            raise WorkerFailed("the process that forks the workers died at its start; see what it wrote to stderr")
        self._boss.complain("the nursery of the worker processes died; starting another")
        self._again_at = float("inf")  # no successors yet
        for slot in list(self._slots):
            # Where a parent's death kills (Linux), this only reaches what they had started.
            if slot.pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(slot.pid, signal.SIGKILL)
            self._bury(slot, "its parent died")
        self._forking.clear()
        time.sleep(_FIRST_REST / 5)  # nothing runs any more that would miss us, and whatever killed it may come again
        self._again_at = 0.0
        self._start_nursery()
        self._fill()

    def _rest_after(self, text: str, *, usage: bool) -> None:
        """A slot could not start. At the very first that is for the caller; later it is tried again and again."""
        if not self._worked_once:
            raise (UsageError if usage else WorkerFailed)(text)
        self._boss.complain(text)
        self._rest = min(max(_FIRST_REST, 2 * self._rest), _LONGEST_REST)
        self._again_at = time.monotonic() + self._rest

    def tick(self, now: float) -> float:
        """Try again to start slots, when it is time."""
        if self._nursery is not None:
            reap_orphans(self._nursery.pid)
        if self._again_at and now >= self._again_at:
            self._again_at = 0.0
            self._fill()
        return self._again_at or float("inf")
