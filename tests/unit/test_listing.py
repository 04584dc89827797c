"""What a claim makes of listings, which are no snapshots: the kernel is played here by hand."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from envelopes import envelopes, file_names
from hypothesis import given
from hypothesis import strategies as st

import mailq
from mailq.engines.maildir import delayed, layout, names
from mailq.engines.maildir import listing as listings
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.testing import ManualClock, take


def listing(monkeypatch: pytest.MonkeyPatch, directory: Path, during: Callable[[], set[str]]) -> None:
    """While ``directory`` is listed for the first time ``during`` is called; the ids that it returns are missed."""
    entries = layout.entries
    missed: list[set[str]] = []

    def stub(path: str, *near: Any) -> Iterator[os.DirEntry[str]]:
        if path != str(directory) or missed:
            yield from entries(path, *near)
            return
        missed.append(set())
        missed[0] |= during()
        yield from (entry for entry in entries(path, *near) if entry.name.split(",")[1] not in missed[0])

    monkeypatch.setattr(layout, "entries", stub)


def bodies(queue: mailq.Queue) -> list[object]:
    out = []
    for delivery in queue.drain():
        out.append(delivery.body)
        delivery.ack()
    return out


class BrokenScan:
    """A listing whose disk goes away after the first entry."""

    def __init__(self, path: str) -> None:
        self._scan = os.scandir(path)
        self._read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *of: object) -> None:
        self._scan.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> os.DirEntry[str]:
        self._read += 1
        if self._read > 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return next(self._scan)


@pytest.fixture
def producer(path: Path) -> mailq.Queue:
    return mailq.open(path, durability="process-crash")


@pytest.fixture
def consumer(producer: mailq.Queue, path: Path) -> mailq.Queue:
    return mailq.open(path)


def test_what_a_listing_missed_is_not_overtaken_by_what_it_saw(
    monkeypatch: pytest.MonkeyPatch, path: Path, producer: mailq.Queue, consumer: mailq.Queue
) -> None:
    """A long directory is read piece by piece: a push behind the reader is missed, the next one is seen."""
    producer.push_many(range(500))

    def push_two() -> set[str]:
        missed, _ = producer.push_many(["500", "501"])
        return {missed}

    listing(monkeypatch, path / "new", push_two)
    assert bodies(consumer) == [*range(500), "500", "501"]


class Gate(Disk):
    """Holds the first rename back until it may go on."""

    def __init__(self) -> None:
        self.written = threading.Event()
        self.may_rename = threading.Event()

    def rename(self, source: str, target: str) -> None:
        self.written.set()
        assert self.may_rename.wait(30)
        super().rename(source, target)


def test_what_a_listing_missed_of_a_batch_is_not_overtaken_by_what_it_saw_of_it(
    monkeypatch: pytest.MonkeyPatch, path: Path, producer: mailq.Queue, consumer: mailq.Queue
) -> None:
    """A batch is named and written before the listing that its renames meet."""
    producer.push_many(range(500))
    gate = Gate()
    batch = mailq.Queue(MaildirEngine(str(path), disk=gate))
    ids: list[str] = []
    thread = threading.Thread(target=lambda: ids.extend(batch.push_many(["500", "501"])))
    thread.start()
    assert gate.written.wait(30)

    def rename_them() -> set[str]:
        gate.may_rename.set()
        thread.join(30)
        return {ids[0]}

    listing(monkeypatch, path / "new", rename_them)
    assert bodies(consumer) == [*range(500), "500", "501"]


def test_what_was_pushed_during_a_listing_is_not_overtaken_by_what_is_pushed_after_it(
    monkeypatch: pytest.MonkeyPatch, path: Path, consumer: mailq.Queue
) -> None:
    consumer.push_many(range(500))
    listing(monkeypatch, path / "new", lambda: {consumer.push("first", priority=1)})
    first = consumer.pop()
    consumer.push("second", priority=1)
    assert first is not None
    assert [body for body in [first.body, *bodies(consumer)] if isinstance(body, str)] == ["first", "second"]


def test_a_message_that_every_listing_of_a_claim_missed_is_delivered_by_the_next(
    monkeypatch: pytest.MonkeyPatch, path: Path, producer: mailq.Queue, consumer: mailq.Queue
) -> None:
    producer.push_many(["a", "b"])
    listing(monkeypatch, path / "new", lambda: {producer.push("late")})
    assert bodies(consumer) == ["a", "b", "late"]


@pytest.mark.parametrize("verb", ["pop", "reap", "peek", "stats"])
def test_a_disk_that_goes_away_in_the_middle_of_a_listing_is_a_storage_error(
    monkeypatch: pytest.MonkeyPatch, producer: mailq.Queue, consumer: mailq.Queue, verb: str
) -> None:
    producer.push_many(range(3))
    held = consumer.pop()
    assert held is not None
    monkeypatch.setattr(layout, "os", SimpleNamespace(**{**vars(os), "scandir": BrokenScan}))
    with pytest.raises(mailq.StorageError) as caught:
        getattr(mailq.open(consumer.location), verb)()
    assert caught.value.errno == errno.EIO
    monkeypatch.undo()
    held.ack()
    assert bodies(consumer) == [1, 2]


def test_what_another_thread_brings_back_into_the_window_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, producer: mailq.Queue, path: Path
) -> None:
    """Threads that list at one time each bring the first in line, long after one of them has claimed it."""
    producer.push_many(["claimed", "ready"])
    engine = MaildirEngine(str(path))
    stale = sorted(layout.sort_key(str(path / "new"), name) or "" for name in os.listdir(path / "new"))
    producer.pop(detached=True)
    brought = iter([*stale[:1] * 5, *stale])
    monkeypatch.setattr(engine._ready._index, "pop_first", lambda: next(brought, None))
    delivery = mailq.Queue(engine).pop()
    assert delivery is not None
    assert delivery.body == "ready"


def test_what_another_process_delayed_a_moment_ago_is_found_before_nothing_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``later/`` is not listed for each claim; a claim that would come back empty looks."""
    monkeypatch.setattr(delayed, "_LISTING_SHARE", 0.0)
    monkeypatch.setattr(delayed, "_FRESH", 3600.0)
    clock = ManualClock()
    mailq.open(path)
    ours, other = (mailq.Queue(MaildirEngine(str(path), clock=clock)) for _ in range(2))
    assert ours.pop() is None  # later/ was listed
    other.push("x", delay=1)
    clock.advance(1)
    assert bodies(ours) == ["x"]


