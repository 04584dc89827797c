"""Workers with a handler that does nothing: what it costs to claim a job, hand it over, and settle it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import mailq
from bench.results import Plan, Result
from bench.sides import sync_disk

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

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
NOTE: Final = b"note "


def measure(plan: Plan) -> Iterator[Result]:
    """Jobs a second of mailq, of RQ, and of a bare loop that does what a claim and an ack cannot do without."""
    crews = {MARK: CREWS[MARK]} if plan.quick else CREWS
    count = 200 if plan.quick else 10_000
    seen: dict[tuple[str, str, str], list[float]] = {}

    def note(case: str, side: str, durability: str, rate: float) -> None:
        seen.setdefault((case, side, durability), []).append(rate)

    for _ in range(plan.rounds):
        for durability in (POWER_LOSS, PROCESS_CRASH):
            for case, crew in crews.items():
                if durability == PROCESS_CRASH or case == MARK:
                    note(case, "floor", durability, _bare(plan.directory, count))
                    note(case, "mailq", durability, _mailq(plan.directory, durability, crew, count))
        for side, kind in RQ.items() if _has_rq(plan) else ():
            alone = _rq(plan.directory, kind, 20 if plan.quick else 300)
            for case in crews:
                note(case, side, PROCESS_CRASH, alone)
    for (case, side, durability), rates in seen.items():
        yield Result("worker", case, side, durability, "jobs/s", rates)


def described(names: Collection[str]) -> dict[str, Any]:
    """What is to be known of RQ beside its numbers."""
    note = "one process, in every case; Redis syncs nothing"
    return {side: {"version": metadata.version("rq"), "acks": True, "note": note} for side in RQ if side in names}


def nothing(body: bytes | str) -> None:
    """The job. The first and the last of a run note when they were done, in the file that they name."""
    if isinstance(body, bytes) and body.startswith(NOTE):
        with open(body.removeprefix(NOTE), "a", encoding="ascii") as file:
            file.write(f"{time.monotonic()}\n")


def noting(notes: Path) -> bytes:
    """The body of the first job and of the last, which note in that file when they were done."""
    return NOTE + os.fsencode(notes)


def rate(notes: Path, count: int) -> float:
    """Jobs a second from the first that was done to the last: how long a worker takes to start is another matter."""
    first, last = map(float, notes.read_text("ascii").split())
    return (count - 1) / (last - first)


def _mailq(directory: str, durability: str, crew: dict[str, Any], count: int) -> float:
    """A mailq worker with that crew."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        notes = Path(place, "notes")
        note = noting(notes)
        with mailq.open(f"{place}/jobs", durability=durability) as queue:
            queue.push_many([note, *[BODY] * (count - 2), note])
            sync_disk(place)
            mailq.Worker(queue, nothing, **crew).run(drain=True)
        return rate(notes, count)


def _bare(directory: str, count: int) -> float:
    """One process that renames, reads and unlinks files which are there already."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        new, cur = f"{place}/new", f"{place}/cur"
        os.mkdir(new)
        os.mkdir(cur)
        for number in range(count):
            Path(f"{new}/{number:08}").write_bytes(BODY)
        sync_disk(place)
        begun = time.perf_counter()
        for name in sorted(os.listdir(new)):
            os.rename(f"{new}/{name}", f"{cur}/{name}")
            fd = os.open(f"{cur}/{name}", os.O_RDONLY)
            os.read(fd, len(BODY) + 1)
            os.close(fd)
            os.unlink(f"{cur}/{name}")
        return count / (time.perf_counter() - begun)


def _has_rq(plan: Plan) -> bool:
    missing = SERVER if shutil.which(SERVER) is None else ""
    if importlib.util.find_spec("rq") is None:
        missing = "rq"
    if missing:
        plan.leave_out(f"rq is left out: there is no {missing} here")
    return not missing


def _rq(directory: str, kind: str, count: int) -> float:
    """A Redis and an RQ worker, in processes of their own."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        socket = f"{place}/socket"
        where = ["--port", "0", "--unixsocket", socket, "--dir", place]
        how = ["--save", "", "--appendonly", "yes", "--appendfsync", "no"]
        with subprocess.Popen([SERVER, *where, *how], stdout=subprocess.DEVNULL) as server:
            try:
                notes = Path(place, "notes")
                command = [sys.executable, "-m", "bench.rq_worker", socket, kind, str(count), str(notes)]
                subprocess.run(command, check=True, capture_output=True)
                return rate(notes, count)
            finally:
                server.terminate()
