"""A clock that steps back and forth by hours: nothing is lost, nothing stops for ever, nobody spins."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hosts import HOUR, MINUTE, Host
from together import wait_until

import mailq
from mailq.engines.base import Claimed
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.testing import ManualClock, take
from mailq.testing.contract.base import bodies

DAY = 24 * HOUR


@pytest.fixture
def true(path: Path) -> ManualClock:
    mailq.open(path, backoff=(0.0, 0.0), durability="process-crash").close()
    return ManualClock()


# Order


@pytest.mark.parametrize("step", [-HOUR, HOUR, -DAY * 365])
def test_one_producer_is_in_order_across_a_step(path: Path, true: ManualClock, step: float) -> None:
    """Its places in line never go backwards, as long as it has the queue open."""
    producer, consumer = Host(path, true), Host(path, true)
    names = []
    for n in range(40):
        if n % 10 == 5:
            producer.off += step if n % 20 == 5 else -step
        true.advance(0.001)
        producer.queue.push(n)
    names = sorted(os.listdir(path / "new"))
    assert [(path / "new" / name).read_bytes() for name in names] == [b"%d" % n for n in range(40)]
    assert bodies(consumer.queue) == list(range(40))


@pytest.mark.xfail(strict=True, reason="each opened queue keeps its own time; nothing in a process outlives it")
def test_a_process_that_opens_the_queue_anew_after_a_step_back_is_in_order(path: Path, true: ManualClock) -> None:
    for n, off in enumerate((0.0, -HOUR)):
        Host(path, true, off).queue.push(n)
    assert bodies(Host(path, true).queue) == [0, 1]


def test_what_is_pushed_an_hour_ahead_waits_behind_the_others_and_no_longer(path: Path, true: ManualClock) -> None:
    fast, right = Host(path, true, HOUR), Host(path, true)
    fast.queue.push_many(["fast 1", "fast 2"])
    right.queue.push_many(["right 1", "right 2"])
    assert bodies(right.queue) == ["right 1", "right 2", "fast 1", "fast 2"]


def test_a_retry_at_the_end_of_the_line_is_not_lost_behind_a_step(path: Path, true: ManualClock) -> None:
    mailq.open(path).configure(retry_order="back")
    host = Host(path, true)
    host.off = HOUR
    host.queue.push("x")
    host.off = 0
    take(host.queue).nack(delay=0)
    assert take(host.queue).attempt == 2


# Delays


@pytest.mark.parametrize("off", [HOUR, -HOUR, 0.0])
@pytest.mark.parametrize("how", ["push", "nack", "release"])
def test_a_delay_lasts_as_long_as_it_is_and_the_clocks_are_apart(
    path: Path, true: ManualClock, off: float, how: str
) -> None:
    one, other = Host(path, true, off), Host(path, true)
    if how == "push":
        one.queue.push("x", delay=10 * MINUTE)
    else:
        one.queue.push("x")
        getattr(take(one.queue), how)(delay=10 * MINUTE)
    lasts = 10 * MINUTE + off
    if lasts > 0:
        true.advance(lasts - 0.01)
        assert other.queue.pop() is None
        true.advance(0.02)
    assert take(other.queue).body == "x"


@pytest.mark.parametrize("look", ["before", "after"])
def test_what_is_delayed_comes_due_after_a_step_back_and_forth(path: Path, true: ManualClock, look: str) -> None:
    """Also for a consumer that has it in mind already."""
    host = Host(path, true)
    host.queue.push("x", delay=MINUTE)
    if look == "before":
        assert host.queue.pop() is None
    host.off = -HOUR
    true.advance(2 * MINUTE)
    assert host.queue.pop() is None
    host.off = 0
    assert take(host.queue).body == "x"


def test_a_step_forward_makes_everything_due(path: Path, true: ManualClock) -> None:
    host = Host(path, true)
    host.queue.push_many(range(5), delay=MINUTE)
    assert host.queue.pop() is None
    host.off = HOUR
    assert bodies(host.queue) == list(range(5))


# Time to live


def test_a_ttl_is_reckoned_from_the_producers_clock_by_the_consumers(path: Path, true: ManualClock) -> None:
    fast, slow, right = Host(path, true, HOUR), Host(path, true, -HOUR), Host(path, true)
    for name, host in {"fast": fast, "slow": slow, "right": right}.items():
        host.queue.push(name, ttl=10 * MINUTE)
    assert sorted(bodies(right.queue)) == ["fast", "right"]
    assert [(letter.body, letter.reason) for letter in right.queue.peek("dead")] == [("slow", "expired")]
    fast.queue.push("fast", ttl=10 * MINUTE)
    true.advance(HOUR + 10 * MINUTE + 1)
    assert right.queue.pop() is None
    assert right.queue.stats().dead == 2, "given up on, and not gone"


# Those who keep house


@pytest.mark.parametrize("off", [HOUR, -HOUR, DAY * 365, -DAY * 365])
def test_reaping_goes_on_whatever_the_time_of_the_last_one(path: Path, true: ManualClock, off: float) -> None:
    """The stamp on the lock may come from another clock, or from before a step."""
    consumer, holder = Host(path, true), Host(path, true)
    consumer.queue.push_many(range(4))
    for turn in range(3):
        take(holder.queue)
        holder.engine._holder.close()
        stamp = consumer.seconds + off
        (path / ".reap.lock").touch()
        os.utime(path / ".reap.lock", (stamp, stamp))
        true.advance(consumer.queue.settings.reap_interval)
        delivery = take(consumer.queue)
        assert (delivery.body, delivery.attempt) == (turn, 2)
        delivery.ack()


@pytest.mark.parametrize("step", [-HOUR, HOUR, -DAY * 365, DAY * 365])
def test_a_consumer_goes_on_reaping_after_its_clock_has_stepped(path: Path, true: ManualClock, step: float) -> None:
    consumer, holder = Host(path, true), Host(path, true)
    consumer.queue.push_many(range(2))
    take(consumer.queue).ack()  # so that it has an appointment to reap again
    take(holder.queue, lease=2 * DAY * 366)
    holder.engine._holder.close()
    consumer.off = step
    true.advance(consumer.queue.settings.reap_interval)
    assert take(consumer.queue).attempt == 2


class Stamping(Disk):
    """A disk whose files have the time of the host that writes them."""

    host: Host

    def rename(self, source: str, target: str) -> None:
        os.utime(source, (self.host.seconds, self.host.seconds))
        super().rename(source, target)


@pytest.mark.parametrize("step", [-HOUR, -DAY * 365, HOUR])
def test_replies_are_swept_after_a_step(path: Path, true: ManualClock, step: float) -> None:
    """One from the future lives longer by so much, and no more."""
    disk = Stamping()
    disk.host = host = Host(path, true, disk=disk)
    ttl = host.queue.settings.reply_ttl

    def answer() -> str:
        reply = host.queue.request("x")
        with take(host.queue):
            host.engine.put_reply(reply.id, b"{}")
        return f"{reply.id}.json"

    before = answer()
    host.off = step
    after = answer()
    true.advance(ttl * 1.2)
    answer()
    assert after not in os.listdir(path / "replies")
    true.advance(max(0.0, -step))
    answer()
    assert before not in os.listdir(path / "replies")


def test_litter_from_the_future_is_swept_a_day_after_its_time(path: Path, true: ManualClock) -> None:
    host = Host(path, true)
    litter = path / "tmp" / f".reply.{'0' * 16}"
    litter.touch()
    os.utime(litter, (host.seconds + HOUR, host.seconds + HOUR))
    true.advance(DAY + HOUR - 1)
    host.queue.reap()
    assert litter.exists()
    true.advance(2)
    host.queue.reap()
    assert not litter.exists()


class Swept(Disk):
    """Lets somebody whose clock is days ahead reap while a file is being written."""

    reaper: Host | None = None

    def rename(self, source: str, target: str) -> None:
        if self.reaper is not None and "/tmp/" in source:
            reaper, self.reaper = self.reaper, None
            reaper.queue.reap()
        super().rename(source, target)


def test_a_push_whose_file_is_swept_by_a_clock_days_ahead_is_refused_and_not_lost(
    path: Path, true: ManualClock
) -> None:
    disk = Swept()
    producer, fast = Host(path, true, disk=disk), Host(path, true, 2 * DAY)
    disk.reaper = fast
    with pytest.raises(mailq.StorageError) as failure:
        producer.queue.push("swept")
    assert len(failure.value.maybe_pushed) <= 1, "it cannot tell whether somebody has taken it already"
    assert os.listdir(path / "new") == []
    id = producer.queue.push("again")
    assert [message.id for message in producer.queue.peek(limit=None)] == [id]


def test_a_pause_knows_no_time(path: Path, true: ManualClock) -> None:
    host = Host(path, true)
    host.queue.push("x")
    host.queue.pause()
    for off in (HOUR, -HOUR, DAY * 365 * 100):
        host.off = off
        assert host.queue.pop() is None
    host.queue.resume()
    assert take(host.queue).body == "x"


# Waiting


@pytest.mark.parametrize("what", ["a delay", "a lease"])
def test_who_waits_notices_what_a_step_of_the_clock_brings(path: Path, true: ManualClock, what: str) -> None:
    """It asked the clock how long to wait, and looks once a second all the same."""
    holder, host = Host(path, true), Host(path, true)
    id = holder.queue.push("x", delay=HOUR if what == "a delay" else 0.0)
    if what == "a lease":
        take(holder.queue, lease=HOUR, detached=True)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(host.queue.pop, wait=40)
        wait_until(lambda: host.engine._notifier._watch is not None, "it waits")
        host.off = 2 * HOUR
        delivery = waiting.result(50)
    assert delivery is not None
    assert delivery.id == id
    host.queue.close()


class Counting(MaildirEngine):
    """Counts the claims."""

    claims = 0

    def claim(self, limit: int, *, lease: float | None, detached: bool) -> Claimed:
        self.claims += 1
        return super().claim(limit, lease=lease, detached=detached)


def jump_to(ns: int) -> Callable[[int, int], int]:
    return lambda now, _turn: ns


JUMPS: dict[str, Callable[[int, int], int]] = {
    "stands still": lambda now, turn: now,
    "back by an hour, once": lambda now, turn: now - (3600 * 10**9 if turn > 3 else 0),
    "forward by an hour, once": lambda now, turn: now + (3600 * 10**9 if turn > 3 else 0),
    "an hour back and forth": lambda now, turn: now - 3600 * 10**9 * (turn // 7 % 2),
    "an hour back with each look": lambda now, turn: now - 3600 * 10**9 * turn,
    "an hour forward, ten times": lambda now, turn: now + 3600 * 10**9 * min(turn // 5, 10),
    "1970": jump_to(1),
    "9999": jump_to(253_402_300_000 * 10**9),
}


@pytest.mark.parametrize("holds", ["nothing", "a lease", "a delay"])
@pytest.mark.parametrize("jump", JUMPS)
def test_who_waits_does_not_spin_when_the_clock_jumps(path: Path, true: ManualClock, jump: str, holds: str) -> None:
    """It looks once a second, when it begins and ends, and when something may be due; each jump may cost one more."""
    turn = 0

    def clock() -> int:
        nonlocal turn
        turn += 1
        return JUMPS[jump](true(), turn)

    holder = Host(path, true)
    if holds != "nothing":
        holder.queue.push("x", delay=DAY * 365 * 9 if holds == "a delay" else 0.0)
    if holds == "a lease":
        take(holder.queue, lease=DAY * 365 * 9)
    engine = Counting(str(path), clock=clock)
    queue = mailq.Queue(engine)
    queue.pop(wait=0.15)
    assert engine.claims <= 30, f"{engine.claims} looks, {turn} readings of the clock"
    queue.close()


# All at once


@pytest.mark.parametrize("seed", range(4))
def test_hosts_whose_clocks_step_all_the_time_lose_nothing_and_hold_nothing_for_ever(
    path: Path, true: ManualClock, seed: int
) -> None:
    """In the end, when the longest lease and the largest difference of clocks are over, everything is there."""
    dice = random.Random(seed)
    hosts = [Host(path, true) for _ in range(3)]
    pushed: set[str] = set()
    acked: Counter[str] = Counter()
    for _ in range(200):
        host = dice.choice(hosts)
        true.advance(dice.choice((0.001, 1, 30)))
        if dice.random() < 0.2:
            host.off = dice.uniform(-6 * HOUR, 6 * HOUR)
        pushed.update(host.queue.push_many("xy", delay=dice.choice((0, 0, MINUTE, HOUR)), max_retries=3))
        for delivery in host.queue.pop_many(3, lease=dice.choice((1, 60, HOUR)), detached=dice.random() < 0.5):
            verb = dice.choice(("ack", "nack", "release", "reject", "forget", "extend"))
            if dice.random() < 0.3:
                host.off += dice.uniform(-HOUR, HOUR)
                dice.choice(hosts).queue.reap()
            try:
                if verb == "ack":
                    delivery.ack()
                    acked[delivery.id] += 1
                elif verb != "forget":
                    getattr(delivery, verb)(*([HOUR] if verb == "extend" else []))
            except mailq.LeaseLost:
                continue
    for host in hosts:
        host.vanish()
    true.advance(7 * HOUR + 7 * HOUR + HOUR)  # the most that a clock was off; and a lease or delay upon it
    last = Host(path, true)
    last.queue.reap()
    assert os.listdir(path / "cur") == []
    assert os.listdir(path / "later") == []
    ready, dead = ({message.id for message in last.queue.peek(state, None)} for state in ("ready", "dead"))
    assert pushed == acked.keys() | ready | dead
    assert set(acked.values()) == {1}
    assert not acked.keys() & (ready | dead)
    assert not ready & dead
    assert len(ready) == len(bodies(last.queue))