def test_while_others_are_ready_what_another_process_delayed_is_found_in_a_moment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delayed, "_LISTING_SHARE", 0.0)
    monkeypatch.setattr(delayed, "_FRESH", 0.0)
    clock = ManualClock()
    mailq.open(path)
    ours, other = (mailq.Queue(MaildirEngine(str(path), clock=clock)) for _ in range(2))
    assert ours.pop() is None
    other.push("due first", delay=1)
    clock.advance(2)
    other.push("ready")
    assert bodies(ours) == ["due first", "ready"]


def test_a_shorter_reap_interval_counts_at_once(path: Path) -> None:
    clock = ManualClock()
    mailq.open(path, reap_interval=3600)
    queue = mailq.Queue(MaildirEngine(str(path), clock=clock))
    queue.push("x")
    take(queue)
    clock.advance(100)  # its lease is over
    assert queue.pop() is None
    queue.configure(reap_interval=1)
    assert take(queue).attempt == 2


def test_a_link_to_nothing_is_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert layout.is_there(str(tmp_path / "link"))
    assert not layout.is_there(str(tmp_path / "nowhere"))


lines = st.lists(st.one_of(envelopes().map(names.format_name), file_names), max_size=30, unique=True)


def lay(directory: str, line: list[str]) -> None:
    for name in line:
        os.close(os.open(f"{directory}/{name}", os.O_CREAT, 0o600))


@given(lines, st.integers(1, 10))
def test_a_listing_finds_the_first_in_line_whatever_their_names_and_priorities(line: list[str], size: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        lay(directory, line)
        keys = sorted(layout.sort_key(directory, name) or "" for name in line if name[0] != ".")
        assert listings.first_ready(directory, size=size) == keys[: size + 1]
        tried = set(keys[:1])
        wanted = partial(filter, lambda key: key not in tried)
        assert listings.first_ready(directory, wanted, size) == keys[1 : size + 2]


@given(lines, st.integers(1, 10))
def test_a_listing_finds_what_is_due_first(line: list[str], size: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        lay(directory, line)
        keys = sorted(listings.due_key(name) for name in line if name[0] != ".")
        assert listings.first_due(directory, size) == keys[: size + 1]


def test_a_message_that_was_found_by_its_id_is_looked_for_no_further(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = mailq.open(path)
    waiting, delayed = queue.push("x"), queue.push("y", delay=60)
    listed: list[str] = []
    entries = layout.entries

    def seen(directory: str, *more: Any) -> Any:
        listed.append(os.path.basename(directory))
        return entries(directory, *more)

    monkeypatch.setattr(layout, "entries", seen)
    for id, directories in (
        (waiting, ["new"]),
        (delayed, ["new", "later"]),
        ("0" * 32, ["new", "later", "cur", "dead"] * 2),
    ):
        assert (id in queue) == (id != "0" * 32)
        assert listed == directories
        listed.clear()
