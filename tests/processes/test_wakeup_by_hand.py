"""How soon a waiting consumer has what came otherwise than by a push, and what it does without a watch."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from together import Child, asleep, assert_at_once, wait_until

import mailq
from mailq.engines.maildir import notify, watcher
from mailq.ids import NS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection

    from mailq.engines.inotify import Arrival

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see that a process sleeps")

DELAY = 0.04


def report(pipe: Connection[Any, Any], path: str) -> None:
    """Never looking by itself, tell of each message when it was there, by the clock of the day, and when it was pushed."""
    notify._LOOK_WATCHED = 3600.0  # type: ignore[misc]
    queue = mailq.open(path, create=False)
    queue.pop(wait=0.01)
    pipe.send("ready")
    for delivery in queue:
        at = time.time_ns()
        delivery.ack()
        pipe.send((delivery.raw, at, round(delivery.pushed_at * NS)))


def when_asleep(consumer: Child) -> None:
    wait_until(lambda: asleep(consumer.pid), "the consumer waits")


def test_a_file_that_mv_brings_wakes_a_consumer_at_once(path: Path) -> None:
    mailq.open(path)
    latencies = []
    with Child(report, str(path)) as consumer:
        assert consumer.hear() == "ready"
        for n in range(25):
            (path / "tmp" / f"job {n}").write_text(str(n))
            when_asleep(consumer)
            subprocess.run(["mv", f"tmp/job {n}", "new/"], cwd=path, check=True)
            moved = time.time_ns()
            body, at, _ = consumer.hear()
            assert body == str(n).encode()
            latencies.append((at - moved) / 1e6)
    assert_at_once(latencies)


def test_a_claim_by_a_neighbour_does_not_hold_back_the_next_message(path: Path) -> None:
    """Watchdog holds a queue of events back for 0.5 s behind each name that leaves the directory."""
    queue = mailq.open(path, durability="process-crash")
    latencies = []
    with Child(report, str(path)) as consumer:
        assert consumer.hear() == "ready"
        for n in range(25):
            # Not seen by the consumer when it comes, so surely taken by the neighbour.
            (path / "new" / ".neighbours").touch()
            when_asleep(consumer)
            (path / "new" / ".neighbours").rename(path / "tmp" / "claimed")
            queue.push(str(n))
            pushed = time.time_ns()
            body, at, _ = consumer.hear()
            assert body == str(n).encode()
            latencies.append((at - pushed) / 1e6)
    assert_at_once(latencies)


def test_a_delayed_message_wakes_a_consumer_when_it_is_due(path: Path) -> None:
    queue = mailq.open(path, durability="process-crash")
    latencies = []
    with Child(report, str(path)) as consumer:
        assert consumer.hear() == "ready"
        for n in range(25):
            queue.push(str(n), delay=DELAY)
            body, at, pushed = consumer.hear()
            assert body == str(n).encode()
            latencies.append((at - pushed) / 1e6 - DELAY * 1000)
    assert min(latencies) > -1, "never early; a float of seconds is exact to a microsecond"
    assert_at_once(latencies)


@pytest.fixture
def common(tmp_path: Path) -> Iterator[Path]:
    """A directory that every user can reach, as pytest's own is not."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


class Deaf:
    """Would be told of arrivals."""

    def on_events(self, events: Sequence[Arrival]) -> None: ...

    def on_overflow(self) -> None: ...

    def on_wakeup(self) -> None: ...


def wait_without_inotify(pipe: Connection[Any, Any], path: str) -> None:
    """Become another user, use up that one's inotify instances, and wait."""
    # Loaded while they can be read: that user may have no right to this installation.
    import filelock  # noqa: F401, PLC0415
    import watchdog.observers.inotify_c  # noqa: F401, PLC0415

    user = 100_000 + os.getpid()  # whose instances no run of these tests beside this one uses up, or gives back
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    libc = ctypes.CDLL(None)
    taken: list[mailq.Delivery] = []
    while len(taken) < 100_000 and (fd := libc.inotify_init1(os.O_CLOEXEC)) >= 0:
        taken.append(fd)
    queue = mailq.open(path, create=False)
    assert watcher.watch([path], Deaf()) is None
    queue.pop(wait=0.01)
    pipe.send("waiting")
    delivery = queue.pop(wait=30)
    pipe.send(delivery and delivery.body)


@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="needs root, to become a user whose instances can be used up"
)
def test_a_user_out_of_inotify_instances_still_consumes(common: Path) -> None:
    queue = mailq.open(common / "jobs", file_mode="0666")
    with Child(wait_without_inotify, queue.location) as consumer:
        assert consumer.hear() == "waiting"
        queue.push("x")
        assert consumer.hear() == "x"
        consumer.join()
