"""The journals of producers: what is in them, who replays them, and what others put in their place."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ordered import Ordered, bodies, journal_of, kill, left, opened
from together import Child

import mailq
from mailq import names
from mailq.engines.maildir import journal
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.journal import decode, encode
from mailq.message import Draft, checksum

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are journals on Linux only")


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What was restored is logged."""
    caplog.set_level(logging.ERROR, logger="mailq")


# Who replays it


def _push_for_ever(pipe: Connection, path: str) -> None:
    queue = mailq.Queue(MaildirEngine(path, disk=Ordered()))
    for number in range(1, 1000):
        queue.push(number)
        pipe.send(number)
        if number == 30:
            pipe.recv()


def test_nothing_comes_back_from_a_producer_that_was_killed(path: Path) -> None:
    queue = opened(path)
    with Child(_push_for_ever, str(path)) as child:
        assert [child.hear() for _ in range(30)] == list(range(1, 31))
        assert queue.reap() == queue.reap()
        assert len(left(path)) == 1, "it is alive"
        for delivery in queue.pop_many(30):
            delivery.ack()
        assert queue.stats().leased == queue.stats().ready == 0
    queue.reap()
    assert left(path) == []
    assert queue.pop() is None
    assert mailq.open(path).stats().ready == 0


@pytest.mark.usefixtures("at_once")
def test_what_is_torn_is_mended_where_it_is_by_whoever_meets_it(path: Path) -> None:
    queue, consumer = opened(path), opened(path)
    for number in range(3):
        queue.push(b"message %d" % number)
    first = consumer.pop()
    assert first is not None
    first.nack(delay=0)
    kill(queue)
    for name in os.listdir(path / "new"):
        os.truncate(path / "new" / name, 0)
    seen = []
    while delivery := consumer.pop():
        seen.append((delivery.raw, delivery.attempt))
        delivery.ack()
    assert sorted(seen) == [(b"message 0", 2), (b"message 1", 1), (b"message 2", 1)]
    assert consumer.stats().dead == 0


@pytest.mark.usefixtures("at_once")
def test_what_never_came_to_the_disk_is_restored_and_what_was_acked_is_not(path: Path) -> None:
    queue = opened(path)
    ids = [queue.push(number) for number in range(6)]
    kill(queue)
    (name,) = left(path)
    for entry in os.listdir(path / "new"):
        os.unlink(path / "new" / entry)
    os.utime(path / "journal" / f"{name}.mark", (3, 3))  # the first three had come to the disk
    again = mailq.open(path)
    assert [message.id for message in again.peek(limit=10)] == ids[3:]
    assert left(path) == []


@pytest.mark.usefixtures("at_once")
def test_of_two_queues_that_share_a_journal_each_gets_its_own_back(path: Path) -> None:
    """As cp -al makes a copy: the mark is one file with a name in each, and so is the number in its time."""
    queue, copy = opened(path), path.parent / "copy"
    ids = [queue.push(number) for number in range(6)]
    kill(queue)
    (name,) = left(path)
    for entry in os.listdir(path / "new"):
        os.unlink(path / "new" / entry)
    os.utime(path / "journal" / f"{name}.mark", (3, 3))
    shutil.copytree(path, copy, copy_function=os.link)
    for root in (copy, path):
        assert [message.id for message in mailq.open(root).peek(limit=10)] == ids[3:]
        assert left(root) == []


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("there", [[0], [0, 1], [0, 1, 2]])
def test_a_batch_whose_producer_was_killed_between_its_renames_keeps_its_order(path: Path, there: list[int]) -> None:
    """The names that are there have places of later than the journal has for the others."""
    queue = opened(path)
    queue.push_many(range(4))
    queue.push(4)
    kill(queue)
    (name,) = left(path)
    for number, entry in enumerate(sorted(os.listdir(path / "new"))):
        if number not in there:
            os.unlink(path / "new" / entry)
    os.utime(path / "journal" / f"{name}.mark", (0, 0))
    assert bodies(mailq.open(path)) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.usefixtures("at_once")
