"""Names whose times are strange: from a leap second, from far away, or not those of their ids."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hosts import HOUR, Host

import mailq
from mailq.engines.maildir import names
from mailq.testing import ManualClock, take

LEASE = 60.0
PLACES = {
    "a leap second": "20261231T235960.000000000Z",
    "a leap second, long ago": "20161231T235960.999999999Z",
    "the year 1": "00010101T000000.000000000Z",
    "the year 0": "00000101T000000.000000000Z",
    "before 1970": "19691231T235959.999999999Z",
    "1970": "19700101T000000.000000000Z",
    "the year 9999": "99991231T235959.999999999Z",
    "no such day": "20260231T120000.000000000Z",
    "no such hour": "20260101T246060.000000000Z",
    "nines": "99999999T999999.999999999Z",
}
IDS = {
    "of that time": "01a1fbbbd8c37d158d1a2b3c4d5e6f70",
    "of 1970": "00000000000070008000000000000001",
    "of the year 9999": "e677d21fdbff7fff8000000000000001",
    "beyond the year 9999": "ffffffffffff7fff8000000000000001",
    "of no time": "01a1fbbbd8c34d158d1a2b3c4d5e6f70",
}


@pytest.fixture
def host(path: Path) -> Host:
    mailq.open(path, lease=LEASE, backoff=(1.0, 1.0), max_retries=3).close()
    return Host(path, ManualClock())


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_message_with_a_strange_time_is_delivered_and_settled_like_any(
    host: Host, path: Path, place: str, id: str
) -> None:
    """It stands where its time says; what is no time at all makes it a file dropped in by hand."""
    name = f"{PLACES[place]},{IDS[id]},size=7.txt"
    (path / "new" / name).write_text("strange")
    host.queue.push("usual")
    first = take(host.queue)
    if first.body == "usual":
        first.ack()
        delivery = take(host.queue)
    else:
        delivery = first
        take(host.queue).ack()
    assert delivery.body == "strange"
    if names.parse(name) is not None:
        assert delivery.id == IDS[id]
    delivery.release()
    take(host.queue).nack()
    host.off += 2
    take(host.queue, lease=1).extend(LEASE)
    host.engine._holder.close()
    assert host.queue.reap().returned == 1
    take(host.queue, detached=True)
    host.off += LEASE
    assert host.queue.reap().returned == 1
    last = take(host.queue)
    assert last.attempt == 4
    last.reject()
    assert host.queue.redrive() == 1
    take(host.queue).ack()
    assert host.queue.stats() == mailq.Stats()


@pytest.mark.parametrize("place", PLACES)
def test_a_lease_with_a_strange_place_ends(host: Host, path: Path, place: str) -> None:
    (path / "cur" / f"{PLACES[place]},{IDS['of that time']},size=1,claim=1.txt").write_text("x")
    host.off += LEASE + 5
    assert host.queue.reap().returned == 1


@pytest.mark.parametrize("until", ["20161231T235960Z", "00010101T000000Z"])
def test_a_lease_with_a_strange_until_ends(host: Host, path: Path, until: str) -> None:
    """What cannot be read says nothing: the lease is the queue's, from when the file came."""
    name = f"20261121T013205.123456789Z,{IDS['of that time']},size=1,until={until},claim=1.txt"
    (path / "cur" / name).write_text("x")
    host.off += LEASE + 5
    assert host.queue.reap().returned == 1


def test_a_lease_until_the_year_9999_is_one(host: Host, path: Path) -> None:
    """It was asked for, or a clock was off by so much: a person ends it with ``mv``, and mailq shows it."""
    name = f"20261121T013205.123456789Z,{IDS['of that time']},size=1,until=99991231T235959Z,claim=1.txt"
    (path / "cur" / name).write_text("x")
    host.off += HOUR
    assert host.queue.reap().returned == 0
    (held,) = host.queue.peek("leased")
    assert held.deadline_at == 253_402_300_799
    (path / "cur" / name).rename(path / "new" / name)
    assert take(host.queue).deadline_at == pytest.approx(host.seconds + LEASE, abs=0.01)


@pytest.mark.parametrize("place", ["a leap second", "the year 1", "before 1970", "1970", "no such day"])
def test_what_is_delayed_until_a_strange_time_that_is_over_is_due(host: Host, path: Path, place: str) -> None:
    (path / "later" / f"{PLACES[place]},{IDS['of that time']},size=1.txt").write_text("x")
    host.off += HOUR * 24 * 365
    assert take(host.queue).body == "x"


def test_what_is_delayed_until_the_year_9999_blocks_nobody(host: Host, path: Path) -> None:
    for place in ("the year 9999", "nines"):
        (path / "later" / f"{PLACES[place]},{IDS['of that time']},size=1.txt").write_text("x")
    host.queue.push("y", delay=10)
    host.off += 11
    assert take(host.queue).body == "y"
    assert host.queue.pop() is None
    assert len(os.listdir(path / "later")) == 2


@pytest.mark.parametrize("id", IDS)
def test_a_ttl_is_reckoned_from_the_id_and_what_is_over_is_dead_and_not_gone(host: Host, path: Path, id: str) -> None:
    (path / "new" / f"20261121T013205.123456789Z,{IDS[id]},size=1,ttl=60.txt").write_text("x")
    delivery = host.queue.pop()
    assert (delivery is None) == (host.queue.stats().dead == 1)
    if id == "of 1970":
        assert [letter.reason for letter in host.queue.peek("dead")] == ["expired"]
    if id == "of the year 9999":
        assert delivery is not None
