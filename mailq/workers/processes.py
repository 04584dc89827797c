"""The slots of one worker, as its supervisor sees them: processes that the nursery forks."""

from __future__ import annotations

import collections
import contextlib
import math
import selectors
import signal
import socket
import time
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any, Final, Protocol

from mailq.errors import UsageError, WorkerFailed
from mailq.workers.channel import Channel, spawn
from mailq.workers.command import how_it_ended
from mailq.workers.outcomes import Report
from mailq.workers.process_tree import can_fork, kill_group, reap_orphans

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from mailq.workers.job import Job, Options

# How long to wait before a slot that could not be started is tried again, in seconds.
_FIRST_REST: Final = 0.5
_LONGEST_REST: Final = 30.0

_FORKS_AT_ONCE: Final = 64
"""So many forks are asked for ahead of the nursery's answers: each is a socket in flight, of which a kernel takes few."""

_EARLY_DEATHS: Final = 3
"""So often processes may be killed at the very start, by whomever, before the worker gives up."""

_FLUSH: Final = 0.02
"""What the nursery could not take is offered to it again after so many seconds."""


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

    def settled(self, job: Job) -> None:
        """The handler has settled the message itself, and goes on."""

    def lost(self, job: Job) -> None:
        """Who keeps the lease of the job has found it gone."""

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

    def interrupt(self, job: Job) -> None:
        """Tell a job to end now; it can clean up."""

    def kill(self, job: Job) -> None:
        """End a job and its slot at once."""

    def reload(self) -> None:
        """Load the handlers anew, in new slots; running jobs end in the old ones."""

    def tick(self, now: float) -> None:
        """Do what is due."""

    @property
    def next_at(self) -> float:
        """When something will be due; a monotonic time."""

    def close(self) -> None:
        """End every slot at once, and wait for that."""


class _Slot:
    """One process. ``pid`` is 0 until the nursery says."""

    def __init__(self, channel: Channel, generation: int) -> None:
        self.channel = channel
        self.generation = generation
        self.pid = 0
        self.born = time.monotonic()
        self.ready = False
        self.worn = False
        self.retired = False
        self.doomed = False
        self.done = 0
        self.job: Job | None = None


def _understood(told: dict[str, Any]) -> tuple[str, int, Any]:
    """What a slot says: what of, of which job, and what. Raises ValueError, KeyError or TypeError for nonsense."""
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
    report = Report(**told)
    texts = (report.verb, report.error or "", report.outcome or "", report.reply or "")
    if not all(isinstance(text, str) for text in texts) or not isinstance(report.delay, int | float | None):
        raise ValueError(told)
    return "report", number, (report, memory)


