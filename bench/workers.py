"""Workers with a handler that does nothing: what it costs to claim a job, hand it over, and settle it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import mailq
from bench.results import Plan, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY: Final = b"x" * 1024
CREWS: Final[dict[str, dict[str, Any]]] = {
    "1 process": {"processes": 1},
    "2 processes": {"processes": 2},
    "4 processes": {"processes": 4},
    "2 threads": {"threads": 2},
}
MARK: Final = "2 processes"
"""The case that has a mark, and so is measured in both classes."""

POWER_LOSS, PROCESS_CRASH = "power-loss", "process-crash"
RQ: Final = {"rq": "SimpleWorker", "rq, a fork a job": "Worker"}

SERVER: Final = "redis-server"

_AHEAD: Final = 24_000
"""So many messages are there when a worker begins: more than it does while it is watched."""
_STORIES: Final = 3
_PATIENCE: Final = 30.0


def measure(plan: Plan) -> Iterator[Result]:
    """Jobs a second of mailq, of RQ, and of a bare loop that does what a claim and an ack cannot do without."""
    crews = {MARK: CREWS[MARK]} if plan.quick else CREWS
    stories = 2 if plan.quick else _STORIES
    seen: dict[tuple[str, str, str], list[float]] = {}

    def note(case: str, side: str, durability: str, rate: float) -> None:
        seen.setdefault((case, side, durability), []).append(rate)

    with contextlib.ExitStack() as stack:
        queues = {
            durability: stack.enter_context(mailq.open(f"{plan.directory}/{durability}", durability=durability))
            for durability in (PROCESS_CRASH, POWER_LOSS)
        }
        for _ in range(plan.rounds):
            for durability, queue in queues.items():
                for case, crew in crews.items() if durability == PROCESS_CRASH else [(MARK, CREWS[MARK])]:
                    note(case, "floor", durability, _bare(plan.directory, 500 if plan.quick else 5000))
                    note(case, "mailq", durability, _mailq(queue, crew, stories))
            for side, kind in RQ.items() if _has_rq() else ():
                rate = _rq(plan.directory, kind, 20 if plan.quick else 200)
                for case in crews:  # one process, whatever there is of mailq's
                    note(case, side, PROCESS_CRASH, rate)
    for (case, side, durability), rates in seen.items():
        yield Result("worker", case, side, durability, "jobs/s", rates)


def nothing(body: object) -> None:
    """The job."""


def _mailq(queue: mailq.Queue, crew: dict[str, Any], stories: int) -> float:
    """What a worker in the midst of a backlog tells of itself, from one of its stories, one a second, to a later one."""
    queue.push_many([BODY] * (_AHEAD - queue.stats().ready))
    heard: list[tuple[float, int]] = []
    enough = threading.Event()

    def hear(story: dict[str, Any]) -> None:
        if story["done"]:
            heard.append((time.perf_counter(), story["done"]))
        if len(heard) == stories:
            enough.set()

    with mailq.Worker(queue, nothing, on_change=hear, **crew):
        enough.wait(_PATIENCE)
    if len(heard) < stories or not queue.stats().ready:
        raise RuntimeError("the worker did not do its jobs, or did them all before it could be watched")
    (begun, before), (ended, after) = heard[0], heard[stories - 1]
    return (after - before) / (ended - begun)


def _bare(directory: str, count: int) -> float:
    """One process that renames, reads and unlinks files which are there already."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        new, cur = f"{place}/new", f"{place}/cur"
        os.mkdir(new)
        os.mkdir(cur)
        for number in range(count):
            Path(f"{new}/{number:08}").write_bytes(BODY)
        begun = time.perf_counter()
        for name in sorted(os.listdir(new)):
            os.rename(f"{new}/{name}", f"{cur}/{name}")
            fd = os.open(f"{cur}/{name}", os.O_RDONLY)
            os.read(fd, len(BODY) + 1)
            os.close(fd)
            os.unlink(f"{cur}/{name}")
        return count / (time.perf_counter() - begun)


def _has_rq() -> bool:
    missing = SERVER if shutil.which(SERVER) is None else ""
    if importlib.util.find_spec("rq") is None:
        missing = "rq"
    if missing:
        print(f"rq is left out: there is no {missing} here", file=sys.stderr)
    return not missing


def _rq(directory: str, kind: str, count: int) -> float:
    """A Redis and an RQ worker, in processes of their own."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        socket = f"{place}/socket"
        where = ["--port", "0", "--unixsocket", socket, "--dir", place]
        how = ["--save", "", "--appendonly", "yes", "--appendfsync", "no"]
        with subprocess.Popen([SERVER, *where, *how], stdout=subprocess.DEVNULL) as server:
            try:
                command = [sys.executable, "-m", "bench.rq_worker", socket, kind, str(count)]
                return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            finally:
                server.terminate()
