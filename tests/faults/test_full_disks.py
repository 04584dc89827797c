"""Small real file systems: filled to the brim, out of inodes, made read-only in the midst of it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from command import Shell
from together import ahead

import mailq as library

KINDS: Final = ("tmpfs", "tmpfs without inodes", "ext4", "ext4 without inodes")
ROOM: Final = 40
"""So many blocks of 4 KiB, or inodes, are left for messages."""


class SmallDisk:
    """A mounted file system of a few megabytes."""

    def __init__(self, kind: str, mount: Path) -> None:
        self.mount = mount
        self.is_tmpfs = kind.startswith("tmpfs")
        self.runs_out_of_inodes = kind.endswith("inodes")
        self._files = 0

    @property
    def queue(self) -> Path:
        return self.mount / "jobs"

    def fill(self) -> None:
        """Leave room for some messages, whatever it is that runs out."""
        self.brim()
        if self.runs_out_of_inodes:
            for path in sorted(self.mount.glob("fill*"))[:ROOM]:
                path.unlink()
        else:
            filler = self.mount / "filler"
            os.truncate(filler, max(0, filler.stat().st_size - ROOM * 4096))

    def brim(self) -> None:
        """Take what is left."""
        with contextlib.suppress(OSError):
            while self.runs_out_of_inodes:
                self._files += 1
                (self.mount / f"fill{self._files}").touch(exist_ok=False)
        if self.runs_out_of_inodes:
            return
        with contextlib.suppress(OSError), open(self.mount / "filler", "ab", buffering=0) as filler:
            size = 1 << 16
            while size:
                try:
                    filler.write(bytes(size))
                    os.fsync(filler)
                except OSError:
                    size //= 2

    def free(self) -> None:
        for path in self.mount.glob("fill*"):
            path.unlink()

    def give_back(self, settle: Callable[[], None]) -> None:
        """An ext4 may have no block for a directory that grows: then it stays leased. Nothing else may refuse."""
        try:
            settle()
        except library.StorageError as error:
            if self.is_tmpfs or error.errno != errno.ENOSPC:
                raise

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.mount], check=True, capture_output=True)


def _commands(kind: str, image: Path, mount: Path) -> list[list[str]]:
    if kind.startswith("tmpfs"):
        limits = "size=64m,nr_inodes=200" if kind.endswith("inodes") else "size=2m"
        return [["mount", "-t", "tmpfs", "-o", limits, "mailq-test", str(mount)]]
    limit = ["-N", "200"] if kind.endswith("inodes") else []
    return [
        ["truncate", "-s", "8M", str(image)],
        ["mkfs.ext4", "-q", "-m", "0", *limit, str(image)],
        ["mount", "-o", "loop,errors=remount-ro", str(image), str(mount)],
    ]


@contextlib.contextmanager
def mounted(kind: str, tmp_path: Path) -> Iterator[SmallDisk]:
    """Mount it; skip with a reason where that cannot be done."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mount = tmp_path / "mount"
    mount.mkdir()
    for command in _commands(kind, tmp_path / "image", mount):
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not here")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{' '.join(command)}: {done.stderr.strip()}")
    try:
        yield SmallDisk(kind, mount)
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True, capture_output=True)


@pytest.fixture(params=KINDS)
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(request.param, tmp_path) as disk:
        yield disk


class Books:
    """What was pushed, and what is done with."""

    def __init__(self, queue: library.Queue) -> None:
        self.queue = queue
        self.left: dict[str, bytes] = {}

    def push(self, body: bytes) -> None:
        self.left[self.queue.push(body)] = body

    def push_until_refused(self, size: int) -> library.StorageError:
        refused: list[library.StorageError] = []
        while not refused:
            try:
                self.push(os.urandom(size))
            except library.StorageError as error:
                refused.append(error)
        assert refused[0].maybe_pushed == ()
        return refused[0]

    def take(self) -> library.Delivery:
        delivery = self.queue.pop()
        assert delivery is not None
        assert delivery.raw == self.left[delivery.id]
        return delivery

    def ack(self, delivery: library.Delivery) -> None:
        delivery.ack()
        del self.left[delivery.id]

    def settle_all(self, path: Path) -> None:
        """As a process that comes when every lease has run out: each message is there once, and whole."""
        self.queue.close()
        with ahead(path, 2 * 86_400) as queue:
            queue.resume()
            queue.reap()
            queue.redrive()
            assert os.listdir(path / "tmp") == []
            while (delivery := queue.pop()) is not None:
                assert delivery.raw == self.left.pop(delivery.id)
                delivery.ack()
        assert self.left == {}


def test_a_full_disk_refuses_pushes_and_lets_the_queue_be_worked_off(small: SmallDisk, mailq: Shell) -> None:
    books = Books(library_open(small))
    books.push(b"before")
    small.fill()
    for size in (9000, 300, 1):
        error = books.push_until_refused(size)
        assert error.errno == errno.ENOSPC
        assert "free some" in str(error)
        assert os.listdir(small.queue / "tmp") == []
    small.brim()
    assert b"No space left" in mailq("push", str(small.queue), "x", code=1).stderr
    _work_off(small, books)
    mailq("pop", str(small.queue))  # a process of its own, which cannot register as an owner
    small.free()
    books.push(b"there is room again")
    books.settle_all(small.queue)


