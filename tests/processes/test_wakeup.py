from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from together import Child, asleep, assert_at_once, wait_until

import mailq
from mailq.engines.maildir import notify, watcher

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def consume(pipe: Connection[Any, Any], path: str) -> None:
    """Wait for messages, never looking by itself; tell when each came, until one says to end."""
    notify._LOOK_WATCHED = 3600.0  # type: ignore[misc]
    queue = mailq.open(path, create=False)
    queue.pop(wait=0.01)
    pipe.send("ready")
    for delivery in queue:
        pipe.send((delivery.body, time.monotonic_ns()))
        delivery.ack()
        if delivery.body == "end":
            return


def heard(consumers: list[Child]) -> tuple[Any, int]:
    """What the first of them says."""
    wait_until(lambda: any(consumer._pipe.poll() for consumer in consumers), "a consumer has it")
    ((body, at),) = (consumer.hear() for consumer in consumers if consumer._pipe.poll())
    return body, at


def start(path: Path, count: int) -> list[Child]:
    consumers = [Child(consume, str(path)) for _ in range(count)]
    for consumer in consumers:
        assert consumer.hear() == "ready"
    return consumers


def end(queue: mailq.Queue, consumers: list[Child]) -> None:
    for _ in consumers:
        queue.push("end")
    for consumer in consumers:
        assert consumer.hear()[0] == "end"
        consumer.join()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see that a process sleeps")
def test_an_idle_consumer_is_woken_at_once_with_three_others_competing(path: Path) -> None:
    """Also after a claim by another: its IN_MOVED_FROM must not hold back the next event."""
    queue = mailq.open(path, durability="process-crash")
    consumers = start(path, 4)
    latencies = []
    for n in range(60):
        wait_until(lambda: all(asleep(consumer.pid) for consumer in consumers), "all consumers wait")
        queue.push(n)
        pushed = time.monotonic_ns()
        body, at = heard(consumers)
        assert body == n
        latencies.append((at - pushed) / 1e6)
    end(queue, consumers)
    assert_at_once(latencies)


def test_a_file_moved_in_by_hand_and_a_delayed_message_wake_a_consumer(path: Path) -> None:
    queue = mailq.open(path)
    (consumer,) = start(path, 1)
    (path / "tmp" / "dropped.txt").write_text("by hand")
    (path / "tmp" / "dropped.txt").rename(path / "new" / "dropped.txt")
    assert consumer.hear()[0] == "by hand"
    due = time.monotonic_ns() + 200_000_000
    queue.push("delayed", delay=0.2)
    body, at = consumer.hear()
    assert body == "delayed"
    assert at >= due
    end(queue, [consumer])


def test_without_notification_a_consumer_looks_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "watch", lambda *_: None)
    queue, producer = mailq.open(path), mailq.open(path)
    assert queue.pop(wait=0.01) is None
    producer.push("x")
    delivery = queue.pop(wait=60)
    assert delivery is not None


def test_a_watch_that_cannot_be_had_is_no_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(watcher, "_Inotify", refuse)
    monkeypatch.setattr(watcher, "_Portable", refuse)
    assert mailq.open(path).pop(wait=0.3) is None


def test_a_queue_that_is_let_go_takes_its_watch_along(path: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to count descriptors")
    mailq.open(path).pop(wait=0.01)
    before = open_files()
    for _ in range(5):
        queue = mailq.open(path)
        queue.push("x")
        delivery = queue.pop(wait=60)
        assert delivery is not None
        delivery.ack()
        queue.pop(wait=0.01)
        del delivery, queue
    wait_until(lambda: open_files() <= before, "no descriptor is left")


def idle(pipe: Connection[Any, Any], path: str) -> None:
    """Wait for nothing; tell how often a second it woke up meanwhile, and the share of a core that it took."""
    queue = mailq.open(path, create=False)
    queue.pop(wait=0.1)
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    queue.pop(wait=3)
    after, seconds = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - begun
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    pipe.send(((after.ru_nvcsw - before.ru_nvcsw) / seconds, used / seconds))


def test_who_waits_sleeps(path: Path) -> None:
    mailq.open(path)
    with Child(idle, str(path)) as consumer:
        wakeups, share = consumer.hear()
    assert wakeups < 5
    assert share < 0.25  # who spins never sleeps
