"""Whose a journal is, and who may be at it: beside the living, the stopped, and their children."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from beside import ForkBeside
from ordered import Ordered, bodies, journal_of, kill, left, opened

import mailq
from mailq.engines.maildir import recovery
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.remains import dead

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there are journals on Linux only"),
    pytest.mark.usefixtures("at_once"),
]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What was restored is logged."""
    caplog.set_level(logging.CRITICAL, logger="mailq")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that a wait moves on by a second, and what else happens then; ``waits`` are counted."""
    clock = SimpleNamespace(now=0.0, waits=0, meanwhile=lambda: None)

    def sleep(seconds: float) -> None:
        clock.now += 1
        clock.waits += 1
        clock.meanwhile()
        time.sleep(seconds)

    monkeypatch.setattr(recovery, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    return clock


def lose(queue: mailq.Queue, body: bytes) -> str:
    """Have its producer die, and a message of its be in its journal alone. The journal's name."""
    file = Path(queue.get(queue.push(body)).location)
    made = journal_of(queue)._desk.file
    assert made is not None
    kill(queue)
    file.unlink()
    os.utime(made._mark, (0, 0))
    return made._token


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """What somebody has the lock of who is stopped."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def ready(path: Path) -> int:
    return len(os.listdir(path / "new"))


# The living


def test_beside_the_living_nobody_waits_for_anybody(path: Path, patience: SimpleNamespace) -> None:
    """Not for whoever has a lock of the directory, nor for one who looks at a journal at the same time."""
    queue = opened(path)
    queue.push("makes it")
    (name,) = left(path)
    look = os.open(path / "journal" / name, os.O_RDONLY)
    with locked(path / "journal"), locked(path / "journal" / f"{name}.mark"):
        mailq.open(path).reap()
    os.close(look)
    assert patience.waits == 0
    assert left(path) == [name]


def test_two_who_look_at_a_time_both_see_that_a_producer_is_dead(path: Path) -> None:
    queue = opened(path)
    name = lose(queue, b"lost")
    disk = Ordered()
    one, other = (dead(disk, str(path / "journal" / name)) for _ in range(2))
    assert one is not None
    assert other is not None
    one.close()
    other.close()
    assert bodies(mailq.open(path)) == [b"lost"]


# Who is at it


def test_one_that_another_is_at_who_is_stopped_is_left_and_others_are_replayed(
    path: Path, patience: SimpleNamespace
) -> None:
    queues = [opened(path) for _ in range(2)]
    stopped, _ = [lose(queue, b"lost") for queue in queues]
    with locked(path / "journal" / f"{stopped}.mark"):
        queue = mailq.open(path)
        assert left(path) == [stopped]
        assert ready(path) == 1
        assert patience.now >= recovery._PATIENCE
        waits = patience.waits
        queue.reap()
        queue.pop()
        assert patience.waits == waits, "a reaping does not wait"
    queue.reap()
    assert left(path) == []


def test_whoever_opens_the_queue_waits_until_another_has_replayed(path: Path, patience: SimpleNamespace) -> None:
    queue = opened(path)
    lose(queue, b"lost")
    is_begun, may_go_on = threading.Event(), threading.Event()

    class Slow(Ordered):
        def syncfs(self, fd: int) -> None:
            is_begun.set()
            assert may_go_on.wait(60)
            super().syncfs(fd)

    other = threading.Thread(target=MaildirEngine, args=(str(path),), kwargs={"disk": Slow()})
    other.start()
    assert is_begun.wait(60)

    def meanwhile() -> None:
        may_go_on.set()
        other.join()

    patience.meanwhile = meanwhile
    late = mailq.open(path)
    assert patience.waits == 1
    assert bodies(late) == [b"lost"]


def test_those_whose_mark_somebody_removed_are_replayed_one_at_a_time(path: Path) -> None:
    queue = opened(path)
    name = lose(queue, b"lost")
    (path / "journal" / f"{name}.mark").unlink()
    with locked(path / "journal"):
        mailq.open(path)
        assert left(path) == [name]
    assert bodies(mailq.open(path)) == [b"lost"]


# Who meets a torn message


class Failing(Ordered):
    """A disk that fails in a way that one chooses, and one that is sound after that."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: Callable[[str, str], int] = lambda call, path: 0
        self._paths: dict[int, str] = {}

    def _strike(self, call: str, path: str) -> None:
        if number := self.fails(call, path):
            raise OSError(number, os.strerror(number), path)

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        self._strike("create" if flags & os.O_CREAT else "open", path)
        fd = super().open(path, flags, mode)
        self._paths[fd] = path
        return fd

    def read(self, fd: int, size: int) -> bytes:
        self._strike("read", self._paths[fd])
        return super().read(fd, size)


