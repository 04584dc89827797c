from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from together import Child, owner_of, wait_until

import mailq
from mailq.engines.maildir.engine import MaildirEngine
from mailq.testing import ManualClock

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def hold(pipe: Connection[Any, Any], path: str, count: int, options: dict[str, Any]) -> None:
    """Pop, tell the receipts, and hold them until told to end."""
    queue = mailq.open(path, create=False)
    pipe.send([delivery.receipt for delivery in queue.pop_many(count, **options)])
    pipe.recv()


def test_what_a_killed_consumer_held_is_back_within_three_seconds(path: Path) -> None:
    ids = mailq.open(path, lease=60).push_many(range(5))
    clock = ManualClock()
    queue = mailq.Queue(MaildirEngine(str(path), clock=clock))
    with Child(hold, str(path), 5, {}) as consumer:
        assert len(consumer.hear()) == 5
        assert queue.pop() is None
        consumer.kill()
        clock.advance(3.0)
        back = queue.pop_many(5)
    assert [delivery.id for delivery in back] == ids
    assert {delivery.attempt for delivery in back} == {2}
    assert {attempt.outcome for delivery in back for attempt in delivery.history} == {"killed"}


def test_a_fresh_consumer_gives_back_what_a_dead_one_held_at_its_first_look(path: Path) -> None:
    mailq.open(path).push("x")
    with Child(hold, str(path), 1, {}) as consumer:
        consumer.hear()
        consumer.kill()
    delivery = mailq.open(path).pop()
    assert delivery is not None
    assert delivery.attempt == 2


def test_the_death_of_one_consumer_leaves_its_neighbours_leases_alone(path: Path) -> None:
    queue = mailq.open(path)
    queue.push_many(["doomed", "neighbour's", "mine"])
    with Child(hold, str(path), 1, {}) as doomed, Child(hold, str(path), 1, {}) as neighbour:
        doomed.hear(), neighbour.hear()
        mine = queue.pop()
        doomed.kill()
        assert queue.reap().returned == 1
        assert queue.stats().leased == 2
        neighbour.say("end")
        neighbour.join()
    assert mine is not None
    mine.ack()


def test_a_detached_lease_outlives_the_process_that_took_it(path: Path) -> None:
    queue = mailq.open(path)
    queue.push("x")
    with Child(hold, str(path), 1, {"detached": True}) as consumer:
        (receipt,) = consumer.hear()
        consumer.kill()
    assert queue.reap().returned == 0
    queue.ack(receipt)


def test_two_queues_in_one_process_do_not_take_each_other_for_dead(path: Path) -> None:
    one, other = mailq.open(path), mailq.open(path)
    one.push("x")
    held = one.pop()
    assert held is not None
    assert other.reap().returned == 0
    held.ack()


def fork_and_die(pipe: Connection[Any, Any], path: str, alive: int) -> None:
    """Hold a message, leave behind a child that lives on, and die."""
    queue = mailq.open(path, create=False)
    assert queue.pop() is not None
    begun, begin = os.pipe()
    if os.fork() == 0:
        os.write(begin, b"!")
        os.read(alive, 1)
        os._exit(0)
    os.read(begun, 1)  # the fork is complete when the child has run what it runs first
    pipe.send("forked")
    pipe.recv()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_keep_its_dead_parents_leases_alive(path: Path) -> None:
    queue = mailq.open(path)
    queue.push("x")
    os.mkfifo(path.parent / "alive")
    alive = os.open(path.parent / "alive", os.O_RDWR)
    with Child(_fork_and_die, str(path), str(path.parent / "alive")) as parent:
        assert parent.hear() == "forked"
        assert queue.reap().returned == 0
        parent.kill()
        assert queue.reap().returned == 1
    os.write(alive, b"!")
    os.close(alive)


def _fork_and_die(pipe: Connection[Any, Any], path: str, fifo: str) -> None:
    fork_and_die(pipe, path, os.open(fifo, os.O_RDWR))


def fork_and_pop(pipe: Connection[Any, Any], path: str) -> None:
    """Pop in the parent, in a forked child, and in the parent again; tell whose each claim is."""
    queue = mailq.open(path, create=False)
    queue._engine.wait(0)  # so that there is a watch, and a thread that does not come along
    first = queue.pop()
    assert first is not None
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        popped = queue.pop(wait=60)
        assert popped is not None
        os.write(theirs, popped.receipt.encode())
        popped.ack()
        os._exit(0)
    os.waitpid(child, 0)
    mine = queue.pop()
    assert mine is not None
    pipe.send((first.receipt, os.read(ours, 1000).decode(), mine.receipt))


def test_a_forked_child_claims_under_a_name_of_its_own(path: Path) -> None:
    mailq.open(path).push_many(range(3))
    with Child(fork_and_pop, str(path)) as parent:
        first, childs, mine = map(owner_of, parent.hear())
    assert first == mine != childs


def test_the_files_of_dead_owners_are_swept(path: Path) -> None:
    queue = mailq.open(path)
    queue.push("x")
    with Child(hold, str(path), 1, {}) as consumer:
        (receipt,) = consumer.hear()
        assert [owner_of(receipt)] == os.listdir(path / "owners")
        queue.reap()
        assert [owner_of(receipt)] == os.listdir(path / "owners")
        consumer.kill()
        queue.reap()
    assert os.listdir(path / "owners") == []


def reap_for_ever(pipe: Connection[Any, Any], path: str) -> None:
    queue = mailq.open(path, create=False)
    pipe.send("ready")
    while not pipe.poll():
        queue.reap()


def test_any_number_of_reapers_at_once_neither_lose_nor_duplicate(path: Path) -> None:
    queue = mailq.open(path, durability="process-crash", max_retries=99)
    ids = set(queue.push_many(range(50)))
    with Child(reap_for_ever, str(path)) as one, Child(reap_for_ever, str(path)) as other:
        one.hear(), other.hear()
        for _ in range(20):
            held = queue.pop_many(50, lease=0.001)
            assert {delivery.id for delivery in held} <= ids
            wait_until(lambda: queue.stats().leased == 0, "all leases ran out and were given back")
        assert {message.id for message in queue.peek("ready", limit=None)} == ids
        for reaper in (one, other):
            reaper.say("end")
            reaper.join()
