"""A backlog of messages that are not to be delivered: each claim moves some of it, and no other message waits for it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aio_queues import LONG, run
from envelopes import CENTURY, envelopes
from hypothesis import given
from hypothesis import strategies as st

import mailq
from mailq import aio, policy
from mailq.engines import budget
from mailq.engines.maildir import expired, listing, names, ready
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.ready_index import ReadyIndex
from mailq.engines.memory import MemoryEngine
from mailq.ids import new_id
from mailq.settings import Settings
from mailq.testing import ManualClock, take
from mailq.workers.job import Options, Source
from mailq.workers.signals import Wakeup
from mailq.workers.supervisor import Supervisor

MANY = 100
FEW = 10
"""What one claim moves here."""


@pytest.fixture(autouse=True)
def _each_claim_moves_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.0)
    monkeypatch.setattr(budget, "FEWEST", FEW)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def on_disk(path: Path, clock: ManualClock) -> mailq.Queue:
    mailq.open(path, durability="process-crash", reap_interval=1)
    return mailq.Queue(MaildirEngine(str(path), clock=clock))


@pytest.fixture(params=["maildir", "memory"])
def either(request: pytest.FixtureRequest, clock: ManualClock) -> mailq.Queue:
    if request.param == "memory":
        return mailq.Queue(MemoryEngine(Settings(), clock=clock))
    queue: mailq.Queue = request.getfixturevalue("on_disk")
    return queue


Backlog = Callable[[mailq.Queue, ManualClock], None]


def of_expired(queue: mailq.Queue, clock: ManualClock) -> None:
    queue.push_many(range(MANY), ttl=1)
    clock.advance(2)


def of_torn(queue: mailq.Queue, _: ManualClock) -> None:
    queue.push_many(range(MANY))
    for entry in os.scandir(f"{queue.location}/new"):
        os.truncate(entry.path, 0)


def of_due_and_expired(queue: mailq.Queue, clock: ManualClock) -> None:
    queue.push_many(range(MANY), delay=2, ttl=1)
    clock.advance(3)


def of_overdue(queue: mailq.Queue, clock: ManualClock) -> None:
    """Their last lease runs out."""
    queue.push_many(range(MANY), max_retries=0)
    queue.pop_many(MANY, lease=1, detached=True)
    clock.advance(2)


every_backlog = pytest.mark.parametrize("backlog", [of_expired, of_torn, of_due_and_expired, of_overdue])


def polls(queue: mailq.Queue, **options: Any) -> Iterator[int]:
    """Poll until something is found, or nothing is left; after each poll in between, how many it buried."""
    before = queue.stats().dead
    while queue.poll(1, **options) is None:
        dead = queue.stats().dead
        yield dead - before
        before = dead


# What one claim does


@every_backlog
def test_one_claim_moves_few_and_the_next_ones_the_rest(
    on_disk: mailq.Queue, clock: ManualClock, backlog: Backlog
) -> None:
    backlog(on_disk, clock)
    moved = list(polls(on_disk))
    assert max(moved) <= FEW
    assert len(moved) < 2.5 * MANY // FEW  # what is due is first readied, then buried
    assert on_disk.stats()[:4] == (0, 0, 0, MANY)
    assert on_disk.poll(1) == []


def test_so_does_a_queue_in_memory(either: mailq.Queue, clock: ManualClock) -> None:
    of_expired(either, clock)
    assert max(polls(either)) <= FEW
    assert either.stats()[:4] == (0, 0, 0, MANY)


def test_a_message_behind_many_that_have_expired_is_found_by_the_first_claim(
    either: mailq.Queue, clock: ManualClock
) -> None:
    of_expired(either, clock)
    either.push_many(["first", "second"])
    assert [delivery.body for delivery in either.poll(1) or ()] == ["first"]
    assert either.stats().dead == FEW
    assert take(either).body == "second"
    assert either.stats().dead == 2 * FEW


def test_so_it_is_where_the_dead_go_to_a_shared_queue(on_disk: mailq.Queue, clock: ManualClock, tmp_path: Path) -> None:
    morgue = mailq.open(tmp_path / "morgue")
    on_disk.configure(dead_letters=str(tmp_path / "morgue"), durability="power-loss")
    of_expired(on_disk, clock)
    on_disk.push("live")
    assert [delivery.body for delivery in on_disk.poll(1) or ()] == ["live"]
    assert morgue.stats().ready == FEW
    assert on_disk.pop() is None
    assert morgue.stats().ready == MANY


@every_backlog
def test_a_pop_finds_what_is_behind_a_backlog(on_disk: mailq.Queue, clock: ManualClock, backlog: Backlog) -> None:
    backlog(on_disk, clock)
    on_disk.push_many(range(5))
    assert sorted(delivery.body for delivery in on_disk.drain()) == [*range(5)]


@every_backlog
def test_a_pop_that_finds_nothing_leaves_nothing_to_be_buried(
    on_disk: mailq.Queue, clock: ManualClock, backlog: Backlog
) -> None:
    backlog(on_disk, clock)
    assert on_disk.pop() is None
    assert on_disk.stats()[:4] == (0, 0, 0, MANY)


def test_many_messages_that_are_popped_at_once_stand_among_a_backlog(on_disk: mailq.Queue, clock: ManualClock) -> None:
    for number in range(MANY):
        on_disk.push(-1, ttl=1)
        on_disk.push(number)
    clock.advance(2)
    assert [delivery.body for delivery in on_disk.pop_many(MANY)] == [*range(MANY)]


def test_more_expired_messages_than_are_kept_hide_no_other_and_are_buried_too(
    on_disk: mailq.Queue, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expired, "MOST", 25)
    of_expired(on_disk, clock)
    on_disk.push("live")
    assert take(on_disk).body == "live"
    assert on_disk.pop() is None
    assert on_disk.stats().dead == MANY


def test_a_backlog_is_not_listed_for_each_of_the_claims_that_bury_it(
    on_disk: mailq.Queue, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_FRESH", 3600.0)
    listed = listings(monkeypatch)
    of_expired(on_disk, clock)
    on_disk.push("live")
    assert [delivery.body for delivery in on_disk.pop_many(5)] == ["live"]
    assert sum(polls(on_disk)) > MANY // 2
    assert len(listed) <= 4  # two to find all, and two to see that nothing is left


def test_what_arrives_while_a_backlog_is_buried_is_found_at_once(
    on_disk: mailq.Queue, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel tells of it."""
    monkeypatch.setattr(ready, "_MUCH", 0.0)
    of_expired(on_disk, clock)
    on_disk.push("first")
    assert take(on_disk).body == "first"
    mailq.open(on_disk.location).push("second")
    assert [delivery.body for delivery in on_disk.poll(1) or ()] == ["second"]
    assert on_disk.stats().dead < MANY


