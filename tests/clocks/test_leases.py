"""How long a lease can last when clocks disagree: no lease is immortal.

A lease ends, for whoever reaps, when his clock has come to ``max(until, mtime)``: the deadline that the claimer, or who
extended it, reckoned by his own clock. So, with the claimer's clock ``s`` seconds ahead of the reaper's (behind: less
than 0), a lease of ``L`` seconds lasts

    max(0, L + s)      seconds after its claim or last extension, if its holder lives on, dies on a host whose locks do
                       not reach the reaper, or was detached
    no time at all     once its holder has died, or left, where the reaper can see that: the clocks do not matter

A clock that steps counts like another clock: ahead before it steps back. Extending never shortens: a deadline that was
told before the step stays. A file without ``until`` has its lease from its ctime, by the clock of the disk. An mtime
that lies beyond the new deadline is taken back before the claim, so it lengthens nothing.

With a claimer behind by ``L`` or more every reaper takes the message back at once, and each time counts an attempt.
Nothing is lost by it: the holder is told LeaseLost, or acks first; the message is acked or ends in ``dead/``.
"""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hosts import HOUR, Host
from together import Child, ahead

import mailq
from mailq.testing import ManualClock, take

LEASE = 60.0


@pytest.fixture
def true(path: Path) -> ManualClock:
    mailq.open(path, lease=LEASE, backoff=(0.0, 0.0)).close()
    return ManualClock()


@pytest.mark.parametrize("how", ["detached", "vanished", "alive"])
@pytest.mark.parametrize("reaper", [0.0, HOUR, -HOUR])
@pytest.mark.parametrize("claimer", [0.0, HOUR, -HOUR, 30.0, -30.0])
def test_a_lease_lasts_as_long_as_it_is_and_the_clocks_are_apart(
    path: Path, true: ManualClock, claimer: float, reaper: float, how: str
) -> None:
    one, other = Host(path, true, claimer), Host(path, true, reaper)
    id = one.queue.push("x")
    held = take(one.queue, detached=how == "detached")
    if how == "vanished":
        one.vanish()
    lasts = max(0.0, LEASE + claimer - reaper)
    if lasts:
        true.advance(lasts - 0.01)
        assert other.queue.reap().returned == 0
        true.advance(0.02)
    assert other.queue.reap().returned == 1
    (back,) = other.queue.peek()
    assert back.id == id
    assert [attempt.outcome for attempt in back.history] == ["timeout"]
    with pytest.raises(mailq.LeaseLost):
        held.ack()


@pytest.mark.parametrize("off", [0.0, HOUR, -HOUR, 1e9])
def test_the_death_of_a_holder_here_ends_its_lease_whatever_its_clock(
    path: Path, true: ManualClock, off: float
) -> None:
    one, other = Host(path, true, off), Host(path, true)
    one.queue.push("x")
    take(one.queue, lease=10 * LEASE)
    one.engine._holder.close()
    reaped = other.queue.reap()
    assert reaped.returned == 1
    (back,) = other.queue.peek()
    if off >= 0:
        assert [attempt.outcome for attempt in back.history] == ["killed"]


def hold_ahead(pipe: Connection[Any, Any], path: str, seconds: float, options: dict[str, Any]) -> None:
    queue = ahead(Path(path), seconds)
    (held,) = queue.pop_many(1, **options)
    pipe.send(held.receipt)
    pipe.recv()


def test_a_process_an_hour_ahead_that_is_killed_holds_nothing_any_more(path: Path) -> None:
    queue = mailq.open(path)
    queue.push("x")
    with Child(hold_ahead, str(path), HOUR, {}) as child:
        child.hear()
        assert queue.reap().returned == 0
        child.kill()
        assert queue.reap().returned == 1


def test_a_detached_lease_of_a_process_an_hour_ahead_lasts_an_hour_longer(path: Path) -> None:
    queue = mailq.open(path, lease=LEASE)
    queue.push("x")
    with Child(hold_ahead, str(path), HOUR, {"detached": True}) as child:
        receipt = child.hear()
        child.kill()
    assert (queue.get(mailq_id(receipt)).deadline_at or 0) == pytest.approx(time.time() + HOUR + LEASE, abs=20)
    assert ahead(path, HOUR + LEASE - 30).reap().returned == 0
    assert ahead(path, HOUR + LEASE + 1).reap().returned == 1


def mailq_id(receipt: str) -> str:
    return receipt.split(",")[1]


def test_an_extension_lasts_as_long_as_it_is_and_the_clocks_are_apart(path: Path, true: ManualClock) -> None:
    one, other = Host(path, true, HOUR), Host(path, true)
    one.queue.push("x")
    held = take(one.queue)
    held.extend(10 * LEASE)
    true.advance(HOUR + 10 * LEASE - 0.01)
    assert other.queue.reap().returned == 0
    true.advance(0.02)
    assert other.queue.reap().returned == 1


