"""What a backlog costs: the first pop of a new process, pops and pushes of a long-lived one, stats, memory.

Queues of several depths stand beside each other, and every operation goes through
them in turns, so that whatever else the machine does meets all of them. What is popped is read
once before, untimed: whether an old message is still in memory is a matter of how much there is of it.
The floor goes through the same directories, after mailq: in a directory of a million names each
rename costs anybody more. How much had to be read from the disk all the same is counted.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import time
import zlib
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import mailq
from bench.floor import Floor
from bench.results import Plan, Result
from bench.sides import Mailq, sync_disk
from mailq.connect import preload
from mailq.engines.maildir import names
from mailq.ids import NS, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    Told = dict[tuple[str, str, str], list[float]]

DEPTHS: Final = {"1k": 1_000, "10k": 10_000, "100k": 100_000, "1M": 1_000_000}
_BODY: Final = os.urandom(1024)
_BLOCK: Final = 500
"""So many pops, then so many pushes: the backlog stays what it is."""
_STEADY: Final = 40_000
"""So many pops, in which a consumer of mailq's comes to the end of what it listed first, and lists once more.

What it lists then is four times as long: in the long run a listing of all comes a third as often as here.
"""
_ONES: Final = 2_000
"""So many messages go through an emptied queue and a new one, one at a time."""
_ROOM: Final = 6_000
"""Bytes on the disk that a message of 1 KiB may take, with its name and its inode."""


def fill(path: str, count: int) -> None:
    """Make a queue with a backlog: files under well-formed names, as a push would leave them."""
    mailq.open(path, durability="process-crash").close()
    crc = zlib.crc32(_BODY)
    begun = time.time_ns() - NS - count * 1000
    for place in range(begun, begun + count * 1000, 1000):
        name = names.format_name(names.MessageName(place, new_id(place), size=len(_BODY), crc=crc))
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


class _Deep(Mailq):
    """A queue that is there already."""

    def __init__(self, directory: str, *, durable: bool) -> None:  # noqa: ARG002 - it says itself how durable it is
        self._queue = mailq.open(directory, create=False)

    def count(self) -> None:
        """Have it counted."""
        self._queue.stats()


class _Bare(Floor):
    """The floor in a queue's directories, under names that the queue can go on with: to make one is in its push."""

    def name_next(self) -> str:
        now = time.time_ns()
        return names.format_name(names.MessageName(now, new_id(now), size=len(_BODY), crc=zlib.crc32(_BODY)))

    def count(self) -> None:
        """There is nothing to count with."""


_SIDES: Final[tuple[type[_Deep | _Bare], ...]] = (_Deep, _Bare)


def _in_a_new_process(pipe: Connection, act: Callable[[str], float], path: str) -> None:
    pipe.send(act(path))


def _consume(pipe: Connection, kind: type[_Deep | _Bare], path: str) -> None:
    """A long-lived consumer, which pushes as well; says how long it took for so many."""
    with contextlib.closing(kind(path, durable=False)) as side:
        while (order := pipe.recv()) is not None:
            begun = time.perf_counter()
            match order:
                case "pop", count:
                    for _ in range(count):
                        if (taken := side.pop()) is None:
                            raise RuntimeError("a backlog came to an end")
                        side.ack(taken[1])
                case "push", count:
                    for _ in range(count):
                        side.push(_BODY)
                case "stats", _:
                    side.count()
            pipe.send((time.perf_counter() - begun, _read_from_disk()))
        pipe.send(_most_memory())


def _read_from_disk() -> float:
    """The KiB that this process has waited for so far."""
    import resource  # noqa: PLC0415 - not everywhere, and nor is /proc

    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock / 2


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


def _first_pops(queues: dict[str, str], told: Told, number: int) -> None:
    sides = [("mailq", _first_mailq), ("floor", _first_bare)]
    for depth, path in queues.items():
        os.listdir(f"{path}/new")  # or who comes first would read the directory from the disk for the other
        for side, act in sides[:: -1 if number % 2 else 1]:
            process, pipe = _start(_in_a_new_process, act, path)
            told.setdefault((f"{depth} first pop", side, "ms"), []).append(pipe.recv() * 1000)
            process.join()


