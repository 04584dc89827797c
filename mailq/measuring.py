"""Measure a disk: pushes, pops and acks a second, and the time of a sync, in a queue that is made for it and removed."""

from __future__ import annotations

import collections
import contextlib
import errno
import itertools
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from mailq import telemetry
from mailq.alarm import Alarm
from mailq.connect import open as open_queue
from mailq.connect import path_of
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.doctor import filesystem
from mailq.engines.maildir.doctor.leftovers import BENCH
from mailq.engines.maildir.doctor.machine import Machine
from mailq.engines.maildir.doctor.report import Finding
from mailq.engines.maildir.layout import Layout, load
from mailq.errors import MailqError, StorageError, UsageError, WorkerFailed
from mailq.settings import Settings
from mailq.settings import seconds as checked_seconds
from mailq.workers.process_tree import can_fork
from mailq.workers.worker import Worker

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailq.engines.maildir.filesystems import Mount
    from mailq.queue import Queue
    from mailq.telemetry import Event

DURABILITIES: Final = ("power-loss", "process-crash")
BODY: Final = b"x" * 1024
BATCH: Final = 64
_WAS_LOCKED: Final = "locked"

_ROUNDS: Final = 3
_PARTS: Final = 1 + 1 + 2 * 4
"""Shares of the time: for the syncs, for the worker, and for each operation in each class."""

_MOST: Final = 32 * BATCH
"""The number of messages of one measurement, at most: it limits the space that is used."""

_ROOM: Final = 64 << 20
"""The number of free bytes that it needs to begin: it must not fill a disk."""

_JOURNALED: Final = frozenset(("btrfs", "f2fs", "jfs", "xfs", "zfs"))
"""File systems that always have a journal, or something equivalent."""

_FREE: Final = 50e-6
_SLOW: Final = 20e-3
_CHEAP: Final = 1.5
"""A durable push is cheap if it takes no longer than this number of others."""

_PROCESSES: Final = 2
_PATIENCE: Final = 30.0
"""Seconds in which a worker must have run its few jobs."""


class Syncs(NamedTuple):
    """The time of a sync of one written block, in seconds."""

    median: float
    worst: float


class Measured(NamedTuple):
    """The measurements. Rates are messages of 1 KiB a second, by durability and operation; ``worker`` is jobs a second.

    ``journal`` is None where the system does not say whether the file system has
    one. ``findings`` are the warnings.
    """

    directory: str
    type: str | None
    mount: str | None
    journal: bool | None
    fsync: Syncs
    rates: dict[str, dict[str, float]]
    worker: float
    findings: tuple[Finding, ...]


def nothing(body: object) -> None:
    """The handler of the worker that is measured."""


def measure(
    target: str | os.PathLike[str], *, seconds: float = 10.0, machine: Machine | None = None, disk: Disk | None = None
) -> Measured:
    """Measure the disk that a queue is on, or would be on, for about this number of seconds.

    It touches no message of the queue. Raises UsageError where no queue could be,
    StorageError where it cannot write, and WorkerFailed if a worker does not work. It
    removes what it made, also after KeyboardInterrupt; if it is killed, the next call
    for this directory does.
    """
    checked_seconds(seconds, "seconds", least=0.01)
    machine, disk = machine or Machine(), disk or Disk()
    place = _place(path_of(target))
    _sweep(place)
    space = machine.space(place)
    if space is not None and space.free_bytes < _ROOM:
        raise StorageError("measure", OSError(errno.ENOSPC, f"fewer than {_ROOM >> 20} MiB are free", place))
    share = seconds / _PARTS
    with _directory(place) as directory:
        rates = _rates(directory, share)
        fsync = _syncs(disk, directory, share)
        worker = _worker(directory, share, rates[DURABILITIES[1]]["pop-ack"])
    mount = machine.mount_of(place)
    journal = None if mount is None else mount.type in _JOURNALED or machine.has_journal(mount)
    findings = tuple(judged(place, machine, mount, disk, fsync))
    kind, point = (None, None) if mount is None else (mount.type, mount.point)
    return Measured(place, kind, point, journal, fsync, rates, worker, findings)


