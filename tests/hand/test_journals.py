"""The journals of producers: when there is one, what is in it, who replays it, and what others put in its place."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from together import Child

import mailq
from mailq.engines import mounts
from mailq.engines.disk import Disk
from mailq.engines.maildir import journal, replay
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.journal import decode, encode
from mailq.message import Draft, checksum

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are journals on Linux only")


class Ordered(Disk):
    """A disk to which names come in order, whatever it really is; counts what is synced."""

    def __init__(self) -> None:
        self.syncs: list[str] = []

    def keeps_order(self, path: str) -> bool:
        """So it is."""
        return bool(path)

    def fsync(self, fd: int) -> None:
        self.syncs.append("fsync")
        super().fsync(fd)

    def fdatasync(self, fd: int) -> None:
        self.syncs.append("fdatasync")
        super().fdatasync(fd)

    def syncfs(self, fd: int) -> None:
        self.syncs.append("syncfs")
        super().syncfs(fd)


def opened(path: Path, disk: Disk | None = None, **settings: Any) -> mailq.Queue:
    mailq.open(path, **settings).close()
    return mailq.Queue(MaildirEngine(str(path), disk=disk or Ordered()))


def journal_of(queue: mailq.Queue) -> journal.Journal:
    engine = queue._engine
    assert isinstance(engine, MaildirEngine)
    return engine._store.journal


def kill(queue: mailq.Queue) -> None:
    """What of a producer that was killed is seen by others."""
    assert left(Path(queue.location))
    journal_of(queue).after_fork()


def left(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path / "journal") if name[0] != "." and "." not in name)


def bodies(queue: mailq.Queue) -> list[bytes]:
    return [delivery.raw for delivery in iter(queue.pop, None)]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "WARM", 0)


# When there is one


def test_a_producer_that_pushes_much_gets_one_and_syncs_once_a_push(path: Path) -> None:
    disk = Ordered()
    queue = opened(path, disk)
    for number in range(journal.WARM):
        queue.push(number)
    assert not (path / "journal").exists()
    queue.push("makes it")
    assert left(path)
    disk.syncs.clear()
    queue.push("one")
    queue.push_many(range(64))
    queue.push("later", delay=5)
    assert disk.syncs == ["fdatasync"] * 3
    queue.close()
    assert not left(path)
    assert queue.stats().ready == journal.WARM + 66
    for _ in range(journal.WARM + 1):
        queue.push("a closed queue can be used again")


@pytest.mark.usefixtures("at_once")
def test_there_is_none_where_nothing_needs_it_or_names_come_in_any_order(path: Path, tmp_path: Path) -> None:
    fast = opened(path, durability="process-crash")
    fast.push("a")
    assert not (path / "journal").exists()
    other = mailq.Queue(MaildirEngine(str(mailq.open(tmp_path / "other").location), disk=Unordered()))
    other.push("a")
    assert not (tmp_path / "other" / "journal").exists()


class Unordered(Disk):
    """Nothing is known of it."""

    def keeps_order(self, path: str) -> bool:
        """Not known."""
        return not path


@pytest.mark.usefixtures("at_once")
def test_what_is_too_large_for_it_is_synced_by_itself(path: Path) -> None:
    disk = Ordered()
    queue = opened(path, disk)
    queue.push("makes it")
    queue.push(bytes(journal.SIZE // 4))
    disk.syncs.clear()
    queue.push(bytes(journal.SIZE // 4))
    assert disk.syncs == ["fsync", "fsync"]


@pytest.mark.usefixtures("at_once")
def test_when_it_is_full_everything_is_synced_and_it_begins_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SIZE", 1 << 14)
    disk = Ordered()
    queue = opened(path, disk)
    for number in range(100):
        queue.push(number)
    (name,) = left(path)
    assert (path / "journal" / name).stat().st_size == 1 << 14
    assert disk.syncs.count("syncfs") == 24
    assert queue.stats().ready == 100


@pytest.mark.usefixtures("at_once")
def test_what_could_not_be_synced_stays_in_it_though_the_next_sync_succeeds(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells a descriptor of each failure once; by then it has dropped what it could not write."""

    class Failing(Ordered):
        fails = 0

        def syncfs(self, fd: int) -> None:
            super().syncfs(fd)
            if self.fails:
                self.fails -= 1
                raise OSError(5, "Input/output error")

    monkeypatch.setattr(journal, "SIZE", 1 << 14)
    disk = Failing()
    queue = opened(path, disk)
    for number in range(4):
        queue.push(b"message %d" % number)
    (full,) = left(path)
    disk.fails = 1
    queue.push(b"message 4")
    assert full in left(path)
    assert len(left(path)) == 2
    for name in os.listdir(path / "new")[:2]:
        os.truncate(path / "new" / name, 0)
    queue.close()
    assert sorted(bodies(mailq.open(path))) == [b"message %d" % number for number in range(5)]


