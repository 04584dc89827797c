"""What the doctor says of the ground: file systems, mount options, room, limits, clocks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from clinic import MOUNTED, level, look, machine, proc, troubles
from command import Shell

import mailq as library
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.doctor.machine import InotifyUse, Machine, Space

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to mount")


def mounted(kind: str, options: str = "rw") -> str:
    """A mount table in which everything is on one file system of this type."""
    return f"36 1 8:1 / / rw,relatime - {kind} /dev/sda1 {options}\n"


def told(path: Path, check: str, **how: Any) -> tuple[str, str]:
    (finding,) = look(path, machine=machine(path.parent / "machine", **how))[check]
    return finding.level, finding.what


@pytest.mark.parametrize(
    ("kind", "level", "says"),
    [
        ("ext4", "ok", "keeps what was synced"),
        ("xfs", "ok", "keeps what was synced"),
        ("btrfs", "ok", "keeps what was synced"),
        ("nfs4", "warning", "a rename may report an error"),
        ("cifs", "warning", "once a second"),
        ("9p", "warning", "once a second"),
        ("virtiofs", "warning", "once a second"),
        ("fuse.sshfs", "warning", "once a second"),
        ("ceph", "warning", "clocks must agree"),
        ("tmpfs", "warning", "lost at a reboot"),
        ("overlay", "warning", "a container's own layer"),
        ("vfat", "warning", "not tested"),
    ],
)
def test_the_type_of_the_file_system_and_what_it_means(
    queue: library.Queue, path: Path, kind: str, level: str, says: str
) -> None:
    found, what = told(path, "file-system", mounts=mounted(kind))
    assert (found, says in what) == (level, True), what
    assert what.startswith(f"{kind} on /: ")


def test_memory_is_well_enough_for_settings_that_promise_no_more(path: Path) -> None:
    library.open(path, durability="process-crash")
    assert told(path, "file-system", mounts=mounted("tmpfs"))[0] == "ok"


def test_ext4_without_a_journal_is_told(queue: library.Queue, path: Path) -> None:
    found, what = told(path, "file-system", journal=False)
    assert (found, "no journal" in what) == ("warning", True)


def test_ext4_with_fast_commits_is_told_where_messages_are_synced(path: Path) -> None:
    library.open(path).close()
    found, what = told(path, "file-system", fast=True)
    assert (found, "fast commits" in what) == ("warning", True)
    library.open(path, create=False).configure(durability="process-crash")
    assert told(path, "file-system", fast=True)[0] == "ok"


def test_whoever_is_the_first_to_sync_since_the_mount_is_told_of_fast_commits_too(path: Path) -> None:
    """Before that ext4 does not say what it makes of a sync."""
    library.open(path).close()
    here = machine(path.parent / "machine")

    class First(Disk):
        def fsync(self, fd: int) -> None:
            super().fsync(fd)
            (path.parent / "machine/proc/fs/ext4/sda1/fc_info").write_text("fc stats:\n1 commits\n")

    assert "fast commits" in look(path, machine=here, disk=First())["file-system"][0].what


@pytest.mark.parametrize(
    ("kind", "options", "level", "says"),
    [
        ("ext4", "rw,nobarrier", "warning", "not told to flush"),
        ("ext4", "rw,data=writeback", "warning", "data=writeback"),
        ("ext4", "rw,noload", "warning", "not replayed"),
        ("ext4", "ro", "error", "mounted read-only"),
        ("xfs", "rw,norecovery", "warning", "not replayed"),
        ("nfs", "rw,soft", "warning", "in silence"),
        ("ext4", "rw,discard,lazytime", "ok", "nothing"),
    ],
)
def test_mount_options_and_what_they_mean(
    queue: library.Queue, path: Path, kind: str, options: str, level: str, says: str
) -> None:
    mounts = mounted(kind, options)
    if options == "ro":
        mounts = mounts.replace("rw,relatime", "ro,relatime")
    found, what = told(path, "mount-options", mounts=mounts)
    assert (found, says in what) == (level, True), what


def test_what_ext4_does_by_its_superblock_is_seen_too(queue: library.Queue, path: Path) -> None:
    assert "not told to flush" in told(path, "mount-options", options="rw\nnobarrier\n")[1]


def test_a_directory_that_is_a_mount_of_its_own_is_an_error(queue: library.Queue, path: Path) -> None:
    mounts = f"{MOUNTED}37 36 8:1 /x {path}/later rw - ext4 /dev/sda1 rw\n"
    found, what = told(path, "one-file-system", mounts=mounts)
    assert (found, "later" in what) == ("error", True)


def test_the_mount_on_top_counts_and_spaces_in_its_name_are_read(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "a place"
    place.mkdir()
    spelled = str(place).replace(" ", r"\040")
    mounts = f"{MOUNTED}37 36 0:44 / {spelled} rw - tmpfs one rw\n38 36 0:45 / {spelled} ro - xfs two rw\nnonsense\n"
    mount = machine(tmp_path / "m", mounts=mounts).mount_of(str(place / "jobs"))
    assert mount is not None
    assert (mount.point, mount.type, "ro" in mount.options, "rw" in mount.options) == (str(place), "xfs", True, False)
    beside = machine(tmp_path / "m", mounts=mounts).mount_of(str(tmp_path / "a place beside"))
    assert beside is not None
    assert beside.point == "/"


def test_without_a_proc_it_says_that_it_does_not_know(queue: library.Queue, path: Path) -> None:
    found = look(path, machine=Machine(proc="/nowhere", sys="/nowhere"))
    assert troubles(found) == []
    assert "does not say" in found["file-system"][0].what
    assert "not here" in found["inotify"][0].what


class Told(Machine):
    """A machine that says of itself what it is told to."""

    def __init__(self, root: Path, **told: Any) -> None:
        place = proc(root)
        super().__init__(proc=f"{place}/proc", sys=f"{place}/sys")
        self.told = told

    def space(self, path: str) -> Space | None:
        return self.told.get("space", super().space(path))

    def inotify(self) -> InotifyUse | None:
        return self.told.get("inotify", super().inotify())

    def longest_name(self, path: str) -> int | None:
        limit: int | None = self.told.get("longest_name", 255)
        return limit


GIB = 1 << 30


@pytest.mark.parametrize(
    ("told", "check", "level"),
    [
        ({"space": Space(0, 100 * GIB, 10**6, 10**7)}, "free-bytes", "error"),
        ({"space": Space(GIB // 2, 100 * GIB, 10**6, 10**7)}, "free-bytes", "warning"),
        ({"space": Space(GIB // 2, GIB, 10**6, 10**7)}, "free-bytes", "ok"),
        ({"space": Space(9 * GIB, 100 * GIB, 5, 10**7)}, "free-inodes", "error"),
        ({"space": Space(9 * GIB, 100 * GIB, 5000, 10**7)}, "free-inodes", "warning"),
        ({"space": Space(9 * GIB, 100 * GIB, None, None)}, "free-inodes", "ok"),
        ({"space": None}, "free-bytes", "ok"),
        ({"inotify": InotifyUse(125, 128, 0, 65536)}, "inotify", "warning"),
        ({"inotify": InotifyUse(5, 128, 65530, 65536)}, "inotify", "warning"),
        ({"longest_name": 143}, "name-length", "error"),
    ],
)
def test_room_and_limits(queue: library.Queue, path: Path, told: dict[str, Any], check: str, level: str) -> None:
    (finding,) = look(path, machine=Told(path.parent / "m", **told))[check]
    assert finding.level == level, finding


def test_inotify_is_counted_over_the_processes_of_this_user(path: Path, tmp_path: Path) -> None:
    known = machine(tmp_path / "m")
    for pid, count in (("10", 2), ("11", 1)):
        fds, infos = tmp_path / "m/proc" / pid / "fd", tmp_path / "m/proc" / pid / "fdinfo"
        fds.mkdir(parents=True)
        infos.mkdir()
        (fds / "0").symlink_to("/dev/null")
        for fd in range(3, 3 + count):
            (fds / str(fd)).symlink_to("anon_inode:inotify")
            (infos / str(fd)).write_text("pos:\t0\ninotify wd:1 ino:2\ninotify wd:2 ino:3\n")
    assert known.inotify() == InotifyUse(3, 128, 6, 65536)


def test_this_machine_counts_its_own() -> None:
    """The real files are what the parser takes them for."""
    if not os.path.exists("/proc/sys/fs/inotify"):
        pytest.skip("no inotify here")
    here = Machine()
    before = here.inotify()
    with subprocess.Popen(["sleep", "60"]) as process:
        again = here.inotify()
        process.kill()
    assert before is not None
    assert again is not None
    assert before.max_instances > 0
    mount = here.mount_of("/proc/self")
    assert mount is not None
    assert mount.type == "proc"


def test_a_file_system_without_locks_is_a_warning(
    queue: library.Queue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (finding,) = look(path)["locks"]
    assert (finding.level, "No locks available" in finding.what) == ("warning", True)
    assert os.listdir(path / "tmp") == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_not_told_as_one_without_locks(queue: library.Queue, path: Path, code: int) -> None:
    class Full(Disk):
        def open(self, path: str, flags: int, mode: int = 0o600) -> int:
            if flags & os.O_CREAT:
                raise OSError(code, os.strerror(code), path)
            return super().open(path, flags, mode)

    found = look(path, disk=Full())
    assert (level(found, "locks"), level(found, "fsync")) == ("ok", "error")
    assert os.strerror(code) in found["locks"][0].what


@pytest.mark.parametrize("directory", ["new", "later", "cur", "dead", "tmp", "errors", "owners", "replies"])
def test_a_directory_that_a_copy_dropped_is_all_that_is_wrong(queue: library.Queue, path: Path, directory: str) -> None:
    queue.push("x")
    shutil.rmtree(path / directory)
    found = look(path)
    assert troubles(found) == [("directories", "error")]
    assert "torn" in found, "the messages are examined all the same"
    assert found["directories"][0].paths == (directory,)


def test_a_slow_disk_is_a_warning_with_the_rate(queue: library.Queue, path: Path, tmp_path: Path) -> None:
    times = iter(range(100))
    place = proc(tmp_path / "m")
    slow = Machine(proc=f"{place}/proc", sys=f"{place}/sys", timer=lambda: float(next(times)))
    (finding,) = look(path, machine=slow)["fsync"]
    assert (finding.level, "1000.00 ms, so 1 a second" in finding.what) == ("warning", True)


class Failing(Disk):
    """Fails at one call on what is in ``tmp/``."""

    def __init__(self, call: str) -> None:
        self._call = call

    def _fail(self, call: str) -> None:
        if call == self._call:
            raise OSError(errno.EIO, "Input/output error")

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        if "/tmp/2" in path:
            self._fail("open")
        return super().open(path, flags, mode)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._fail("write")
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._fail("fsync")
        super().fsync(fd)

    def unlink(self, path: str) -> None:
        self._fail("unlink")
        super().unlink(path)


@pytest.mark.parametrize("call", ["open", "write", "fsync", "unlink"])
def test_a_disk_that_fails_is_an_error_and_no_crash(queue: library.Queue, path: Path, call: str) -> None:
    queue.push("x")
    found = look(path, disk=Failing(call))
    assert level(found, "fsync") == "error"
    assert "Input/output error" in found["fsync"][0].what
    assert level(found, "duplicates") == "ok", "the rest is examined all the same"
    assert bool(os.listdir(path / "tmp")) == (call == "unlink")


def test_a_file_that_the_disk_does_not_give_is_unreadable(queue: library.Queue, path: Path) -> None:
    queue.push("x")

    class Bad(Disk):
        def read(self, fd: int, size: int) -> bytes:
            if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{path}/new"):
                raise OSError(errno.EIO, "Input/output error")
            return super().read(fd, size)

    found = look(path, disk=Bad(), fix=True)
    assert level(found, "unreadable") == "error"
    assert level(found, "torn") == "ok", "what cannot be read now may be whole"
    assert len(os.listdir(path / "new")) == 1


def test_a_directory_that_cannot_be_listed_is_an_error_and_no_crash(
    queue: library.Queue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def fail(directory: Any) -> Any:
        if directory == f"{path}/cur":
            raise OSError(errno.EIO, "Input/output error", directory)
        return scandir(directory)

    monkeypatch.setattr(os, "scandir", fail)
    found = look(path, fix=True)
    (finding,) = found["messages"]
    assert (finding.level, "Input/output error" in finding.what) == ("error", True)
    assert "paused" in found, "the rest is examined all the same"


@pytest.mark.parametrize(
    ("ahead", "expected", "says"),
    [(0, "ok", "agree"), (5, "warning", "5 s behind"), (3600, "error", "3600 s behind"), (-3600, "error", "ahead of")],
)
def test_a_clock_that_disagrees_with_the_disk(
    queue: library.Queue, path: Path, ahead: float, expected: str, says: str
) -> None:
    (finding,) = look(path, ahead=ahead)["clock-drift"]
    assert (finding.level, says in finding.what) == (expected, True), finding.what


@pytest.mark.parametrize("directory", ["new", "cur", "tmp", "errors"])
def test_a_directory_that_was_once_huge(queue: library.Queue, path: Path, tmp_path: Path, directory: str) -> None:
    one = tmp_path / "one"
    one.touch()
    for n in range(6000):
        os.link(one, path / directory / f"{n:0250}")
    for file in (path / directory).iterdir():
        file.unlink()
    if (path / directory).stat().st_size < 1 << 20:
        pytest.skip("directories shrink on the file system of the tests")
    queue.push("kept")
    (finding,) = look(path, fix=True)["swollen"]
    assert (finding.level, finding.paths, finding.fixed) == ("warning", (directory,), None)  # it is not empty
    if directory == "new":
        delivery = library.open(path).pop()
        assert delivery is not None
        delivery.ack()
        assert look(path, fix=True)["swollen"][0].fixed == "remade"
    else:
        command = finding.remedy.partition(": ")[2]
        mode = (path / directory).stat().st_mode
        subprocess.run(["sh", "-ec", command], check=True)
        assert (path / directory).stat().st_mode == mode
    assert look(path)["swollen"][0].level == "ok"


@needs_root
def test_a_queue_on_a_read_only_disk_is_looked_at_and_left_alone(queue: library.Queue, path: Path) -> None:
    queue.push("x")
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)
        found = look(path, machine=Machine(), fix=True)
        assert level(found, "mount-options") == "error"
        assert level(found, "permissions") == "error"
        assert "not measured" in found["fsync"][0].what
        assert "1 message of the right length" in found["torn"][0].what
    finally:
        subprocess.run(["umount", path], check=True)


@needs_root
def test_a_healthy_queue_on_a_real_journaled_file_system_is_all_well(tmp_path: Path, shell: Shell, path: Path) -> None:
    shell("truncate -s 64M disk && mkfs.ext4 -q disk && mkdir mnt && mount -o loop disk mnt")
    try:
        shell("mailq push mnt/jobs a b c")
        done = shell("mailq doctor mnt/jobs")
        assert b"all is well" in done.stderr, done.stdout.decode()
        report = json.loads(shell("mailq doctor mnt/jobs --json").stdout)
        assert report["counts"]["warning"] == report["counts"]["error"] == 0
        assert any(f["what"].startswith("ext4 on ") for f in report["findings"])
    finally:
        shell("umount mnt")


@needs_root
def test_another_mount_within_the_queue_is_named(queue: library.Queue, path: Path) -> None:
    subprocess.run(["mount", "--bind", path / "dead", path / "later"], check=True)  # same device, and yet no rename
    try:
        found = look(path, machine=Machine())
        assert level(found, "one-file-system") == "error"
    finally:
        subprocess.run(["umount", path / "later"], check=True)


@needs_root
def test_root_mends_nothing_in_the_queue_of_a_user_whom_it_cannot_give_files(queue: library.Queue, path: Path) -> None:
    class Refusing(Disk):
        def chown(self, fd: int, user: int, group: int) -> None:
            raise PermissionError(fd, user, group)

    queue.push("x")
    (path / "later").rmdir()
    os.chown(path, 65534, 65534)
    found = look(path, fix=True, disk=Refusing())
    assert any("you are root" in finding.what for finding in found["permissions"])
    assert not (path / "later").exists()
    assert [f.fixed for findings in found.values() for f in findings if f.fixed] == []
    assert "belongs to another user" in found["file-permissions"][0].what
