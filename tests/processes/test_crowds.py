"""Many processes on one queue that get in each other's way."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from together import Child, ahead, wait_until

import mailq
from mailq.engines.maildir import notify
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.ids import NS
from mailq.testing.contract.base import bodies

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class StampingDisk(Disk):
    """Counts the reapings, each of which leaves its stamp on the lock."""

    def __init__(self) -> None:
        self.ids = 0

    def utime(self, path: str, ns: int) -> None:
        self.ids += path.endswith("/.reap.lock")
        super().utime(path, ns)


def poll_when_told(pipe: Connection[Any, Any], path: str) -> None:
    """Poll at each instant that is told; say how many reapings that made."""
    disk, now = StampingDisk(), time.time_ns()
    queue = mailq.Queue(MaildirEngine(path, disk=disk, clock=lambda: now))
    pipe.send("ready")
    while (now := pipe.recv()) is not None:
        before = disk.ids
        for _ in range(20):
            queue.pop()
        pipe.send(disk.ids - before)


def test_however_many_poll_one_reaps_an_interval(path: Path) -> None:
    queue = mailq.open(path, reap_interval=2.0, lease=3600)
    queue.push("held all the time")
    assert queue.pop() is not None
    with ExitStack() as stack:
        consumers = [stack.enter_context(Child(poll_when_told, str(path))) for _ in range(4)]
        assert [consumer.hear() for consumer in consumers] == ["ready"] * 4
        begun = time.time_ns() + 10 * NS
        reapings = []
        for second in range(9):
            for consumer in consumers:
                consumer.say(begun + second * NS)
            reapings.append(sum(consumer.hear() for consumer in consumers))
        for consumer in consumers:
            consumer.say(None)
            consumer.join()
    # At the very first several may find that there is no lock yet, and no stamp; each of them reaps.
    assert reapings[0] >= 1
    assert reapings[1:] == [0, 1, 0, 1, 0, 1, 0, 1]


class StoppingDisk(Disk):
    """Stops the process when it has begun to reap, like a frozen container or a debugger."""

    def utime(self, path: str, ns: int) -> None:
        super().utime(path, ns)
        if path.endswith("/.reap.lock"):
            os.kill(os.getpid(), signal.SIGSTOP)


def stop_within_a_reaping(pipe: Connection[Any, Any], path: str) -> None:
    pipe.send("ready")
    mailq.Queue(MaildirEngine(path, disk=StoppingDisk())).pop()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for whether a process is stopped")
def test_who_is_stopped_in_the_midst_of_reaping_does_not_keep_the_others_from_it(path: Path) -> None:
    queue = mailq.open(path, lease=3600)
    queue.push("x")
    holder = mailq.open(path)
    assert holder.pop() is not None
    holder.close()
    queue.push("y")
    with Child(stop_within_a_reaping, str(path)) as stopped:
        assert stopped.hear() == "ready"
        wait_until(lambda: state_of(stopped.pid) == "T", "it is stopped")
        assert bodies(ahead(path, 1.0)) == ["y"], "it may be at work"
        assert bodies(ahead(path, 600.0)) == ["x"]


def work_late(pipe: Connection[Any, Any], path: str) -> None:
    """Ack each message when its lease has run out or is about to; tell what the acks came to."""
    queue = mailq.open(path, create=False)
    acked: list[str] = []
    lost = 0
    while not pipe.poll():
        delivery = queue.pop(lease=0.001)
        if delivery is None:
            continue
        deadline = delivery.deadline_at or 0.0
        wait_until(lambda at=deadline: time.time() >= at - 0.0005, "it is late")  # type: ignore[misc]
        try:
            delivery.ack()
            acked.append(delivery.id)
        except mailq.LeaseLost:
            lost += 1
    pipe.send((acked, lost))


def reap_when_free(pipe: Connection[Any, Any], path: str) -> None:
    queue = mailq.open(path, create=False)
    pipe.send("ready")
    while not pipe.poll():
        queue.reap()


def test_of_those_who_ack_late_one_succeeds_for_each_message(path: Path) -> None:
    """The ack of a lease that ran out races the reaper and the next holder; one rename or unlink decides."""
    queue = mailq.open(path, durability="process-crash", max_retries=99_999, reap_interval=0.001)
    with ExitStack() as stack:
        reaper = stack.enter_context(Child(reap_when_free, str(path)))
        assert reaper.hear() == "ready"
        ids = queue.push_many(range(300))
        workers = [stack.enter_context(Child(work_late, str(path))) for _ in range(3)]
        wait_until(lambda: len(queue) == 0, "all are acked")
        for child in (*workers, reaper):
            child.say("end")
        acked = Counter(id for worker in workers for id in worker.hear()[0])
    assert acked == Counter(ids)
    assert queue.stats() == mailq.Stats()


def outlive_a_child(pipe: Connection[Any, Any], path: str) -> None:
    """Wait, fork a child that uses the queue and ends, and wait again with no look but the watch's."""
    notify._LOOK_WATCHED = 3600.0  # type: ignore[misc]
    queue = mailq.open(path, create=False)
    queue.pop(wait=0.01)
    if (child := os.fork()) == 0:
        queue.pop(wait=0.01)
        queue.close()
        os._exit(0)
    os.waitpid(child, 0)
    queue.pop(wait=0.01)
    pipe.send("waiting")
    delivery = queue.pop(wait=3000)
    pipe.send(delivery and delivery.body)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_that_ends_leaves_its_parents_watch_alone(path: Path) -> None:
    queue = mailq.open(path, reap_interval=60)
    with Child(outlive_a_child, str(path)) as parent:
        assert parent.hear() == "waiting"
        queue.push("x")
        assert parent.hear() == "x"
