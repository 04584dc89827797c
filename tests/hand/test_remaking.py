"""Directories that a backlog has swollen are made anew, and nobody notices."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from ordered import Ordered
from together import Child

import mailq
from mailq.engines.inotify import Arrival
from mailq.engines.maildir import compaction, watcher
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine

pytestmark = pytest.mark.skipif(os.uname().sysname != "Linux", reason="directories are exchanged on Linux only")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every directory counts as swollen, and every old one as quiet."""
    monkeypatch.setattr(compaction, "_SWOLLEN", -1)
    monkeypatch.setattr(compaction, "_QUIET", 0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every old directory counts as quiet."""
    monkeypatch.setattr(compaction, "_QUIET", 0)


def number_of(path: Path) -> int:
    return path.stat().st_ino


def spares(path: Path) -> list[str]:
    return [name for name in os.listdir(path) if name.startswith((".new", ".later", ".dead"))]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("state", ["new", "later", "dead"])
def test_a_swollen_directory_is_made_anew_when_it_is_empty_and_not_before(path: Path, state: str) -> None:
    queue = mailq.open(path, durability="process-crash", file_mode="0660")
    directory = path / state
    for number in range(4500):
        os.close(os.open(directory / f"{number:0>250}", os.O_CREAT | os.O_WRONLY))
    if directory.stat().st_size < 1 << 20:
        pytest.skip("directories do not swell on this file system")
    os.chmod(directory, 0o2771)
    before = number_of(directory)
    queue.reap()
    assert number_of(directory) == before
    for name in os.listdir(directory):
        os.unlink(directory / name)
    queue.reap()
    assert number_of(directory) != before
    assert directory.stat().st_size < 1 << 16
    assert stat.S_IMODE(directory.stat().st_mode) == 0o2771
    assert not spares(path)
    assert queue.push("x")


@pytest.mark.usefixtures("always")
def test_consumers_do_it_by_themselves(queue: mailq.Queue, path: Path) -> None:
    before = number_of(path / "new")
    assert queue.pop() is None
    assert number_of(path / "new") != before


class Listener:
    """Is told of what comes to ``new/``, and that it may have missed something."""

    def __init__(self, path: Path) -> None:
        self.told: list[str] = []
        self.has_missed, self.has_arrived = threading.Event(), threading.Event()
        watch = watcher.watch([str(path / "new")], self)
        assert watch is not None
        self._watch = watch
        watch.start()

    def on_events(self, events: Sequence[Arrival]) -> None:
        self.told += [event.name for event in events]
        self.has_arrived.set()

    def on_overflow(self) -> None:
        self.has_missed.set()

    def on_wakeup(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._watch.stop()


class Exchanging(Disk):
    """Counts."""

    exchanged = 0

    def exchange(self, one: str, other: str) -> None:
        super().exchange(one, other)
        self.exchanged += 1


def produce(pipe: Connection[Any, Any], path: Path, count: int) -> None:
    queue = mailq.open(path)
    pipe.send([queue.push(number) for number in range(count)])


def test_what_is_in_an_old_directory_is_counted_listed_found_and_purged(queue: mailq.Queue, path: Path) -> None:
    id = queue.push("x")
    (path / ".new.0123abcd").mkdir()
    (name,) = os.listdir(path / "new")
    os.rename(path / "new" / name, path / ".new.0123abcd" / name)
    assert queue.stats().ready == 1
    assert [message.id for message in queue.peek()] == [id]
    assert queue.get(id).body == "x"
    assert queue.purge("ready") == 1
    assert queue.stats().ready == 0


def test_an_old_directory_is_not_listed_again_before_something_comes_there(
    queue: mailq.Queue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as slow to list as ever it was, and every consumer would do so every two seconds."""
    old = path / ".new.0123abcd"
    old.mkdir()
    os.utime(old, ns=(0, time.time_ns() - 10**10))
    listed: list[str] = []

    def listdir(directory: str) -> list[str]:
        listed.append(directory)
        return os.listdir(directory)

    monkeypatch.setattr(compaction, "os", SimpleNamespace(**{**vars(os), "listdir": listdir}))
    for _ in range(3):
        queue.reap()
    assert listed == [str(old)]
    for name in ("first", "second"):  # the second may come within the same tick as the look before
        (old / name).write_text(name)
        queue.reap()
    assert [delivery.headers["filename"] for delivery in queue.drain()] == ["first", "second"]


def test_producers_and_consumers_do_not_notice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_SWOLLEN", -1)
    mailq.open(path, lease=3600)
    disk = Exchanging()
    queue = mailq.Queue(MaildirEngine(str(path), disk=disk))
    got: list[str] = []
    with Child(produce, path, 300) as one, Child(produce, path, 300) as other:
        while len(got) < 600:
            if len(got) >= 20 * disk.exchanged:
                queue.reap()
            while (delivery := queue.pop(wait=0.001)) is not None:
                got.append(delivery.id)
                delivery.ack()
        pushed = [*one.hear(), *other.hear()]
    assert sorted(got) == sorted(pushed)
    assert disk.exchanged > 5
    # Not before: a producer may be in the midst of a rename into one for as long as others have the processor.
    monkeypatch.setattr(compaction, "_SWOLLEN", 1 << 20)
    monkeypatch.setattr(compaction, "_QUIET", 0)
    queue.reap()
    assert not spares(path)


class Overtaking(Ordered):
    """Exchanges a directory as soon as a message has come to it, and says what was synced of that message's."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._number = 0
        self.is_synced = False

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        if os.path.dirname(target) == str(self._directory) and not self._number:
            self._number = number_of(self._directory)
            spare = self._directory.with_name(f".{self._directory.name}.1a2b3c4d")
            spare.mkdir()
            self.exchange(str(spare), str(self._directory))

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self.is_synced |= bool(self._number) and os.fstat(fd).st_ino == self._number

    def syncfs(self, fd: int) -> None:
        super().syncfs(fd)
        self.is_synced |= bool(self._number)


@pytest.mark.parametrize("act", ["push", "redrive", "edit"])
def test_what_came_to_a_directory_that_was_exchanged_meanwhile_is_synced(
    queue: mailq.Queue, path: Path, act: str
) -> None:
    queue.push("x")
    if act == "redrive":
        delivery = queue.pop()
        assert delivery is not None
        delivery.reject("no")
    disk = Overtaking(path / "new")
    acting = mailq.Queue(MaildirEngine(str(path), disk=disk))
    match act:
        case "push":
            acting.push("y")
        case "redrive":
            assert acting.redrive() == 1
        case _:
            acting.edit(acting.peek()[0], b"edited")
    assert spares(path)
    assert disk.is_synced


@pytest.mark.usefixtures("impatient")
def test_what_somebody_left_who_died_on_the_way_is_delivered(queue: mailq.Queue, path: Path) -> None:
    queue.push_many(["a", "b"])
    os.rename(path / "new", path / ".new.1a2b3c4d")
    os.mkdir(path / "new")
    (path / "new" / "foo.txt").write_text("one of this name")
    (path / ".new.1a2b3c4d" / "foo.txt").write_text("another")
    os.mkdir(path / ".later.1a2b3c4d")  # made, and never exchanged
    (path / ".new.mine").mkdir()  # not one of ours
    assert sorted(delivery.raw for delivery in mailq.open(path).drain()) == [
        b"a",
        b"another",
        b"b",
        b"one of this name",
    ]
    assert spares(path) == [".new.mine"]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EINVAL, errno.EROFS])
def test_where_directories_cannot_be_exchanged_they_stay_and_it_is_tried_once(path: Path, error: int) -> None:
    class NoExchange(Disk):
        tried = 0

        def exchange(self, one: str, other: str) -> None:
            self.tried += 1
            raise OSError(error, os.strerror(error), one, None, other)

    mailq.open(path)
    disk = NoExchange()
    queue = mailq.Queue(MaildirEngine(str(path), disk=disk))
    queue.reap()
    queue.reap()
    assert disk.tried == 1
    assert not spares(path)
    queue.push("x")
    assert queue.pop() is not None


@pytest.mark.usefixtures("always")
def test_arrivals_in_the_fresh_directory_are_told_of(queue: mailq.Queue, path: Path) -> None:
    with Listener(path) as listener:
        queue.reap()
        assert listener.has_missed.wait(10)  # what came meanwhile is for the listener to find
        listener.has_arrived.clear()
        queue.push("x")
        assert listener.has_arrived.wait(10)
        assert listener.told[-1] in os.listdir(path / "new")


@pytest.mark.usefixtures("impatient")
def test_a_queue_that_lost_its_directories_meanwhile_ends_no_pop(queue: mailq.Queue, path: Path) -> None:
    queue.push("x")
    os.rename(path / "new", path / ".new.1a2b3c4d")
    assert queue.pop() is None
    assert spares(path) == [".new.1a2b3c4d"]
    os.mkdir(path / "new")
    queue.reap()
    assert queue.pop() is not None
    assert not spares(path)


@pytest.mark.usefixtures("always")
def test_who_was_overtaken_tries_again(path: Path) -> None:
    """Another consumer takes a spare directory that is not exchanged yet for one whose maker has died."""

    class Overtaken(Exchanging):
        def exchange(self, one: str, other: str) -> None:
            if not self.exchanged:
                mailq.open(path).reap()
            super().exchange(one, other)

    mailq.open(path)
    disk = Overtaken()
    queue = mailq.Queue(MaildirEngine(str(path), disk=disk))
    queue.reap()
    assert disk.exchanged == 0
    disk.exchanged = 1
    queue.reap()
    assert disk.exchanged > 1
    assert not spares(path)


def test_who_has_the_old_directory_open_may_go_on_moving_files_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``mv a b new/`` does: it opens the directory once."""
    monkeypatch.setattr(compaction, "_SWOLLEN", -1)
    ahead = 0
    mailq.open(path)
    queue = mailq.Queue(MaildirEngine(str(path), clock=lambda: time.time_ns() + ahead))
    opened = os.open(path / "new", os.O_DIRECTORY)
    try:
        for name in ("a", "b"):
            (path / "tmp" / name).write_text(name)
            queue.reap()
            os.rename(path / "tmp" / name, name, dst_dir_fd=opened)
            ahead += 10_000_000_000
        queue.reap()
    finally:
        os.close(opened)
    assert sorted(delivery.raw for delivery in queue.drain()) == [b"a", b"b"]
    monkeypatch.undo()
    ahead += 61_000_000_000
    queue.reap()
    assert not spares(path)


def test_arrivals_are_told_of_while_the_old_directory_is_still_there(queue: mailq.Queue, path: Path) -> None:
    with Listener(path) as listener:
        (path / ".new.1a2b3c4d").mkdir()
        Disk().exchange(str(path / ".new.1a2b3c4d"), str(path / "new"))
        assert listener.has_missed.wait(10)
        queue.push("x")
        assert listener.has_arrived.wait(10)
        assert listener.told == os.listdir(path / "new")


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EINVAL])
def test_what_is_left_is_delivered_also_where_a_rename_cannot_spare_its_target(
    queue: mailq.Queue, path: Path, error: int
) -> None:
    """A copy of a queue that was brought to another system."""

    class NoFlags(Disk):
        def rename_new(self, source: str, target: str) -> None:
            raise OSError(error, os.strerror(error), source, None, target)

    queue.push("a")
    os.rename(path / "new", path / ".new.1a2b3c4d")
    os.mkdir(path / "new")
    (path / "new" / "foo.txt").write_text("one of this name")
    (path / ".new.1a2b3c4d" / "foo.txt").write_text("another")
    elsewhere = mailq.Queue(MaildirEngine(str(path), disk=NoFlags()))
    assert sorted(delivery.raw for delivery in elsewhere.drain()) == [b"a", b"another", b"one of this name"]