def _place(path: str) -> str:
    """The directory to measure in: the queue's own, or where one would be made."""
    for place in (path, os.path.dirname(path)):
        if os.path.isdir(place):
            return place
        if os.path.lexists(place):
            raise UsageError(f"{place!a} is no directory; pass a queue, or a directory where one could be")
    raise UsageError(f"there is no {os.path.dirname(path)!a}; pass a queue, or a directory where one could be")


@contextlib.contextmanager
def _directory(place: str) -> Iterator[str]:
    """Make a directory, and remove it. Its name begins with a dot: mailq ignores such names in a queue's directory."""
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix=BENCH, dir=place))
        except OSError as error:
            raise StorageError("measure", error) from error
        with contextlib.suppress(OSError):  # a network disk may lock no directories: then no bench sweeps it
            stack.enter_context(_locked(directory))
            # Last: if this is in a directory that is not locked, the process that made it is dead.
            Path(directory, _WAS_LOCKED).touch()
        yield directory


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Lock a directory. Raises OSError if another process has the lock, or the system has none."""
    if fcntl is None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _sweep(place: str) -> None:
    """Remove what killed processes have left."""
    with contextlib.suppress(OSError):
        for name in os.listdir(place):
            left = f"{place}/{name}"
            if name.startswith(BENCH) and os.path.exists(f"{left}/{_WAS_LOCKED}"):
                with contextlib.suppress(OSError), _locked(left):
                    shutil.rmtree(left)


# Messages


def _push(queue: Queue) -> int:
    queue.push(BODY)
    return 1


def _pop_ack(queue: Queue) -> int:
    if (delivery := queue.pop()) is not None:
        delivery.ack()
    return int(delivery is not None)


def _once(queue: Queue) -> int:
    return _push(queue) and _pop_ack(queue)


def _batch(queue: Queue) -> int:
    queue.push_many([BODY] * BATCH)
    for delivery in queue.pop_many(BATCH):
        delivery.ack()
    return BATCH


_CALLS: Final = (
    ("push", "long", _push),
    ("pop-ack", "long", _pop_ack),
    ("push-pop-ack", "short", _once),
    ("batch", "short", _batch),
)
OPERATIONS: Final = tuple(operation for operation, _, _ in _CALLS)


def _rates(directory: str, share: float) -> dict[str, dict[str, float]]:
    """Medians of a few rounds. Each round runs every operation, because the speed of a disk changes with time."""
    seen = collections.defaultdict[tuple[str, str], list[float]](list)
    with contextlib.ExitStack() as stack:
        queues: dict[tuple[str, str], Queue] = {}
        # Two for each class: on ext4 a directory that was long is slow to list, also when it is short again.
        for durability, name in itertools.product(DURABILITIES, ("long", "short")):
            queue = stack.enter_context(open_queue(f"{directory}/{name}-{durability}", durability=durability))
            _once(queue)  # what is done once: the owner's file, the first listing
            queues[durability, name] = queue
        for _, durability in itertools.product(range(_ROUNDS), DURABILITIES):
            for operation, name, call in _CALLS:
                seen[durability, operation].append(_rate(call, queues[durability, name], share / _ROUNDS))
            while _pop_ack(queues[durability, "long"]):  # what was pushed faster than it was popped
                pass
    return {
        durability: {operation: statistics.median(seen[durability, operation]) for operation in OPERATIONS}
        for durability in DURABILITIES
    }


def _rate(call: Callable[[Queue], int], queue: Queue, share: float) -> float:
    """Messages a second: at least one call, until the share of the time is over or the queue is empty."""
    count, begun = 0, time.perf_counter()
    while True:
        done = call(queue)
        count += done
        took = time.perf_counter() - begun
        if not done or count >= _MOST or took >= share:
            return count / took


def _syncs(disk: Disk, directory: str, share: float) -> Syncs:
    """Write a block and sync it, repeatedly: the time of a durable write without the making of a file."""
    took: list[float] = []
    try:
        fd = disk.open(f"{directory}/sync", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            end = time.perf_counter() + share
            while not took or (len(took) < _MOST and time.perf_counter() < end):
                disk.write(fd, BODY)
                begun = time.perf_counter()
                disk.fsync(fd)
                took.append(time.perf_counter() - begun)
        finally:
            disk.drop(fd)
    except OSError as error:
        raise StorageError("measure", error) from error
    return Syncs(statistics.median(took), max(took))


def _worker(directory: str, share: float, pops: float) -> float:
    """Jobs a second of a worker with a few processes and a handler that does nothing, from the first end to the last."""
    count = int(min(max(share * pops / 2, BATCH), _MOST))
    path = f"{directory}/worker"
    ends: list[float] = []
    done = Alarm()

    def hear(event: Event) -> None:
        if event.name == "job.stop" and event.queue == path:
            ends.append(time.perf_counter())
            if len(ends) == count:
                done.ring()

    with open_queue(path, durability=DURABILITIES[1]) as queue:
        queue.push_many([BODY] * count)
        processes, threads = (_PROCESSES, None) if can_fork() else (None, _PROCESSES)
        worker = Worker(queue, nothing, processes=processes, threads=threads)
        detach = telemetry.attach(hear)
        try:
            worker.start()
            done.wait(_PATIENCE)
        finally:
            worker.stop(at_once=True)
            detach()
    if len(ends) <= 1:
        raise WorkerFailed(f"of {count} jobs that do nothing it did {len(ends)} in {_PATIENCE:g} s")
    return (len(ends) - 1) / (ends[-1] - ends[0])


# What it means


def judged(place: str, machine: Machine, mount: Mount | None, disk: Disk, fsync: Syncs) -> Iterator[Finding]:
    """The warnings: the doctor's of the file system, and those of the time of a sync."""
    layout, settings = Layout(place), Settings()
    with contextlib.suppress(MailqError):  # not a queue, or a damaged one
        settings = load(layout, disk).settings
    for finding in filesystem.judge(layout.root, settings, machine, mount):
        if finding.level != "ok":
            yield finding
    if fsync.median < _FREE and not (mount is not None and filesystem.is_memory(mount.type)):
        yield Finding(
            "fsync",
            "warning",
            f"a sync takes {fsync.median * 1e6:.0f} us, which few disks can do: either its cache outlives a power cut, "
            "or it does not flush, as many a virtual disk does not. From here they look the same",
            "ask who runs the machine; if it does not flush, a power cut loses what was pushed last",
        )
    elif fsync.median > _SLOW:
        yield Finding(
            "fsync",
            "warning",
            f"a sync takes {fsync.median * 1e3:.0f} ms",
            "push many at a time (push_many, push --lines): they share one",
        )


