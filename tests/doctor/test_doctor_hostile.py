"""The doctor is not harmed by what it looks at."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clinic import level, look
from command import Shell
from damages import one_of_each, ours, push, tear, zero
from ordered import journal_of, kill, left, opened
from together import PATIENCE

import mailq as library
from mailq.engines.maildir.disk import Disk

DIRECTORIES = (
    "tmp",
    "new",
    "later",
    "cur",
    "dead",
    "errors",
    "owners",
    "replies",
    "aside",
    "aside/new",
    "origins",
    "journal",
)


def test_anything_in_any_directory_is_survived_and_left_alone(queue: library.Queue, path: Path) -> None:
    push(path)
    for directory in DIRECTORIES:
        (path / directory).mkdir(exist_ok=True)
        one_of_each(path / directory)
    before = sorted(path.rglob("*"))
    found = look(path, fix=True, full=True)
    assert [f for findings in found.values() for f in findings if f.level == "error"] == []
    beside, strays = found["strays"]
    assert beside.affected == 2 * 5
    assert strays.affected == 4 * 5
    for kind in ("symbolic link", "director", "FIFO", "socket", "dot-name"):
        assert kind in strays.what
    assert sorted(path.rglob("*")) == before


@pytest.mark.skipif(sys.platform != "linux", reason="there are journals on Linux only")
@pytest.mark.usefixtures("at_once")
def test_a_journal_that_cannot_be_read_hides_no_other_and_that_of_the_living_is_none_of_its_business(
    path: Path,
) -> None:
    living, *dead = [opened(path) for _ in range(3)]
    for queue in (living, *dead):
        queue.push("x")
    for queue in dead:
        kill(queue)
    (alive,) = {file._token for queue in (living,) if (file := journal_of(queue)._desk.file)}
    damaged, _ = sorted(set(left(path)) - {alive})

    class Unreadable(Disk):
        def open(self, path: str, flags: int, mode: int = 0o600) -> int:
            if path.endswith(f"journal/{damaged}"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().open(path, flags, mode)

    (finding,) = look(path, disk=Unreadable())["journals"]
    assert (finding.level, finding.affected) == ("warning", 2)
    (finding,) = look(path, disk=Unreadable(), fix=True)["journals"]
    assert finding.fixed is None
    assert left(path) == sorted([alive, damaged])


@pytest.mark.skipif(sys.platform != "linux", reason="there are journals on Linux only")
@pytest.mark.usefixtures("at_once")
def test_a_torn_message_is_not_moved_as_long_as_its_journal_cannot_be_replayed(path: Path) -> None:
    queue = opened(path)
    file = Path(queue.get(queue.push(b"whole")).location)
    kill(queue)
    tear(file)

    class Full(Disk):
        def rename(self, source: str, target: str) -> None:
            if target == str(file):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().rename(source, target)

    found = look(path, disk=Full(), fix=True)
    assert [finding.fixed for check in ("journals", "torn") for finding in found[check]] == [None, None]
    assert file.exists()
    look(path, fix=True)
    assert file.read_bytes() == b"whole"


def test_names_of_any_bytes_are_counted_and_spelled(queue: library.Queue, path: Path, mailq: Shell) -> None:
    for name in (b"\xff\xfe", b"a\nb", b"\x1b[31mred", b"x" * 255, b"-rf", b"'; rm -rf ~"):
        for directory in ("new", "cur", "dead"):
            with open(os.path.join(os.fsencode(path / directory), name), "wb") as file:
                file.write(b"x")
        os.mkfifo(os.path.join(os.fsencode(path), name))
    report = json.loads(mailq("doctor", "jobs", "--json").stdout)
    assert [f["affected"] for f in report["findings"] if f["check"] == "foreign"] == [18]
    lines = mailq("doctor", "jobs").stdout
    assert b"\x1b" not in lines
    assert lines.count(b"\n") == len(report["findings"])


def test_a_queue_whose_own_name_is_strange_gets_commands_that_can_be_pasted(tmp_path: Path, mailq: Shell) -> None:
    library.open(tmp_path / "my jobs; echo").pause()
    report = json.loads(mailq("doctor", "my jobs; echo", "--json").stdout)
    (paused,) = [f for f in report["findings"] if f["check"] == "paused"]
    assert paused["remedy"] == f"mailq resume '{tmp_path}/my jobs; echo'"
    subprocess.run(["sh", "-c", f"{sys.executable} -m {paused['remedy']}"], check=True)
    assert not (tmp_path / "my jobs; echo" / "paused").exists()


def test_a_huge_sparse_file_is_not_read_into_memory(path: Path) -> None:
    queue = library.open(path, max_message_bytes=9_000_000_000)
    queue.push("x")
    with open(path / "new" / ours(size=1 << 30, crc=0), "wb") as file:
        file.truncate(1 << 30)
    found = look(path)
    assert level(found, "torn") == "ok", "above the budget: not read"
    assert "2 messages of the right length; 1 of them read" in found["torn"][0].what
    code = (
        "import resource, sys; from mailq.engines.maildir.doctor import examine\n"
        "resource.setrlimit(resource.RLIMIT_AS, (500 << 20, 500 << 20))\n"
        "print([f.affected for f in examine(sys.argv[1], full=True) if f.check == 'torn'])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True)
    assert done.stdout == b"[1]\n"


def test_the_newest_are_read_first_and_full_reads_all(
    queue: library.Queue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailq.engines.maildir.doctor.messages._BUDGET_FILES", 3)
    files = [push(path) for _ in range(10)]
    zero(files[0])
    for file in files[7:]:
        os.utime(file)  # their ctime is the last now
    assert "10 messages of the right length; 3 of them read; --full reads all" in look(path)["torn"][0].what
    zero(files[9])
    (finding,) = look(path)["torn"]
    assert finding.paths == (f"new/{files[9].name}",)
    assert look(path, full=True)["torn"][0].affected == 2


def test_what_changes_while_it_is_looked_at_is_nobodys_fault(queue: library.Queue, path: Path) -> None:
    """A message that is torn when it is seen, and taken by a consumer before it can be buried."""
    file = push(path)
    tear(file)

    class Fast(Disk):
        def rename(self, source: str, target: str) -> None:
            if target.startswith(f"{path}/dead"):
                os.rename(source, path / "tmp" / "taken")
            super().rename(source, target)

    (finding,) = look(path, fix=True, disk=Fast())["torn"]
    assert (finding.level, finding.fixed) == ("ok", None)


def test_mending_twice_at_a_time_is_mending_once(queue: library.Queue, path: Path) -> None:
    for id in queue.push_many(["x"] * 30):
        file = Path(queue.get(id).location)
        os.link(file, path / "later" / file.name)
    for n in range(30):
        tear(push(path)) if n % 2 else push(path)
    command = [sys.executable, "-m", "mailq", "doctor", str(path), "--fix"]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, complaint = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, complaint.decode()
    assert queue.stats()[:4] == (30 + 15, 0, 0, 15)
    assert len(os.listdir(path / "aside/later")) == 30


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_million_entries_are_counted_in_bounded_memory(path: Path, tmp_path: Path) -> None:
    library.open(path, durability="process-crash").push("x")
    one = tmp_path / "one"
    one.write_text("x")
    begun = time.time_ns()
    for n in range(1_000_000):
        if n % 60_000 == 0:
            one = tmp_path / f"one{n}"
            one.write_text("x")
        name = ours(visible_at=begun, id=f"{n:012x}70008{n * 2654435761 % (1 << 60):015x}", size=1)
        os.link(one, path / ("new", "later", "dead")[n % 3] / name)
    code = (
        "import resource, sys; from mailq.engines.maildir.doctor import examine\n"
        "found = list(examine(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, *[f.what for f in found if f.check == 'torn'])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True)
    megabytes, _, what = done.stdout.decode().partition(" ")
    assert what.startswith("1000001 messages of the right length")
    assert int(megabytes) < 200, megabytes
    shutil.rmtree(path)
