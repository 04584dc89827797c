"""The lock of one owner: who lets go of it, and when, whatever threads, forks and signal handlers do meanwhile."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from beside import Beside, ForkBeside

import mailq
from mailq.engines.maildir import leases
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.layout import Layout
from mailq.engines.maildir.leases import Holder


def owner_of(path: Path, disk: Disk | None = None) -> Holder:
    return Holder(Layout(str(path)), disk or Disk(), mode=0o600)


def is_dead(path: Path, token: str) -> bool:
    return leases.is_dead(Layout(str(path)), Disk(), token)


@pytest.mark.parametrize("how", ["a file", "a loop"])
def test_an_owner_whose_file_cannot_be_looked_at_for_a_moment_stays_one(
    queue: mailq.Queue, path: Path, how: str
) -> None:
    """As where another user's owners/ may not be entered: nobody else can see there that it is gone."""
    owner = owner_of(path)
    token = owner.token()
    (path / "owners").rename(path / "elsewhere")
    if how == "a file":
        (path / "owners").touch()
    else:
        (path / "owners").symlink_to("owners")
    owner.check()
    (path / "owners").unlink()
    (path / "elsewhere").rename(path / "owners")
    assert not is_dead(path, token)
    assert owner.token() == token
    owner.unregister()


def test_an_owner_whose_file_was_removed_begins_anew(queue: mailq.Queue, path: Path) -> None:
    owner = owner_of(path)
    first = owner.token()
    (path / "owners" / first).unlink()
    owner.check()
    second = owner.token()
    assert second != first
    assert os.listdir(path / "owners") == [second]
    assert is_dead(path, first)
    assert not is_dead(path, second)
    owner.unregister()


def test_an_owner_that_begins_anew_while_it_is_looked_for_stays_that(
    queue: mailq.Queue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a signal handler: what it has claimed since is bound to the new name."""
    owner = owner_of(path)
    first = f"{path}/owners/{owner.token()}"
    os.unlink(first)
    tokens: list[str] = []
    lstat = os.lstat

    def looked_at(file: str) -> os.stat_result:
        if file == first:
            owner.close()
            tokens.append(owner.token())
        return lstat(file)

    monkeypatch.setattr(os, "lstat", looked_at)
    owner.check()
    assert [owner.token()] == tokens
    owner.unregister()


def test_a_story_is_told_in_no_other_file(queue: mailq.Queue, path: Path, tmp_path: Path) -> None:
    """A signal handler closes the queue, and opens a file, which gets the descriptor of the lock."""
    others: list[int] = []

    class Interrupted(Disk):
        def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
            owner.close()
            others.append(os.open(tmp_path / "message", os.O_RDWR | os.O_CREAT))
            return super().pwrite(fd, data, offset)

    owner = owner_of(path, Interrupted())
    owner.publish({"n": 1})
    (other,) = others
    assert os.fstat(other).st_size == 0
    os.close(other)


def test_two_threads_that_let_go_of_a_lock_close_it_once(queue: mailq.Queue, path: Path) -> None:
    """The second time it would be another file's descriptor."""
    closed: list[int] = []
    beside: list[Beside] = []

    class Closing(Disk):
        def close(self, fd: int) -> None:
            closed.append(fd)
            super().close(fd)

    class Slow(Holder):
        def __getattribute__(self, name: str) -> object:
            found = super().__getattribute__(name)
            if name == "_file" and beside:
                beside.pop().begin()
            return found

    owner = Slow(Layout(str(path)), Closing(), mode=0o600)
    assert owner.token()
    other = Beside(owner.close)
    owner._lock = other.lock  # type: ignore[assignment]
    closed.clear()
    beside.append(other)
    owner.close()
    other.end()
    assert len(closed) == 1


class Forking(Disk):
    """Lets another thread fork at a call for an owner's file, right after it was made."""

    def __init__(self, call: str, beside: Beside) -> None:
        self._call = call
        self._beside = beside

    def _fork(self, call: str, path: str) -> None:
        if call == self._call and "/.owner." in path:
            self._beside.begin()

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        fd = super().open(path, flags, mode)
        self._fork("open", path)
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        count = super().write(fd, data)
        self._fork("write", os.readlink(f"/proc/self/fd/{fd}"))
        return count

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        self._fork("rename", source)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs fork, and /proc to tell files by")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("call", ["open", "write", "rename"])
def test_a_child_that_another_thread_forks_while_a_process_becomes_an_owner_has_no_part_in_its_lock(
    queue: mailq.Queue, path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It would keep the leases of its dead parent alive."""
    children: list[int] = []
    here, there = socket.socketpair()

    def fork() -> None:
        child = os.fork()
        if child == 0:
            here.close()
            there.send(b"begun")
            there.recv(1)  # until the test is over
            os._exit(0)
        children.append(child)

    beside = ForkBeside(fork)
    owner = owner_of(path, Forking(call, beside))
    with here, there:
        token = owner.token()
        beside.end()
        assert here.recv(5) == b"begun"
        assert not is_dead(path, token)
        owner.close()
        assert is_dead(path, token)
    (child,) = children
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"4f8a0d62c1b94e7f9a3d5c6b7e8f9012\n", "1d68433c"),
        (b"", ""),
        (b"uninitialized\n", ""),
        (b"\xff" * 100, ""),
        (None, ""),
    ],
    ids=["an id", "empty, as in a container", "not yet", "garbage", "missing"],
)
def test_the_machine_has_the_id_that_its_system_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, told: str
) -> None:
    if content is not None:
        (tmp_path / "machine-id").write_bytes(content)
    monkeypatch.setattr(leases, "_MACHINE_ID", str(tmp_path / "machine-id"))
    assert leases.machine_id.__wrapped__() == told
