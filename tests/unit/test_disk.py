from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from faulty import Fault, FaultyDisk, fault
from hypothesis import given
from hypothesis import strategies as st

from mailq.engines.maildir import filesystems
from mailq.engines.maildir.disk import Disk, can_syncfs

DATA = b"message" * 1000


# write_file


def test_a_written_file_has_its_content_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    disk = FaultyDisk()
    disk.write_file(str(tmp_path / "x"), DATA, mode=0o600, sync=True)
    assert (tmp_path / "x").read_bytes() == DATA
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600
    assert disk.calls == ["create", "write", "fsync", "close"]
    assert disk.open_files == set()


def test_an_unsynced_file_is_not_synced(tmp_path: Path) -> None:
    disk = FaultyDisk()
    disk.write_file(str(tmp_path / "x"), b"", mode=0o600, sync=False)
    assert disk.calls == ["create", "write", "close"]


def test_a_shared_mode_holds_against_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        Disk().write_file(str(tmp_path / "x"), DATA, mode=0o664, sync=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o664


@pytest.mark.parametrize("most", [1, 7, 999, 6999, 7000])
def test_short_writes_are_continued(tmp_path: Path, most: int) -> None:
    disk = FaultyDisk(most=most)
    disk.write_file(str(tmp_path / "x"), DATA, mode=0o600, sync=True)
    assert (tmp_path / "x").read_bytes() == DATA
    assert disk.calls.count("write") == -(-len(DATA) // most)


@pytest.mark.parametrize("call", ["create", "chmod", "write", "fsync", "close"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_file_that_could_not_be_written_is_not_there(tmp_path: Path, call: str, error: BaseException) -> None:
    disk = FaultyDisk(fault(call, error=error))
    with pytest.raises(type(error)) as raised:
        disk.write_file(str(tmp_path / "x"), DATA, mode=0o660, sync=True)
    assert raised.value is error
    assert os.listdir(tmp_path) == []
    assert disk.open_files == set()


def test_a_failed_sync_is_never_tried_again_on_the_same_file(tmp_path: Path) -> None:
    """The kernel reports a lost page once; a second fsync of the descriptor would report success."""
    disk = FaultyDisk(fault("fsync"))
    with pytest.raises(OSError, match="Input/output"):
        disk.write_file(str(tmp_path / "x"), DATA, mode=0o600, sync=True)
    assert disk.calls == ["create", "write", "fsync", "close", "unlink"]


def test_the_first_failure_is_the_one_that_is_told(tmp_path: Path) -> None:
    class Worse(FaultyDisk):
        def unlink(self, path: str) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(OSError, match="Input/output"):
        Worse(fault("write")).write_file(str(tmp_path / "x"), DATA, mode=0o600, sync=True)


@pytest.mark.parametrize("refusal", [fault("write", number=2), fault("write", part=True)], ids=["third", "second half"])
def test_a_failed_write_in_the_middle_leaves_nothing(tmp_path: Path, refusal: Fault) -> None:
    with pytest.raises(OSError, match="Input/output"):
        FaultyDisk(refusal, most=100).write_file(str(tmp_path / "x"), DATA, mode=0o600, sync=True)
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"before")
    with pytest.raises(FileExistsError):
        Disk().write_file(str(tmp_path / "x"), DATA, mode=0o600, sync=False)
    assert (tmp_path / "x").read_bytes() == b"before"


def test_a_symlink_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        Disk().write_file(str(tmp_path / "x"), DATA, mode=0o600, sync=False)
    assert not (tmp_path / "target").exists()


# Reading


@given(st.integers(0, 3000), st.integers(0, 4000))
def test_a_file_that_is_longer_than_thought_shows_it_and_costs_no_more(
    tmp_path_factory: pytest.TempPathFactory, size: int, thought: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "longer-than-thought"
    path.write_bytes(DATA[:size])
    disk = Disk()
    fd = disk.open_to_read(str(path))
    assert disk.read_all(fd, thought) == DATA[:size][: thought + 1]
    disk.close(fd)


@pytest.mark.parametrize("most", [1, 10, 999, 6999, 7000])
def test_short_reads_are_continued(tmp_path: Path, most: int) -> None:
    (tmp_path / "x").write_bytes(DATA)
    disk = FaultyDisk(most=most)
    fd = disk.open_to_read(str(tmp_path / "x"))
    assert disk.read_all(fd, len(DATA)) == DATA
    disk.close(fd)


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_large_file_is_read_whole(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "x").write_bytes(data)
    disk = Disk()
    fd = disk.open_to_read(str(tmp_path / "x"))
    assert disk.read_all(fd, size) == data
    disk.close(fd)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="there is no /dev/zero here")
def test_a_device_without_end_is_read_no_further_than_asked() -> None:
    disk = Disk()
    fd = disk.open_to_read("/dev/zero")
    assert disk.read_all(fd, 0) == b"\0"
    assert disk.read_all(fd, 10) == bytes(11)
    disk.close(fd)


def test_a_symlink_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic") as refused:
        Disk().open_to_read(str(tmp_path / "x"))
    assert refused.value.errno == errno.ELOOP


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    disk = Disk()
    disk.close(disk.open_to_read(str(tmp_path / "x")))


# Names


def test_a_directory_is_synced_and_let_go(tmp_path: Path) -> None:
    disk = FaultyDisk()
    disk.sync_directory(str(tmp_path))
    assert disk.calls == ["open", "fsync", "close"]


def test_a_directory_that_could_not_be_synced_is_let_go_and_not_synced_again(tmp_path: Path) -> None:
    disk = FaultyDisk(fault("fsync"))
    with pytest.raises(OSError, match="Input/output"):
        disk.sync_directory(str(tmp_path))
    assert disk.calls == ["open", "fsync", "close"]
    assert disk.open_files == set()


def test_a_sync_of_a_directory_asks_for_its_status_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has failed may report success for the sync, and the failure only then: XFS that shut itself down."""

    def refuse(_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk = FaultyDisk()
    monkeypatch.setattr(os, "fstat", refuse)
    with pytest.raises(OSError, match="Input/output"):
        disk.sync_directory(str(tmp_path))
    monkeypatch.undo()
    assert disk.calls == ["open", "fsync", "close"]


def test_a_link_never_replaces(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / "y").write_bytes(b"y")
    with pytest.raises(FileExistsError):
        Disk().link(str(tmp_path / "x"), str(tmp_path / "y"))


def test_a_time_is_set_on_a_symlink_itself(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    os.utime(tmp_path / "target", ns=(5, 5))
    (tmp_path / "x").symlink_to(tmp_path / "target")
    Disk().utime(str(tmp_path / "x"), 1_000_000_007)
    assert (tmp_path / "target").stat().st_mtime_ns == 5
    assert (tmp_path / "x").lstat().st_mtime_ns == 1_000_000_007


@pytest.mark.skipif(not can_syncfs(), reason="there is no syncfs here that reports errors")
def test_syncfs_syncs_and_reports_its_errors(tmp_path: Path) -> None:
    disk = Disk()
    fd = disk.open(str(tmp_path), os.O_RDONLY)
    disk.syncfs(fd)
    disk.close(fd)
    with pytest.raises(OSError, match=r".*") as failed:
        disk.syncfs(fd)
    assert failed.value.errno == errno.EBADF


# fsync where it may be a fast commit


class Fast(Disk):
    """The first sync after ``slow`` others is a fast commit; None for a disk on which there are none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slow: int | None) -> None:
        self.calls: list[str] = []
        self._slow = slow
        monkeypatch.setattr(os, "fsync", lambda _: self.calls.append("fsync"))
        monkeypatch.setattr(filesystems, "makes_fast_commits", self._look)

    def _look(self, device: str) -> bool | None:
        assert device == f"{os.major(os.stat('.').st_dev)}:{os.minor(os.stat('.').st_dev)}"
        self.calls.append("look")
        return None if self._slow is None else self.calls.count("fsync") > self._slow

    def syncfs(self, fd: int) -> None:
        self.calls.append("syncfs")


def synced(disk: Fast, times: int) -> list[str]:
    fd = os.open(".", os.O_RDONLY)
    try:
        for _ in range(times):
            disk.fsync(fd)
    finally:
        os.close(fd)
    return disk.calls


@pytest.mark.skipif(not can_syncfs(), reason="there is nothing to make good for it")
def test_what_a_fast_commit_may_lose_is_synced_another_way_and_from_then_on_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = synced(Fast(monkeypatch, 2), 5)
    assert calls == ["fsync", "look", "fsync", "look", "fsync", "look", "syncfs", "syncfs", "syncfs"]


@pytest.mark.skipif(sys.platform != "linux", reason="nobody looks")
def test_whoever_cannot_make_good_for_it_does_what_he_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailq.engines.maildir.disk.can_syncfs", lambda: False)
    assert synced(Fast(monkeypatch, 0), 3) == ["fsync", "look"] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="nobody looks")
def test_to_look_takes_no_library_that_few_need(tmp_path: Path) -> None:
    """It takes milliseconds to load, and a process that has become another user may not be able to."""
    (tmp_path / "fs/ext4/8:1").mkdir(parents=True)
    (tmp_path / "fs/ext4/8:1/fc_info").write_text("fc stats:\n0 commits\n")
    code = """if True:
        import sys
        from mailq.engines.maildir import disk, filesystems
        look = filesystems.makes_fast_commits
        filesystems.makes_fast_commits = lambda device: look("8:1", proc=".", sys=".")
        disk.Disk().write_file("x", b"x", mode=0o600, sync=True)
        print(*sys.modules.keys() & {"ctypes", "encodings.ascii"})
    """
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True).stdout == b"\n"


