"""Two queues whose files are hard links of each other, as cp -al makes a copy: an mtime, which is a lease's deadline, is the file's."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import mailq
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.testing import ManualClock, take

LEASE = 60


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def opened(path: Path, clock: ManualClock, disk: Disk | None = None) -> mailq.Queue:
    """The queue by a clock that tests move; what is in it is leased for a minute."""
    mailq.open(path, lease=LEASE).close()
    return mailq.Queue(MaildirEngine(str(path), clock=clock, disk=disk))


def linked(queue: mailq.Queue, clock: ManualClock) -> mailq.Queue:
    """A copy of a queue that shares every file with it."""
    copy = Path(queue.location).parent / "copy"
    shutil.copytree(queue.location, copy, copy_function=os.link)
    return opened(copy, clock)


def mtime_of(file: Path) -> float:
    return file.stat().st_mtime


class WithoutExchange(Disk):
    """As file systems and systems are that cannot exchange two files."""

    def exchange(self, one: str, other: str) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), one, None, other)


@pytest.mark.parametrize("disk", [Disk, WithoutExchange])
def test_an_extension_in_one_is_none_in_the_other(path: Path, clock: ManualClock, disk: type[Disk]) -> None:
    queue = opened(path, clock, disk())
    queue.push("body")
    delivery = take(queue, detached=True)
    copy = linked(queue, clock)
    there = copy.delivery(delivery.receipt)
    delivery.extend(1000)
    assert copy.delivery(delivery.receipt).deadline_at == there.deadline_at
    there.extend(100)
    clock.advance(LEASE + 10)
    assert (queue.reap().returned, copy.reap().returned) == (0, 0)
    clock.advance(100)
    assert (queue.reap().returned, copy.reap().returned) == (0, 1)
    delivery.ack()
    assert take(copy).raw == b"body"
    assert os.listdir(path / "tmp") == []


def test_a_file_with_one_name_is_extended_as_it_is(path: Path, clock: ManualClock) -> None:
    queue = opened(path, clock)
    queue.push("body")
    delivery = take(queue)
    held = path / "cur" / delivery.receipt
    before = held.stat()
    delivery.extend(1000)
    assert held.stat().st_ino == before.st_ino
    assert mtime_of(held) > before.st_mtime


SETTLED: dict[str, Callable[[mailq.Delivery], object]] = {
    "nack": lambda delivery: delivery.nack(delay=0, error="text"),
    "nack for later": lambda delivery: delivery.nack(delay=5),
    "release": lambda delivery: delivery.release(),
    "reject": lambda delivery: delivery.reject("no"),
    "ack": lambda delivery: delivery.ack(),
}


@pytest.mark.parametrize("how", SETTLED)
def test_what_is_settled_in_one_is_held_in_the_other_as_long_as_it_was(
    path: Path, clock: ManualClock, how: str
) -> None:
    queue = opened(path, clock)
    queue.push("body")
    delivery = take(queue, detached=True)
    delivery.extend(1000)
    copy = linked(queue, clock)
    until = copy.delivery(delivery.receipt).deadline_at
    SETTLED[how](delivery)
    assert copy.delivery(delivery.receipt).deadline_at == until
    clock.advance(10)
    queue.redrive()
    again = queue.pop(detached=True)
    if again is not None:
        assert again.raw == b"body"
        assert (again.deadline_at or 0) < clock() / 1e9 + LEASE + 1, "what was extended counts for that lease only"
    assert copy.delivery(delivery.receipt).deadline_at == until


def test_what_a_dead_process_held_comes_back_in_one_and_stays_extended_in_the_other(
    path: Path, clock: ManualClock
) -> None:
    queue = opened(path, clock)
    queue.push("body")
    delivery = take(queue)
    delivery.extend(1000)
    copy = linked(queue, clock)
    until = copy.delivery(delivery.receipt).deadline_at
    (path / "owners" / os.listdir(path / "owners")[0]).unlink()
    assert opened(path, clock).reap().returned == 1
    assert copy.delivery(delivery.receipt).deadline_at == until


@pytest.mark.parametrize("shared", [False, True])
def test_a_death_in_one_has_its_time_and_the_other_keeps_its_lease(
    path: Path, clock: ManualClock, *, shared: bool
) -> None:
    mailq.open(path, lease=LEASE, dead_letters=path.parent / "failed" if shared else None)
    queue = opened(path, clock)
    queue.push("body")
    delivery = take(queue, detached=True)
    delivery.extend(1000)
    copy = linked(queue, clock)
    until = copy.delivery(delivery.receipt).deadline_at
    clock.advance(5)
    delivery.reject("no")
    (letter,) = queue.peek("dead")
    assert letter.raw == b"body"
    assert letter.died_at == pytest.approx(clock() / 1e9)
    assert copy.delivery(delivery.receipt).deadline_at == until


def test_a_file_from_the_future_is_leased_in_one_and_keeps_its_time_in_the_other(
    path: Path, clock: ManualClock
) -> None:
    """As a machine with a wrong clock leaves it."""
    queue = opened(path, clock)
    queue.push("body")
    (file,) = (path / "new").iterdir()
    os.utime(file, (4e9, 4e9))
    copy = linked(queue, clock)
    delivery = take(queue, detached=True)
    assert (queue.get(delivery.id).deadline_at or 0) < clock() / 1e9 + LEASE + 1
    (there,) = (path.parent / "copy" / "new").iterdir()
    assert mtime_of(there) == 4e9
    assert take(copy).raw == b"body"


def test_each_of_the_two_is_reaped_however_often_the_other_is(path: Path, clock: ManualClock) -> None:
    """The stamp of the last reaping is an mtime, too."""
    queue = opened(path, clock)
    queue.push("body")
    delivery = take(queue, detached=True)
    clock.advance(3)
    assert queue.pop() is None
    assert (path / ".reap.lock").exists()
    consumer = linked(queue, clock)
    for _ in range(LEASE):
        clock.advance(2)
        queue.pop()  # first of the two, at each interval
        if (again := consumer.pop()) is not None:
            break
    assert again is not None
    assert (again.id, again.attempt) == (delivery.id, 2)