def _warm(path: str, count: int) -> None:
    """Have the messages in memory that will be popped."""
    for name in sorted(os.listdir(f"{path}/new"))[:count]:
        with open(f"{path}/new/{name}", "rb", buffering=0) as file:
            file.read()


class _Consumer(NamedTuple):
    """A process that is told what to do."""

    process: SpawnProcess
    pipe: Connection

    def ask(self, *order: object) -> tuple[float, float]:
        """Have something done; the seconds that it took, and the KiB that were read so far."""
        self.pipe.send(order)
        took, read = self.pipe.recv()
        return float(took), float(read)

    def end(self) -> float:
        """Have it end; the MiB of memory that it had at most."""
        self.pipe.send(None)
        most = float(self.pipe.recv())
        self.process.join()
        return most


def _steady(queues: dict[str, str], told: Told, count: int, kind: type[_Deep | _Bare]) -> None:
    for path in queues.values():
        _warm(path, count)
    sync_disk(next(iter(queues.values())))
    consumers = {depth: _Consumer(*_start(_consume, kind, path)) for depth, path in queues.items()}

    def tell(case: str, unit: str, value: float) -> None:
        told.setdefault((case, kind.name, unit), []).append(value)

    read_before = {depth: _begin(consumer) for depth, consumer in consumers.items()}
    times = {(depth, verb): 0.0 for depth in queues for verb in ("pop", "push")}
    for _ in range(count // _BLOCK):
        for depth, verb in times:
            times[depth, verb] += consumers[depth].ask(verb, _BLOCK)[0]
    for (depth, verb), took in times.items():
        tell(f"{depth} {'pop+ack' if verb == 'pop' else verb}", "us", took / count * 1e6)
    for depth, consumer in consumers.items():
        took, read = consumer.ask("stats", 1)
        tell(f"{depth} read from the disk", "KiB a message", (read - read_before[depth]) / count)
        most = consumer.end()
        if kind is _Deep:
            tell(f"{depth} stats", "ms", took * 1000)
            tell(f"{depth} memory", "MiB", most)


def _begin(consumer: _Consumer) -> float:
    """The first listing is the first pop's; the KiB that were read for it."""
    consumer.ask("pop", 1)
    _, read = consumer.ask("push", 1)
    return read


def _drained(path: str, depth: str, told: Told) -> None:
    """What an emptied queue costs beside a new one.

    The first pop of an opened queue stands by itself: it looks whether anything came to the
    directory that was exchanged for a fresh one. Among the pops that follow it would be
    a matter of how many those are.
    """
    fresh = f"{path}-fresh"
    mailq.open(fresh, durability="process-crash").close()
    with mailq.open(path) as queue:
        queue.purge("ready")
        queue.reap()
    for case, place in ((f"{depth} drained", path), ("new", fresh)):
        sync_disk(place)  # a million unlinks are on their way to the disk
        with mailq.open(place) as queue:
            queue.push(_BODY)
            begun = time.perf_counter()
            os.listdir(f"{place}/new")
            told.setdefault((f"{case}, listing", "mailq", "ms"), []).append((time.perf_counter() - begun) * 1000)
            first, *others = [_once(queue) for _ in range(_ONES + 1)]
            told.setdefault((f"{case}, first pop+ack", "mailq", "ms"), []).append(first * 1000)
            told.setdefault((f"{case}, pop+ack", "mailq", "us"), []).append(sum(others) / len(others) * 1e6)


def _once(queue: mailq.Queue) -> float:
    """Push one; the seconds that pop and ack take."""
    queue.push(_BODY)
    begun = time.perf_counter()
    delivery = queue.pop()
    if delivery is None:
        raise RuntimeError("a message that was pushed is not there")
    delivery.ack()
    return time.perf_counter() - begun


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
        for number in range(plan.rounds):
            _first_pops(queues, told, number)
            for kind in _SIDES:
                _steady(queues, told, _BLOCK if plan.quick else _STEADY, kind)
        for depth, path in islice(reversed(queues.items()), 1):
            _drained(path, depth, told)
    finally:
        for path in queues.values():
            for each in (path, f"{path}-fresh"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(each)
    for (case, side, unit), values in told.items():
        yield Result("backlog", case, side, "process-crash", unit, values)
