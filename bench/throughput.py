"""How fast mailq is on this disk, beside the bare system calls that it cannot do without.

Each round runs every operation on a bare loop of system calls (the floor) and on
mailq, one right after the other and in turns first, so that whatever else the
machine does meets both. The numbers are medians over the rounds, the ratios are
medians of each round's own ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import mailq
from mailq.engines.disk import Disk, can_syncfs
from mailq.engines.maildir.engine import MaildirEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BATCH: Final = 64
BODY: Final = os.urandom(1024)
DURABILITIES: Final = ("power-loss", "process-crash")
OPERATIONS: Final = ("push", f"push_many({BATCH})", "pop+ack", "push+pop+ack")

IN_MEMORY: Final = frozenset(("tmpfs", "ramfs"))
JOURNALED: Final = frozenset(
    ("ext3", "xfs", "btrfs", "zfs", "bcachefs", "f2fs", "jfs", "reiserfs", "apfs", "hfs", "ntfs", "ntfs3")
)


# The two sides


class Side(Protocol):
    """What is measured: each method handles that many messages of 1 KiB."""

    def push(self, count: int) -> None:
        """Push one after the other, each durable before the next."""

    def push_many(self, count: int) -> None:
        """Push in batches, each durable as a whole."""

    def pop_ack(self, count: int) -> None:
        """Take and remove what was pushed."""

    def push_pop_ack(self, count: int) -> None:
        """Push one, take it, remove it, and again."""


class Floor:
    """The system calls of a maildir, and nothing else: no checks, no leases, no order kept, no errors met."""

    def __init__(self, directory: str, *, durable: bool) -> None:
        self._durable = durable
        self._tmp, self._new, self._cur = (os.path.join(directory, name) for name in ("tmp", "new", "cur"))
        for path in (self._tmp, self._new, self._cur):
            os.mkdir(path)
        self._serial = 0

    def _name(self) -> str:
        self._serial += 1
        return f"{self._serial:020}"

    def _write(self, name: str, *, sync: bool) -> None:
        fd = os.open(f"{self._tmp}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, BODY)
        if sync:
            os.fsync(fd)
        os.close(fd)

    def _sync_new(self) -> None:
        fd = os.open(self._new, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    def _push_one(self) -> str:
        name = self._name()
        self._write(name, sync=self._durable)
        os.rename(f"{self._tmp}/{name}", f"{self._new}/{name}")
        if self._durable:
            self._sync_new()
        return name

    def _take(self, name: str) -> None:
        held = f"{self._cur}/{name}"
        os.rename(f"{self._new}/{name}", held)
        fd = os.open(held, os.O_RDONLY)
        os.read(fd, len(BODY) + 1)
        os.close(fd)
        os.unlink(held)

    def push(self, count: int) -> None:
        for _ in range(count):
            self._push_one()

    def push_many(self, count: int) -> None:
        together = self._durable and can_syncfs()
        for _ in range(0, count, BATCH):
            names = [self._name() for _ in range(BATCH)]
            for name in names:
                self._write(name, sync=self._durable and not together)
            if together:
                fd = os.open(self._tmp, os.O_RDONLY)
                Disk().syncfs(fd)
                os.close(fd)
            for name in names:
                os.rename(f"{self._tmp}/{name}", f"{self._new}/{name}")
            if self._durable:
                self._sync_new()

    def pop_ack(self, count: int) -> None:
        for name in sorted(os.listdir(self._new))[:count]:
            self._take(name)

    def push_pop_ack(self, count: int) -> None:
        for _ in range(count):
            self._take(self._push_one())


class Mailq:
    """The same on a mailq queue."""

    def __init__(self, directory: str, *, durable: bool, disk: Disk | None = None) -> None:
        path = os.path.join(directory, "queue")
        mailq.open(path, durability=DURABILITIES[not durable]).close()
        self._queue = mailq.Queue(MaildirEngine(path, disk=disk))

    def push(self, count: int) -> None:
        for _ in range(count):
            self._queue.push(BODY)

    def push_many(self, count: int) -> None:
        for _ in range(0, count, BATCH):
            self._queue.push_many([BODY] * BATCH)

    def pop_ack(self, count: int) -> None:
        for _ in range(count):
            self._pop_one()

    def push_pop_ack(self, count: int) -> None:
        for _ in range(count):
            self._queue.push(BODY)
            self._pop_one()

    def _pop_one(self) -> None:
        delivery = self._queue.pop()
        if delivery is None or len(delivery.body) != len(BODY):
            raise RuntimeError("a message that was pushed is not there, or not whole")
        delivery.ack()

    def close(self) -> None:
        """Let go of the queue."""
        self._queue.close()


class Counting(Disk):
    """A disk that counts its calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()


