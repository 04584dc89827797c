"""Conducts a storm: starts processes, kills them with SIGKILL at random instants, starts others in their place.

And counts what is left in a second way, that shares nothing with the histories: from the directory, with a regular
expression of its own, and from what the work left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import re
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import actors
from actors import LEASE, Actor, finish
from judge import Verdict
from leftovers import in_session
from stage import Stage
from together import children, family

import mailq

Cast = Sequence[Actor | None]
"""Who takes part; None is a worker."""

CAST: Cast = (
    *[actors.produce] * 2,
    actors.produce_in_shell,
    *[actors.consume] * 3,
    actors.consume_in_shell,
    actors.reap,
    actors.reap_in_shell,
    actors.redrive,
    None,
)

_PR_SET_PDEATHSIG = 1
_WORK = ("-c", "2", "--log-level", "error")
_NAME = re.compile(r"\d{8}T\d{6}\.\d{9}Z,([0-9a-f]{32}),[^/]*\.json")


@contextlib.contextmanager
def steady_clock() -> Iterator[None]:
    """Histories are compared by the time of day: fail if somebody sets the clock meanwhile."""
    drift = time.time() - time.monotonic()
    yield
    assert abs(time.time() - time.monotonic() - drift) < 0.1, "somebody set the clock during the storm: run it again"


def make_room(root: Path) -> None:
    """For what is written down."""
    for name in ("logs", "acknowledged", "effects", "workers", "failures"):
        (root / name).mkdir()


def prepare(root: Path, **settings: Any) -> Stage:
    """Make the queue, and room for what is written down."""
    make_room(root)
    defaults = {"lease": LEASE * 2, "max_retries": 1000, "backoff": (0.01, 0.05), "max_length": 400}
    mailq.open(root / "jobs", reap_interval=0.2, **{**defaults, **settings}).close()
    return Stage(str(root))


def conduct(pipe: Connection[Any, Any], stage: Stage, seed: int, seconds: float, cast: Cast) -> None:
    """Run a storm and its end, in a session of its own."""
    os.setsid()
    storm = _Storm(stage, seed)
    try:
        storm.rage(seconds, cast)
    finally:
        storm.end()
    pid = storm.fork(finish, "finish")
    _, status = os.waitpid(pid, 0)
    assert status == 0, storm.failures()
    pipe.send("over")


class StormProcesses:
    """Starts the processes of a storm, which die with it, and ends them."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.seed = seed
        self.dice = random.Random(seed)
        self.log = stage.log("conductor")
        self.births = 0

    def fork(self, actor: Actor, name: str) -> int:
        """A process that dies with us; what it raises is kept."""
        if (pid := os.fork()) == 0:
            try:
                _die_with_parent()
                actor(self.stage, name)
                os._exit(0)
            except BaseException:  # noqa: BLE001 - the conductor reports it
                Path(self.stage.root, "failures", name).write_text(traceback.format_exc())
            finally:
                os._exit(1)
        return pid

    def fork_worker(self, name: str, *arguments: str, crew: str = "processes") -> int:
        """``mailq work`` with these arguments; it dies with us, and its jobs know its process."""
        command = [sys.executable, "-m", "mailq", "work", *arguments]
        environment = {**os.environ, "STORM": self.stage.root, "STORM_CREW": crew}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        if (pid := os.fork()) == 0:
            try:
                _die_with_parent()
                log = os.open(f"{self.stage.root}/workers/{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                os.dup2(log, 1), os.dup2(log, 2)
                os.execve(sys.executable, command, {**environment, "STORM_WORKER": str(os.getpid())})
            finally:
                os._exit(1)
        return pid

    def end_all(self, pids: Iterable[int]) -> None:
        """Kill these, wait for them, and then whatever else is left of us."""
        for pid in pids:
            with_luck(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        while others := in_session(os.getpid()).keys() - {os.getpid()}:
            for pid in others:
                with_luck(pid)
            time.sleep(0.01)

    def failures(self) -> str:
        """What those who failed had to say."""
        return "\n".join(path.read_text() for path in Path(self.stage.root, "failures").iterdir())


class _Storm(StormProcesses):
    def __init__(self, stage: Stage, seed: int) -> None:
        super().__init__(stage, seed)
        self._alive: dict[int, Actor | None] = {}

    def rage(self, seconds: float, cast: Cast) -> None:
        for actor in cast:
            self._start(actor)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(self.dice.uniform(0.02, 0.2))
            self._strike()
            self._replace_dead()

    def _start(self, actor: Actor | None) -> None:
        self.births += 1
        if actor is None:
            worker = self.fork_worker(f"worker-{self.births}", self.stage.jobs, "actors:handle", *_WORK)
            self._alive[worker] = None
        else:
            self._alive[self.fork(actor, f"{self.seed}-{actor.__name__}-{self.births}")] = actor

    def _strike(self) -> None:
        """Kill one: mostly who uses the queue; else a command that was started, or some process of the worker."""
        chance, pid = self.dice.random(), self.dice.choice(list(self._alive))
        group = pid
        if self._alive[pid] is None:
            pid = self.dice.choice(family(pid))
        elif chance < 0.3 and (commands := children(pid)):
            pid = commands[0]
        self.log.write("kill?", group=group)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it was done
        if pid in self._alive:
            os.waitpid(pid, 0)
            self._start(self._alive.pop(pid))

    def _replace_dead(self) -> None:
        """A worker may give up when it was struck; nobody else may end by himself."""
        for pid, actor in list(self._alive.items()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                assert actor is None, self.failures()
                self._start(self._alive.pop(pid))

    def end(self) -> None:
        """Kill all of them; none of them is there when this returns, nor a process that they started."""
        for pid in self._alive:
            self.log.write("kill?", group=pid)
        self.end_all(self._alive)


def with_luck(pid: int) -> None:
    """Kill a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


# The second count


class Count(NamedTuple):
    """What lies about when a storm is over: of which keys pushes returned, and how often the work of each was done."""

    acknowledged: Counter[str]
    effects: Counter[str]
    dead: dict[str, str]
    left: list[str]

    @property
    def lost(self) -> set[str]:
        return self.acknowledged.keys() - self.effects.keys() - self.dead.keys()


def count(root: Path, *queues: str) -> Count:
    """Look at the directories; no history, and nothing of mailq."""
    dead, left = {}, []
    for queue in queues or ("jobs",):
        for name in os.listdir(root / queue / "dead"):
            found = _NAME.fullmatch(name)
            assert found, name
            dead[_key_in(root / queue / "dead" / name)] = found[1]
        left += [
            f"{queue}/{state}/{name}" for state in ("new", "later", "cur") for name in os.listdir(root / queue / state)
        ]
    return Count(
        acknowledged=Stage(str(root)).noted("acknowledged"),
        effects=Stage(str(root)).noted("effects"),
        dead=dead,
        left=left,
    )


def _key_in(path: Path) -> str:
    found = re.search(rb'{"key":\s*"([^"]+)"', path.read_bytes())
    return found[1].decode() if found else "?"


def differences(
    verdict: Verdict, count: Count, may_die: Callable[[str], bool], may_be_done: Callable[[str], bool]
) -> list[str]:
    """Where the two counts do not agree, or the second is not what it must be for such keys."""
    found = [f"left in the queue: {name}" for name in count.left]
    ended, both = count.effects.keys() | count.dead.keys(), count.effects.keys() & count.dead.keys()
    for what, keys in {
        "lost": count.lost,
        "acknowledged to its producer, and not in the histories": count.acknowledged.keys() - verdict.acknowledged,
        "acknowledged in the histories, and nowhere": verdict.acknowledged - ended,
        "there, but never pushed": ended - verdict.acknowledged - verdict.open,
        "acked, but not done": verdict.done - count.effects.keys(),
        "dead in one count only": verdict.dead ^ count.dead.keys(),
        "done and dead": {key for key in both if not (may_die(key) and may_be_done(key))},
        "dead, which it cannot be": {key for key in count.dead if not may_die(key)},
        "done, which it cannot be": {key for key in count.effects if not may_be_done(key)},
    }.items():
        found += [f"{what}: {key}" for key in sorted(keys)]
    return found
