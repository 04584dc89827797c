"""A long line is listed seldom, whatever happens to single messages: each listing takes as long as thousands of pops."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from together import fast_directory

import mailq
from mailq.engines.maildir import listing, names, ready, watcher
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.ids import NS, new_id
from mailq.testing import ManualClock, take

COUNT = 50
LEASE = 1.0


class Failing(Disk):
    """Fails to claim as often as it is told to."""

    fails = 0

    def rename(self, source: str, target: str) -> None:
        if self.fails and os.path.basename(os.path.dirname(target)) == "cur":
            self.fails -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), source)
        super().rename(source, target)


class Scene:
    """A consumer in the midst of a line, some messages of which it holds; ``listed`` counts its listings."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        self.disk = Failing()
        self.engine = MaildirEngine(str(path), disk=self.disk, clock=self.clock)
        self.queue = mailq.Queue(self.engine)
        self.ids = self.queue.push_many(range(COUNT))
        self.queue.push_many(["later"], delay=LEASE)
        assert self.queue.pop_many(2, lease=LEASE, detached=True)
        self.listed = 0
        real = listing.first_ready

        def first_ready(*how: Any) -> list[str]:
            self.listed += 1
            return real(*how)

        monkeypatch.setattr(listing, "first_ready", first_ready)

    def rest(self) -> list[Any]:
        return [delivery.body for delivery in self.queue.drain()]


@pytest.fixture(params=["told", "not told"])
def scene(path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """The kernel tells it of arrivals, or not."""
    monkeypatch.setattr(ready, "_FRESH", 3600.0)
    monkeypatch.setattr(ready, "_MUCH", 0.0)
    if request.param == "not told":
        monkeypatch.setattr(watcher, "watch", lambda *_: None)
    mailq.open(path, durability="process-crash", reap_interval=LEASE, retry_order="front")
    scene = Scene(path, monkeypatch)
    yield scene
    scene.queue.close()


def run_out(scene: Scene) -> None:
    scene.clock.advance(2 * LEASE)


def reap(scene: Scene) -> None:
    scene.clock.advance(2 * LEASE)
    assert scene.queue.reap()[:3] == (2, 0, 1)


@pytest.mark.parametrize("happens", [run_out, reap])
def test_leases_that_run_out_and_messages_that_come_due_cost_no_listing(
    scene: Scene, happens: Callable[[Scene], None]
) -> None:
    happens(scene)
    assert [(d.body, d.attempt) for d in scene.queue.pop_many(4)] == [(0, 2), (1, 2), (2, 1), (3, 1)]
    assert scene.listed == 0
    assert scene.rest() == [*range(4, COUNT), "later"]


def test_what_came_back_to_the_end_of_the_line_is_found_there(scene: Scene) -> None:
    scene.queue.configure(retry_order="back")
    scene.clock.advance(2 * LEASE)
    assert take(scene.queue).body == 2
    assert scene.listed == 0
    rest = scene.rest()
    assert rest[: COUNT - 3] == [*range(3, COUNT)]
    assert sorted(rest[COUNT - 3 :], key=str) == [0, 1, "later"]


def test_what_the_disk_refused_costs_no_listing_before_the_line_is_used_up(scene: Scene) -> None:
    scene.disk.fails = 3
    assert take(scene.queue).body == 5
    assert take(scene.queue).body == 6
    assert scene.listed == 0
    assert scene.rest() == [*range(7, COUNT), 2, 3, 4]


def test_what_the_disk_refused_is_looked_for_soon(scene: Scene) -> None:
    scene.disk.fails = 1
    assert take(scene.queue).body == 3
    scene.engine._ready._doubted_until = 0.0  # time has passed
    scene.disk.fails = 1
    assert take(scene.queue).body == 5
    assert scene.listed == 0
    assert [delivery.body for delivery in scene.queue.pop_many(2)] == [2, 4]


def test_a_redrive_that_finds_nothing_costs_no_listing(scene: Scene) -> None:
    assert scene.queue.redrive() == 0
    assert take(scene.queue).body == 2
    assert scene.listed == 0


def test_what_the_kernel_did_not_tell_costs_no_listing_before_the_line_is_used_up(scene: Scene) -> None:
    scene.engine._ready.on_overflow()
    assert take(scene.queue).body == 2
    assert scene.listed == 0
    mailq.open(scene.queue.location).push("new")
    assert scene.rest() == [*range(3, COUNT), "new"]


def test_what_the_kernel_did_not_tell_is_looked_for_soon(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(scene.engine._ready, "on_events", lambda _: None)
        mailq.open(scene.queue.location).push("urgent", priority=9)
        assert take(scene.queue).body == 2
    scene.engine._ready._doubted_until = 0.0  # time has passed
    scene.engine._ready.on_overflow()
    assert take(scene.queue).body == "urgent"


def test_in_a_line_of_which_some_is_missing_the_kernel_is_still_heard(scene: Scene) -> None:
    scene.engine._ready.on_overflow()
    mailq.open(scene.queue.location).push("urgent", priority=9)
    assert take(scene.queue).body == ("urgent" if scene.engine._notifier._watch is not None else 2)
    assert scene.listed == 0


def test_a_message_that_two_have_told_of_is_taken_once(scene: Scene) -> None:
    """This process has, which gave it back, and the kernel."""
    first, second = scene.queue.pop_many(2)
    first.release()
    second.release()
    assert [delivery.body for delivery in scene.queue.pop_many(3)] == [2, 3, 4]
    assert scene.listed == 0
    assert scene.rest() == [*range(5, COUNT)]
    if scene.engine._notifier._watch is not None:
        assert scene.listed == 0  # nothing is missing


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_600_000_waiting_and_a_lease_that_runs_out_every_two_seconds_hardly_any_time_goes_into_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, seconds, jobs = 600_000, 60.0, 1000.0
    spent = [0.0]
    real = listing.first_ready

    def first_ready(*how: Any) -> list[str]:
        begun = time.monotonic()
        try:
            return real(*how)
        finally:
            spent.append(time.monotonic() - begun)

    monkeypatch.setattr(listing, "first_ready", first_ready)
    with fast_directory(tmp_path) as directory:
        queue = mailq.open(f"{directory}/jobs", durability="process-crash", reap_interval=1.0)
        start = time.time_ns() - 3600 * NS
        for at in range(start, start + count):
            name = f"{names.format_time(at)},{new_id(at)},size=0,crc=00000000.bin"
            os.close(os.open(f"{directory}/jobs/new/{name}", os.O_CREAT | os.O_WRONLY, 0o600))
        for delivery in queue.pop_many(40_000):  # more than the first listing finds: now it knows how long the line is
            delivery.ack()
        warm, returned = sum(spent), 0
        begun = next_lease = time.monotonic()
        while (now := time.monotonic()) < begun + seconds:
            if now >= next_lease:
                assert queue.pop(lease=1.0)
                next_lease = now + 2.0
            delivery = take(queue)
            returned += delivery.attempt > 1
            delivery.ack()
            time.sleep(1 / jobs)  # what a job takes: the line must not be used up
        assert returned >= 20
        assert sum(spent) - warm < 0.02 * seconds, spent
