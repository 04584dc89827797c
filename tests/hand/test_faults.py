"""Each durable call of each verb fails once: a documented error or success, nothing lost, no litter, and on it goes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import mailq
from mailq.engines.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.message import STATES

CALLS = ["open", "write", "read", "fsync", "close", "rename", "unlink", "utime"]
ERRORS = [errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EACCES, errno.EROFS, errno.ESTALE]


class FailingDisk(Disk):
    """Fails one call, counted from when it is armed; the call is not made."""

    def __init__(self) -> None:
        self.countdown = -1
        self.call = ""
        self.error = 0

    def arm(self, call: str, number: int, error: int) -> None:
        self.call, self.countdown, self.error = call, number, error

    def step(self, call: str) -> None:
        if call == self.call:
            self.countdown -= 1
            if self.countdown == -1:
                raise OSError(self.error, os.strerror(self.error))

    @property
    def fired(self) -> bool:
        return self.countdown < 0


def _failing(call: str) -> Any:
    original = getattr(Disk, call)

    def method(self: FailingDisk, *arguments: Any, **options: Any) -> Any:
        if call == "close":
            original(self, *arguments)  # the kernel lets go of a descriptor whatever close reports
            self.step(call)
            return None
        self.step(call)
        return original(self, *arguments, **options)

    return method


for _call in CALLS:
    setattr(FailingDisk, _call, _failing(_call))


def settle(verb: str, delivery: mailq.Delivery) -> None:
    match verb:
        case "ack":
            delivery.ack()
        case "nack":
            delivery.nack(delay=0, error="text")
        case "release":
            delivery.release()
        case "reject":
            delivery.reject("text")
        case "extend":
            delivery.extend(600)


def tidy(path: Path) -> bool:
    return os.listdir(path / "tmp") == []


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("count", [1, 20])
def test_a_push_that_raised_left_nothing_or_says_what(path: Path, call: str, error: int, count: int) -> None:
    mailq.open(path)
    for number in range(100):
        disk = FailingDisk()
        queue = mailq.Queue(MaildirEngine(str(path), disk=disk))
        disk.arm(call, number, error)
        try:
            ids = queue.push_many(range(count))
            maybe: tuple[str, ...] = ()
        except mailq.StorageError as raised:
            ids, maybe = [], raised.maybe_pushed
        fired = disk.fired
        disk.arm("", 0, 0)
        assert tidy(path)
        there = {message.id for message in queue.peek("ready", limit=None)}
        assert set(ids) <= there <= {*ids, *maybe}
        assert queue.push("next")
        queue.purge("ready")
        if not fired:
            return
    pytest.fail("the call never stopped being made")


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("verb", ["ack", "nack", "release", "reject", "extend"])
def test_no_failing_call_loses_a_message(path: Path, verb: str, call: str, error: int) -> None:
    """Pop, settle, and pop again, with the n-th call of a kind failing, for every n."""
    mailq.open(path, max_retries=9)
    for number in range(100):
        disk = FailingDisk()
        queue = mailq.Queue(MaildirEngine(str(path), disk=disk))
        ids = set(queue.push_many(["a", "b"]))
        disk.arm(call, number, error)
        acked = set()
        try:
            delivery = queue.pop()
            if delivery is not None:
                settle(verb, delivery)
                if verb == "ack":
                    acked.add(delivery.id)
        except (mailq.StorageError, mailq.LeaseLost):
            pass
        fired = disk.fired
        disk.arm("", 0, 0)
        queue.close()  # the holder is gone: what it held goes back
        queue.reap()
        there = {message.id for state in STATES for message in queue.peek(state, limit=None)}
        assert there == ids - acked
        assert tidy(path)
        for state in STATES:
            queue.purge(state)
        if not fired:
            return
    pytest.fail("the call never stopped being made")


def test_a_redrive_that_cannot_be_synced_is_a_storage_error(path: Path) -> None:
    mailq.open(path)
    disk = FailingDisk()
    queue = mailq.Queue(MaildirEngine(str(path), disk=disk))
    id = queue.push("a")
    delivery = queue.pop()
    assert delivery is not None
    delivery.reject()
    disk.arm("fsync", 0, errno.EIO)
    with pytest.raises(mailq.StorageError):
        queue.redrive()
    assert [message.id for message in queue.peek("ready")] == [id], "what was renamed stays"


def test_a_directory_that_is_made_again_and_cannot_be_synced_is_a_storage_error(path: Path) -> None:
    mailq.open(path)
    os.rmdir(path / "later")
    disk = FailingDisk()
    disk.arm("fsync", 0, errno.EIO)
    with pytest.raises(mailq.StorageError):
        MaildirEngine(str(path), disk=disk)


class VanishingDisk(Disk):
    """A disk that goes away when a push has just renamed its message."""

    def sync_directory(self, path: str) -> None:
        os.rename(f"{os.path.dirname(path)}/mailq.toml", f"{os.path.dirname(path)}/gone")
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def unlink(self, path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_push_that_may_have_happened_says_so_even_if_the_queue_is_gone(path: Path) -> None:
    mailq.open(path)
    with pytest.raises(mailq.StorageError) as caught:
        mailq.Queue(MaildirEngine(str(path), disk=VanishingDisk())).push("a")
    os.rename(path / "gone", path / "mailq.toml")
    assert [message.id for message in mailq.open(path).peek()] == list(caught.value.maybe_pushed)


def test_a_marker_that_cannot_be_looked_at_is_a_storage_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = mailq.open(path)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        with pytest.raises(mailq.StorageError):
            queue.reap()
    assert queue.reap() == (0, 0, 0)