# What is due, and what comes back


def test_what_came_due_in_masses_is_delivered_in_its_order(on_disk: mailq.Queue, clock: ManualClock) -> None:
    on_disk.push_many(range(MANY), delay=5)
    clock.advance(6)
    on_disk.push(MANY)
    assert take(on_disk).body == 0
    assert on_disk.stats().delayed == MANY - FEW
    assert [delivery.body for delivery in on_disk.drain()] == [*range(1, MANY + 1)]


def test_leases_that_ran_out_in_masses_come_back_with_the_next_claims(on_disk: mailq.Queue, clock: ManualClock) -> None:
    on_disk.push_many(range(MANY))
    on_disk.pop_many(MANY, lease=1, detached=True)
    clock.advance(2)
    found = on_disk.poll(MANY)
    assert [delivery.attempt for delivery in found or ()] == [2] * FEW
    assert len(list(on_disk.drain())) == MANY - FEW


def test_a_lease_that_is_extended_while_others_are_given_back_holds(on_disk: mailq.Queue, clock: ManualClock) -> None:
    on_disk.push_many(range(MANY))
    held = on_disk.pop_many(MANY, lease=1, detached=True)
    clock.advance(0.9)
    for delivery in held[:50]:
        delivery.extend(1)
    clock.advance(0.5)
    assert on_disk.poll(1)  # looks at few of them
    for delivery in held[:50]:
        delivery.extend(3600)
    clock.advance(2)
    assert len(list(on_disk.drain())) == MANY - 50 - 1
    for delivery in held[:50]:
        delivery.ack()