class Processes:
    """A crew of processes, with the nursery between them and us.

    A slot is starting, then idle or busy. It is *worn* when it has served its time:
    it gets no more jobs, and is *retired*, told to end, when its successor is ready;
    likewise with those of an older generation, from before a reload. If a successor
    cannot start, what is worn goes on.
    """

    def __init__(self, handlers: Sequence[Any], options: Options) -> None:
        if not can_fork():
            raise UsageError(
                "this system cannot fork worker processes; run the handler in threads: --threads, threads="
            )
        self._handlers = list(handlers)
        self._options = options
        self._generation = 0
        self._slots: list[_Slot] = []
        self._forking: collections.deque[_Slot] = collections.deque()
        self._idle: list[_Slot] = []
        self._rest = 0.0
        self._again_at = 0.0
        self._worked_once = False
        self._early_deaths = 0
        self._nursery: subprocess.Popen[bytes] | None = None

    # Begin and end

    def start(self, boss: Boss, selector: selectors.BaseSelector) -> None:
        """Start the nursery, and have it fork the slots."""
        self._boss, self._selector = boss, selector
        self._start_nursery()
        self._fill()

    def _start_nursery(self) -> None:
        self._control, self._nursery = spawn("mailq.workers.forkserver")
        self._selector.register(self._control.sock, selectors.EVENT_READ, self._hear_nursery)
        self._ask(do="begin", handlers=self._handlers, echo=self._options.echo)

    def _ask(self, sockets: Sequence[socket.socket] = (), **request: Any) -> None:  # noqa: ANN401 - JSON values
        with contextlib.suppress(OSError):  # it died: the next read of it says so
            self._control.send(request, sockets)

    def close(self) -> None:
        """Close the nursery's socket: it kills the slots and ends."""
        for slot in self._slots:
            self._forget(slot)
        self._slots.clear()
        self._idle.clear()
        self._forking.clear()
        if self._nursery is not None:
            self._unwatch(self._control)
            self._control.close()
            try:
                self._nursery.wait(timeout=5)
            except TimeoutExpired:
                self._nursery.kill()  # it was stopped, perhaps; its slots die with it
                self._nursery.wait()
            self._nursery = None

    # Slots

    def _fill(self) -> None:
        """Have as many slots forked as are missing: the worn and the old count until their successor is ready."""
        if time.monotonic() < self._again_at:
            return
        current = sum(s.generation == self._generation and not s.worn and not s.retired for s in self._slots)
        for _ in range(min(self._options.concurrency - current, _FORKS_AT_ONCE - len(self._forking))):
            try:
                ours, theirs = socket.socketpair()
            except OSError as error:  # too many open files
                self._rest_after(f"cannot start a worker process: {error}")
                return
            slot = _Slot(Channel(ours), self._generation)
            self._slots.append(slot)
            self._forking.append(slot)
            self._selector.register(ours, selectors.EVENT_READ, lambda slot=slot: self._hear(slot))
            self._ask([theirs], do="fork")

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
            slot.channel.send(order)
        except OSError:  # it died before it could begin
            slot.job = None
            self._boss.finished(job, Report("release"))

    def _hear(self, slot: _Slot) -> bool:
        """Listen to a slot; False when there is nothing more."""
        if slot.channel.sock.fileno() < 0:  # buried since the select that found it
            return False
        try:
            words = slot.channel.receive()
            said = None if words is None else [_understood(told) for told in words]
        except (ValueError, KeyError, TypeError) as error:
            # A handler can write to any of its process's files. Whatever else it said is worth nothing either.
            self._boss.complain(f"worker process {slot.pid} says what makes no sense, so it is killed: {error!r}")
            self._ask(do="kill", slot=slot.pid)
            said = None
        if said is None:  # it ended, or must: what became of it, the nursery will tell
            self._unwatch(slot.channel)
            self._leave_idle(slot)
            return False
        for words_of in said:
            self._take(slot, *words_of)
        return bool(said)

    def _take(self, slot: _Slot, what: str, number: int, said: Any) -> None:  # noqa: ANN401 - as _understood
        """Something that a slot says, understood."""
        job = slot.job
        if what == "ready":
            self._begin(slot, said)
        elif what == "failed":
            text, usage = said
            self._rest_after(text, usage=usage)
        elif job is None or job.number != number:
            return  # not of this job: a process that a handler forked speaks in the slot's name
        elif what == "limit":
            self._boss.limited(job, said)
        elif what == "settled":
            self._boss.settled(job)
        elif what == "output":
            job.output = said
        else:
            report, memory = said
            slot.job = None
            self._release(slot, memory)
            self._boss.finished(job, report)

    def _begin(self, slot: _Slot, queues: list[list[str]]) -> None:
        slot.ready = self._worked_once = True
        self._rest = 0.0
        self._idle.append(slot)
        old = [s for s in self._slots if s.ready and not s.retired and (s.worn or s.generation < slot.generation)]
        if old:
            self._retire(min(old, key=lambda s: s.generation))
        self._boss.ready(queues)

    def _release(self, slot: _Slot, memory: int) -> None:
        """A job is over: the slot is idle again, or has served its time."""
        slot.done += 1
        options = self._options
        worn = (
            slot.doomed  # a signal may still be on its way, which must not hit another job
            or (options.max_jobs is not None and slot.done >= options.max_jobs)
            or (options.max_age is not None and time.monotonic() - slot.born >= options.max_age)
            or (options.max_memory is not None and memory > options.max_memory)
        )
        if slot.retired:
            self._dismiss(slot)
        elif worn:
            self._wear(slot)
        else:
            self._idle.append(slot)

    def _wear(self, slot: _Slot) -> None:
        """It has served its time."""
        slot.worn = True
        self._leave_idle(slot)
        if slot.doomed:
            self._retire(slot)
        self._fill()

    def _retire(self, slot: _Slot) -> None:
        """Give it no more jobs; let it go when it has none."""
        slot.retired = True
        self._leave_idle(slot)
        if slot.job is None:
            self._dismiss(slot)

    def _dismiss(self, slot: _Slot) -> None:
        """End of its input: it ends by itself."""
        with contextlib.suppress(OSError):
            slot.channel.sock.shutdown(socket.SHUT_WR)

    def _leave_idle(self, slot: _Slot) -> None:
        if slot in self._idle:
            self._idle.remove(slot)

    def reload(self) -> None:
        """New slots; each that is ready replaces an old one. If the new code does not load, the old goes on."""
        self._generation += 1
        self._again_at = self._rest = 0.0
        for slot in self._slots:
            if not slot.ready:  # it is loading code that is out of date already
                slot.retired = True
                self._ask(do="kill", slot=slot.pid)
        self._fill()

    def interrupt(self, job: Job) -> None:
        """SIGUSR2 to the slot, whose handler raises in the job; SIGTERM to what the job has started."""
        job.slot.doomed = True
        self._ask(do="interrupt", slot=job.slot.pid)

    def kill(self, job: Job) -> None:
        """SIGKILL to the group."""
        job.slot.doomed = True
        self._ask(do="kill", slot=job.slot.pid)

    # Deaths

    def _hear_nursery(self) -> None:
        words = self._control.receive() if self._control.sock.fileno() >= 0 else []
        if words is None:
            self._replace_nursery()
            return
        for told in words:
            if "forked" in told:
                slot = self._forking.popleft()
                slot.pid = told["forked"]
                if slot.retired:  # a reload came before it had a name
                    self._ask(do="kill", slot=slot.pid)
                self._fill()
            elif "failed" in told:
                self._rest_after(f"cannot fork a worker process: {told['failed']}")
                self._bury(self._forking.popleft(), "")
            else:
                slot = next(slot for slot in self._slots if slot.pid == told["died"])
                self._bury(slot, how_it_ended(told["code"]))

    def _bury(self, slot: _Slot, how: str) -> None:
        """A slot is dead: its last words first, then its job, then a successor."""
        while slot.channel.sock.fileno() >= 0 and self._is_watched(slot.channel) and self._hear(slot):
            pass
        self._slots.remove(slot)
        self._leave_idle(slot)
        self._forget(slot)
        if slot.job is not None and slot.channel.unread:
            self._boss.finished(slot.job, Report("release"))  # it never began
        elif slot.job is not None:
            self._boss.died(slot.job, how)
        elif not slot.retired and slot.ready:
            self._boss.complain(f"worker process {slot.pid} died without a job: {how}")
        elif not slot.retired and time.monotonic() >= self._again_at:
            forgiven = self._is_forgiven(killed=how.startswith("killed"))
            self._rest_after(f"a worker process died while it was starting: {how}", forgiven=forgiven)
        self._fill()

    def _forget(self, slot: _Slot) -> None:
        self._unwatch(slot.channel)
        slot.channel.close()

    def _is_watched(self, channel: Channel) -> bool:
        with contextlib.suppress(KeyError, ValueError):
            return self._selector.get_key(channel.sock) is not None
        return False

    def _unwatch(self, channel: Channel) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(channel.sock)

    def _replace_nursery(self) -> None:
        """The nursery died, and its slots with it: bury them all, begin again."""
        self._unwatch(self._control)
        self._control.close()
        if self._nursery is not None:
            self._nursery.wait()
        if not self._is_forgiven(killed=self._nursery is not None and (self._nursery.returncode or 0) < 0):
            raise WorkerFailed("the process that forks the workers died at its start; see what it wrote to stderr")
        self._boss.complain("the nursery of the worker processes died; starting another")
        self._again_at = math.inf  # no successors yet
        self._forking.clear()
        for slot in list(self._slots):
            # Where a parent's death kills (Linux), this only reaches what they had started.
            if slot.pid:
                kill_group(slot.pid, signal.SIGKILL)
            self._bury(slot, "its parent died")
        time.sleep(_FIRST_REST / 5)  # nothing runs any more that would miss us, and whatever killed it may come again
        self._again_at = 0.0
        self._start_nursery()
        self._fill()

    def _is_forgiven(self, *, killed: bool) -> bool:
        """Whether to try again after a death. At the start only for those who were killed, a few times."""
        self._early_deaths += 1
        return self._worked_once or (killed and self._early_deaths <= _EARLY_DEATHS)

    def _rest_after(self, text: str, *, usage: bool = False, forgiven: bool = False) -> None:
        """A slot could not start. At the very first that is for the caller; later it is tried again and again."""
        if not self._worked_once and not forgiven:
            raise (UsageError if usage else WorkerFailed)(text)
        self._boss.complain(text)
        self._rest = min(max(_FIRST_REST, 2 * self._rest), _LONGEST_REST)
        self._again_at = time.monotonic() + self._rest
        for slot in self._slots:  # without a successor they go on
            if slot.worn and not slot.retired and slot.job is None and slot not in self._idle:
                self._idle.append(slot)

    def tick(self, now: float) -> None:
        """Try again to start slots and to send, when it is time; let the idle age."""
        if self._nursery is not None and self._options.bury_orphans:
            reap_orphans(self._nursery.pid)
        with contextlib.suppress(OSError):
            self._control.flush()
        if self._again_at and now >= self._again_at:
            self._again_at = 0.0
            self._fill()
        for slot in self._aging():
            if now >= slot.born + (self._options.max_age or 0.0):
                self._wear(slot)

    @property
    def next_at(self) -> float:
        """When something will be due."""
        times = [slot.born + (self._options.max_age or 0.0) for slot in self._aging()]
        if self._again_at:
            times.append(self._again_at)
        if self._control.is_full:
            times.append(time.monotonic() + _FLUSH)
        return min(times, default=math.inf)

    def _aging(self) -> list[_Slot]:
        """The idle slots that will be too old one day. One that did nothing is as new."""
        if self._options.max_age is None:
            return []
        return [slot for slot in self._idle if slot.done and not slot.worn]
