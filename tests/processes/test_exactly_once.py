from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from together import SPAWN, Child, wait_until

import mailq
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.disk import Disk

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path


def produce(pipe: Connection[Any, Any], path: str, producer: int, count: int) -> None:
    queue = mailq.open(path, create=False)
    pipe.send("ready")
    pipe.recv()
    pipe.send([queue.push({"by": producer, "n": n}) for n in range(count)])


def consume(pipe: Connection[Any, Any], path: str, log: str) -> None:
    """Write one line for each message after its ack, until told to stop."""
    queue = mailq.open(path, create=False)
    lines = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    pipe.send("ready")
    while not pipe.poll():
        delivery = queue.pop(wait=0.2)
        if delivery is not None:
            body = delivery.body
            delivery.ack()
            os.write(lines, f"{delivery.id} {body['by']} {body['n']} {delivery.attempt}\n".encode())
    pipe.recv()
    pipe.send("stopped")


@pytest.mark.parametrize(("durability", "count"), [("process-crash", 2500), ("power-loss", 250)])
def test_eight_processes_lose_none_and_deliver_none_twice(tmp_path: Path, durability: str, count: int) -> None:
    queue = mailq.open(tmp_path / "jobs", durability=durability)
    logs = [tmp_path / f"{n}.log" for n in range(4)]
    with ExitStack() as stack:
        consumers = [stack.enter_context(Child(consume, queue.location, str(log))) for log in logs]
        producers = [stack.enter_context(Child(produce, queue.location, n, count)) for n in range(4)]
        for child in (*consumers, *producers):
            assert child.hear() == "ready"
        for producer in producers:
            producer.say("go")
        pushed = [id for producer in producers for id in producer.hear()]
        wait_until(lambda: sum(log.read_bytes().count(b"\n") for log in logs) >= 4 * count, "all are acked")
        wait_until(lambda: len(queue) == 0, "the queue is empty")
        for consumer in consumers:
            consumer.say("stop")
            assert consumer.hear() == "stopped"
    lines = [line.split() for log in logs for line in log.read_text().splitlines()]
    # Two ways to count: by the ids that the producers were given, and by what is in the bodies.
    assert Counter(line[0] for line in lines) == Counter(pushed)
    assert len(set(pushed)) == 4 * count
    assert sorted((int(by), int(n)) for _, by, n, _ in lines) == [(by, n) for by in range(4) for n in range(count)]
    assert {line[3] for line in lines} == {"1"}
    assert queue.stats() == mailq.Stats()


def open_at_once(pipe: Connection[Any, Any], meet: Any, name: str) -> None:
    """Open each queue told of at the same moment as the other process, and use it."""
    while (path := pipe.recv()) is not None:
        meet.wait()
        queue = mailq.open(path, max_retries=7)
        pipe.send((queue.push(name), len(list(queue.peek(limit=None))) >= 1))


def test_two_processes_that_create_a_queue_at_once_share_one(tmp_path: Path) -> None:
    meet = SPAWN.Barrier(2)
    with Child(open_at_once, meet, "one") as one, Child(open_at_once, meet, "two") as two:
        for turn in range(50):
            path = tmp_path / f"jobs-{turn}"
            one.say(str(path))
            two.say(str(path))
            (first, first_sees), (second, second_sees) = one.hear(), two.hear()
            assert first_sees
            assert second_sees
            queue = mailq.open(path, create=False)
            assert queue.settings.max_retries == 7
            assert {(d.id, d.body) for d in queue.drain()} == {(first, "one"), (second, "two")}
            assert os.listdir(path / "tmp") == [], "what the slower one made is gone"
            queue.close()
        for child in (one, two):
            child.say(None)
            child.join()


def test_whoever_creates_a_queue_that_has_just_come_to_life_joins_it(path: Path) -> None:
    """Between finding no marker and making one, another process may have made it, and worked already."""
    queue = mailq.open(path, lease=0.001)
    id = queue.push("mine")
    (path / ".reap.lock").touch()
    (path / "origins").mkdir()
    identity = (path / "mailq.toml").read_text()
    layouts.create(layouts.Layout(str(path)), mailq.Settings(), Disk())
    assert (path / "mailq.toml").read_text() == identity
    assert [message.id for message in queue.peek()] == [id]