def meaning(measured: Measured) -> list[str]:
    """What the measurements mean, and which durability to choose, in sentences."""
    durable, fast = (measured.rates[durability] for durability in DURABILITIES)
    cost = 1000 / durable["push"] - 1000 / fast["push"]
    if measured.type is not None and filesystem.is_memory(measured.type):
        choice = "This is memory: neither class survives a power cut, or a reboot, here."
    elif durable["push"] * _CHEAP >= fast["push"]:
        choice = "power-loss costs next to nothing here: keep it."
    else:
        choice = (
            f"power-loss, the default, costs {cost:.2f} ms a push. Choose process-crash only for what may be lost in a power "
            f"cut, since it can be pushed again; it survives the death of any process."
        )
    return [
        f"One producer pushes {_about(durable['push'])} messages a second one by one, {_about(fast['push'])} with process-crash.",
        f"A consumer pops and acks {_about(durable['pop-ack'])} a second: neither is synced, in either class.",
        f"A worker with {_PROCESSES} processes does {_about(measured.worker)} jobs a second that do nothing; your jobs' own time comes on top.",
        f"Batches of {BATCH} share one flush: {_about(durable['batch'])} messages a second, pushed, popped and acked.",
        choice,
    ]


def _about(rate: float) -> str:
    """A rate in two digits: it is not more exact."""
    digits = 10 ** max(0, len(str(int(rate))) - 2)
    return f"{round(rate / digits) * digits:,}"