def a_torn_one_and_a_whole_one(path: Path) -> tuple[mailq.Queue, Failing, str]:
    """A consumer, and two messages of a producer that has died since it came; the journal's name."""
    disk = Failing()
    queue, consumer = opened(path), opened(path, disk)
    first = queue.push(b"torn")
    queue.push(b"whole")
    (name,) = left(path)
    kill(queue)
    os.truncate(queue.get(first).location, 0)
    return consumer, disk, name


FOR_NOW = {
    "a full disk": ("create", "/tmp/", errno.ENOSPC),
    "no descriptors": ("open", "/journal/", errno.EMFILE),
    "no memory": ("read", "/journal/", errno.ENOMEM),
}


@pytest.mark.parametrize("failure", FOR_NOW.values(), ids=FOR_NOW)
def test_a_torn_message_is_not_given_up_on_as_long_as_its_journal_cannot_be_replayed_for_now(
    path: Path, failure: tuple[str, str, int]
) -> None:
    consumer, disk, _ = a_torn_one_and_a_whole_one(path)
    call, place, number = failure
    disk.fails = lambda one, at: number if one == call and place in at.removeprefix(str(path)) else 0
    assert [delivery.raw for delivery in consumer.pop_many(2)] == [b"whole"], "it keeps no other"
    with pytest.raises(mailq.StorageError, match="in a journal that cannot be replayed yet"):
        consumer.pop()
    disk.fails = lambda call, path: 0
    mended = consumer.pop()
    assert mended is not None
    assert (mended.raw, mended.attempt) == (b"torn", 1)


def test_who_meets_torn_messages_waits_for_a_stopped_replay_but_now_and_then(
    path: Path, patience: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_SHARE", 10.0)
    consumer, _, name = a_torn_one_and_a_whole_one(path)
    with locked(path / "journal" / f"{name}.mark"):
        assert [delivery.raw for delivery in consumer.pop_many(2)] == [b"whole"]
        waits = patience.waits
        assert waits == recovery._PATIENCE
        for _ in range(3):
            with pytest.raises(mailq.StorageError):
                consumer.pop()
        assert patience.waits == waits
        patience.now += 10 * waits
        with pytest.raises(mailq.StorageError):
            consumer.pop()
        assert patience.waits == 2 * waits
    mailq.open(path)
    assert bodies(consumer) == [b"torn"]


FOR_EVER = {
    "what is damaged": ("read", errno.EIO),
    "what the disk has lost": ("open", errno.EIO),
    "another user's": ("open", errno.EACCES),
}


@pytest.mark.parametrize("failure", FOR_EVER.values(), ids=FOR_EVER)
def test_a_journal_that_never_can_be_replayed_keeps_no_torn_message(path: Path, failure: tuple[str, int]) -> None:
    consumer, disk, name = a_torn_one_and_a_whole_one(path)
    call, number = failure
    disk.fails = lambda one, at: number if one == call and at.endswith(name) else 0
    assert bodies(consumer) == [b"whole"]
    assert [message.reason for message in consumer.peek("dead")] == ["torn"]
    disk.fails = lambda call, path: 0
    consumer.reap()
    assert [message.raw for message in consumer.peek("dead")] == [b"torn"], "another mends it where it is"


# Children


class Forking(Ordered):
    """A disk that fails in the midst of a replay, when another thread has forked a child at a call, or is about to."""

    def __init__(self, call: str) -> None:
        super().__init__()
        self.pid, self._reader, self._writer = 0, *os.pipe()
        self._call = call
        self.beside = ForkBeside(self._fork)

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        fd = super().open(path, flags, mode)
        if self._call == "open" and path.endswith(".mark"):
            self._call = ""
            self.beside.begin()
        return fd

    def syncfs(self, fd: int) -> None:
        if self._call == "syncfs":
            self._call = ""
            self.beside.begin()
        self.beside.end()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _fork(self) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._writer)
            os.read(self._reader, 1)
            os._exit(0)

    def bury(self) -> None:
        os.close(self._writer)
        os.waitpid(self.pid, 0)
        os.close(self._reader)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("call", ["open", "syncfs"])
def test_a_child_that_is_forked_during_a_replay_keeps_nobody_from_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    queue = opened(path)
    lose(queue, b"lost")
    disk = Forking(call)
    MaildirEngine(str(path), disk=disk)
    assert len(left(path)) == 1
    try:
        mailq.open(path)
        assert left(path) == []
        assert ready(path) == 1
    finally:
        disk.bury()
