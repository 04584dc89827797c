"""Conducts a storm of workers: starts them, strikes them with signals, starts others in their place, and sees them off.

Two workers get no signal except SIGHUP: their jobs must be kept, and they must have nothing more open in the end.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import job_command
import worker_actors
from job_kinds import HARD, LEASE, PLACES, SOFT
from leftovers import in_session, kinds_of_descriptors
from stage import Stage
from storming import StormProcesses, make_room, with_luck
from together import PATIENCE, family

import mailq

QUEUES = (*PLACES, "steady")
_HANDLER = "job_handlers:handle"
_COMMAND = ("--", sys.executable, "-S", "-E", job_command.__file__)
_OPTIONS = ("--grace", "1s", "--kill-after", "300ms", "--log-level", "info")

_BEAT = 0.05
_END = PATIENCE / 2
"""Seconds that a process has to end when it is told to."""


class Part(NamedTuple):
    """A part in the storm: a worker with these arguments, or an actor; how often a second it is struck, and with what.

    One that is spared may open more than it has at the start only as it is said in ``opens_later``: it watches a
    queue once it has waited for it, and a thread has an event loop once it has run a coroutine.
    """

    name: str
    actor: Callable[[Stage, str], None] | None = None
    worker: tuple[str, ...] = ()
    rate: float = 0.0
    strikes: tuple[str, ...] = ()
    is_spared: bool = False
    opens_later: tuple[str, ...] = ()

    @property
    def crew(self) -> str:
        return "threads" if "--threads" in self.worker else "processes"


_WATCH = ("anon_inode:inotify", "anon_inode:[eventfd]")
_LOOP = ("anon_inode:[eventpoll]", "socket:", "socket:")
_ALL = ("TERM", "TERM", "INT", "HUP", "HUP", "KILL", "KILL ONE", "KILL ONE")
PARTS = (
    Part("processes", worker=("jobs", _HANDLER, "-c", "2"), rate=0.7, strikes=_ALL),
    Part("threads", worker=("jobs", _HANDLER, "--threads", "-c", "3"), rate=0.7, strikes=_ALL),
    Part("commands", worker=("jobs", "-c", "2"), rate=0.7, strikes=_ALL),
    Part(
        "steady",
        worker=("jobs", "steady", _HANDLER, "-c", "3"),
        rate=0.2,
        strikes=("HUP",),
        is_spared=True,
        opens_later=_WATCH * 2,
    ),
    Part(
        "mild",
        worker=("mild", _HANDLER, "--threads", "-c", "3"),
        rate=0.2,
        strikes=("HUP",),
        is_spared=True,
        opens_later=_WATCH + _LOOP * 3,
    ),
    Part("one", worker_actors.produce_interrupted, rate=10, strikes=("INT",)),
    Part("other", worker_actors.produce_interrupted, rate=10, strikes=("INT",)),
    Part("consumers", worker_actors.consume_interrupted, rate=10, strikes=("INT",)),
    Part("shell", worker_actors.produce_interrupted_in_shell),
    Part("backlogs", worker_actors.push_backlogs),
    Part("long", worker_actors.push_long_ones),
    Part("vanishing", worker_actors.pop_and_vanish, rate=0.2, strikes=("KILL",)),
)


class Member:
    """One process that takes part."""

    def __init__(self, part: Part, name: str, pid: int) -> None:
        self.part = part
        self.name = name
        self.pid = pid
        self.strikes: Counter[str] = Counter()
        self.was_ready = True
        self.strike_at = math.inf
        self.descriptors: dict[int, Counter[str]] = {}


def prepare_workers(root: Path, *, backlog: int, seconds: float, lease: float, **settings: Any) -> Stage:
    """Make the queues, and room for what is written down. ``lease`` is that of the jobs that outlast it, if there is time."""
    make_room(root)
    shared = {"lease": LEASE, "max_retries": 50, "backoff": (0.01, 0.05), "reap_interval": 0.5, **settings}
    for place in PLACES:
        mailq.open(root / place, soft_timeout=SOFT, timeout=HARD, **shared).close()
    mailq.open(root / "steady", **{**shared, "lease": lease}).close()
    return Stage(str(root), backlog=backlog, long=min(lease * 1.5, seconds / 2), patience=60 + seconds)


def conduct_workers(pipe: Connection[Any, Any], stage: Stage, seed: int, seconds: float) -> None:
    """Run a storm and its end, in a session of its own."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # jobs crash on purpose
    os.environ |= {"PYTHONFAULTHANDLER": "1", "STORM_LONG": str(stage.long)}  # and who is stuck shows where
    storm = _Storm(stage, seed)
    try:
        storm.begin()
        storm.rage(seconds)
        storm.calm_down()
        storm.see_off()
        storm.run(worker_actors.close_books)
        pipe.send(storm.problems)
    finally:
        storm.end_all(storm.pids())


