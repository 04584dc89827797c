"""Whose a journal is, and who may be at it: beside the living, the stopped, and their children."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from ordered import Ordered, bodies, journal_of, kill, left, opened

import mailq
from mailq.engines.maildir import replay
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

    monkeypatch.setattr(replay, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    return clock


def lose(queue: mailq.Queue, body: bytes) -> str:
    """Have its producer die, and a message of its be in its journal alone. The journal's name."""
    file = Path(queue.get(queue.push(body)).name)
    made = journal_of(queue)._file
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
    with dead(disk, str(path / "journal" / name)) as one, dead(disk, str(path / "journal" / name)) as other:
        assert one is not None
        assert other is not None
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
        assert patience.now >= replay._PATIENCE
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


class Forking(Ordered):
    """A disk that fails in the midst of a replay, when another thread has just forked a child that lives on."""

    def __init__(self) -> None:
        super().__init__()
        self.pid, self._reader, self._writer = 0, *os.pipe()

    def syncfs(self, fd: int) -> None:
        if self.pid == 0:
            forking = threading.Thread(target=self._fork)
            forking.start()
            forking.join()
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


def test_a_child_that_is_forked_during_a_replay_keeps_nobody_from_the_next(path: Path) -> None:
    queue = opened(path)
    lose(queue, b"lost")
    disk = Forking()
    MaildirEngine(str(path), disk=disk)
    assert len(left(path)) == 1
    try:
        mailq.open(path)
        assert left(path) == []
        assert ready(path) == 1
    finally:
        disk.bury()
