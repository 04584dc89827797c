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
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import actors
from actors import LEASE, Actor, Stage, finish, is_poison
from judge import Verdict
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
_NAME = re.compile(r"\d{8}T\d{6}\.\d{9}Z,([0-9a-f]{32}),[^/]*\.json")
_WORK = 'export STORM_WORKER=$$; exec "$0" -m mailq work "$1" actors:handle -c 2 --log-level error'


def prepare(root: Path, **settings: Any) -> Stage:
    """Make the queue, and room for what is written down."""
    for name in ("logs", "acknowledged", "effects"):
        (root / name).mkdir()
    defaults = {"lease": LEASE * 2, "max_retries": 1000, "backoff": (0.01, 0.05), "max_length": 400}
    mailq.open(root / "jobs", reap_interval=0.2, **{**defaults, **settings}).close()
    return Stage(str(root))


def conduct(pipe: Connection[Any, Any], stage: Stage, seed: int, seconds: float, cast: Cast) -> None:
    """Run a storm and its end, in a process of its own."""
    os.setpgid(0, 0)
    storm = _Storm(stage, seed)
    try:
        storm.rage(seconds, cast)
    finally:
        storm.end()
    pid = storm.fork(finish, "finish")
    _, status = os.waitpid(pid, 0)
    assert status == 0, storm.failures()
    pipe.send("over")


class _Storm:
    def __init__(self, stage: Stage, seed: int) -> None:
        self._stage = stage
        self._seed = seed
        self._dice = random.Random(seed)
        self._log = stage.log("conductor")
        self._births = 0
        self._alive: dict[int, Actor | None] = {}

    def rage(self, seconds: float, cast: Cast) -> None:
        for actor in cast:
            self._start(actor)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(self._dice.uniform(0.02, 0.2))
            self._strike()
            self._replace_dead()

    def _start(self, actor: Actor | None) -> None:
        self._births += 1
        if actor is None:
            self._alive[self._fork_worker()] = None
        else:
            self._alive[self.fork(actor, f"{self._seed}-{actor.__name__}-{self._births}")] = actor

    def fork(self, actor: Actor, name: str) -> int:
        """A process that dies with us; what it raises is kept."""
        if (pid := os.fork()) == 0:
            try:
                _die_with_parent()
                actor(self._stage, name)
                os._exit(0)
            except BaseException:  # noqa: BLE001 - the conductor reports it
                Path(self._stage.root, "logs", f"{name}.failed").write_text(traceback.format_exc())
            finally:
                os._exit(1)
        return pid

    def _fork_worker(self) -> int:
        environment = {**os.environ, "STORM": self._stage.root, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if (pid := os.fork()) == 0:
            try:
                _die_with_parent()
                log = os.open(f"{self._stage.root}/worker.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                os.dup2(log, 1), os.dup2(log, 2)
                os.execvpe("sh", ["sh", "-c", _WORK, sys.executable, self._stage.jobs], environment)
            finally:
                os._exit(1)
        return pid

    def _strike(self) -> None:
        """Kill one: mostly who uses the queue; else a command that was started, or some process of the worker."""
        chance, pid = self._dice.random(), self._dice.choice(list(self._alive))
        group = pid
        if self._alive[pid] is None:
            pid = self._dice.choice(family(pid))
        elif chance < 0.3 and (commands := children(pid)):
            pid = commands[0]
        self._log.write("kill?", group=group)
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
            self._log.write("kill?", group=pid)
        for pid in self._alive:
            with_luck(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        while others := _group() - {os.getpid()}:
            for pid in others:
                with_luck(pid)
            time.sleep(0.01)

    def failures(self) -> str:
        """What those who failed had to say."""
        return "\n".join(path.read_text() for path in Path(self._stage.root, "logs").glob("*.failed"))


def with_luck(pid: int) -> None:
    """Kill a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _group() -> set[int]:
    """The processes of our process group that are no zombies."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group) == os.getpgrp() and state not in "ZX":
            found.add(int(path.parent.name))
    return found


# The second count


class Count(NamedTuple):
    """What lies about when a storm is over: by key the pushes that returned, and how often the work was done."""

    acknowledged: dict[str, str]
    effects: dict[str, int]
    dead: dict[str, str]
    left: list[str]

    @property
    def lost(self) -> set[str]:
        return self.acknowledged.keys() - self.effects.keys() - self.dead.keys()


def count(root: Path) -> Count:
    """Look at the directories; no history, and nothing of mailq."""
    dead = {}
    for name in os.listdir(root / "jobs" / "dead"):
        found = _NAME.fullmatch(name)
        assert found, name
        dead[_key_in(root / "jobs" / "dead" / name)] = found[1]
    return Count(
        acknowledged={path.name: path.read_text() for path in (root / "acknowledged").iterdir()},
        effects={path.name: path.stat().st_size for path in (root / "effects").iterdir()},
        dead=dead,
        left=[name for state in ("new", "later", "cur") for name in os.listdir(root / "jobs" / state)],
    )


def _key_in(path: Path) -> str:
    found = re.match(rb'{"key":\s*"([^"]+)"', path.read_bytes())
    return found[1].decode() if found else "?"


def differences(verdict: Verdict, count: Count) -> list[str]:
    """Where the two counts do not agree, or the second is not what it must be."""
    found = [f"left in the queue: {name}" for name in count.left]
    ended = count.effects.keys() | count.dead.keys()
    for what, keys in {
        "lost": count.lost,
        "acknowledged to its producer, and not in the histories": count.acknowledged.keys() - verdict.acknowledged,
        "acknowledged in the histories, and nowhere": verdict.acknowledged - ended,
        "there, but never pushed": ended - verdict.acknowledged - verdict.open,
        "acked, but not done": verdict.done - count.effects.keys(),
        "dead in one count only": verdict.dead ^ count.dead.keys(),
        "done and dead": count.effects.keys() & count.dead.keys(),
        "dead, but no poison": {key for key in count.dead if not is_poison(key)},
        "done, though poison": {key for key in count.effects if is_poison(key)},
    }.items():
        found += [f"{what}: {key}" for key in sorted(keys)]
    return found