def test_an_edited_message_stays_as_it_was_edited(path: Path) -> None:
    queue = opened(path)
    queue.push(b"before")
    queue.edit(queue.peek()[0], b"after the edit")
    kill(queue)
    for name in left(path):
        os.unlink(path / "journal" / f"{name}.mark")
    assert bodies(mailq.open(path)) == [b"after the edit"]


@pytest.mark.usefixtures("at_once")
def test_an_edited_message_that_is_torn_is_not_given_its_old_body(path: Path) -> None:
    """Its edit was synced: that it is torn has another reason than a power cut, and a person should see it."""
    queue = opened(path)
    queue.push(b"before")
    queue.edit(queue.peek()[0], b"after the edit")
    kill(queue)
    os.truncate(path / "new" / os.listdir(path / "new")[0], 3)
    again = mailq.open(path)
    assert again.pop() is None
    assert [(message.reason, message.raw) for message in again.peek("dead")] == [("torn", b"aft")]


@pytest.mark.usefixtures("at_once")
def test_a_draft_of_no_bytes_goes_through_it(path: Path) -> None:
    queue = opened(path)
    engine = queue._engine
    engine.push([Draft(b"", "bin"), Draft(b"", "bin")])
    kill(queue)
    for name in os.listdir(path / "new"):
        os.unlink(path / "new" / name)
    for name in left(path):
        os.utime(path / "journal" / f"{name}.mark", (0, 0))
    assert bodies(mailq.open(path)) == [b"", b""]


