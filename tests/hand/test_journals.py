"""The journals of producers: when there is one, and who shares it."""

from __future__ import annotations

import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from ordered import Ordered, bodies, journal_of, kill, left, opened

import mailq
from mailq.engines.maildir import filesystems, journal
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.journal import decode
from mailq.engines.maildir.layout import Layout
from mailq.engines.maildir.remains import orphaned_journals

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are journals on Linux only")


# When there is one


def test_a_producer_that_pushes_much_gets_one_and_syncs_once_a_push(path: Path) -> None:
    disk = Ordered()
    queue = opened(path, disk)
    for number in range(journal.PUSHES_BEFORE_JOURNAL):
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
    again = mailq.Queue(queue._engine)
    assert again.stats().ready == journal.PUSHES_BEFORE_JOURNAL + 66
    for _ in range(journal.PUSHES_BEFORE_JOURNAL + 1):
        again.push("an engine that was closed begins anew")


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
    for name in sorted(os.listdir(path / "new"))[:2]:
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
    for number in range(journal.PUSHES_BEFORE_JOURNAL + 50):
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
    records = list(decode(name, (path / "journal" / name).read_bytes()))
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


class Closed(Ordered):
    """Has something else happen in the midst of a push."""

    by: Any = None

    def fdatasync(self, fd: int) -> None:
        by, self.by = self.by, None
        if by:
            by()
        super().fdatasync(fd)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("by", ["its own thread", "another thread"])
def test_a_queue_that_is_closed_in_the_midst_of_a_push_has_it_done_first(path: Path, by: str) -> None:
    """By a signal handler, or by another thread: neither may close what the push is about to write to."""
    disk = Closed()
    queue = opened(path, disk)
    queue.push("makes it")
    closing = threading.Thread(target=queue.close)
    disk.by = queue.close if by == "its own thread" else closing.start
    queue.push("is stored")
    if by == "another thread":
        closing.join()
    assert left(path) == []
    assert mailq.open(path).stats().ready == 2


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


@pytest.mark.usefixtures("at_once")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_another_thread_forks_while_one_is_made_has_no_part_in_its_lock(path: Path) -> None:
    """It would keep the journal of its dead parent from being replayed."""
    children: list[int] = []
    here, there = socket.socketpair()

    def fork() -> None:
        child = os.fork()
        if child == 0:
            there.send(b"begun")
            here.close()
            there.recv(1)  # until the test is over
            os._exit(0)
        children.append(child)

    class Forking(Ordered):
        def write(self, fd: int, data: bytes | memoryview) -> int:
            if len(data) == journal.SIZE:
                other = threading.Thread(target=fork)
                other.start()
                other.join()
            return super().write(fd, data)

    queue = opened(path, Forking())
    with here, there:
        queue.push("x")
        assert here.recv(5) == b"begun"
        kill(queue)
        assert len(orphaned_journals(Layout(str(path)), Disk())) == 1
    (child,) = children
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_program_that_does_not_close_its_queue_leaves_none(path: Path) -> None:
    code = (
        "import sys, mailq\n"
        "from mailq.engines.maildir.disk import Disk\n"
        "Disk.keeps_order = lambda self, path: True\n"
        "queue = mailq.open(sys.argv[1])\n"
        "for number in range(20): queue.push(number)\n"
        "import os; assert os.listdir(f'{queue.location}/journal')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True, text=True)
    assert done.stderr == ""
    assert left(path) == []


@pytest.mark.usefixtures("at_once")
def test_a_program_that_ends_in_the_midst_of_a_push_has_it_done_first(path: Path) -> None:
    """A thread that nobody waits for may push at the very end; from then on it does without."""
    disk = Closed()
    queue = opened(path, disk)
    queue.push("makes it")
    end = journal_of(queue)._end
    assert end is not None
    ending = threading.Thread(target=end)

    def give_it_the_chance() -> None:
        ending.start()
        ending.join(0.1)

    disk.by = give_it_the_chance
    queue.push("at the end")
    ending.join()
    assert left(path) == []
    disk.syncs.clear()
    queue.push("after the end")
    assert set(disk.syncs) == {"fsync"}
    assert queue.stats().ready == 3


LATE = """\
import atexit, os, sys, mailq
from mailq.engines.maildir.disk import Disk

Disk.keeps_order = lambda self, path: True

@atexit.register  # before the queue is opened: so it comes after whatever ends the journal
def goodbye():
    with open(sys.argv[2], "w+") as log:  # it gets the lowest descriptor that is free
        log.write("my own log")
        log.flush()
        queue.push("goodbye")

queue = mailq.open(sys.argv[1])
for number in range(20):
    queue.push(number)
assert os.listdir(f"{queue.location}/journal")
"""


def test_what_is_pushed_when_the_program_has_ended_writes_into_no_other_file(path: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", LATE, path, log], capture_output=True, check=True, text=True)
    assert done.stderr == ""
    assert log.read_text() == "my own log"
    assert left(path) == []
    assert mailq.open(path).stats().ready == 21


@pytest.mark.usefixtures("at_once")
def test_where_no_memory_can_be_mapped_the_kernels_cache_does(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", full)
    queue = opened(path)
    for number in range(3):
        queue.push(number)
    assert len(left(path)) == 1
    assert queue.stats().ready == 3


# Where names come to disk in order


@pytest.mark.parametrize(
    ("kind", "journals", "expected"),
    [
        ("xfs", [], "kept"),
        ("btrfs", [], "kept"),
        ("ext4", ["sda1-8"], "kept"),
        ("ext4 with fast commits", ["sda1-8"], "not known"),
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
    (proc / "self" / "mountinfo").write_text(f"30 1 8:1 / / rw,relatime - {kind.partition(' ')[0]} /dev/sda1 rw\n")
    (sys_ / "dev" / "block" / "sda1").mkdir(parents=True)
    (sys_ / "dev" / "block" / "8:1").symlink_to("sda1")
    (proc / "fs" / "ext4" / "sda1").mkdir(parents=True)
    (proc / "fs" / "ext4" / "sda1" / "fc_info").write_text(f"fc stats:\n{int('fast' in kind)} commits\n10 ineligible\n")
    if journals is not None:
        (proc / "fs" / "jbd2").mkdir()
        for name in journals:
            (proc / "fs" / "jbd2" / name).mkdir()
    assert filesystems.keeps_order("/srv", proc=str(proc), sys=str(sys_)) == (expected == "kept")
    monkeypatch.setattr(filesystems, "mount_of", lambda path, proc: None)
    assert not filesystems.keeps_order("/srv")
