"""A mending that dies, or that the disk refuses, at any of its calls loses nothing; the next one finishes it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from clinic import level, look
from damages import copy_to, died, held, litter, lose_the_marker, ours, owner, push, tear

import mailq
from mailq.engines.maildir.disk import Disk

HOUR = 3600.0
AHEAD = 48 * HOUR


class Death(BaseException):
    """The process is gone."""


class Doomed(Disk):
    """Ends at one of its changes, counted from 1: before it, or after it, or with an error in its place."""

    def __init__(self, at: int, how: str) -> None:
        self.changes = 0
        self._at, self._how = at, how

    def _reach(self, when: str) -> None:
        if when == "before":
            self.changes += 1
        if self.changes == self._at:
            if self._how == "error" and when == "before":
                raise OSError(errno.EIO, "Input/output error")
            if self._how == when:
                raise Death

    def rename(self, source: str, target: str) -> None:
        self._reach("before")
        super().rename(source, target)
        self._reach("after")

    def unlink(self, path: str) -> None:
        self._reach("before")
        super().unlink(path)
        self._reach("after")

    def mkdir(self, path: str, mode: int = 0o700) -> None:
        self._reach("before")
        super().mkdir(path, mode)
        self._reach("after")

    def utime(self, path: str, ns: int) -> None:
        self._reach("before")
        super().utime(path, ns)
        self._reach("after")

    def chmod(self, path: str | int, mode: int) -> None:
        self._reach("before")
        super().chmod(path, mode)
        self._reach("after")

    def link(self, source: str, target: str) -> None:
        self._reach("before")
        super().link(source, target)
        self._reach("after")


def wreck(path: Path) -> None:
    """A queue with something of everything that a mending moves."""
    mailq.open(path, durability="process-crash")
    died(path)
    copy_to(push(path), "later")
    copy_to(held(path), "new", until=None, claim="")
    tear(push(path))
    tear(push(path, delay=10))
    held(path)
    push(path, delay=20)
    litter(path)
    owner(path, "0123abcd").write_text("")
    (path / "cur" / ours(until=9 * 10**18, owner="abcd", claim="1")).write_text("x")
    push(path).chmod(0)
    (path / "errors").chmod(0o755)
    shutil.rmtree(path / "replies")


def messages_in(path: Path) -> int:
    """The files of messages, wherever they lie: one that is moved stays one."""
    states = ("new", "later", "cur", "dead", "aside/new", "aside/later", "aside/cur", "aside/dead")
    return sum(file.is_file() for state in states for file in (path / state).glob("*"))


@pytest.mark.parametrize("how", ["before", "after", "error"])
def test_at_every_change(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailq.engines.maildir.doctor.filesystem._PROBES", 1)
    wreck(tmp_path / "wreck")
    count = messages_in(tmp_path / "wreck")
    at = 0
    while True:
        at += 1
        path = tmp_path / f"jobs{at}"
        shutil.copytree(tmp_path / "wreck", path, copy_function=shutil.copy2)
        disk = Doomed(at, how)
        try:
            look(path, fix=True, disk=disk, ahead=AHEAD)
        except Death:
            pass
        if disk.changes < at:
            break
        assert messages_in(path) == count, at
        check_that_the_next_finishes(path, count)
        shutil.rmtree(path)
    assert at > 20, "there were as many changes to end at"


def check_that_the_next_finishes(path: Path, count: int) -> None:
    found = look(path, fix=True, ahead=AHEAD)
    assert [f for findings in found.values() for f in findings if f.open and f.check != "clock-drift"] == []
    assert messages_in(path) == count
    again = look(path, ahead=AHEAD)
    for check in ("duplicates", "torn", "orphans", "overdue", "directories", "file-permissions", "permissions"):
        assert level(again, check) == "ok", again[check]
    got = [delivery.id for delivery in mailq.open(path).drain()]
    assert len(got) == len(set(got))


def test_a_marker_that_is_being_made_when_it_dies_is_made_the_next_time(tmp_path: Path) -> None:
    for at in range(1, 4):
        path = tmp_path / f"jobs{at}"
        mailq.open(path)
        lose_the_marker(path)
        with pytest.raises(Death):
            look(path, fix=True, disk=Doomed(at, "before"))
        look(path, fix=True)
        assert os.path.exists(path / "mailq.toml")
        assert len(list(mailq.open(path, create=False).drain())) == 1