def test_who_asks_for_a_reaping_gets_all_of_it(either: mailq.Queue, clock: ManualClock) -> None:
    either.push_many(range(MANY))
    either.pop_many(MANY, lease=1)
    either.push_many(range(MANY), delay=1)
    clock.advance(2)
    assert either.reap()[:3] == (MANY, 0, MANY)


# Who waits


def test_nobody_waits_while_there_is_something_left(on_disk: mailq.Queue, clock: ManualClock) -> None:
    of_torn(on_disk, clock)
    on_disk.push("live", priority=9)
    assert [delivery.body for delivery in on_disk.poll(2) or ()] == ["live"]
    on_disk.subscribe(print)
    assert on_disk.subscribe(print) == 0.0
    on_disk.drain()
    on_disk.pause()
    assert on_disk.poll(1) == []
    assert on_disk.subscribe(print) > 0.0  # a queue that is paused keeps nobody busy


def test_a_worker_comes_back_at_once_and_is_not_done_before_all_are_buried(
    on_disk: mailq.Queue, clock: ManualClock
) -> None:
    of_expired(on_disk, clock)
    source = Source(on_disk, 0, lambda: None)
    rounds = 0
    while not source.dry:
        assert source.is_due(0.0)
        assert source.pop(1, None) == []
        rounds += 1
    assert rounds >= MANY // FEW
    assert on_disk.stats()[:4] == (0, 0, 0, MANY)


class Idle:
    """A pool that takes any number of jobs, and was given none yet."""

    def idle(self) -> int:
        return 1