class _Storm(StormProcesses):
    def __init__(self, stage: Stage, seed: int) -> None:
        super().__init__(stage, seed)
        self._members: list[Member] = []
        self.problems: list[str] = []

    def pids(self) -> list[int]:
        return [member.pid for member in self._members]

    # Begin

    def begin(self) -> None:
        """Start all; remember what those that are spared have open when they have worked."""
        for part in PARTS:
            self._start(part)
        self.run(worker_actors.warm_up)
        for member in self._members:
            if member.part.is_spared:
                member.descriptors = {pid: kinds_of_descriptors(pid) for pid in self._lasting(member)}

    def _start(self, part: Part) -> Member:
        self.births += 1
        name = f"{self.seed}-{part.name}-{self.births}"
        if part.actor is not None:
            pid = self.fork(part.actor, name)
        else:
            queues = [self.stage.queue(word) if word in QUEUES else word for word in part.worker]
            command = _COMMAND if _HANDLER not in part.worker else ()
            pid = self.fork_worker(name, *queues, *_OPTIONS, *command, crew=part.crew)
        member = Member(part, name, pid)
        self._members.append(member)
        return member

    def run(self, actor: Callable[[Stage, str], None]) -> None:
        """Have an actor come to its end, and see to the others meanwhile."""
        pid = self.fork(actor, f"{self.seed}-{actor.__name__}")
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            self._replace_dead()
            time.sleep(_BEAT)
        if ended[1]:
            for member in self._members:
                self._show_where(member)
            raise AssertionError(f"{self.failures()}\nthe logs in {self.stage.root}/workers show where each worker was")

    @staticmethod
    def _lasting(member: Member) -> list[int]:
        """The worker's own process, and the one that it keeps beside it: not those of the jobs, which come and go."""
        return [pid for pid in family(member.pid) if pid == member.pid or _parent(pid) == member.pid]

    # Rage

    def rage(self, seconds: float) -> None:
        """Strike each as often as it is to be struck, and start another in the place of those that end."""
        for member in self._members:
            self._plan(member)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(_BEAT / 5)
            for member in self._members:
                if time.monotonic() >= member.strike_at:
                    self._strike(member)
                    self._plan(member)
            self._replace_dead()

    def _plan(self, member: Member) -> None:
        if member.part.rate:
            member.strike_at = time.monotonic() + self.dice.expovariate(member.part.rate)

    def _strike(self, member: Member) -> None:
        strike = self.dice.choice(member.part.strikes)
        if not member.strikes:
            member.was_ready = self._is_ready(member)
        victim = self.dice.choice(family(member.pid)) if strike == "KILL ONE" else member.pid
        if "KILL" in strike:
            self.log.write("kill?", group=member.pid)
        elif strike != "HUP" and member.part.worker:
            self.log.write("stop?", group=member.pid)
        member.strikes[strike if victim != member.pid else strike.removesuffix(" ONE")] += 1
        if "KILL" in strike:
            with_luck(victim)
        else:
            os.kill(victim, signal.Signals[f"SIG{strike}"])

    def _is_ready(self, member: Member) -> bool:
        log = Path(self.stage.root, "workers", member.name)
        return member.part.actor is not None or (log.exists() and "ready: " in log.read_text())

    def _replace_dead(self) -> None:
        for member in list(self._members):
            pid, status = os.waitpid(member.pid, os.WNOHANG)
            if pid:
                self._members.remove(member)
                self._check(member, os.waitstatus_to_exitcode(status))
                self._plan(self._start(member.part))

    def _check(self, member: Member, code: int) -> None:
        """Whether there was a cause to end so."""
        strikes, part = member.strikes, member.part
        if strikes["KILL"]:
            return
        if part.actor is not None:
            fair = bool(strikes["TERM"]) and code in (0, -signal.SIGTERM)  # the latter before it has begun
        else:
            is_stopped = code == 0 and bool(strikes["TERM"] or strikes["INT"])
            is_crashed = part.crew == "threads" and not part.is_spared and (code < 0 or code == 3)  # by a job
            # Before it listens to signals, or when it listens no more.
            is_early, is_late = strikes and not member.was_ready, strikes.total() > 1 and (code < 0 or code == 130)
            fair = bool(is_stopped or is_crashed or is_early or is_late)
        if not fair:
            self.problems.append(f"{member.name} ended with {code} after {dict(strikes)}: {self._said_by(member)}")

    def _said_by(self, member: Member) -> str:
        """What it had to say."""
        path = Path(self.stage.root, "workers" if member.part.worker else "failures", member.name)
        return path.read_text()[-3000:] if path.exists() else ""

    # The end

    def calm_down(self) -> None:
        """Tell all but the workers to end; then wait until these have done everything."""
        actors = [member for member in self._members if member.part.actor is not None]
        self._members = [member for member in self._members if member not in actors]
        self._end(actors)
        self.run(worker_actors.drain)

    def see_off(self) -> None:
        """The spared have nothing more open than at the start; all end when they are told to, and no process is left."""
        until = time.monotonic() + _END / 3
        for member in self._members:
            while (more := self._more(member)) and time.monotonic() < until:
                time.sleep(_BEAT)
            if more:
                self.problems.append(f"{member.name} has more open than at the start: {more}")
        members, self._members = self._members, []
        self._end(members)
        until = time.monotonic() + _END / 3
        while (left := self._left()) and time.monotonic() < until:  # what was killed is still being ended
            time.sleep(_BEAT)
        self.problems += [f"a process is left: {pid} {command}" for pid, command in left.items()]

    @staticmethod
    def _left() -> dict[int, str]:
        return {pid: command for pid, command in in_session(os.getpid()).items() if pid != os.getpid()}

    def _more(self, member: Member) -> list[Counter[str]]:
        may = Counter(member.part.opens_later)
        found = [kinds_of_descriptors(pid) - before - may for pid, before in member.descriptors.items()]
        return [more for more in found if more]

    def _end(self, members: list[Member]) -> None:
        for member in members:
            self.log.write("stop?", group=member.pid)
            os.kill(member.pid, signal.SIGTERM)
            member.strikes["TERM"] += 1
        until = time.monotonic() + _END
        for member in members:
            while not (ended := os.waitpid(member.pid, os.WNOHANG))[0]:
                if time.monotonic() >= until and "ABRT" not in member.strikes:
                    self._show_where(member)
                    self.problems.append(f"{member.name} does not end: {self._said_by(member)}")
                time.sleep(_BEAT)
            self._check(member, os.waitstatus_to_exitcode(ended[1]))

    @staticmethod
    def _show_where(member: Member) -> None:
        """Have a process that is stuck end, and say where it is."""
        member.strikes["ABRT"] += 1
        os.kill(member.pid, signal.SIGABRT)
        time.sleep(1)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
