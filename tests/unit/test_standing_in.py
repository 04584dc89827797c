"""A file that takes a message's place: what was edited, and the copy of another user's file. The message may go at any time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import mailq
from mailq.engines.maildir import names
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.ids import NS
from mailq.message import State
from mailq.testing import ManualClock, take

NO_EXCHANGE = [0, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP]


class Standing(Disk):
    """Exchanges files, unless it has an error for that; just ``before`` and ``after`` something else happens."""

    def __init__(self, error: int = 0) -> None:
        self._error = error
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None

    def exchange(self, one: str, other: str) -> None:
        self.before()
        if self._error:
            raise OSError(self._error, os.strerror(self._error), one, None, other)
        super().exchange(one, other)
        self.after()

    def rename(self, source: str, target: str) -> None:
        if (os.path.basename(os.path.dirname(source)), os.path.basename(os.path.dirname(target))) == ("tmp", "cur"):
            self.before()
        super().rename(source, target)


class Foreign(Standing):
    """So does this one, where the files that may be executed are another user's."""

    def utime(self, path: str, ns: int) -> None:
        if os.lstat(path).st_mode & 0o100:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        super().utime(path, ns)


def bodies(path: Path) -> list[bytes]:
    """What is in each message, wherever it is."""
    return [file.read_bytes() for state in ("new", "later", "cur", "dead") for file in (path / state).iterdir()]


def held(path: Path, disk: Disk, clock: ManualClock) -> mailq.Delivery:
    """A message in another user's file."""
    mailq.open(path).push("x")
    (file,) = (path / "new").iterdir()
    file.chmod(0o700)
    return take(mailq.Queue(MaildirEngine(str(path), disk=disk, clock=clock)))


@pytest.mark.parametrize("error", NO_EXCHANGE)
def test_an_edit_that_was_stopped_until_its_message_was_reaped_makes_no_second_one(
    queue: mailq.Queue, path: Path, error: int
) -> None:
    id = queue.push("old")
    clock, disk = ManualClock(), Standing(error)
    editing = mailq.Queue(MaildirEngine(str(path), disk=disk, clock=clock))

    def reaped() -> None:
        clock.advance(1000)
        assert mailq.Queue(MaildirEngine(str(path), clock=clock)).reap().returned == 1

    disk.before = reaped
    with pytest.raises(mailq.MessageNotFound, match=id):
        editing.edit(editing.get(id), b"new")
    assert os.listdir(path / "tmp") == []
    assert bodies(path) == [b"old"]
    delivery = take(queue)
    assert (delivery.id, delivery.raw) == (id, b"old")


@pytest.mark.parametrize("state", ["ready", "delayed", "dead"])
def test_an_edit_that_was_stopped_until_its_message_was_reaped_leaves_it_as_it_was(path: Path, state: State) -> None:
    clock, disk = ManualClock(), Standing()
    mailq.open(path, max_retries=0)
    editing = mailq.Queue(MaildirEngine(str(path), disk=disk, clock=clock))
    id = editing.push("old", delay=5000 if state == "delayed" else 0)
    if state == "dead":
        take(editing).reject("no")
    before = editing.get(id)

    def reaped() -> None:
        clock.advance(1000)
        assert mailq.Queue(MaildirEngine(str(path), clock=clock)).reap()[:3] == (1, 0, 0)

    disk.before = reaped
    with pytest.raises(mailq.MessageNotFound, match=id):
        editing.edit(before, b"new")
    after = editing.get(id)
    assert (after.raw, after.state, after.attempt, after.reason) == (b"old", state, before.attempt, before.reason)
    assert (after.due_at, after.died_at) == (before.due_at, before.died_at)


def test_a_delayed_message_that_came_due_while_its_editor_was_dead_is_delivered(path: Path) -> None:
    clock = ManualClock()
    mailq.open(path)
    queue = mailq.Queue(MaildirEngine(str(path), clock=clock))
    id = queue.push("x", delay=10)
    (delayed,) = (path / "later").iterdir()
    envelope = names.parse(delayed.name)
    assert envelope is not None
    held = envelope.claimed(until=clock() + 60 * NS, owner="", claim="1")._replace(edit="delayed")
    delayed.rename(path / "cur" / names.format_name(held))
    clock.advance(70)
    assert queue.reap().returned == 1
    assert take(queue).id == id


def test_a_name_that_does_not_say_where_an_edited_message_came_from_is_that_of_a_claim(path: Path) -> None:
    """Other programs of this format write such names."""
    clock = ManualClock()
    mailq.open(path)
    queue = mailq.Queue(MaildirEngine(str(path), clock=clock))
    queue.push("x")
    (ready,) = (path / "new").iterdir()
    envelope = names.parse(ready.name)
    assert envelope is not None
    held = envelope._replace(size=None, crc=None).claimed(until=clock(), owner="", claim="1")
    ready.rename(path / "cur" / names.format_name(held))
    clock.advance(1)
    assert queue.reap().returned == 1
    assert take(queue).attempt == 2


@pytest.mark.parametrize("error", NO_EXCHANGE)
@pytest.mark.parametrize("state", ["ready", "delayed", "dead"])
def test_an_edit_leaves_one_file_with_or_without_an_exchange(
    queue: mailq.Queue, path: Path, error: int, state: State
) -> None:
    queue.push("old", delay=60 if state == "delayed" else 0)
    if state == "dead":
        take(queue).reject("no")
    editing = mailq.Queue(MaildirEngine(str(path), disk=Standing(error)))
    editing.edit(editing.peek(state)[0], b"new")
    assert os.listdir(path / "tmp") == []
    assert bodies(path) == [b"new"]
    assert [message.raw for message in queue.peek(state)] == [b"new"]


def test_an_edit_that_is_interrupted_after_the_exchange_is_whole(queue: mailq.Queue, path: Path) -> None:
    """Under its old name it would be torn."""
    queue.push("old")

    def interrupted() -> None:
        raise KeyboardInterrupt

    disk = Standing()
    disk.after = interrupted
    editing = mailq.Queue(MaildirEngine(str(path), disk=disk))
    with pytest.raises(KeyboardInterrupt):
        editing.edit(editing.peek()[0], b"new")
    assert take(queue).raw == b"new"
    assert os.listdir(path / "tmp") == []


def test_a_message_that_is_acked_while_its_lease_is_extended_does_not_come_back(path: Path, queue: mailq.Queue) -> None:
    clock, disk = ManualClock(), Foreign()
    delivery = held(path, disk, clock)
    disk.before = mailq.open(path).delivery(delivery.receipt).ack
    with pytest.raises(mailq.LeaseLost):
        delivery.extend(900)
    assert bodies(path) == []
    assert os.listdir(path / "tmp") == []


@pytest.mark.parametrize("error", NO_EXCHANGE)
def test_a_lease_on_anothers_file_is_extended_with_or_without_an_exchange(
    path: Path, queue: mailq.Queue, error: int
) -> None:
    clock = ManualClock()
    delivery = held(path, Foreign(error), clock)
    delivery.extend(900)
    clock.advance(800)
    assert mailq.Queue(MaildirEngine(str(path), clock=clock)).reap().returned == 0
    assert bodies(path) == [b"x"]
    assert os.listdir(path / "tmp") == []
    delivery.ack()