def test_a_worker_attends_to_its_jobs_before_it_buries_in_the_next_queue(tmp_path: Path) -> None:
    clock, pool = ManualClock(), Idle()
    queues = []
    for number in range(3):
        mailq.open(tmp_path / f"{number}")
        queues.append(mailq.Queue(MaildirEngine(str(tmp_path / f"{number}"), clock=clock)))
        queues[-1].push_many(range(MANY), ttl=1)
    clock.advance(2)
    supervisor = Supervisor([(queue, 0) for queue in queues], pool, Options(), Wakeup())  # type: ignore[arg-type] # a part of one
    for turn in range(1, 7):
        supervisor._claim(0.0)
        assert [queue.stats().dead for queue in queues] == [FEW * ((turn + 2 - number) // 3) for number in range(3)]


def test_a_worker_that_drains_buries_all(either: mailq.Queue, clock: ManualClock) -> None:
    of_expired(either, clock)
    either.push("live")
    done: list[Any] = []
    mailq.Worker(either, done.append, threads=2).run(drain=True)
    assert done == ["live"]
    assert either.stats()[:4] == (0, 0, 0, MANY)


@pytest.mark.parametrize("wait", [0.0, 0.01, LONG])
def test_a_pop_that_is_awaited_finds_what_is_behind_a_backlog(
    on_disk: mailq.Queue, clock: ManualClock, wait: float
) -> None:
    of_torn(on_disk, clock)
    on_disk.push("live")

    async def test(q: aio.AsyncQueue) -> None:
        delivery = await q.pop(wait=wait)
        assert delivery is not None
        assert delivery.body == "live"
        assert await q.pop() is None
        assert (await q.stats()).dead == MANY

    run(on_disk, test)


def test_several_threads_bury_a_backlog_together(on_disk: mailq.Queue, clock: ManualClock) -> None:
    of_expired(on_disk, clock)
    on_disk.push_many(range(MANY))
    bodies: list[Any] = []

    def consume() -> None:
        for delivery in on_disk.drain():
            bodies.append(delivery.body)
            delivery.ack()

    threads = [threading.Thread(target=consume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bodies) == [*range(MANY)]
    assert on_disk.stats()[:4] == (0, 0, 0, MANY)


# What the disk refuses


class Refusing(Disk):
    """Renames no file of a size to a place."""

    def __init__(self, size: int, place: str = "cur") -> None:
        self._size = size
        self._place = place
        self.tries = 0

    def rename(self, source: str, target: str) -> None:
        if os.path.basename(os.path.dirname(target)) == self._place and f"size={self._size}," in source:
            self.tries += 1
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), source)
        super().rename(source, target)


def test_a_message_behind_more_that_the_disk_refuses_than_a_window_holds_is_reached(
    path: Path, clock: ManualClock
) -> None:
    mailq.open(path, durability="process-crash")
    disk = Refusing(len("bad"))
    engine = MaildirEngine(str(path), disk=disk, clock=clock)
    engine._ready._index = ReadyIndex(size=MANY // 5)
    queue = mailq.Queue(engine)
    queue.push_many(["bad"] * MANY)
    queue.push("delivered")
    tries = [0]
    while (found := queue.poll(1)) is None:
        tries.append(disk.tries)
        assert disk.tries <= MANY
    assert [delivery.body for delivery in found] == ["delivered"]
    assert max(after - before for before, after in pairwise(tries)) <= FEW
    assert disk.tries == MANY
    with pytest.raises(mailq.StorageError):
        queue.pop()
    assert disk.tries == 2 * MANY


def test_expired_messages_that_cannot_be_buried_stop_no_other(path: Path, clock: ManualClock) -> None:
    mailq.open(path, durability="process-crash")
    queue = mailq.Queue(MaildirEngine(str(path), disk=Refusing(len("old"), "dead"), clock=clock))
    queue.push_many(["old"] * MANY, ttl=1)
    clock.advance(2)
    queue.push_many(["live", "next"])
    assert [take(queue).body, take(queue).body] == ["live", "next"]
    for _ in range(3):
        with pytest.raises(mailq.StorageError):
            queue.pop()
    assert queue.stats()[:4] == (MANY, 0, 2, 0)


def test_when_messages_shall_live_longer_those_that_were_to_be_buried_are_delivered(
    path: Path, clock: ManualClock
) -> None:
    mailq.open(path, durability="process-crash", ttl=1)
    queue = mailq.Queue(MaildirEngine(str(path), clock=clock))
    queue.push_many(range(MANY))
    clock.advance(2)
    assert queue.poll(1) is None
    queue.configure(ttl=3600)
    assert len({delivery.body for delivery in queue.drain()}) == MANY - FEW


def test_a_file_that_only_looks_like_an_expired_message_is_delivered(path: Path, clock: ManualClock) -> None:
    mailq.open(path)
    queue = mailq.Queue(MaildirEngine(str(path), clock=clock))
    id = new_id(clock())
    (path / "new" / f"{names.format_time(clock())},{id},ttl=1.json.bak").write_bytes(b"x")
    clock.advance(2)
    assert take(queue).raw == b"x"


# What a name says


@given(
    st.one_of(envelopes().map(names.format_name), st.text()),
    st.none() | st.floats(0.001, 1e9),
    st.integers(0, CENTURY * 2),
)
def test_a_listing_tells_the_expired_by_their_names_as_a_claim_does(name: str, ttl: float | None, now: int) -> None:
    store: Any = type("", (), {"settings": Settings(ttl=ttl), "clock": lambda _: now})()
    known = expired.Expired(store, None)  # type: ignore[arg-type] # not needed
    key = names.sort_key(name)
    is_live = list(known.sift([key])) == [key]
    envelope = names.parse(name)
    assert is_live is not (envelope is not None and policy.has_expired(envelope, store.settings, now))


def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that claims list from now on."""
    seen: list[str] = []
    real = listing.first_ready

    def first_ready(directory: str, *how: Any) -> list[str]:
        seen.append(directory)
        return real(directory, *how)

    monkeypatch.setattr(listing, "first_ready", first_ready)
    return seen