CALLS: Final = ("open", "write", "read", "fsync", "syncfs", "close", "rename", "link", "unlink", "utime", "chmod")


def _counted(name: str) -> Callable[..., object]:
    original = getattr(Disk, name)

    def call(self: Counting, *arguments: object) -> object:
        self.calls[name] += 1
        return original(self, *arguments)

    return call


for _call in CALLS:
    setattr(Counting, _call, _counted(_call))


# Measuring


class Line(NamedTuple):
    """One line of the result. Rates are messages a second, one a round; calls are those of one message."""

    durability: str
    operation: str
    floor: list[float]
    mailq: list[float]
    calls: dict[str, float]

    @property
    def ratio(self) -> float:
        """Mailq's rate as a part of the floor's."""
        return statistics.median(mine / bare for mine, bare in zip(self.mailq, self.floor, strict=True))


def steps(side: Side, count: int) -> Iterator[tuple[str, Callable[[int], None]]]:
    """The operations in an order in which each finds what it needs."""
    push, push_many, pop_ack, push_pop_ack = OPERATIONS
    yield push, side.push
    yield pop_ack, side.pop_ack
    yield push_pop_ack, side.push_pop_ack
    yield push_many, side.push_many
    side.pop_ack(count)  # not timed: a removed queue is no better than an empty one, but slower to remove


def rates(side: Side, count: int) -> dict[str, float]:
    """Messages a second for each operation."""
    found = {}
    for name, operation in steps(side, count):
        begun = time.perf_counter()
        operation(count)
        found[name] = count / (time.perf_counter() - begun)
    return found


@contextlib.contextmanager
def fresh(kind: type[Floor | Mailq], directory: str, *, durable: bool) -> Iterator[Side]:
    """A side of its own, in a directory of its own."""
    with tempfile.TemporaryDirectory(dir=directory) as path:
        side = kind(path, durable=durable)
        yield side
        if isinstance(side, Mailq):
            side.close()


def calls(directory: str, *, durable: bool) -> dict[str, dict[str, float]]:
    """The durable system calls of one message for each operation; its reads of names and times are not counted."""
    with tempfile.TemporaryDirectory(dir=directory) as path:
        disk = Counting()
        side = Mailq(path, durable=durable, disk=disk)
        side.push_pop_ack(1)  # what is done once: the owner's file, the first listing
        found = {}
        for name, operation in steps(side, BATCH):
            disk.calls.clear()
            operation(BATCH)
            found[name] = {call: number / BATCH for call, number in sorted(disk.calls.items())}
        side.close()
    return found


def measure(directory: str, *, count: int, rounds: int) -> list[Line]:
    """Run the rounds."""
    seen: dict[tuple[str, str, type], list[float]] = {}
    kinds: list[type[Floor | Mailq]] = [Floor, Mailq]
    for number in range(rounds):
        if sys.stderr.isatty():
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for durability in DURABILITIES:
            for kind in kinds:
                with fresh(kind, directory, durable=durability == DURABILITIES[0]) as side:
                    for operation, rate in rates(side, count).items():
                        seen.setdefault((durability, operation, kind), []).append(rate)
        kinds.reverse()
    lines = []
    for durability in DURABILITIES:
        counted = calls(directory, durable=durability == DURABILITIES[0])
        for operation in OPERATIONS:
            floor, mine = (seen[durability, operation, kind] for kind in (Floor, Mailq))
            lines.append(Line(durability, operation, floor, mine, counted[operation]))
    return lines


# Where it was measured


def machine() -> dict[str, Any]:
    """What the numbers belong to."""
    cpu = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        models = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
        cpu = next(models, cpu)
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "mailq": _version(),
    }


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415 - wanted once, and slow to load

    try:
        return metadata.version("mailq")
    except metadata.PackageNotFoundError:
        return "unknown"


