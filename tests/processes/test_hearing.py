"""What the kernel tells of arrivals: whole, in order, and to whoever waits; and what is done where it is not whole."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from together import Child, wait_until

import mailq
from mailq.engines.inotify import Arrival
from mailq.engines.maildir import filesystems, listing, notify, ready, watcher
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of arrivals on Linux only")


class Listener:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.missing = self.rings = 0

    def on_events(self, events: Sequence[Arrival]) -> None:
        self.told += [event.name for event in events]

    def on_overflow(self) -> None:
        self.missing += 1

    def on_wakeup(self) -> None:
        self.rings += 1


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def watch(tmp_path: Path, listener: Listener) -> Iterator[watcher.DirectoryWatcher]:
    (tmp_path / "watched").mkdir()
    watch = watcher.watch([str(tmp_path / "watched")], listener)
    assert watch is not None
    yield watch
    watch.stop()


@pytest.fixture
def told(queue: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> mailq.Queue:
    """A queue whose consumer relies on the kernel's word, and does not look by itself any more."""
    monkeypatch.setattr(ready, "_FRESH", 3600.0)
    assert queue.pop(wait=0.01) is None
    assert queue.pop() is None  # the listing from which on the word is whole
    return queue


def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which directories are listed from now on."""
    seen: list[str] = []
    real = layouts.entries

    def entries(directory: str, *near: Any) -> Iterator[os.DirEntry[str]]:
        seen.append(os.path.basename(directory))
        return real(directory, *near)

    monkeypatch.setattr(layouts, "entries", entries)
    return seen


# What a watch tells


def test_everything_that_came_is_told_in_order_however_much_it_is(
    tmp_path: Path, watch: watcher.DirectoryWatcher, listener: Listener
) -> None:
    names = [f"{number:04}".ljust(200, "x") for number in range(1000)]
    for name in names:
        (tmp_path / "watched" / name).touch()
    assert watch.hear()
    assert listener.told == names
    assert watch.hear()
    assert listener.told == names


def test_what_the_kernel_had_no_room_for_is_told_to_be_missed(
    tmp_path: Path, watch: watcher.DirectoryWatcher, listener: Listener
) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip(f"the kernel keeps {most} events here")
    for number in range(most + 1):
        (tmp_path / "watched" / f"{number}").touch()
    assert not watch.hear()
    assert listener.missing == 1
    assert watch.hear()


def test_a_directory_that_is_gone_is_missed_until_it_is_there_again(
    tmp_path: Path, watch: watcher.DirectoryWatcher, listener: Listener
) -> None:
    (tmp_path / "watched").rmdir()
    for _ in range(3):
        assert not watch.hear()
    (tmp_path / "watched").mkdir()
    assert not watch.hear()
    assert watch.hear()
    (tmp_path / "watched" / "x").touch()
    assert watch.hear()
    assert listener.told == ["x"]


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p", "virtiofs", "not known"])
def test_where_others_may_be_behind_the_disk_the_word_is_never_all(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mount = None if kind == "not known" else filesystems.Mount("/", kind, "host:/srv", "0:50", frozenset())
    monkeypatch.setattr(filesystems, "mount_of", lambda *_, **__: mount)
    watch = watcher.watch([str(tmp_path)], listener) or pytest.fail("there is no inotify here")
    (tmp_path / "x").touch()
    assert not watch.hear()
    assert listener.told == ["x"]
    assert listener.missing == 0
    watch.stop()


def test_who_hears_in_the_midst_of_hearing_is_told_that_it_is_not_all(tmp_path: Path) -> None:
    """A signal handler: what is read and not yet told of, it must find by itself."""
    answers = []

    class Interrupted(Listener):
        def on_events(self, events: Sequence[Arrival]) -> None:
            if not self.told:
                (tmp_path / "second").touch()
                answers.append(hearing.hear())
            super().on_events(events)

    listener = Interrupted()
    hearing = watcher.watch([str(tmp_path)], listener) or pytest.fail("there is no inotify here")
    (tmp_path / "first").touch()
    assert hearing.hear()
    assert hearing.hear()
    assert answers == [False]
    assert listener.told == ["first", "second"]
    hearing.stop()


def test_a_bell_may_wait_for_somebody_who_is_about_to_hear(tmp_path: Path) -> None:
    """As one does that takes a lock, under which another thread pops."""

    class Waiting(Listener):
        def on_wakeup(self) -> None:
            other = threading.Thread(target=hearing.hear)
            other.start()
            other.join(30)
            assert not other.is_alive()
            super().on_wakeup()

    listener = Waiting()
    hearing = watcher.watch([str(tmp_path)], listener) or pytest.fail("there is no inotify here")
    (tmp_path / "x").touch()
    assert hearing.hear()
    assert listener.rings == 1
    hearing.stop()


def test_who_is_interrupted_in_hearing_has_missed_some(tmp_path: Path) -> None:
    class Interrupted(Listener):
        def on_events(self, events: Sequence[Arrival]) -> None:
            raise KeyboardInterrupt

    listener = Interrupted()
    watch = watcher.watch([str(tmp_path)], listener) or pytest.fail("there is no inotify here")
    (tmp_path / "x").touch()
    with pytest.raises(KeyboardInterrupt):
        watch.hear()
    assert listener.missing == 1
    watch.stop()


def test_a_watch_that_is_stopped_hears_nothing_more_and_is_closed_when_nobody_waits(
    tmp_path: Path, watch: watcher.DirectoryWatcher, listener: Listener
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    watch.start()
    alarm = watch.alarm()
    waiting = threading.Thread(target=alarm.wait, args=(60.0,))
    (tmp_path / "watched" / "x").touch()
    wait_until(lambda: listener.told == ["x"], "it is heard in the background")
    waiting.start()
    watch.stop()
    watch.stop()
    assert not watch.hear()
    alarm.ring()
    waiting.join(30)
    assert not waiting.is_alive()
    del alarm, waiting
    watch.alarm().wait(0.0)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before - 1, "its descriptors are closed")


def test_a_watch_that_is_let_go_of_ends_its_thread(tmp_path: Path, listener: Listener) -> None:
    before = len(os.listdir("/proc/self/fd"))
    watch = watcher.watch([str(tmp_path)], listener) or pytest.fail("there is no inotify here")
    watch.start()
    (tmp_path / "x").touch()
    wait_until(lambda: listener.told == ["x"], "it is heard in the background")
    del watch
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "its descriptors are closed")


def test_a_queue_that_is_closed_ends_the_waits_of_other_threads(queue: mailq.Queue) -> None:
    engine = queue._engine
    assert isinstance(engine, MaildirEngine)
    queue.pop(wait=0.01)

    def wait() -> None:
        engine._notifier.remember_position()
        engine._notifier.wait(3600.0)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: bool(engine._notifier._waiting), "it waits")
    queue.close()
    waiting.join(30)
    assert not waiting.is_alive()


# What a consumer does with it


def test_a_consumer_that_is_told_lists_nothing(told: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = listed(monkeypatch)
    producer = mailq.open(told.location)
    for number in range(10):
        producer.push(["other", number])
        told.push(["own", number])
        taken = told.pop_many(3)
        assert [delivery.body for delivery in taken] == [["other", number], ["own", number]]
        taken[0].release()
        taken[1].nack(delay=0)
        assert [delivery.body[0] for delivery in told.pop_many(3)] == ["other", "own"]
        assert told.pop() is None
    assert "new" not in seen


def test_a_consumer_that_never_waits_is_told_when_it_has_listed_much(
    queue: mailq.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_FRESH", 3600.0)
    monkeypatch.setattr(ready, "_MUCH", 3600.0)
    seen = listed(monkeypatch)
    producer = mailq.open(queue.location)
    for number in range(10):
        if number == 5:
            monkeypatch.setattr(ready, "_MUCH", 0.0)
        producer.push(number)
        delivery = queue.pop()
        assert delivery is not None
        assert delivery.body == number
        delivery.ack()
    assert seen.count("new") == 6


def test_a_long_line_is_seldom_listed_where_the_kernel_tells_of_what_comes_before_its_end(
    queue: mailq.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_FRESH", 0.0)
    monkeypatch.setattr(ready, "_PART", 1.0)
    monkeypatch.setattr(ready, "_PART_HEARD", 1e-9)
    monkeypatch.setattr(ready, "_MUCH", 0.0)
    queue.push_many(range(10))
    seen = listed(monkeypatch)
    assert [delivery.body for delivery in queue.pop_many(2)] == [0, 1]
    mailq.open(queue.location).push("urgent", priority=9)
    assert [delivery.body for delivery in queue.pop_many(20)] == ["urgent", *range(2, 10)]
    assert seen.count("new") == 1


def test_what_came_to_a_listing_before_another_thread_began_to_hear_is_found(
    queue: mailq.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_FRESH", 3600.0)
    producer = mailq.open(queue.location)
    real = listing.first_ready
    missed = iter(["missed"])

    def slow(directory: str, wanted: listing.Wanted, size: int) -> list[str]:
        keys = real(directory, wanted, size)
        for body in missed:
            producer.push(body)
            queue.subscribe(lambda: None)
        return keys

    monkeypatch.setattr(listing, "first_ready", slow)
    delivery = queue.pop() or queue.pop()
    queue.close()
    assert delivery is not None
    assert delivery.body == "missed"


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_what_is_no_file_stays_where_it_is_though_the_kernel_tells_of_it(
    told: mailq.Queue, path: Path, kind: str
) -> None:
    told.push("x")
    (name,) = os.listdir(path / "new")
    (path / "new" / name).rename(path / "kept")
    if kind == "directory":
        (path / "tmp" / name).mkdir()
    else:
        (path / "tmp" / name).symlink_to(path / "kept")
    (path / "tmp" / name).rename(path / "new" / name)
    assert told.pop() is None
    assert os.listdir(path / "new") == [name]
    assert os.listdir(path / "dead") == []


def test_what_came_while_it_was_closed_is_found_behind_what_was_heard_before(told: mailq.Queue) -> None:
    producer = mailq.open(told.location)
    producer.push_many([1, 2])
    assert [delivery.body for delivery in told.pop_many(1)] == [1]
    again = mailq.Queue(told._engine)
    told.close()
    producer.push(3)
    again.subscribe(lambda: None)
    assert [delivery.body for delivery in (again.pop(), again.pop()) if delivery] == [2, 3]
    again.close()


def test_a_queue_that_was_moved_away_is_missed_at_the_next_pop(told: mailq.Queue, path: Path) -> None:
    """The kernel goes on telling of the directory, wherever it is now."""
    path.rename(f"{path}.old")
    with pytest.raises(mailq.QueueNotFound):
        told.pop()


def test_a_consumer_that_missed_some_lists(told: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = listed(monkeypatch)
    mailq.open(told.location).push_many([1, 2])
    engine = told._engine
    assert isinstance(engine, MaildirEngine)
    watch = engine._notifier._watch
    assert isinstance(watch, watcher._Inotify)
    assert watch._inotify is not None
    watch._inotify.read()
    watch._inotify.missed = True
    assert [delivery.body for delivery in told.pop_many(2)] == [1, 2]
    assert "new" in seen


class Failing(Disk):
    """Fails to claim as often as it is told to."""

    fails = 0

    def rename(self, source: str, target: str) -> None:
        if self.fails and os.path.basename(os.path.dirname(target)) == "cur":
            self.fails -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), source)
        super().rename(source, target)


@pytest.fixture
def failing(told: mailq.Queue) -> Iterator[tuple[mailq.Queue, Failing]]:
    """A consumer like ``told``, and its disk."""
    disk = Failing()
    consumer = mailq.Queue(MaildirEngine(told.location, disk=disk))
    consumer.pop(wait=0.01)
    consumer.pop()
    yield consumer, disk
    consumer.close()


def test_what_could_not_be_taken_is_tried_again_by_the_next_pop(failing: tuple[mailq.Queue, Failing]) -> None:
    """It is in no window then, and the kernel will not tell of it again."""
    consumer, disk = failing
    mailq.open(consumer.location).push("x")
    disk.fails = 2
    for _ in range(2):
        with pytest.raises(mailq.StorageError):
            consumer.pop()
    delivery = consumer.pop()
    assert delivery is not None
    assert delivery.body == "x"


def test_what_could_not_be_taken_beside_another_is_tried_again_by_the_next_pop(
    failing: tuple[mailq.Queue, Failing],
) -> None:
    """That pop returned the other, and said nothing."""
    consumer, disk = failing
    mailq.open(consumer.location).push_many(["bad", "good"])
    disk.fails = 1
    assert [delivery.body for delivery in consumer.pop_many(2)] == ["good"]
    assert [delivery.body for delivery in consumer.pop_many(2)] == ["bad"]


def test_what_was_tried_in_vain_and_given_back_meanwhile_is_found_by_the_next_pop(
    told: mailq.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another consumer has the first, and releases it while ours is busy with the second."""
    other = mailq.open(told.location)
    other.push_many(["first", "second", "third"])
    held: list[mailq.Delivery | None] = []
    engine = told._engine
    assert isinstance(engine, MaildirEngine)
    take = engine._claimer._take

    def taking(name: str, *about: Any, detached: bool) -> Any:
        if not held:
            held.append(other.pop())
            claim = take(name, *about, detached=detached)
            assert held[0] is not None
            held[0].release()
            engine._ready.notifier.drain_events()
            return claim
        return take(name, *about, detached=detached)

    monkeypatch.setattr(engine._claimer, "_take", taking)
    found = [delivery.body for _ in range(3) for delivery in told.pop_many(2)]
    assert sorted(found) == ["first", "second", "third"]


