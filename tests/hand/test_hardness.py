"""What one bad file, one failing call, one strange clock must not do to everybody else."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from faulty import Fault, FaultyDisk, fault
from together import PATIENCE, wait_until

import mailq
from mailq.engines.maildir import delayed, names, reaper
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.message import STATES
from mailq.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator


def engine_queue(path: Path, **parts: Any) -> mailq.Queue:
    return mailq.Queue(MaildirEngine(str(path), **parts))


def take(queue: mailq.Queue) -> mailq.Delivery:
    delivery = queue.pop()
    assert delivery is not None
    return delivery


# One bad file


def test_a_name_that_has_no_room_for_a_claim_is_delivered_all_the_same(queue: mailq.Queue, path: Path) -> None:
    name = f"20261121T013205.123456789Z,{'0' * 32},size=1,file={'x' * 170}.txt"
    (path / "new" / name).write_text("x")
    queue.push("y")
    assert sorted(delivery.body for delivery in queue.drain()) == ["x", "y"]


class StubbornDisk(Disk):
    """Refuses to move one message."""

    def __init__(self, id: str) -> None:
        self.id = id

    def rename(self, source: str, target: str) -> None:
        if self.id in source and "/tmp/" not in source.removeprefix("/tmp/"):
            raise OSError(1, "Operation not permitted")
        super().rename(source, target)


def test_a_message_that_cannot_be_moved_blocks_no_other(queue: mailq.Queue, path: Path) -> None:
    stuck, other = queue.push_many(["stuck", "other"])
    stubborn = engine_queue(path, disk=StubbornDisk(stuck))
    delivery = take(stubborn)
    assert delivery.id == other
    with pytest.raises(mailq.StorageError, match="not permitted"):
        stubborn.pop()


def test_a_lease_that_cannot_be_given_back_keeps_no_other(path: Path) -> None:
    queue = mailq.open(path, lease=0.001)
    stuck, other = queue.push_many(["stuck", "other"])
    queue.pop_many(2)
    stubborn = engine_queue(path, disk=StubbornDisk(stuck))
    while stubborn.stats().ready == 0:
        stubborn.reap()
    assert take(stubborn).id == other


def test_fifos_and_links_among_texts_owners_and_origins_hang_and_leak_nothing(queue: mailq.Queue, path: Path) -> None:
    id = queue.push("x")
    take(queue).nack(delay=0, error="text")
    (path / "errors" / f"{id}.1.txt").unlink()
    os.mkfifo(path / "errors" / f"{id}.1.txt")
    assert [attempt.error for attempt in queue.get(id).history] == [None]
    (path / "errors" / f"{id}.1.txt").unlink()
    (path / "errors" / f"{id}.1.txt").symlink_to("/etc/passwd")
    assert [attempt.error for attempt in queue.get(id).history] == [None]
    (path / "origins").mkdir()
    (path / "origins" / "deadbeef").symlink_to("/etc/passwd")
    (path / "new" / f"20261121T013205.123456789Z,{'0' * 32},from=deadbeef.txt").write_text("x")
    assert queue.get("0" * 32).origin == "deadbeef"
    (path / "owners" / "nested").write_text("[" * 4000)
    queue.reap()


# One failing call


def test_a_claim_lost_to_one_who_gave_it_back_is_only_a_lost_race(queue: mailq.Queue, path: Path) -> None:
    """The name is there again when the loser looks."""

    class Slow(Disk):
        def rename(self, source: str, target: str) -> None:
            if "/new/" in source and not self.__dict__.setdefault("lost", False):
                self.lost = True
                raise FileNotFoundError(2, "No such file or directory", source)
            super().rename(source, target)

    queue.push("x")
    assert take(engine_queue(path, disk=Slow())).body == "x"


def test_a_directory_that_cannot_be_listed_is_a_storage_error(
    queue: mailq.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "scandir", refuse)
    for verb in (queue.pop, queue.stats, queue.peek, queue.reap, lambda: queue.purge("ready")):
        with pytest.raises(mailq.StorageError, match="Too many open files"):
            verb()


@pytest.mark.parametrize("event", ["acked", "reaped"])
def test_a_copy_of_another_users_file_never_becomes_a_second_message(path: Path, event: str) -> None:
    """While the file is copied, to extend its lease, its message is settled elsewhere."""
    mailq.open(path)
    clock = ManualClock()
    elsewhere = engine_queue(path, clock=clock)

    class Meanwhile(FaultyDisk):
        def fsync(self, fd: int) -> None:
            if event == "acked":
                elsewhere.ack(delivery.receipt)
            else:
                clock.advance(100)
                elsewhere.reap()
            super().fsync(fd)

    disk = FaultyDisk()
    queue = engine_queue(path, disk=disk, clock=clock)
    id = queue.push("x")
    delivery = take(queue)
    meanwhile = Meanwhile()
    meanwhile.foreign = {os.stat(path / "cur" / delivery.receipt).st_ino}
    with pytest.raises(mailq.LeaseLost):
        engine_queue(path, disk=meanwhile, clock=clock).extend(delivery.receipt, 600)
    left = [message.id for state in STATES for message in queue.peek(state, limit=None)]
    assert left == ([] if event == "acked" else [id])
    assert os.listdir(path / "tmp") == []


@pytest.mark.parametrize(
    "trouble",
    [fault("open", error=errno.EMFILE), fault("read", error=errno.ENOMEM), fault("read", error=KeyboardInterrupt())],
    ids=["no descriptors", "no memory", "interrupted"],
)
def test_a_claimed_message_that_cannot_be_read_now_is_ready_again_at_once(path: Path, trouble: Fault) -> None:
    """Nobody has its receipt; and the process that claimed it lives on, so no reaper takes it back."""
    mailq.open(path)
    disk = FaultyDisk()
    queue = engine_queue(path, disk=disk)
    queue.push_many(["warm up", "x"])
    take(queue).ack()  # what a first claim opens besides is open
    disk.arm(trouble)
    with pytest.raises((mailq.StorageError, KeyboardInterrupt)):
        queue.pop()
    assert disk.fired
    delivery = take(mailq.open(path))
    assert (delivery.body, delivery.attempt) == ("x", 1)


def test_a_nack_that_fails_does_not_hide_the_error_of_the_job(path: Path) -> None:
    mailq.open(path)
    disk = FaultyDisk()
    queue = engine_queue(path, disk=disk)
    queue.push("x")
    delivery = take(queue)
    disk.arm(fault("rename"))
    with pytest.raises(ZeroDivisionError) as caught, delivery:
        raise ZeroDivisionError
    assert "the message was not given back" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda q: q.push("x", content_type=5),
        lambda q: q.pop(wait="1"),
        lambda q: q.nack("x", error=ValueError()),
        lambda q: q.reject("x", 5),
        lambda q: q.redrive([["x"]]),
        lambda q: q.redrive(limit=-1),
        lambda q: q.edit(q.peek()[0], "text"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_a_usage_error(queue: mailq.Queue, call: Any) -> None:
    queue.push("x")
    with pytest.raises(mailq.UsageError):
        call(queue)


# Clocks


def test_a_clock_that_steps_back_does_not_lengthen_delays(path: Path) -> None:
    mailq.open(path)
    clock = ManualClock()
    queue = engine_queue(path, clock=clock)
    clock.advance(3600)
    queue.push("before")
    clock.advance(-3600)
    queue.push("delayed", delay=1)
    take(queue).nack(delay=1)
    clock.advance(1.1)
    assert {delivery.body for delivery in queue.drain()} == {"before", "delayed"}


def test_a_consumer_whose_neighbour_has_just_reaped_does_not_wait_two_intervals(path: Path) -> None:
    mailq.open(path)
    clock = ManualClock()
    holder, neighbour, queue = (engine_queue(path, clock=clock) for _ in range(3))
    holder.push_many(["x", "y"])
    take(holder)
    take(neighbour)  # it reaps, and leaves the stamp
    clock.advance(1.9)
    assert queue.pop() is None  # not its turn
    holder.close()
    clock.advance(0.1)
    assert take(queue).attempt == 2


def test_who_has_looked_through_very_many_leases_leaves_the_next_reaping_to_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailq.open(path)
    clock = ManualClock()
    queue, neighbour = (engine_queue(path, clock=clock) for _ in range(2))
    queue.push("x")
    monkeypatch.setattr(reaper, "_SHARE", 1e9)
    take(queue)
    clock.advance(2)
    assert queue.pop() is None  # it reaps, for nothing
    clock.advance(1000)  # the lease runs out
    assert queue.pop() is None
    monkeypatch.undo()
    assert take(neighbour).attempt == 2


# Back-offs


def test_a_pop_does_not_list_every_back_off(queue: mailq.Queue, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    queue.push_many(range(500), delay=0.001)
    queue.push_many(range(500))
    entries, listings = layouts.entries, []

    def counted(directory: str, *near: Any) -> Iterator[os.DirEntry[str]]:
        listings.append(directory)
        return entries(directory, *near)

    monkeypatch.setattr(layouts, "entries", counted)
    count = 0
    for delivery in queue.drain():
        delivery.ack()
        count += 1
    assert count == 1000
    assert listings.count(str(path / "later")) < 100


def lie_still(directory: Path) -> None:
    """As if nothing had come to a directory or gone for a while."""
    os.utime(directory, ns=(0, time.time_ns() - 10**10))


def test_back_offs_are_not_listed_again_before_one_comes_or_goes(
    path: Path, queue: mailq.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delayed, "_LISTING_SHARE", 0.0)
    queue.push("far", delay=1000)
    lie_still(path / "later")
    entries, listings = layouts.entries, []

    def counted(directory: str, *near: Any) -> Iterator[os.DirEntry[str]]:
        listings.append(directory)
        return entries(directory, *near)

    monkeypatch.setattr(layouts, "entries", counted)
    for _ in range(5):
        assert queue.pop() is None
    assert listings.count(str(path / "later")) == 1
    producer = mailq.open(path)
    producer.push("near", delay=0.001)
    wait_until(lambda: (delivery := queue.pop()) is not None and delivery.body == "near", "it is found")


class Stuck(Disk):
    """Moves nothing out of ``later/`` for a while."""

    is_stuck = True

    def rename(self, source: str, target: str) -> None:
        if "/later/" in source and self.is_stuck:
            raise OSError(errno.EIO, os.strerror(errno.EIO), source)
        super().rename(source, target)


def test_a_back_off_that_could_not_be_readied_is_found_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delayed, "_LISTING_SHARE", 0.0)
    mailq.open(path)
    clock, disk = ManualClock(), Stuck()
    queue = engine_queue(path, clock=clock, disk=disk)
    queue.push("x", delay=5)
    clock.advance(6)
    lie_still(path / "later")
    assert queue.pop() is None
    disk.is_stuck = False
    assert take(queue).body == "x"


# Threads, signals, owners


def test_threads_share_one_owner_and_wake_each_other(queue: mailq.Queue, path: Path) -> None:
    start = threading.Barrier(9)
    got: list[int] = []

    def consume() -> None:
        start.wait(PATIENCE)
        while (delivery := queue.pop(wait=2 * PATIENCE)) is not None and delivery.body != "end":
            got.append(delivery.body)
            delivery.ack()
        if delivery is not None:
            delivery.ack()

    threads = [threading.Thread(target=consume) for _ in range(8)]
    for thread in threads:
        thread.start()
    start.wait(PATIENCE)
    queue.push_many(range(40))
    queue.push_many(["end"] * 8)
    for thread in threads:
        thread.join(PATIENCE)  # well within the wait: nobody slept through the end
        assert not thread.is_alive()
    assert sorted(got) == list(range(40))
    assert len(os.listdir(path / "owners")) == 1


def test_a_signal_handler_may_use_the_queue_that_it_interrupts(path: Path) -> None:
    queue = mailq.open(path, durability="process-crash")
    pushed: list[str] = []
    before = signal.signal(signal.SIGALRM, lambda *_: pushed.append(queue.push("from the handler")))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    popped = []
    try:
        while len(pushed) < 200:
            queue.push("from the program")
            for delivery in queue.pop_many(10, wait=0.001):
                popped.append(delivery.id)
                delivery.ack()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for delivery in queue.drain():
        popped.append(delivery.id)
        delivery.ack()
    assert set(pushed) <= set(popped)
    assert len(popped) == len(set(popped))


def test_an_owner_whose_file_was_removed_begins_anew(path: Path) -> None:
    mailq.open(path)
    clock = ManualClock()
    queue = engine_queue(path, clock=clock)
    queue.push_many(["x", "y"])
    first = names.parse(take(queue).receipt)
    for file in (path / "owners").iterdir():
        file.unlink()
    clock.advance(queue.settings.reap_interval)
    second = take(queue)
    claimed = names.parse(second.receipt)
    assert first is not None
    assert claimed is not None
    assert claimed.owner != first.owner
    assert os.listdir(path / "owners") == [claimed.owner]


def test_opening_many_queues_leaks_nothing() -> None:
    from mailq.engines.maildir import at_fork  # noqa: PLC0415 - looks inside

    before = len(at_fork._alive)
    for _ in range(50):
        mailq.open("memory://").push("x")
    assert len(at_fork._alive) <= before


def test_changes_of_settings_at_once_are_all_kept(queue: mailq.Queue, path: Path) -> None:
    changes: list[dict[str, object]] = [
        {"lease": 7.0},
        {"max_retries": 3},
        {"ttl": 99.0},
        {"reap_interval": 5.0},
        {"max_length": 9},
    ]
    threads = [threading.Thread(target=mailq.open(path).configure, kwargs=change) for change in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    found = mailq.open(path).settings
    assert (found.lease, found.max_retries, found.ttl, found.reap_interval, found.max_length) == (7, 3, 99, 5, 9)
