"""A program: producers and consumers on a disk that will lose its power, reporting to one that will not.

Each report is one line, appended by one write(2): what is about to be done before it begins, and
what was done after it returned. A body follows from its number, so a changed one is found out.
"""

from __future__ import annotations

import argparse
import os
import random
import stat
import traceback
from collections.abc import Callable
from typing import Final

import mailq
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine

SIZES: Final = (20, 100, 100, 400, 400, 3000, 20_000)
LEASE: Final = 600.0
"""Longer than any run: only the cut takes a message out of a consumer's hands."""


class WithoutJournals(Disk):
    """Every file and every name is synced by itself."""

    def keeps_order(self, path: str) -> bool:
        """Nothing is said of it."""
        return False


class FsyncAlone(WithoutJournals):
    """Trusts each fsync, also where it is a fast commit."""

    _looks_left = 0


class WithoutDirectorySync(WithoutJournals):
    """Syncs files, and not the names that they get."""

    def sync_names(self, fd: int) -> os.stat_result:
        return os.fstat(fd)


class WithoutFileSync(WithoutJournals):
    """Syncs the names of files, and not what is in them."""

    def fsync(self, fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            super().fsync(fd)

    def syncfs(self, fd: int) -> None:
        """Nothing."""


class WithoutJournalSync(Disk):
    """Syncs all but journals."""

    def fdatasync(self, fd: int) -> None:
        """Nothing."""


DISKS: Final[dict[str, type[Disk]]] = {
    "whole": Disk,
    "without-journals": WithoutJournals,
    "fsync-alone": FsyncAlone,
    "without-directory-sync": WithoutDirectorySync,
    "without-file-sync": WithoutFileSync,
    "without-journal-sync": WithoutJournalSync,
}

# Messages


def body_of(number: str) -> bytes:
    chance = random.Random(number)
    return number.encode() + b":" + chance.randbytes(chance.choice(SIZES))


def headers_of(number: str) -> dict[str, str]:
    """The messages of every second producer have some."""
    who = number.partition("/")[0]
    return {"by": who} if int(who) % 2 else {}


def number_of(body: bytes, headers: dict[str, str]) -> str:
    """The number of a message that is exactly what was pushed; nothing if any of it differs."""
    number = body.partition(b":")[0].decode("ascii", "replace")
    by, slash, count = number.partition("/")
    if not (slash and by.isdecimal() and count.isdecimal()):
        return ""
    return number if body == body_of(number) and headers == headers_of(number) else ""


# Work


class Reporter:
    """Appends lines to the report, each with how much of the disk's log there was at the time."""

    def __init__(self, path: str, log: str | None) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._log = None if log is None else os.open(log, os.O_RDONLY)

    def __call__(self, word: str, *facts: str) -> None:
        mark = 0 if self._log is None else os.fstat(self._log).st_size
        os.write(self._fd, f"{word} {mark} {' '.join(facts)}\n".encode())


def produce(queue: mailq.Queue, report: Reporter, who: int, chance: random.Random) -> None:
    """Push for ever: most messages alone, some together, some of those by one flush of the file system."""
    count = 0
    while True:
        size = chance.choice((1, 1, 1, 1, 1, 1, 5, 24))
        numbers = [f"{who}/{count + n}" for n in range(size)]
        count += size
        _push(queue, report, numbers, delay=chance.choice((0, 0, 0, 0.02)))


def _push(queue: mailq.Queue, report: Reporter, numbers: list[str], *, delay: float) -> None:
    report("pushing", *numbers)
    bodies, headers = [body_of(number) for number in numbers], headers_of(numbers[0])
    try:
        if len(bodies) == 1:
            ids = [queue.push(bodies[0], headers=headers, delay=delay)]
        else:
            ids = queue.push_many(bodies, headers=headers, delay=delay)
    except mailq.StorageError as error:
        report("failed", ",".join(error.maybe_pushed) or "-", *numbers)
        raise
    report("pushed", *(f"{number}={id}" for number, id in zip(numbers, ids, strict=True)))


def consume(queue: mailq.Queue, report: Reporter, who: int, chance: random.Random) -> None:
    """Pop for ever, and do one of all that can be done with a delivery."""
    while True:
        for delivery in queue.pop_many(chance.choice((1, 1, 5)), lease=LEASE, wait=0.05):
            _settle(delivery, report, chance)
        if chance.random() < 0.02:
            queue.redrive(limit=5)


def _settle(delivery: mailq.Delivery, report: Reporter, chance: random.Random) -> None:
    verb = chance.choices(("ack", "nack", "back-off", "release", "reject", "hold"), (45, 15, 10, 10, 10, 10))[0]
    if verb == "ack":
        report("acking", delivery.id)
        delivery.ack()
        report("acked", delivery.id)
    elif verb == "nack":
        delivery.nack(delay=0)
    elif verb == "back-off":
        delivery.nack(delay=0.02, error="not yet")
    elif verb == "release":
        delivery.release()
    elif verb == "reject":
        delivery.reject("not wanted")
    else:
        delivery.extend(2 * LEASE)


def _start(
    work: Callable[[mailq.Queue, Reporter, int, random.Random], None], who: int, args: argparse.Namespace
) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        queue = mailq.Queue(MaildirEngine(args.queue, disk=DISKS[args.disk]()))
        work(queue, Reporter(args.report, args.log), who, random.Random(f"{args.seed}/{who}"))
    except mailq.StorageError:
        code = 0  # the disk is gone: what a user is told, and nothing else
    except BaseException:  # noqa: BLE001 - whoever started this reads it
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("queue")
    parser.add_argument("report")
    parser.add_argument("--log", help="the disk's own log, whose size goes into each report")
    parser.add_argument("--disk", choices=DISKS, default="whole")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--producers", type=int, default=3)
    parser.add_argument("--consumers", type=int, default=2)
    args = parser.parse_args()
    crew = [_start(produce, who, args) for who in range(args.producers)]
    crew += [_start(consume, args.producers + who, args) for who in range(args.consumers)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in crew]
    raise SystemExit(max(map(abs, codes)))


if __name__ == "__main__":
    main()