def test_a_pop_that_is_interrupted_forgets_nothing(told: mailq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    mailq.open(told.location).push("x")
    engine = told._engine
    assert isinstance(engine, MaildirEngine)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(engine._claimer, "_take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            told.pop()
    delivery = told.pop()
    assert delivery is not None
    assert delivery.body == "x"


def push_each(pipe: Connection, path: str) -> None:
    queue = mailq.open(path, create=False)
    while (number := pipe.recv()) is not None:
        queue.push(number)


def test_threads_that_wait_have_each_message_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hears of one first, it is delivered once, and the others wait on."""
    monkeypatch.setattr(notify, "_LOOK_WATCHED", 3600.0)
    queue = mailq.open(path, durability="process-crash", reap_interval=3600)
    taken: list[tuple[int, int]] = []

    def consume(who: int) -> None:
        while (delivery := queue.pop(wait=60)) is not None:
            taken.append((who, delivery.body))
            delivery.ack()
            if delivery.body < 0:
                return

    def has(number: int) -> bool:
        return len(taken) > number

    consumers = [threading.Thread(target=consume, args=(who,)) for who in range(3)]
    for consumer in consumers:
        consumer.start()
    with Child(push_each, str(path)) as producer:
        for number in range(50):
            producer.say(number)
            wait_until(partial(has, number), "somebody has it")
        for number in range(-3, 0):
            queue.push(number)  # by this process: that wakes who listens to the kernel
        for consumer in consumers:
            consumer.join(60)
            assert not consumer.is_alive()
        producer.say(None)
    assert sorted(number for _, number in taken) == list(range(-3, 50))


def test_when_one_thread_gives_up_waiting_another_hears_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_LOOK_WATCHED", 3600.0)
    queue = mailq.open(path, reap_interval=3600)
    engine = queue._engine
    assert isinstance(engine, MaildirEngine)
    queue.pop(wait=0.01)
    taken: list[mailq.Delivery | None] = []
    first = threading.Thread(target=queue.pop, kwargs={"wait": 1.0})
    second = threading.Thread(target=lambda: taken.append(queue.pop(wait=60)))
    first.start()
    wait_until(lambda: len(engine._notifier._waiting) == 1, "the first waits")
    second.start()
    wait_until(lambda: len(engine._notifier._waiting) == 2, "the second waits, too")
    first.join(30)
    with Child(push_each, str(path)) as producer:
        producer.say("x")
        second.join(30)
        producer.say(None)
    assert [delivery and delivery.body for delivery in taken] == ["x"]


def test_a_signal_handler_that_pushes_ends_the_wait_that_it_interrupts(
    queue: mailq.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_LOOK_WATCHED", 3600.0)
    queue.configure(reap_interval=3600)
    assert queue.pop(wait=0.01) is None
    before = signal.signal(signal.SIGUSR1, lambda *_: queue.push("from the handler"))
    sender = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
    sender.start()
    try:
        delivery = queue.pop(wait=60)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert delivery is not None
    assert delivery.body == "from the handler"
