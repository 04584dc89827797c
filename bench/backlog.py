"""What a backlog costs: the first pop of a new process, pops and pushes of a long-lived one, stats, memory.

Queues of several depths stand beside each other, and every operation goes through
them in turns, so that whatever else the machine does meets all of them. What is popped is read
once before, untimed: whether an old message is still in memory is a matter of how much there is of it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import time
import zlib
from itertools import islice
from typing import TYPE_CHECKING, Final

import mailq
from bench.results import Plan, Result
from mailq import names
from mailq.opening import preload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    Told = dict[tuple[str, str, str], list[float]]

DEPTHS: Final = {"1k": 1_000, "10k": 10_000, "100k": 100_000, "1M": 1_000_000}
_BODY: Final = os.urandom(1024)
_BLOCK: Final = 500
"""So many pops, then so many pushes: the backlog stays what it is."""
_ROOM: Final = 6_000
"""Bytes on the disk that a message of 1 KiB may take, with its name and its inode."""


def fill(path: str, count: int) -> None:
    """Make a queue with a backlog: files under well-formed names, as a push would leave them."""
    mailq.open(path, durability="process-crash").close()
    crc = zlib.crc32(_BODY)
    begun = time.time_ns() - names.NS - count * 1000
    for place in range(begun, begun + count * 1000, 1000):
        name = names.format_name(names.Envelope(place, names.new_id(place), size=len(_BODY), crc=crc))
        fd = os.open(f"{path}/new/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, _BODY)
        os.close(fd)


# What other processes do, each told what by a pipe


def _first_mailq(path: str) -> float:
    preload()  # loading modules is the start of a program, whatever its queue holds; commands are measured whole
    begun = time.perf_counter()
    queue = mailq.open(path, create=False)
    delivery = queue.pop()
    took = time.perf_counter() - begun
    if delivery is None:
        raise RuntimeError("a backlog is not there")
    delivery.release()
    queue.close()
    return took


def _first_bare(path: str) -> float:
    begun = time.perf_counter()
    line = sorted(os.listdir(f"{path}/new"))
    name = line[0]
    os.rename(f"{path}/new/{name}", f"{path}/cur/{name}")
    with open(f"{path}/cur/{name}", "rb", buffering=0) as file:
        file.read()
    took = time.perf_counter() - begun
    os.rename(f"{path}/cur/{name}", f"{path}/new/{name}")
    return took


def _in_a_new_process(pipe: Connection, act: Callable[[str], float], path: str) -> None:
    pipe.send(act(path))


def _consume(pipe: Connection, path: str) -> None:
    """A long-lived consumer, which pushes as well; says how long it took for so many."""
    with mailq.open(path, create=False) as queue:
        while (order := pipe.recv()) is not None:
            begun = time.perf_counter()
            match order:
                case "pop", count:
                    for _ in range(count):
                        if (delivery := queue.pop()) is None:
                            raise RuntimeError("a backlog came to an end")
                        delivery.ack()
                case "push", count:
                    for _ in range(count):
                        queue.push(_BODY)
                case "stats", _:
                    queue.stats()
            pipe.send(time.perf_counter() - begun)
        pipe.send(_most_memory())


def _most_memory() -> float:
    """The MiB that this process has had at most. Not getrusage: that begins with the parent's."""
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _start(target: Callable[..., None], *arguments: object) -> tuple[SpawnProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return process, ours


# Measuring


def _first_pops(queues: dict[str, str], told: Told) -> None:
    sides: dict[str, Callable[[str], float]] = {"mailq": _first_mailq, "floor": _first_bare}
    for depth, path in queues.items():
        for side, act in sides.items():
            process, pipe = _start(_in_a_new_process, act, path)
            told.setdefault((f"{depth} first pop", side, "ms"), []).append(pipe.recv() * 1000)
            process.join()


def _warm(path: str, count: int) -> None:
    """Have the messages in memory that will be popped."""
    for name in sorted(os.listdir(f"{path}/new"))[:count]:
        with open(f"{path}/new/{name}", "rb", buffering=0) as file:
            file.read()


def _steady(queues: dict[str, str], told: Told, count: int) -> None:
    for path in queues.values():
        _warm(path, count)
    consumers = {depth: _start(_consume, path) for depth, path in queues.items()}
    pipes = {depth: pipe for depth, (_, pipe) in consumers.items()}

    def ask(depth: str, order: tuple[str, int] | None) -> float:
        pipes[depth].send(order)
        return float(pipes[depth].recv())

    times = {(depth, verb): 0.0 for depth in queues for verb in ("pop", "push")}
    for depth in queues:
        for verb in ("pop", "push"):  # the first listing is the first pop's
            ask(depth, (verb, 1))
    for _ in range(count // _BLOCK):
        for depth, verb in times:
            times[depth, verb] += ask(depth, (verb, _BLOCK))
    for (depth, verb), took in times.items():
        case = f"{depth} {'pop+ack' if verb == 'pop' else verb}"
        told.setdefault((case, "mailq", "us"), []).append(took / (count // _BLOCK * _BLOCK) * 1e6)
    for depth in queues:
        told.setdefault((f"{depth} stats", "mailq", "ms"), []).append(ask(depth, ("stats", 1)) * 1000)
    for depth, (process, _) in consumers.items():
        told.setdefault((f"{depth} memory", "mailq", "MiB"), []).append(ask(depth, None))
        process.join()


def _drained(path: str, depth: str, told: Told) -> None:
    """What an emptied queue costs beside a new one."""
    fresh = f"{path}-fresh"
    mailq.open(fresh, durability="process-crash").close()
    with mailq.open(path) as queue:
        queue.purge("ready")
        queue.reap()
    for case, place in ((f"{depth} drained", path), ("new", fresh)):
        with mailq.open(place) as queue:
            queue.push(_BODY)
            begun = time.perf_counter()
            os.listdir(f"{place}/new")
            told.setdefault((f"{case}, listing", "mailq", "ms"), []).append((time.perf_counter() - begun) * 1000)
            times = []
            for _ in range(200):
                queue.push(_BODY)
                begun = time.perf_counter()
                delivery = queue.pop()
                if delivery is not None:
                    delivery.ack()
                times.append(time.perf_counter() - begun)
            told.setdefault((f"{case}, pop+ack", "mailq", "us"), []).append(sum(times) / len(times) * 1e6)


def _fitting(plan: Plan) -> dict[str, int]:
    """The depths that there is room for."""
    depths = dict(islice(DEPTHS.items(), 2 if plan.quick else None))
    room = os.statvfs(plan.directory)
    for depth, count in list(depths.items()):
        if room.f_bavail * room.f_frsize < count * _ROOM or (room.f_files and room.f_favail < count + 10_000):
            plan.leave_out(f"backlog: {depth} is left out: the disk has no room for so many files")
            del depths[depth]
    return depths


def measure(plan: Plan) -> Iterator[Result]:
    """Run the rounds; the last thing is to drain the longest queue."""
    if not os.path.exists("/proc/self/status"):
        plan.leave_out("backlog: left out: memory is read from /proc, which is not there")
        return
    depths = _fitting(plan)
    queues = {depth: os.path.join(plan.directory, f"backlog-{depth}") for depth in depths}
    told: Told = {}
    try:
        for depth, path in queues.items():
            fill(path, depths[depth])
        for _ in range(plan.rounds):
            _first_pops(queues, told)
            _steady(queues, told, _BLOCK if plan.quick else 40_000)
        for depth, path in islice(reversed(queues.items()), 1):
            _drained(path, depth, told)
    finally:
        for path in queues.values():
            for each in (path, f"{path}-fresh"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(each)
    for (case, side, unit), values in told.items():
        yield Result("backlog", case, side, "process-crash", unit, values)