@pytest.mark.usefixtures("at_once")
def test_who_may_not_make_one_pushes_without(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queue = opened(path)
    (path / "elsewhere").mkdir()
    (path / "journal").symlink_to(path / "elsewhere")
    with caplog.at_level(logging.INFO, logger="mailq"):
        for number in range(5):
            queue.push(number)
    assert "without a journal" in caplog.text
    assert len(caplog.records) == 1
    assert not os.listdir(path / "elsewhere")
    assert not os.listdir(path / "tmp")
    assert queue.stats().ready == 5


def test_a_directory_without_room_for_one_is_asked_again_only_after_a_while(path: Path) -> None:
    class Full(Ordered):
        asked = 0

        def write(self, fd: int, data: bytes | memoryview) -> int:
            if len(data) == journal.SIZE:
                self.asked += 1
                raise OSError(28, "No space left on device")
            return super().write(fd, data)

    disk = Full()
    queue = opened(path, disk)
    for number in range(journal.WARM + 50):
        queue.push(number)
    assert disk.asked == 1
    assert not os.listdir(path / "tmp")
    assert not os.listdir(path / "journal")


# Who shares it


@pytest.mark.usefixtures("at_once")
def test_threads_share_one(path: Path) -> None:
    queue = opened(path)

    def push(who: int) -> None:
        for number in range(50):
            queue.push({"who": who, "number": number})

    threads = [threading.Thread(target=push, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (name,) = left(path)
    records = list(decode((path / "journal" / name).read_bytes()))
    assert sorted(record.number for record in records) == list(range(1, 201))
    assert os.stat(path / "journal" / f"{name}.mark").st_mtime == 200
    assert queue.stats().ready == 200


@pytest.mark.usefixtures("at_once")
def test_a_signal_handler_that_pushes_in_the_midst_of_a_push_does_without(path: Path) -> None:
    class Interrupted(Ordered):
        pending = 0

        def fdatasync(self, fd: int) -> None:
            super().fdatasync(fd)
            if self.pending:
                self.pending -= 1
                signal.raise_signal(signal.SIGUSR1)

    disk = Interrupted()
    queue = opened(path, disk)
    before = signal.signal(signal.SIGUSR1, lambda *_: queue.push("from the handler"))
    try:
        queue.push("first")
        disk.pending = 3
        for _ in range(3):
            queue.push("interrupted")
    finally:
        signal.signal(signal.SIGUSR1, before)
    kill(queue)
    assert queue.stats().ready == 7


@pytest.mark.usefixtures("at_once")
def test_a_queue_that_is_closed_in_the_midst_of_a_push_has_it_done_first(path: Path) -> None:
    """By a signal handler, and by another thread: neither may close what the push is about to write to."""

    class Closed(Ordered):
        by: Any = None

        def fdatasync(self, fd: int) -> None:
            by, self.by = self.by, None
            if by:
                by()
            super().fdatasync(fd)

    disk = Closed()
    queue = opened(path, disk)
    queue.push("makes it")
    disk.by = queue.close
    queue.push("closed by its own thread")
    assert len(left(path)) == 1
    closing = threading.Thread(target=queue.close)
    disk.by = closing.start
    queue.push("closed by another")
    closing.join()
    assert left(path) == []
    assert queue.stats().ready == 3


@pytest.mark.usefixtures("at_once")
def test_a_forked_child_has_one_of_its_own(path: Path) -> None:
    queue = opened(path)
    queue.push("parent")
    pid = os.fork()
    if pid == 0:
        try:
            queue.push("child")
            code = 0 if len(left(path)) == 2 else 1
            queue.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    queue.push("parent again")
    assert len(left(path)) == 1
    assert queue.stats().ready == 3


def test_a_program_that_does_not_close_its_queue_leaves_none(path: Path) -> None:
    code = (
        "import sys, mailq\n"
        "from mailq.engines.disk import Disk\n"
        "Disk.keeps_order = lambda self, path: True\n"
        "queue = mailq.open(sys.argv[1])\n"
        "for number in range(20): queue.push(number)\n"
        "import os; assert os.listdir(f'{queue.location}/journal')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True, text=True)
    assert done.stderr == ""
    assert left(path) == []


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
def test_who_is_stopped_while_he_replays_keeps_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_PATIENCE", 0.1)
    queue = opened(path)
    queue.push("a")
    kill(queue)
    fd = os.open(path / "journal", os.O_RDONLY)
    assert replay._is_locked(fd)
    begun = time.monotonic()
    assert mailq.open(path).stats().ready == 1
    assert 0.1 <= time.monotonic() - begun < 30
    os.close(fd)


# What else may be there


GARBAGE = {
    "empty": b"",
    "zeros": bytes(10_000),
    "text": b"redo me\n" * 1000,
    "another directory": encode(1, "../elsewhere", "x", b""),
    "no name of ours": encode(1, "new", "../../x", b"data"),
    "claimed": encode(
        1,
        "cur",
        "20261121T013205.123456789Z,01936f0c2b7d7a3e9c41b6d07f52e811,size=1,crc=83dcefb7.bin",
        b"1",
    ),
    "no checksum": encode(1, "new", "20261121T013205.123456789Z,01936f0c2b7d7a3e9c41b6d07f52e811.bin", b"1"),
    "torn": encode(
        1,
        "new",
        "20261121T013205.123456789Z,01936f0c2b7d7a3e9c41b6d07f52e811,size=9,crc=83dcefb7.bin",
        b"1",
    ),
    "a huge number": b"redo " + b"9" * 200 + b" new/x 00000000\n",
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_journal_that_is_none_restores_nothing(path: Path, content: bytes) -> None:
    mailq.open(path).close()
    (path / "journal").mkdir()
    (path / "journal" / "0badcafe").write_bytes(content)
    queue = mailq.open(path)
    assert queue.stats().ready + queue.stats().dead == 0
    assert queue.push("a")
    assert queue.pop()


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
    queue = mailq.open(path)
    queue.push("a")
    assert queue.pop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    assert (path / "journal" / "mine.txt").exists()
    assert Path("/etc/passwd").exists()


@given(
    st.lists(st.tuples(st.binary(max_size=5000), st.sampled_from(["new", "later"])), max_size=8),
    st.integers(0, 40_000),
)
def test_what_is_written_is_read(messages: list[tuple[bytes, str]], cut: int) -> None:
    """Also of a journal that was cut off anywhere: what lies whole before that."""
    content, expected = b"", []
    for number, (data, directory) in enumerate(messages):
        name = f"20261121T013205.{number:09d}Z,{number:032x},size={len(data)},crc={checksum(data):08x}.bin"
        content += encode(number, directory, name, data)
        if len(content) <= cut:
            expected.append((number, name, data))
        content = content.ljust(-(-len(content) // 4096) * 4096, b"\0") if number % 2 else content
    found = {(record.number, record.name, record.data) for record in decode(content[:cut])}
    assert found == set(expected)


# Where names come to disk in order


@pytest.mark.parametrize(
    ("kind", "journals", "expected"),
    [
        ("xfs", [], "kept"),
        ("btrfs", [], "kept"),
        ("ext4", ["sda1-8"], "kept"),
        ("ext4", ["sdb1-8"], "not known"),
        ("ext4", None, "not known"),
        ("tmpfs", [], "not known"),
        ("nfs4", [], "not known"),
        ("overlay", [], "not known"),
    ],
)
def test_where_names_come_to_disk_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, journals: list[str] | None, expected: str
) -> None:
    proc, sys_ = tmp_path / "proc", tmp_path / "sys"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "mountinfo").write_text(f"30 1 8:1 / / rw,relatime - {kind} /dev/sda1 rw\n")
    (sys_ / "dev" / "block" / "sda1").mkdir(parents=True)
    (sys_ / "dev" / "block" / "8:1").symlink_to("sda1")
    (proc / "fs" / "ext4" / "sda1").mkdir(parents=True)
    if journals is not None:
        (proc / "fs" / "jbd2").mkdir()
        for name in journals:
            (proc / "fs" / "jbd2" / name).mkdir()
    assert mounts.keeps_order("/srv", proc=str(proc), sys=str(sys_)) == (expected == "kept")
    monkeypatch.setattr(mounts, "mount_of", lambda path, proc: None)
    assert not mounts.keeps_order("/srv")


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What was restored is logged."""
    caplog.set_level(logging.ERROR, logger="mailq")


def test_a_draft_of_no_bytes_goes_through_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "WARM", 0)
    queue = opened(path)
    engine = queue._engine
    engine.push([Draft(b"", "bin"), Draft(b"", "bin")])
    kill(queue)
    for name in os.listdir(path / "new"):
        os.unlink(path / "new" / name)
    for name in left(path):
        os.utime(path / "journal" / f"{name}.mark", (0, 0))
    assert bodies(mailq.open(path)) == [b"", b""]
