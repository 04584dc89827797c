"""A file named ``paused`` in the queue, put there and taken away by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from together import PATIENCE

import mailq
from mailq.engines.maildir import watcher
from mailq.engines.maildir.disk import Disk
from mailq.testing import take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailq.engines.base import Claimed

    Start = Callable[[], Callable[[], str]]


def sh(line: str, cwd: Path) -> None:
    subprocess.run(["sh", "-euc", line], cwd=cwd, check=True, timeout=PATIENCE)


def test_touch_pauses_and_rm_resumes(queue: mailq.Queue, path: Path) -> None:
    queue.push("x")
    sh("touch jobs/paused", path.parent)
    assert queue.stats().paused
    assert queue.pop() is None
    assert queue.pop_many(5, wait=0.01) == []
    assert queue.stats().ready == 1
    sh("rm jobs/paused", path.parent)
    assert not queue.stats().paused
    assert take(queue).body == "x"


def test_a_pause_by_hand_ends_with_resume_and_one_by_the_verb_with_rm(queue: mailq.Queue, path: Path) -> None:
    queue.push_many(["a", "b"])
    sh("touch paused", path)
    queue.pause()  # once more does nothing
    queue.resume()
    assert not (path / "paused").exists()
    assert take(queue).body == "a"
    queue.pause()
    sh("rm paused", path)
    assert take(queue).body == "b"
    queue.resume()


def test_what_the_verb_leaves_says_what_it_is_for(queue: mailq.Queue, path: Path) -> None:
    queue.pause()
    text = (path / "paused").read_text()
    assert "delivered" in text
    assert text.endswith("\n")
    queue.pause()
    assert (path / "paused").read_text() == text


@pytest.mark.parametrize("line", ["touch paused", "echo 'maintenance until 5' > paused", "ln -s /etc/hostname paused"])
def test_whatever_is_in_it_the_file_pauses(queue: mailq.Queue, path: Path, line: str) -> None:
    queue.push("x")
    sh(line, path)
    assert queue.pop() is None
    queue.resume()
    assert take(queue).body == "x"
    assert Path("/etc/hostname").exists() or "hostname" not in line


def test_what_is_held_is_settled_and_what_is_dropped_in_waits(queue: mailq.Queue, path: Path) -> None:
    queue.push_many(["ack", "nack"])
    ack, nack = queue.pop_many(2)
    sh("touch paused; echo dropped > tmp/drop.txt; mv tmp/drop.txt new/", path)
    ack.ack()
    nack.nack(delay=0)
    assert queue.pop() is None
    assert queue.stats().ready == 2
    sh("rm paused", path)
    assert sorted(delivery.raw for delivery in queue.drain()) == [b"dropped\n", b"nack"]


@pytest.mark.parametrize("how", ["touch", "verb"])
def test_a_pause_survives_closing_and_opening(queue: mailq.Queue, path: Path, how: str) -> None:
    queue.push("x")
    if how == "touch":
        sh("touch paused", path)
    else:
        queue.pause()
    queue.close()
    again = mailq.open(path)
    assert again.stats().paused
    assert again.pop() is None
    (path / "paused").unlink()
    assert take(again).body == "x"


def test_a_pause_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, "_looks_left", 0)  # or where commits are fast they are synced another way
    queue = mailq.open(path)
    synced: list[str] = []
    fsync = os.fsync

    def recorded(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name descriptors")
    monkeypatch.setattr(os, "fsync", recorded)
    queue.pause()
    assert synced == [str(path / "paused"), str(path)]
    synced.clear()
    queue.resume()
    assert synced == [str(path)]


def test_a_queue_that_is_gone_is_not_paused_but_missed(queue: mailq.Queue, path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    with pytest.raises(mailq.QueueNotFound):
        queue.pause()
    assert not path.exists()


@pytest.mark.parametrize("word", ["with notification", "without"])
def test_a_waiting_consumer_in_this_process_notices_rm(path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    if word == "without":
        monkeypatch.setattr(watcher, "watch", lambda *_: None)
    queue = mailq.open(path)
    queue.push("x")
    sh("touch paused", path)
    looked = threading.Event()
    claim = queue._engine.claim

    def seen(limit: int, *, lease: float | None, detached: bool) -> Claimed:
        claims = claim(limit, lease=lease, detached=detached)
        looked.set()
        return claims

    monkeypatch.setattr(queue._engine, "claim", seen)
    bodies: list[Any] = []
    thread = threading.Thread(target=lambda: bodies.append(take(queue, wait=60).body), daemon=True)
    thread.start()
    assert looked.wait(60)
    assert bodies == []
    sh("rm paused", path)
    thread.join(60)
    assert bodies == ["x"]


CONSUMER = """
import sys, mailq

queue = mailq.open(sys.argv[1], create=False)
claim = queue._engine.claim

def told(limit, **options):
    claims = claim(limit, **options)
    print(*(found.data.decode() for found in claims.claims), flush=True)
    return claims

queue._engine.claim = told
for delivery in queue:
    delivery.ack()
    break
"""
"""Waits for a message; tells a line for every look, what it found."""


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Start another process that waits for a message. What it returns says what the next look found."""
    begun: list[subprocess.Popen[str]] = []

    def start_one() -> Callable[[], str]:
        process = subprocess.Popen([sys.executable, "-c", CONSUMER, str(path)], stdout=subprocess.PIPE, text=True)
        begun.append(process)
        assert process.stdout is not None
        return process.stdout.readline

    yield start_one
    for process in begun:
        process.kill()
        process.communicate()


def test_another_process_that_waits_notices_touch_and_rm(queue: mailq.Queue, path: Path, start: Start) -> None:
    hear = start()
    assert hear() == "\n"
    assert hear() == "\n"  # the first wait ends at once; from here on it really waits
    sh("touch paused", path)
    for _ in range(3):  # of three more looks one, at least, began after the touch
        assert hear() == "\n"
    queue.push("x")
    for _ in range(2):
        assert hear() == "\n"
    assert queue.stats().ready == 1
    sh("rm paused", path)
    while (found := hear()) == "\n":
        pass
    assert found == "x\n"


def test_another_process_that_waits_notices_pause_and_resume(queue: mailq.Queue, path: Path, start: Start) -> None:
    queue.push("x")
    queue.pause()
    hear = start()
    for _ in range(2):
        assert hear() == "\n"
    queue.resume()
    while (found := hear()) == "\n":
        pass
    assert found == "x\n"