def _work_off(small: SmallDisk, books: Books) -> None:
    """Every way to settle, with not a block free; what ack frees is taken at once."""
    for _ in range(3):
        books.ack(books.take())
        small.brim()
    deliveries = [books.take() for _ in range(5)]
    small.give_back(lambda: deliveries[0].nack(delay=0, error="a text, for which there is no room"))
    small.give_back(lambda: deliveries[1].nack(delay=3600, error="likewise"))
    small.give_back(lambda: deliveries[2].reject("likewise"))
    small.give_back(deliveries[3].release)
    deliveries[4].extend(3600)
    books.queue.reap()
    assert not deliveries[4].lost
    small.brim()
    # On ext4 there are only so many leases at a time: the directory would need another block.
    held = books.queue.pop_many(1000)
    assert held
    for delivery in held[::2]:
        books.ack(delivery)
    small.brim()
    for delivery in held[1::2]:
        small.give_back(delivery.release)
    small.brim()


class Attempt(NamedTuple):
    """A verb on a read-only disk."""

    name: str
    call: Callable[[], Any]


def _attempts(books: Books, delivery: library.Delivery, dead: str) -> list[Attempt]:
    queue = books.queue
    return [
        Attempt("push", lambda: queue.push(b"x")),
        Attempt("push many", lambda: queue.push_many([b"x"] * 20)),
        Attempt("pop", queue.pop),
        Attempt("ack", delivery.ack),
        Attempt("nack", lambda: delivery.nack(delay=0, error="text")),
        Attempt("nack with a delay", lambda: delivery.nack(delay=5)),
        Attempt("release", delivery.release),
        Attempt("reject", delivery.reject),
        Attempt("extend", lambda: delivery.extend(600)),
        Attempt("redrive", lambda: queue.redrive([dead])),
        Attempt("purge", lambda: queue.purge("dead")),
        Attempt("edit", lambda: queue.edit(queue.get(dead), b"other")),
        Attempt("pause", queue.pause),
        Attempt("configure", lambda: queue.configure(lease=5)),
        Attempt("reply", lambda: delivery.reply(1)),
    ]


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_disk_that_turns_read_only_is_told_by_each_verb(tmp_path: Path, kind: str, mailq: Shell) -> None:
    with mounted(kind, tmp_path) as small:
        books = Books(library_open(small))
        for body in (b"a", b"b", b"c", b"d"):
            books.push(body)
        books.take().reject("no good")
        books.queue.close()  # an open file of an owner would keep the disk from being remounted
        books.queue = library_open(small)
        delivery = books.queue.pop(detached=True)
        assert delivery is not None
        (dead,) = (message.id for message in books.queue.peek("dead"))
        small.remount("ro")
        for attempt in _attempts(books, delivery, dead):
            with pytest.raises(library.StorageError, match="Read-only file system") as refused:
                attempt.call()
            assert refused.value.errno == errno.EROFS, attempt.name
        assert books.queue.reap()[:3] == (0, 0, 0)
        assert (books.queue.stats().ready, books.queue.stats().leased, books.queue.stats().dead) == (2, 1, 1)
        for command in (["push", str(small.queue), "x"], ["pop", str(small.queue)]):
            assert b"Read-only file system" in mailq(*command, code=1).stderr
        small.remount("rw")
        books.push(b"e")
        delivery.extend(600)
        books.ack(delivery)
        books.settle_all(small.queue)


def test_a_file_system_that_finds_an_error_and_turns_read_only(tmp_path: Path) -> None:
    """With an owner's file open, leases out and pushes going on; then it is checked and mounted again."""
    with mounted("ext4", tmp_path) as small:
        books = Books(library_open(small))
        for body in (b"a", b"b", b"c"):
            books.push(body)
        books.ack(books.take())
        held = books.take()
        device = os.path.basename(_device_of(small.mount))
        trigger = Path(f"/sys/fs/ext4/{device}/trigger_fs_error")
        if not trigger.exists():
            pytest.skip("this kernel has no trigger_fs_error")
        subprocess.run(["sync", "-f", small.mount], check=True)  # an ack need not survive what comes
        trigger.write_text("by a test")
        for refused in (lambda: books.push(b"x"), held.ack, books.queue.pop):
            with pytest.raises(library.StorageError):
                refused()
        books.queue.close()
        subprocess.run(["umount", small.mount], check=True, capture_output=True)
        checked = subprocess.run(["e2fsck", "-fp", tmp_path / "image"], capture_output=True, check=False)
        assert checked.returncode in (0, 1), checked.stdout
        subprocess.run(["mount", "-o", "loop", tmp_path / "image", small.mount], check=True, capture_output=True)
        books.queue = library_open(small)
        books.push(b"d")
        books.settle_all(small.queue)


def _device_of(mount: Path) -> str:
    return subprocess.run(
        ["findmnt", "-no", "SOURCE", mount], check=True, capture_output=True, text=True
    ).stdout.strip()


def library_open(small: SmallDisk) -> library.Queue:
    return library.open(small.queue)
