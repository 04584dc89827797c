"""A disk that goes away in the midst of use, or does not answer."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mailq
from mailq.engines.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine


class VanishingDisk(Disk):
    """A disk that goes away when a push has just renamed its message."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fsync(self, fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.rename(self.root / "mailq.toml", self.root / "gone")
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def unlink(self, path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_push_that_may_have_happened_says_so_even_if_the_queue_is_gone(path: Path) -> None:
    mailq.open(path)
    with pytest.raises(mailq.StorageError) as caught:
        mailq.Queue(MaildirEngine(str(path), disk=VanishingDisk(path))).push("a")
    os.rename(path / "gone", path / "mailq.toml")
    assert [message.id for message in mailq.open(path).peek()] == list(caught.value.maybe_pushed)


def test_a_marker_that_cannot_be_looked_at_is_a_storage_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = mailq.open(path)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        with pytest.raises(mailq.StorageError):
            queue.reap()
    assert queue.reap() == (0, 0, 0)


def test_directories_that_cannot_be_looked_at_are_not_taken_for_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailq.open(path)
    look = os.stat

    def refuse(where: Any, **options: Any) -> os.stat_result:
        if str(where).endswith("/cur"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), where)
        return look(where, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        with pytest.raises(mailq.StorageError, match="Input/output error"):
            mailq.open(path)


def test_a_disk_that_says_nothing_of_the_reap_lock_stops_no_consumer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XFS that has shut down answers stat with EIO, and the lock can be had all the same."""
    queue = mailq.open(path, reap_interval=0.001)
    queue.push_many(["a", "b"])
    queue.pop()
    queue.reap()  # now there is a lock, with a stamp

    def sick_of_the_lock(look: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def refuse(where: Any, **options: Any) -> os.stat_result:
            if str(where).endswith(".reap.lock"):
                raise OSError(errno.EIO, os.strerror(errno.EIO), where)
            return look(where, **options)

        return refuse

    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, sick_of_the_lock(getattr(os, name)))
    time.sleep(0.002)
    delivery = queue.pop()
    assert delivery is not None
    assert delivery.body == "b"