def test_a_step_back_lengthens_a_lease_by_the_step_and_no_more(path: Path, true: ManualClock) -> None:
    host = Host(path, true)
    host.queue.push("x")
    held = take(host.queue, detached=True)
    host.off = -HOUR
    assert not held.lost
    held.extend(LEASE)  # never shortens: the deadline from before the step stays
    true.advance(HOUR + LEASE - 0.01)
    assert host.queue.reap().returned == 0
    true.advance(0.02)
    assert held.lost
    assert host.queue.reap().returned == 1


def test_a_step_forward_ends_a_lease_and_its_holder_is_told(path: Path, true: ManualClock) -> None:
    host, other = Host(path, true), Host(path, true)
    host.queue.push_many(["taken", "left"])
    taken, left = host.queue.pop_many(2)
    host.off = HOUR
    assert taken.lost
    with pytest.raises(mailq.LeaseLost):
        taken.extend(LEASE)
    left.ack()  # nobody has taken it: nothing stands in the way
    assert other.queue.reap().returned == 0
    assert host.queue.reap().returned == 1
    assert take(other.queue).body == "taken"


def test_a_consumer_far_behind_gets_its_messages_taken_away_and_none_is_lost(path: Path, true: ManualClock) -> None:
    """Each look of a neighbour with the right time counts an attempt; what was never acked in time is dead."""
    behind, right = Host(path, true, -HOUR), Host(path, true)
    ids = set(right.queue.push_many(range(20)))
    acked: set[str] = set()
    for turn in range(20 * (right.queue.settings.max_retries + 1)):
        held = behind.queue.pop()
        if held is None:
            break
        if turn % 3:
            assert right.queue.reap().returned + len(right.queue.peek("dead", None)) > 0
        try:
            held.ack()
            acked.add(held.id)
        except mailq.LeaseLost:
            continue
    dead = {letter.id for letter in right.queue.peek("dead", None)}
    assert len(right.queue) == 0
    assert acked | dead == ids
    assert not acked & dead


# The mtime


FUTURE = 4_000_000_000
"""In the year 2096."""


@pytest.mark.parametrize("how", ["detached", "bound"])
@pytest.mark.parametrize("state", ["new", "later"])
def test_a_message_whose_mtime_is_far_in_the_future_has_the_lease_that_it_was_given(
    path: Path, true: ManualClock, state: str, how: str
) -> None:
    host = Host(path, true)
    host.queue.push("x", delay=1.0 if state == "later" else 0.0)
    (file,) = (path / state).iterdir()
    os.utime(file, (FUTURE, FUTURE))
    true.advance(1)
    held = take(host.queue, detached=how == "detached")
    assert held.deadline_at == pytest.approx(host.seconds + LEASE, abs=0.01)
    true.advance(LEASE + 0.01)
    assert host.queue.reap().returned == 1


class Death(BaseException):
    """Stands for SIGKILL: nothing is done after it."""


def test_one_that_is_killed_right_after_its_claim_has_not_taken_over_an_mtime_from_the_future(
    path: Path, true: ManualClock
) -> None:
    """There is nobody whose death ends a detached lease."""
    host = Host(path, true)
    host.queue.push("x")
    (file,) = (path / "new").iterdir()
    os.utime(file, (FUTURE, FUTURE))

    def die(*_: object, **__: object) -> None:
        raise Death

    host.engine._claimer._read = die  # type: ignore[method-assign, assignment]
    host.engine._store.settle = die  # type: ignore[method-assign, assignment] # the dead give nothing back
    with pytest.raises(Death):
        host.queue.pop(detached=True)
    assert len(list((path / "cur").iterdir())) == 1
    true.advance(LEASE + 0.01)
    assert Host(path, true).queue.reap().returned == 1


def test_what_comes_back_has_no_mtime_from_the_future(path: Path, true: ManualClock) -> None:
    """A shell consumer, which knows of no ``until``, would hold it until then."""
    host = Host(path, true)
    host.queue.push("x")
    for _ in range(3):
        take(host.queue).extend(1e6)
        host.off -= HOUR
        host.engine._holder.close()
        assert host.queue.reap().returned == 1
        (file,) = (path / "new").iterdir()
        assert file.stat().st_mtime <= host.seconds + 1.01


def test_a_claim_by_hand_ends_by_its_ctime_or_by_its_mtime(path: Path, true: ManualClock) -> None:
    """A script extends with ``touch -d``; nothing tells its mtime from one that was there before."""
    host = Host(path, true)
    host.queue.push_many(["old", "new"])
    for file, mtime in zip(sorted((path / "new").iterdir()), (0, FUTURE), strict=True):
        held = path / "cur" / file.name.replace(".json", ",claim=1.json")
        file.rename(held)
        os.utime(held, (mtime, mtime))
    true.advance(LEASE + 60)
    assert host.queue.reap().returned == 1
    assert take(host.queue).body == "old"
    true.advance(FUTURE - host.seconds - 1)
    assert host.queue.stats().overdue == 1, "the lease of the first"
    true.advance(2)
    assert host.queue.stats().overdue == 2