def file_system(directory: str) -> dict[str, Any]:
    """The type of the file system that a directory is on, and what to think of numbers from it."""
    kind = _mounted_type(os.path.realpath(directory))
    journal: bool | None = None
    if kind in JOURNALED:
        journal = True
    elif kind in IN_MEMORY:
        journal = False
    elif kind == "ext4":
        journal = _has_jbd2(directory)
    warning = None
    if kind in IN_MEMORY:
        warning = "this is memory, not a disk: syncing costs nothing here and means nothing; choose a disk with --dir"
    elif journal is False:
        warning = "this file system has no journal: its syncs cost other than a user's; choose another with --dir"
    elif journal is None:
        warning = "whether this file system has a journal is not known; compare with one that has, with --dir"
    return {"directory": directory, "type": kind, "journal": journal, "warning": warning}


def _mounted_type(path: str, table: str = "/proc/mounts") -> str:
    """The type of the last mount whose place is the longest beginning of the path."""
    best, kind = "", "unknown"
    with contextlib.suppress(OSError), open(table, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, place, found = line.split()[:3]
            for escape, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
                place = place.replace(escape, character)  # proc(5)
            if (f"{path}/".startswith(f"{place.rstrip('/')}/")) and len(place) >= len(best):
                best, kind = place, found
    return kind


def _has_jbd2(directory: str) -> bool | None:
    """Whether an ext4 has a journal: then the kernel shows one for its device."""
    device = os.stat(directory).st_dev
    try:
        name = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
        return any(entry.startswith(f"{name}-") for entry in os.listdir("/proc/fs/jbd2"))
    except OSError:
        return None


# Printing


def as_json(lines: Sequence[Line], where: dict[str, Any]) -> str:
    """Everything, for a program to read."""
    results = [
        {
            "durability": line.durability,
            "operation": line.operation,
            "floor_per_second": statistics.median(line.floor),
            "mailq_per_second": statistics.median(line.mailq),
            "ratio": line.ratio,
            "floor_rounds": line.floor,
            "mailq_rounds": line.mailq,
            "calls_per_message": line.calls,
        }
        for line in lines
    ]
    return json.dumps({**where, "results": results}, indent=2)


def print_table(lines: Sequence[Line], where: dict[str, Any]) -> None:
    """The medians, for a person to read."""
    about, disk = where["machine"], where["file_system"]
    print(f"{about['system']}, {about['cpu']}, {about['cores']} cores, {about['python']}, mailq {about['mailq']}")
    print(f"{disk['directory']!a}: {disk['type']}; {where['count']} messages of {where['body_bytes']} bytes, ", end="")
    print(f"{where['rounds']} rounds; messages a second, medians")
    if disk["warning"]:
        print(f"warning: {disk['warning']}")
    heads = ("durability", "operation", "floor/s", "mailq/s", "ratio", "range of mailq/s", "calls a message")
    rows = [
        (
            line.durability,
            line.operation,
            f"{statistics.median(line.floor):,.0f}",
            f"{statistics.median(line.mailq):,.0f}",
            f"{line.ratio:.2f}",
            f"{min(line.mailq):,.0f} - {max(line.mailq):,.0f}",
            f"{sum(line.calls.values()):.1f}",
        )
        for line in lines
    ]
    if sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415 - slow to load, and only wanted here
        from rich.table import Table  # noqa: PLC0415

        table = Table(*heads)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. Returns 0, or 2 if it cannot begin."""
    parser = argparse.ArgumentParser(
        prog="throughput",
        description="Measure mailq against the bare system calls on a disk.",
        epilog="Example: python bench/throughput.py --dir /var/tmp --json > here.json",
    )
    parser.add_argument(
        "--dir", default=tempfile.gettempdir(), help="a directory on the disk to measure (default: %(default)s)"
    )
    parser.add_argument(
        "--count", type=int, default=1024, help="messages an operation and round (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="few messages and rounds: does it run, not how fast")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args(arguments)
    count, rounds = (BATCH, 2) if options.quick else (options.count, options.rounds)
    if count < 1 or rounds < 1:
        parser.error("--count and --rounds must be at least 1")
    count = -(-count // BATCH) * BATCH
    try:
        place = tempfile.TemporaryDirectory(dir=options.dir, prefix="throughput-")
    except OSError as error:
        print(f"throughput: {options.dir!a}: {error.strerror}; pass a directory that can be written", file=sys.stderr)
        return 2
    with place as directory:
        lines = measure(directory, count=count, rounds=rounds)
        where = {
            "machine": machine(),
            "file_system": {**file_system(directory), "directory": options.dir},
            "count": count,
            "rounds": rounds,
            "body_bytes": len(BODY),
            "batch": BATCH,
        }
    if options.json:
        print(as_json(lines, where))
    else:
        print_table(lines, where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
