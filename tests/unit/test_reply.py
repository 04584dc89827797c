"""Replies on disk: where they lie, how long, and what is never read."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mailq
from mailq import reply
from mailq.engines.base import Record
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.ids import is_id
from mailq.testing import ManualClock, take

NO_IDS = {
    "a way out": "../secret",
    "a way to the settings": "../mailq.toml",
    "an absolute path": "{path}/secret",
    "a path": "x/secret",
    "a dot": ".",
    "two dots": "..",
    "empty": "",
    "a name with a dot": "0" * 32 + ".json",
    "an id behind dots": "../replies/" + "0" * 32,
    "an id behind a slash": "/" + "0" * 32,
    "an id and a NUL": "0" * 32 + "\0",
    "an id and a newline": "0" * 32 + "\n",
    "in capitals": "A" * 32,
}


def age(path: Path, seconds: float) -> None:
    """Make a file older."""
    at = time.time() - seconds
    os.utime(path, (at, at))


def engine_of(path: Path, *, clock: ManualClock | None = None, disk: Disk | None = None) -> MaildirEngine:
    """The queue of another consumer."""
    return MaildirEngine(str(path), clock=clock or time.time_ns, disk=disk)


def test_a_reply_is_a_file_that_jq_can_read(queue: mailq.Queue, path: Path) -> None:
    request = queue.request("x")
    take(queue).reply({"größe": [1, None]})
    (file,) = (path / "replies").iterdir()
    assert file.name == f"{request.id}.json"
    assert json.loads(file.read_text()) == {"ok": True, "result": {"größe": [1, None]}}
    assert file.read_bytes().endswith(b"\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(path / "tmp") == []


def test_a_reply_has_the_file_mode_of_the_queue(path: Path) -> None:
    queue = mailq.open(path, file_mode="0664")
    queue.request("x")
    take(queue).reply("done")
    (file,) = (path / "replies").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o664


def test_a_second_reply_replaces_the_first(queue: mailq.Queue, path: Path) -> None:
    request = queue.request("x")
    delivery = take(queue)
    delivery.reply("a long first one")
    delivery.reply("2nd")
    assert request.result(timeout=0) == "2nd"
    assert len(os.listdir(path / "replies")) == 1


def test_another_program_gets_the_reply_by_the_id_and_it_survives_closing(queue: mailq.Queue, path: Path) -> None:
    id = queue.request("x").id
    with take(queue) as body:
        assert body == "x"
    queue.replies.put_reply(id, reply.encode("done"))
    queue.close()
    assert mailq.open(path, create=False).reply_to(id).result(timeout=0) == "done"


def test_a_reply_to_a_file_that_was_dropped_in_by_hand_is_kept(queue: mailq.Queue, path: Path) -> None:
    (path / "new" / "by hand.txt").write_text("x")
    delivery = take(queue)
    delivery.reply("done")
    assert queue.reply_to(delivery.id).result(timeout=0) == "done"


@pytest.mark.parametrize("id", NO_IDS.values(), ids=NO_IDS)
def test_an_id_that_is_none_reads_nothing(queue: mailq.Queue, path: Path, id: str) -> None:
    id = id.format(path=path)
    for place in (path, path / "replies", path / "replies" / "x", path.parent):
        place.mkdir(exist_ok=True)
        for name in ("secret", "secret.json", ".json", "..json", "mailq.toml.json", "A" * 32 + ".json"):
            (place / name).write_bytes(reply.encode("secret"))
    (path / "replies" / f"{'0' * 32}.json").write_bytes(reply.encode("of another"))
    assert queue.replies.get_reply(id) is None
    assert not queue.reply_to(id).ready
    with pytest.raises(mailq.ReplyTimeout):
        queue.reply_to(id).result(timeout=0)


@pytest.mark.parametrize("id", NO_IDS.values(), ids=NO_IDS)
def test_an_id_that_is_none_writes_nothing(queue: mailq.Queue, path: Path, id: str) -> None:
    before = {file: file.stat().st_mtime_ns for file in path.parent.rglob("*") if file.is_file()}
    with pytest.raises(mailq.MailqError):
        queue.replies.put_reply(id.format(path=path), b"x")
    assert {file: file.stat().st_mtime_ns for file in path.parent.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("what", ["symlink", "fifo", "directory"])
def test_what_is_no_regular_file_is_no_reply(queue: mailq.Queue, path: Path, what: str) -> None:
    id = queue.push("x")
    place = path / "replies" / f"{id}.json"
    match what:
        case "symlink":
            (path / "secret").write_bytes(reply.encode("secret"))
            place.symlink_to(path / "secret")
        case "fifo":
            os.mkfifo(place)
        case "directory":
            place.mkdir()
    assert not queue.reply_to(id).ready


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b'"x"', b"{}", b'{"ok": true}', b'{"ok": 0}', b"\0" * 100])
def test_a_damaged_reply_file_is_called_so(queue: mailq.Queue, path: Path, data: bytes) -> None:
    request = queue.request("x")
    (path / "replies" / f"{request.id}.json").write_bytes(data)
    with pytest.raises(mailq.CodecError) as damaged:
        request.result(timeout=0)
    assert damaged.value.raw == data
    take(queue).reply("mended")
    assert request.result(timeout=0) == "mended"


def test_a_reply_written_by_hand_is_a_reply(queue: mailq.Queue, path: Path) -> None:
    request = queue.request("x")
    (path / "replies" / f"{request.id}.json").write_text('{"result": [1, 2], "ok": true, "by": "hand"}')
    assert request.result(timeout=0) == [1, 2]


def test_a_short_reply_is_read_without_a_gigabyte_of_memory(path: Path) -> None:
    """Under ``ulimit -v`` so much cannot be had."""

    class Counting(Disk):
        most = 0

        def read(self, fd: int, size: int) -> bytes:
            self.most = max(self.most, size)
            return super().read(fd, min(size, 1 << 20))

    disk = Counting()
    id = mailq.open(path).push("x")
    engine = engine_of(path, disk=disk)
    engine.put_reply(id, b"x")
    assert engine.get_reply(id) == b"x"
    assert disk.most <= 1 << 26


def test_a_reply_that_a_disk_gives_in_pieces_is_read_whole(path: Path) -> None:
    """A network file system may, and a signal may interrupt a long read."""

    class Slow(Disk):
        def read(self, fd: int, size: int) -> bytes:
            return super().read(fd, min(size, 1000))

    id = mailq.open(path).push("x")
    engine = engine_of(path, disk=Slow())
    engine.put_reply(id, b"x" * 10_000)
    assert engine.get_reply(id) == b"x" * 10_000


# How long they are kept


def test_an_old_reply_is_swept_at_the_next_one(path: Path) -> None:
    mailq.open(path, reply_ttl=600)
    old, young, new = mailq.open(path).push_many(["old", "young", "new"])
    engine = engine_of(path)
    for id in (old, young):
        engine.put_reply(id, b"x")
    age(path / "replies" / f"{old}.json", 601)
    age(path / "replies" / f"{young}.json", 599 - 60)
    engine_of(path).put_reply(new, b"x")  # its first sweep
    assert sorted(os.listdir(path / "replies")) == sorted(f"{id}.json" for id in (young, new))
    assert engine.get_reply(old) is None


def test_replies_are_swept_after_their_time(path: Path) -> None:
    """By the clock of the engine; the disk stamps files with the real time."""
    mailq.open(path, reply_ttl=600)
    clock = ManualClock()
    engine = engine_of(path, clock=clock)
    ids = engine_ids(engine, 3)
    engine.put_reply(ids[0], b"x")
    clock.advance(300)
    engine.put_reply(ids[1], b"x")
    assert len(os.listdir(path / "replies")) == 2
    clock.advance(301)
    engine.put_reply(ids[2], b"x")
    assert engine.get_reply(ids[0]) is None


def engine_ids(engine: MaildirEngine, count: int) -> list[str]:
    return mailq.Queue(engine).push_many(range(count))


def test_old_replies_are_looked_for_seldom(path: Path) -> None:
    class Counting(Disk):
        swept = 0

        def unlink(self, path: str) -> None:
            self.swept += "/replies/" in path
            super().unlink(path)

    mailq.open(path, reply_ttl=600)
    clock, disk = ManualClock(), Counting()
    engine = engine_of(path, clock=clock, disk=disk)
    first, *rest = engine_ids(engine, 12)
    engine.put_reply(first, b"x")
    age(path / "replies" / f"{first}.json", 5000)
    for id in rest[:10]:
        engine.put_reply(id, b"x")
        clock.advance(5)
    assert disk.swept == 0
    clock.advance(11)
    engine.put_reply(rest[10], b"x")
    assert disk.swept == 1


def test_a_sweep_does_not_mind_that_another_was_faster(path: Path) -> None:
    class Racing(Disk):
        def unlink(self, path: str) -> None:
            if "/replies/" in path:
                os.unlink(path)
            super().unlink(path)

    queue = mailq.open(path)
    old, new = queue.push_many(["old", "new"])
    queue.replies.put_reply(old, b"x")
    age(path / "replies" / f"{old}.json", 100_000)
    engine = engine_of(path, disk=Racing())
    engine.put_reply(new, b"x")
    assert engine.get_reply(new) == b"x"


def test_a_changed_time_to_keep_replies_counts_at_the_next_sweep(path: Path) -> None:
    queue = mailq.open(path)
    old, new = queue.push_many(["old", "new"])
    queue.replies.put_reply(old, b"x")
    age(path / "replies" / f"{old}.json", 100)
    queue.configure(reply_ttl=60)
    engine_of(path).put_reply(new, b"x")
    assert os.listdir(path / "replies") == [f"{new}.json"]


# Failures


def test_a_reply_that_the_disk_refuses_leaves_nothing(path: Path) -> None:
    class Full(Disk):
        def fsync(self, fd: int) -> None:
            raise OSError(28, "No space left on device")

    id = mailq.open(path).push("x")
    engine = engine_of(path, disk=Full())
    with pytest.raises(mailq.StorageError) as refused:
        engine.put_reply(id, b"x")
    assert (refused.value.verb, refused.value.errno) == ("reply", 28)
    assert os.listdir(path / "replies") == os.listdir(path / "tmp") == []


def test_a_reply_is_synced_before_it_is_there_and_its_name_after(path: Path) -> None:
    class Recording(Disk):
        def __init__(self) -> None:
            self.calls: list[str] = []

        def fsync(self, fd: int) -> None:
            self.calls.append("fsync")
            super().fsync(fd)

        def rename(self, source: str, target: str) -> None:
            self.calls.append("rename")
            super().rename(source, target)

    (id,) = mailq.open(path).push_many(["x"])
    disk = Recording()
    engine_of(path, disk=disk).put_reply(id, b"x")
    assert disk.calls == ["fsync", "rename", "fsync"]


def test_a_queue_whose_replies_were_never_made_has_none(queue: mailq.Queue, path: Path) -> None:
    """A queue from an earlier version, for one."""
    (path / "replies").rmdir()
    queue.close()
    again = mailq.open(path, create=False)
    request = again.request("x")
    assert not request.ready
    take(again).reply("done")
    assert request.result(timeout=0) == "done"


def test_half_a_reply_that_a_dead_process_left_is_swept(queue: mailq.Queue, path: Path) -> None:
    (path / "tmp" / ".reply.0123456789abcdef").write_bytes(b"half")
    queue.reap()
    assert len(os.listdir(path / "tmp")) == 1
    later = ManualClock()
    later.advance(86_401)
    mailq.Queue(engine_of(path, clock=later)).reap()
    assert os.listdir(path / "tmp") == []


# Waiting


def test_a_waiting_caller_looks_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = mailq.open("memory://")
    request = queue.request("x")
    pauses: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(reply, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now[0]))
    with pytest.raises(mailq.ReplyTimeout):
        request.result(timeout=10)
    assert pauses[0] <= 0.001
    assert max(pauses) <= 0.05
    assert sum(pauses) == pytest.approx(10)
    assert len(pauses) < 230


@pytest.mark.parametrize(("takes", "looks"), [(0.0, 99), (0.01, 98), (0.5, 10)])
def test_looking_whether_a_message_is_alive_takes_a_small_part_of_the_time(
    monkeypatch: pytest.MonkeyPatch, takes: float, looks: int
) -> None:
    """A long queue takes long to list."""
    queue = mailq.open("memory://")
    request = queue.request("x")
    look, now, found = queue._engine.look, [0.0], list[int]()

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    def slow_look(*arguments: Any, **options: Any) -> list[Record]:
        pass_time(takes)
        found.append(1)
        return look(*arguments, **options)

    monkeypatch.setattr(reply, "time", SimpleNamespace(sleep=pass_time, monotonic=lambda: now[0]))
    monkeypatch.setattr(queue._engine, "look", slow_look)
    with pytest.raises(mailq.ReplyTimeout):
        request.result(timeout=100)
    assert abs(len(found) - looks) <= 4


def test_a_reply_names_its_message() -> None:
    queue = mailq.open("memory://")
    request = queue.request("x")
    assert request.id in repr(request)
    assert is_id(request.id)