class Unreadable(Ordered):
    """A disk that has a file whose blocks it cannot read."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place
        self._broken: set[int] = set()

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        fd = super().open(path, flags, mode)
        if path.endswith(self._place):
            self._broken.add(fd)
        else:
            self._broken.discard(fd)
        return fd

    def read(self, fd: int, size: int) -> bytes:
        if fd in self._broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(fd, size)


@pytest.mark.usefixtures("at_once")
def test_a_torn_message_that_is_moved_while_it_is_looked_at_is_mended_where_it_comes_to(path: Path) -> None:
    queue = opened(path)
    queue.push(b"the message")
    kill(queue)
    (name,) = os.listdir(path / "new")
    os.truncate(path / "new" / name, 0)
    envelope = names.parse(name)
    assert envelope is not None
    claimed = names.format_name(envelope.claimed(until=time.time_ns() + 10**12, owner="7f3a9c01", claim="51d2aa"))

    class Claiming(Ordered):
        is_claimed = False

        def open(self, path_: str, flags: int, mode: int = 0o600) -> int:
            if path_.endswith(name) and not self.is_claimed:
                self.is_claimed = True
                os.rename(path_, path / "cur" / claimed)
            return super().open(path_, flags, mode)

    disk = Claiming()
    MaildirEngine(str(path), disk=disk)
    assert disk.is_claimed
    assert (path / "cur" / claimed).read_bytes() == b"the message"


@pytest.mark.usefixtures("at_once")
def test_a_message_that_the_disk_cannot_read_is_mended_like_a_torn_one(path: Path) -> None:
    queue = opened(path)
    for number in range(2):
        queue.push(b"message %d" % number)
    kill(queue)
    unreadable, torn = sorted(os.listdir(path / "new"))
    os.truncate(path / "new" / torn, 0)
    before = os.stat(path / "new" / unreadable).st_ino
    MaildirEngine(str(path), disk=Unreadable(f"new/{unreadable}"))
    assert left(path) == []
    assert os.stat(path / "new" / unreadable).st_ino != before, "another file, from the journal"
    assert bodies(mailq.open(path)) == [b"message 0", b"message 1"]


@pytest.mark.usefixtures("at_once")
def test_a_journal_that_cannot_be_read_stops_no_other(path: Path) -> None:
    queues = [opened(path) for _ in range(2)]
    for queue in queues:
        queue.push(b"never came to the disk")
    for queue in queues:
        kill(queue)
    for name in left(path):
        os.utime(path / "journal" / f"{name}.mark", (0, 0))
    for name in os.listdir(path / "new"):
        os.unlink(path / "new" / name)
    unreadable = next(name for name in os.listdir(path / "journal") if name in left(path))
    MaildirEngine(str(path), disk=Unreadable(f"journal/{unreadable}"))
    assert left(path) == [unreadable]
    assert len(os.listdir(path / "new")) == 1


@pytest.mark.usefixtures("at_once")
def test_a_mark_with_a_time_that_no_producer_sets_vouches_for_nothing(path: Path) -> None:
    queue = opened(path)
    queue.push(b"never came to the disk")
    kill(queue)
    os.unlink(path / "new" / os.listdir(path / "new")[0])
    (name,) = left(path)
    os.utime(path / "journal" / f"{name}.mark", (journal.LAST + 1, journal.LAST + 1))
    assert bodies(mailq.open(path)) == [b"never came to the disk"]


@pytest.mark.usefixtures("at_once")
def test_before_its_numbers_end_a_producer_begins_another_journal(path: Path) -> None:
    queue = opened(path)
    queue.push(b"makes it")
    file = journal_of(queue)._desk.file
    assert file is not None
    file._number = journal.LAST - journal.SIZE
    queue.push(b"the last in there")
    assert left(path) == [file._token]
    queue.push(b"in another")
    assert len(left(path)) == 1
    assert left(path) != [file._token]


# What else may be there


TOKEN = "0badcafe"
GARBAGE = {
    "empty": b"",
    "zeros": bytes(10_000),
    "text": b"redo me\n" * 1000,
    "another directory": encode(TOKEN, 1, "../elsewhere", "x", b""),
    "no name of ours": encode(TOKEN, 1, "new", "../../x", b"data"),
    "claimed": encode(
        TOKEN,
        1,
        "cur",
        "20261121T013205.123456789Z,01936f0c2b7d7a3e9c41b6d07f52e811,size=1,crc=83dcefb7.bin",
        b"1",
    ),
    "no checksum": encode(TOKEN, 1, "new", "20261121T013205.123456789Z,01936f0c2b7d7a3e9c41b6d07f52e811.bin", b"1"),
    "another's": encode(
        "0badbeef",
        1,
        "new",
        "20261121T013205.123456789Z,01936f0c2b7d7a3e9c41b6d07f52e811,size=1,crc=83dcefb7.bin",
        b"1",
    ),
    "torn": encode(
        TOKEN,
        1,
        "new",
        "20261121T013205.123456789Z,01936f0c2b7d7a3e9c41b6d07f52e811,size=9,crc=83dcefb7.bin",
        b"1",
    ),
    "a number that no journal reaches": encode(
        TOKEN,
        10**30,
        "new",
        "20261121T013205.123456789Z,01936f0c2b7d7a3e9c41b6d07f52e811,size=1,crc=83dcefb7.bin",
        b"1",
    ),
    "a huge number": b"redo 0badcafe " + b"9" * 200 + b" new/x 00000000\n",
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_journal_that_is_none_restores_nothing(path: Path, content: bytes) -> None:
    mailq.open(path).close()
    (path / "journal").mkdir()
    (path / "journal" / TOKEN).write_bytes(content)
    queue = mailq.open(path)
    assert queue.stats().ready + queue.stats().dead == 0
    assert queue.push("a")
    assert queue.pop()


@pytest.mark.parametrize("name", ["empty", "text", "another's"])
def test_what_may_be_somebodys_own_stays_where_a_journal_would_be(path: Path, name: str) -> None:
    mailq.open(path).close()
    (path / "journal").mkdir()
    for place in (TOKEN, "1", "cafe"):
        (path / "journal" / place).write_bytes(GARBAGE[name])
    mailq.open(path).reap()
    assert left(path) == sorted([TOKEN, "1", "cafe"])


@pytest.mark.parametrize(
    "content", [bytes(10_000), b"redo 0badcafe 1 new/torn".ljust(8192, b"\0")], ids=["unused", "torn"]
)
def test_a_journal_without_a_whole_record_is_removed(path: Path, content: bytes) -> None:
    mailq.open(path).close()
    (path / "journal").mkdir()
    (path / "journal" / TOKEN).write_bytes(content)
    mailq.open(path)
    assert left(path) == []


@pytest.mark.usefixtures("at_once")
def test_a_journal_whose_first_record_was_torn_is_replayed_from_the_second(path: Path) -> None:
    queue = opened(path)
    for number in range(2):
        queue.push(b"message %d" % number)
    kill(queue)
    (name,) = left(path)
    with open(path / "journal" / name, "r+b") as file:
        file.write(b"not what was written")
    for torn in os.listdir(path / "new"):
        os.truncate(path / "new" / torn, 0)
    queue = mailq.open(path)
    assert bodies(queue) == [b"message 1"]
    assert queue.stats().dead == 1


def test_what_is_no_file_in_the_place_of_a_journal_stops_nobody(path: Path) -> None:
    mailq.open(path).close()
    (path / "journal").mkdir()
    os.mkfifo(path / "journal" / "0badcaf0")
    (path / "journal" / "0badcaf1").mkdir()
    (path / "journal" / "0badcaf2").symlink_to("/etc/passwd")
    (path / "journal" / "0badcaf3").write_bytes(b"")
    os.truncate(path / "journal" / "0badcaf3", 1 << 40)
    (path / "journal" / "mine.txt").write_text("kept")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    names = set(os.listdir(path / "journal"))
    queue = mailq.open(path)
    queue.push("a")
    assert queue.pop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    assert set(os.listdir(path / "journal")) == names
    assert Path("/etc/passwd").exists()


@pytest.mark.usefixtures("at_once")
def test_a_body_that_looks_like_a_record_brings_nothing_into_the_queue(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may choose a body must not choose other messages: when its beginning is overwritten, its end may stand at a block."""
    monkeypatch.setattr(journal, "SIZE", 1 << 15)
    forged = (
        b"redo 0badcafe 9999 new/20261121T013205.123456789Z,01936f0c2b7d7a3e9c41b6d07f52e811,size=1,crc=83dcefb7.bin"
    )
    forged += b" %08x\n1" % checksum(forged)
    queue = opened(path)
    queue.push(bytes(5000))
    (name,) = left(path)
    line = (path / "journal" / name).read_bytes().index(b"\n") + 1
    queue.push((b"." * (4096 - line) + forged).ljust(5000))
    for number in range(7):  # the last of them over the record of that one
        queue.push(number)
    assert (path / "journal" / name).read_bytes().startswith(forged, 3 * 4096)
    queue.purge("ready")
    kill(queue)
    assert bodies(mailq.open(path)) == []


@given(
    st.lists(st.tuples(st.binary(max_size=5000), st.sampled_from(["new", "later"])), max_size=8),
    st.integers(0, 40_000),
)
def test_what_is_written_is_read(messages: list[tuple[bytes, str]], cut: int) -> None:
    """Also of a journal that was cut off anywhere: what lies whole before that."""
    content, expected = b"", []
    for number, (data, directory) in enumerate(messages):
        name = f"20261121T013205.{number:09d}Z,{number:032x},size={len(data)},crc={checksum(data):08x}.bin"
        content += encode(TOKEN, number, directory, name, data)
        if len(content) <= cut:
            expected.append((number, name, data))
        content = content.ljust(-(-len(content) // 4096) * 4096, b"\0") if number % 2 else content
    found = {(record.number, record.name, record.data) for record in decode(TOKEN, content[:cut])}
    assert found == set(expected)
