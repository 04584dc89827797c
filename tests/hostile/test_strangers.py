"""Real other users: what a queue lets them do, and what a drop-box does."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import using
from janitor import memory
from users import CONSUMER, OTHER, PRODUCER, become, only_root

import mailq
from mailq.engines.maildir import names
from mailq.engines.maildir.disk import Disk, can_syncfs
from mailq.engines.maildir.doctor import examine
from mailq.engines.maildir.engine import MaildirEngine
from mailq.testing import ManualClock

pytestmark = [only_root, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]
DOCS = Path(__file__).parents[2] / "docs" / "security.md"


@pytest.fixture
def srv() -> Iterator[Path]:
    """A directory like /srv: everybody may go through it, the consumer has a place in it."""
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        os.chmod(name, 0o755)
        home = Path(name) / "srv"
        home.mkdir()
        os.chown(home, CONSUMER, CONSUMER)
        os.chmod(home, 0o755)
        yield home


def commands(who: str) -> list[str]:
    """The lines of the page that one of the two users types."""
    found = re.search(rf"<!-- test: {who} -->\n```sh\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found
    return found[1].splitlines()


def as_typed(lines: list[str], srv: Path) -> str:
    """Carry out the lines; what ``mailq`` printed. It runs in this process: another could not load it as this user."""
    printed = ""
    for line in lines:
        feed, _, words = line.replace("/srv", str(srv)).rpartition("|")
        arguments = shlex.split(words)
        if arguments[0] != "mailq":
            subprocess.run(arguments, check=True)
            continue
        fed = subprocess.run(feed, shell=True, check=True, capture_output=True).stdout
        with tempfile.TemporaryFile(dir=memory()) as file:
            file.write(fed)
            file.seek(0)
            with mock.patch.object(sys, "stdin", io.TextIOWrapper(file)):
                code, out, said = using.run(*arguments[1:])
        assert (code, said) == (0, ""), said
        printed += out
    return printed


@pytest.fixture
def box(srv: Path) -> Path:
    """The drop-box of the page."""
    lines = commands("consumer")  # that user may not be able to read the page
    become(CONSUMER, lambda: as_typed(lines, srv))
    return srv / "jobs"


@pytest.mark.skipif(not can_syncfs(), reason="there is no syncfs here that reports errors")
def test_the_drop_box_of_the_page_is_one(srv: Path, box: Path) -> None:
    lines = commands("producer")
    become(PRODUCER, lambda: as_typed(lines, srv))
    become(OTHER, lambda: mailq.open(box).push("from another"))

    def forbidden() -> None:
        queue = mailq.open(box, create=False)
        verbs: list[Any] = [queue.stats, queue.pop, queue.peek, queue.reap, queue.redrive, lambda: queue.purge("ready")]
        for verb in verbs:
            with pytest.raises(mailq.StorageError, match="Permission denied"):
                verb()
        changes: list[Any] = [lambda: queue.push("x", delay=1), lambda: queue.configure(lease=1), queue.pause]
        for change in changes:
            with pytest.raises(mailq.StorageError, match="Permission denied"):
                change()

    become(PRODUCER, forbidden)
    files = [*(box / "new").iterdir()]
    assert len(files) == 102
    assert {(file.stat().st_gid, file.stat().st_mode & 0o777) for file in files} == {(CONSUMER, 0o640)}
    theirs = next(file for file in files if file.stat().st_uid == OTHER)

    def rob() -> None:
        for act in (theirs.read_bytes, theirs.unlink, lambda: theirs.rename(box / "new" / "mine")):
            with pytest.raises(PermissionError):
                act()

    become(PRODUCER, rob)

    def consume() -> None:
        queue = mailq.open(box)
        queue.configure(lease=7)  # writes the marker anew
        bodies = []
        for delivery in queue.drain():
            delivery.extend(60)
            bodies.append(delivery.body)
            delivery.ack()
        assert bodies == [{"resize": "cat.jpg"}, *range(1, 101), "from another"]
        assert queue.stats()[:4] == (0, 0, 0, 0)

    become(CONSUMER, consume)
    become(PRODUCER, lambda: mailq.open(box, create=False).push("the box is still open"))


@pytest.mark.skipif(not can_syncfs(), reason="there is no syncfs here that reports errors")
def test_the_doctor_finds_the_drop_box_of_the_page_well_and_leaves_it_open(srv: Path, box: Path) -> None:
    lines = commands("producer")
    become(PRODUCER, lambda: as_typed(lines, srv))
    modes = {place: place.stat().st_mode for place in (box, *box.iterdir())}

    def examine_it() -> None:
        for fix in (False, True):
            about = [f for f in examine(box, fix=fix) if f.check in {"permissions", "file-permissions"}]
            assert {(f.level, f.fixed) for f in about} == {("ok", None)}, about

    become(CONSUMER, examine_it)
    assert {place: place.stat().st_mode for place in modes} == modes

    def examine_one_that_shows_too_much() -> None:
        box.chmod(0o755)
        assert [(f.level, f.fixed) for f in examine(box, fix=True) if f.check == "permissions"] == [
            ("warning", "permissions set")
        ]

    become(CONSUMER, examine_one_that_shows_too_much)
    assert box.stat().st_mode & 0o777 == 0o711
    become(PRODUCER, lambda: mailq.open(box, create=False).push("the box is still open"))


@pytest.mark.skipif(not can_syncfs(), reason="there is no syncfs here that reports errors")
def test_a_push_into_a_drop_box_syncs_before_it_returns(box: Path) -> None:
    class Log(Disk):
        calls: list[str] = []  # noqa: RUF012 - of one test

        def syncfs(self, fd: int) -> None:
            self.calls.append("syncfs")
            super().syncfs(fd)

        def rename(self, source: str, target: str) -> None:
            self.calls.append("rename")
            super().rename(source, target)

        def fsync(self, fd: int) -> None:
            self.calls.append("fsync")
            super().fsync(fd)

    def push() -> None:
        disk = Log()
        queue = mailq.Queue(MaildirEngine(str(box), disk=disk))
        queue.push("x")
        assert disk.calls == ["fsync", "rename", "syncfs"]
        disk.calls.clear()
        queue.push_many(range(16))
        assert disk.calls == ["syncfs", *["rename"] * 16, "syncfs"]

    become(PRODUCER, push)


def test_what_a_bad_producer_drops_stops_nothing(box: Path, tmp_path: Path) -> None:
    secret = box.parent / "secret"
    secret.write_bytes(b"root:x")
    secret.chmod(0o600)
    front = "20200101T000000.000000000Z," + "0" * 31

    def drop() -> None:
        new = box / "new"
        (new / "unreadable").touch(0o600)
        (new / "forever").write_text("forever")
        (new / "forever").chmod(0o644)
        os.utime(new / "forever", (2**33, 2**33))
        (new / f"{front}1,size=5,crc=00000000.txt").write_text("wrong")
        (new / f"{front}2,prio=9,until=99990101T000000Z,by=0,claim=0.txt").write_text("mine")
        for name in (
            "unreadable",
            f"{front}1,size=5,crc=00000000.txt",
            f"{front}2,prio=9,until=99990101T000000Z,by=0,claim=0.txt",
        ):
            (new / name).chmod(0o600 if name == "unreadable" else 0o644)
        (new / f"{front}3.txt").symlink_to(secret)
        os.mkfifo(new / f"{front}4.txt")
        (new / "directory").mkdir()
        with open(new / "huge", "wb") as file:
            file.truncate(1 << 33)
            os.fchmod(file.fileno(), 0o644)
        mailq.open(box, create=False, durability="power-loss").push("honest")

    become(PRODUCER, drop, umask=0)

    def consume() -> None:
        clock = ManualClock()
        queue = mailq.Queue(MaildirEngine(str(box), clock=clock))
        deliveries = queue.pop_many(10)
        assert sorted(delivery.raw for delivery in deliveries) == [b"forever", b"honest", b"mine"]
        assert sorted(m.reason for m in queue.peek("dead")) == ["too-large", "torn", "unreadable"]
        clock.advance(queue.settings.lease + 1)
        assert queue.reap()[:3] == (3, 0, 0)  # no lease is for ever
        again = queue.pop_many(10)
        assert len(again) == 3
        for delivery in again:
            delivery.extend(1000)
            delivery.nack(delay=0)
        for delivery in queue.drain():
            delivery.ack()
        assert queue.purge("dead") == 3
        assert queue.stats()[:4] == (0, 0, 0, 0)
        assert len(os.listdir(box / "new")) == 3  # a link, a FIFO and a directory

    become(CONSUMER, consume)
    assert secret.read_bytes() == b"root:x"


def test_another_users_delayed_message_from_the_future_comes_due(box: Path) -> None:
    def drop() -> None:
        place = box / "later" / f"20200101T000000.000000000Z,{'0' * 32}.txt"
        place.write_text("x")
        place.chmod(0o644)
        os.utime(place, (2**33, 2**33))

    become(CONSUMER, lambda: (box / "later").chmod(0o3733))
    become(PRODUCER, drop)

    def consume() -> None:
        clock = ManualClock()
        queue = mailq.Queue(MaildirEngine(str(box), clock=clock))
        delivery = queue.pop()
        assert delivery is not None
        clock.advance(1000)
        assert queue.reap()[:3] == (1, 0, 0)

    become(CONSUMER, consume)


def test_a_stranger_can_do_nothing_with_a_queue_of_the_default_modes(srv: Path) -> None:
    path = srv / "private"
    become(CONSUMER, lambda: mailq.open(path).push("x"), umask=0)

    def try_all() -> None:
        for create in (True, False):
            with pytest.raises(mailq.StorageError, match="Permission denied"):
                mailq.open(path, create=create)
        for command in (["push", str(path), "x"], ["pop", str(path)], ["stats", str(path)], ["reap", str(path)]):
            code, out, said = using.run(*command)
            assert (code, out, said.count("\n")) == (1, "", 1)
            assert "Permission denied" in said

    become(PRODUCER, try_all)
    become(CONSUMER, lambda: using.drain(mailq.open(path)) == 1 or pytest.fail("it is not there"))


def test_a_holder_who_may_not_look_at_the_owners_for_a_moment_keeps_his_leases(srv: Path) -> None:
    path = srv / "jobs"

    def hold() -> None:
        clock = ManualClock()
        queue = mailq.open(path)
        holder = mailq.Queue(MaildirEngine(str(path), clock=clock))
        queue.push("x")
        delivery = holder.pop()
        assert delivery is not None
        (path / "owners").chmod(0)
        clock.advance(queue.settings.reap_interval + 1)
        assert holder.pop() is None
        (path / "owners").chmod(0o700)
        assert queue.reap()[:3] == (0, 0, 0)
        delivery.ack()

    become(CONSUMER, hold)


def test_users_share_a_queue_whose_files_are_of_several_owners(srv: Path) -> None:
    """Each extends, gives back and settles what the other pushed and held."""
    path = srv / "shared"
    become(CONSUMER, lambda: mailq.open(path, file_mode="0666"), umask=0)
    become(PRODUCER, lambda: mailq.open(path).push_many(["a", "b"]))

    def hold() -> None:
        queue = mailq.open(path)
        for delivery in queue.pop_many(2):
            delivery.extend(1000)
            delivery.release()

    become(CONSUMER, hold)
    become(OTHER, hold)

    def finish() -> None:
        clock = ManualClock()
        queue = mailq.Queue(MaildirEngine(str(path), clock=clock))
        first, second = queue.pop_many(2, lease=1)
        clock.advance(2)
        assert queue.reap()[:3] == (2, 0, 0)
        assert using.drain(queue) == 2
        assert names.parse(first.receipt) != names.parse(second.receipt)

    become(PRODUCER, finish)
    assert os.listdir(path / "tmp") == []
