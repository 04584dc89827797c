from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from together import Child, wait_until

import mailq
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import ready, watcher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

COUNT = 10_000


def produce(pipe: Connection[Any, Any], path: str, batch: int) -> None:
    queue = mailq.open(path, create=False)
    for start in range(0, COUNT, batch):
        if batch == 1:
            queue.push(start)
        else:
            queue.push_many(range(start, start + batch))
    pipe.send("done")


def consume(pipe: Connection[Any, Any], path: str, wait: float) -> None:
    queue = mailq.open(path, create=False)
    bodies: list[int] = []
    while len(bodies) < COUNT:
        for delivery in queue.pop_many(10, wait=wait):
            bodies.append(delivery.body)
            delivery.ack()
    pipe.send(bodies)


@pytest.mark.parametrize(
    ("batch", "wait", "backlog"),
    [
        pytest.param(1, 5.0, 0, id="from-the-start"),
        pytest.param(1, 0.0, 3000, id="with-a-backlog"),
        pytest.param(500, 5.0, 1, id="in-batches"),
    ],
)
def test_one_producer_and_one_consumer_keep_exact_order(path: Path, batch: int, wait: float, backlog: int) -> None:
    queue = mailq.open(path, durability="process-crash")
    with Child(produce, queue.location, batch) as producer:
        wait_until(lambda: len(os.listdir(path / "new")) >= backlog, "there is a backlog")
        with Child(consume, queue.location, wait) as consumer:
            bodies = consumer.hear()
        assert producer.hear() == "done"
    strays = [(before, body) for before, body in zip([-1, *bodies], bodies, strict=False) if body != before + 1]
    assert strays == []


def test_a_listing_that_missed_a_name_does_not_break_the_order(
    queue: mailq.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing is no snapshot: it may show a message and not the one renamed there just before."""
    queue.push("first")
    producer = mailq.open(queue.location)
    real = layouts.entries
    listings = 0

    def entries(directory: str, *near: Any) -> Iterator[os.DirEntry[str]]:
        nonlocal listings
        if not directory.endswith("/new"):
            yield from real(directory, *near)
            return
        listings += 1
        if listings > 1:
            yield from real(directory, *near)
            return
        yield from real(directory, *near)
        missed = producer.push("second")
        producer.push("third")
        yield from (entry for entry in real(directory) if missed not in entry.name and "first" not in entry.name)

    monkeypatch.setattr(layouts, "entries", entries)
    assert [d.body for d in queue.pop_many(3)][:2] == ["first", "second"]


def test_what_comes_while_the_watch_is_set_up_keeps_its_order(
    queue: mailq.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch announces what comes after its start; what came just before must not be passed over."""
    monkeypatch.setattr(ready, "_FRESH", 60.0)
    queue.push("earlier")
    delivery = queue.pop()
    assert delivery is not None
    delivery.ack()
    producer = mailq.open(queue.location)
    real = watcher.watch

    def watch(directories: Sequence[str], listener: watcher.EventHandler) -> watcher.DirectoryWatcher:
        producer.push("before the watch")
        watch = real(directories, listener)
        producer.push("after it")
        assert watch is not None
        assert watch.hear()
        return watch

    monkeypatch.setattr(watcher, "watch", watch)
    assert [d.body for d in queue.pop_many(2, wait=10)] == ["before the watch", "after it"]
    queue.close()


def test_an_arrival_that_the_kernel_tells_of_is_delivered_without_a_listing(
    queue: mailq.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing the directory would be the longest part of waking up."""
    monkeypatch.setattr(ready, "_FRESH", 60.0)
    rung = threading.Event()
    assert queue.pop(wait=0.01) is None
    queue.subscribe(rung.set)
    assert queue.pop() is None  # the listing from which on the kernel's word is whole
    listed: list[str] = []
    real = layouts.entries

    def entries(directory: str, *near: Any) -> Iterator[os.DirEntry[str]]:
        listed.append(directory)
        return real(directory, *near)

    monkeypatch.setattr(layouts, "entries", entries)
    mailq.open(queue.location).push("x")
    assert rung.wait(10)
    delivery = queue.pop()
    assert delivery is not None
    assert f"{queue.location}/new" not in listed


def test_what_this_process_pushes_does_not_overtake_what_it_has_not_heard_of_yet(queue: mailq.Queue) -> None:
    """Another process's push comes by way of a thread that may be late; our own would be there at once."""
    other = mailq.open(queue.location)
    assert queue.pop(wait=0.01) is None
    for number in range(40):
        assert queue.pop() is None
        other.push(["other", number])
        queue.push(["own", number])
        deliveries = [queue.pop(), queue.pop()]
        assert [d and d.body for d in deliveries] == [["other", number], ["own", number]]
        for delivery in deliveries:
            assert delivery is not None
            delivery.ack()