@pytest.mark.skipif(sys.platform != "linux", reason="nobody looks")
def test_where_no_commit_is_fast_nobody_looks_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert synced(Fast(monkeypatch, 10**6), 100).count("look") == 16
    assert synced(Fast(monkeypatch, None), 100).count("look") == 1


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("fc stats:\n1 commits\n0 ineligible\n1 numblks\n", True),
        ("fc stats:\n0 commits\n7 ineligible\n0 numblks\n10 commits more\n", False),
        ("\xff", False),
        (None, None),
    ],
)
def test_ext4_tells_of_its_fast_commits(tmp_path: Path, told: str | None, *, expected: bool | None) -> None:
    proc, sys_ = tmp_path / "proc", tmp_path / "sys"
    (sys_ / "dev" / "block").mkdir(parents=True)
    (sys_ / "dev" / "block" / "8:1").symlink_to("../../devices/sda1")
    (proc / "fs" / "ext4" / "sda1").mkdir(parents=True)
    if told is not None:
        (proc / "fs" / "ext4" / "sda1" / "fc_info").write_bytes(told.encode("latin-1"))
    assert filesystems.makes_fast_commits("8:1", proc=str(proc), sys=str(sys_)) is expected
    assert filesystems.makes_fast_commits("8:2", proc=str(proc), sys=str(sys_)) is None


def test_what_cannot_be_looked_at_for_now_is_looked_at_again(tmp_path: Path) -> None:
    (tmp_path / "fs" / "ext4" / "8:1" / "fc_info").mkdir(parents=True)
    assert filesystems.makes_fast_commits("8:1", proc=str(tmp_path), sys=str(tmp_path)) is False
