"""A worker under fire: its processes and itself are killed at random, again and again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from together import is_alive, wait_until
from working import HERE, Work

import mailq

EVERY = 0.3
COUNT = 2000


@pytest.mark.parametrize("kills", [pytest.param(20, id="short"), pytest.param(160, id="long", marks=pytest.mark.slow)])
def test_whatever_is_killed_each_message_is_acked_or_dead(path: Path, kills: int) -> None:
    dice = random.Random(7)
    queue = mailq.open(path, max_retries=1000, backoff=(0.01, 0.05), reap_interval=0.5, durability="process-crash")
    log = path.parent / "log"
    nap = kills * EVERY * 4 * 0.6 / COUNT  # so that there is work to do most of the time
    ids = {}
    for n in range(COUNT):
        ids[queue.push({"n": n, "nap": nap, "log": str(log)}, max_retries=3 if n % 50 in (7, 13) else None)] = n
    fatal = {id for id, n in ids.items() if n % 50 in (7, 13)}
    ever: set[int] = set()
    killed = 0
    worker = Work(path, "handlers:storm", "-c", 4)
    try:
        while killed < kills:
            time.sleep(EVERY)
            alive = worker.processes()
            ever |= set(alive)
            victim = dice.choice(alive)
            with contextlib.suppress(ProcessLookupError):  # killed before, and only now buried
                os.kill(victim, signal.SIGKILL)
                killed += 1
            if victim == worker.pid:
                worker.wait()
            if worker.is_over():  # also when it gave up at its start; a service manager starts it again
                worker = Work(path, "handlers:storm", "-c", 4)
        worker.ready()
        wait_until(lambda: len(queue) == 0, "everything is settled")
        ever |= set(worker.processes())
        assert worker.stop() == 0, worker.log
    finally:
        worker.kill()
    wait_until(lambda: not [pid for pid in ever if is_alive(pid) and HERE in environment(pid)], "nothing is left over")
    dead = {letter.id for letter in queue.peek("dead", None)}
    done = set(log.read_text().split())
    assert done | dead == set(ids)
    assert dead == fatal
    assert not done & dead
    assert os.listdir(path / "cur") == []
    assert os.listdir(path / "owners") == []
    assert [name for name in os.listdir(path / "tmp") if not name.startswith(".owner.")] == []


def environment(pid: int) -> str:
    """What tells our processes from others that got their ids."""
    try:
        return Path(f"/proc/{pid}/environ").read_text()
    except OSError:
        return ""


def test_two_workers_share_a_queue_fairly(path: Path) -> None:
    """Each takes only what it can begin at once: a worker with a long job starves nobody."""
    queue = mailq.open(path)
    go = path.parent / "go"
    queue.push([str(path.parent / "run"), str(go)])
    with Work(path, "handlers:hold_until") as first:
        wait_until((path.parent / "run.1").exists, "the long job runs")
        replies = [queue.request([str(path.parent / f"short{n}"), "/"]) for n in range(10)]
        with Work(path, "handlers:hold_until") as second:
            for reply in replies:
                reply.result(30)
            go.touch()
            assert second.stop() == 0
        assert first.stop() == 0
    assert queue.stats() == mailq.Stats()
