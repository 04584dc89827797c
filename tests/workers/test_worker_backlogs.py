"""A huge backlog of what cannot be delivered keeps no worker from the heartbeats of its jobs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from together import wait_until
from working import Work

import mailq
from mailq.engines.maildir import names
from mailq.ids import NS, new_id

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

log = logging.getLogger(__name__)

COUNT = 200_000
LEASE = 15.0
SECONDS = 600.0
"""To bury them all, on a disk that is slow."""


def expired(queue: mailq.Queue, path: Path) -> None:
    for _ in range(COUNT // 2000):
        queue.push_many(range(2000), ttl=0.001)


def torn(_: mailq.Queue, path: Path) -> None:
    """As a power cut leaves them where pushes are not synced."""
    lay(path / "new")


def due(_: mailq.Queue, path: Path) -> None:
    """They are readied, and then found to be torn."""
    lay(path / "later")


def overdue(_: mailq.Queue, path: Path) -> None:
    """Their last lease has run out."""
    lay(path / "cur", ",tries=E3,until=20250101T000000Z,claim=1")


def lay(directory: Path, fields: str = "") -> None:
    start = time.time_ns() - 3600 * NS
    for at in range(start, start + COUNT):
        name = f"{names.format_time(at)},{new_id(at)},size=2,crc=1a2b3c4d{fields}.json"
        os.close(os.open(directory / name, os.O_CREAT | os.O_WRONLY, 0o600))


@pytest.mark.parametrize("pool", ["processes", "threads"])
@pytest.mark.parametrize("dead", ["own", "shared"])
@pytest.mark.parametrize("backlog", [expired, torn, due, overdue])
def test_a_running_job_keeps_its_lease_while_a_backlog_is_buried(
    path: Path, backlog: Callable[[mailq.Queue, Path], None], dead: str, pool: str
) -> None:
    queue = mailq.open(path, lease=LEASE, reap_interval=1, durability="process-crash")
    if dead == "shared":
        queue.configure(dead_letters=mailq.open(path.with_name("morgue")).location)
    running, finish = (str(path.with_name(word)) for word in ("running", "finish"))
    options = ["--threads"] if pool == "threads" else []
    with Work(path, "handlers:hold_until", "-c", 2, *options) as worker:
        queue.push([running, finish])
        wait_until(lambda: os.path.exists(f"{running}.1"), "the job runs")
        queue.pause()
        backlog(queue, path)
        queue.configure(durability="power-loss")
        queue.push([f"{running}.live", f"{finish}.live"])
        begun = time.monotonic()
        queue.resume()
        until(lambda: os.path.exists(f"{running}.live.1"), 0.01)
        waited, buried = time.monotonic() - begun, queue.stats().dead
        Path(f"{finish}.live").touch()
        until(lambda: queue.stats().dead == COUNT, 1.0)
        took = time.monotonic() - begun
        Path(finish).touch()
        wait_until(lambda: len(queue) == 0, "all is done")
        assert worker.stop() == 0
    log.info("the live one after %.1f s, %d were buried by then, all after %.1f s", waited, buried, took)
    assert "lost" not in worker.log
    assert not os.path.exists(f"{running}.2")
    if backlog is expired:
        assert buried < COUNT // 2


def until(condition: Callable[[], bool], pause: float) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(pause)
