"""Leases, limits and heartbeats of running jobs."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import handlers
import pytest
from together import children, is_alive, wait_until
from working import OFTEN, Work, assert_the_lease_is_kept, letters

import mailq
from mailq.workers import job

FAST: dict[str, Any] = {"max_retries": 0, "backoff": (0.01, 0.01), "durability": "process-crash"}
LONG_CALL = 60_000_000
"""A handler that counts so far runs for a second or more, in which ten heartbeats are due."""


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeats of workers in this process come often."""
    monkeypatch.setattr(job, "_BEATS", OFTEN)


@pytest.mark.usefixtures("_often")
def test_a_job_that_holds_the_gil_in_c_keeps_its_lease(path: Path) -> None:
    queue = mailq.open(path, **FAST)
    reply = queue.request(LONG_CALL)
    with mailq.Worker(queue, handlers.one_long_call):
        wait_until(lambda: queue.stats().leased == 1, "it runs")
        assert_the_lease_is_kept(queue, lambda: reply.ready)
        assert reply.result(60) == LONG_CALL * (LONG_CALL - 1) // 2


@pytest.mark.usefixtures("_often")
@pytest.mark.parametrize("pool", ["processes", "threads"])
def test_the_lease_of_a_running_job_is_kept(path: Path, pool: str) -> None:
    queue = mailq.open(path, **FAST)
    go = path.parent / "go"
    reply = queue.request([str(path.parent / "run"), str(go)])
    with mailq.Worker(queue, handlers.hold_until, **{pool: 1}):  # type: ignore[arg-type]
        wait_until((path.parent / "run.1").exists, "it runs")
        assert_the_lease_is_kept(queue, lambda: reply.ready)
        go.touch()
        reply.result(60)
    assert queue.stats() == mailq.Stats()


def test_a_job_in_a_thread_that_holds_the_gil_keeps_its_lease(path: Path) -> None:
    """And so do its neighbours in other threads, which can do nothing meanwhile."""
    queue = mailq.open(path, **FAST)
    with Work(path, "handlers:one_long_call", "--threads", "-c", 2, beats=OFTEN) as worker:
        queue.request(0).result(60)
        wait_until(lambda: len(children(worker.pid)) == 1, "what keeps its leases is there")
        reply = queue.request(LONG_CALL)
        wait_until(lambda: queue.stats().leased == 1, "it runs")
        assert_the_lease_is_kept(queue, lambda: reply.ready)
        assert reply.result(60) == LONG_CALL * (LONG_CALL - 1) // 2
        assert worker.stop() == 0
    assert queue.stats() == mailq.Stats()


def test_leases_of_threads_are_kept_although_the_process_that_keeps_them_dies(path: Path) -> None:
    queue = mailq.open(path, **FAST)
    go = path.parent / "go"
    with Work(path, "handlers:hold_until", "--threads", beats=OFTEN) as worker:
        reply = queue.request([str(path.parent / "run"), str(go)])
        wait_until(lambda: len(children(worker.pid)) == 1, "its lease is kept")
        (heartbeat,) = children(worker.pid)
        os.kill(heartbeat, signal.SIGKILL)
        wait_until(lambda: "the process that keeps the leases died" in worker.log, "it is missed")
        assert_the_lease_is_kept(queue, lambda: reply.ready)
        go.touch()
        assert reply.result(60) is None
        assert queue.request([str(path.parent / "again"), str(go)]).result(60) is None
        assert children(worker.pid) != [heartbeat]
        assert worker.stop() == 0


def test_a_worker_that_stands_still_past_its_limit_keeps_no_message(path: Path) -> None:
    """As one does whose job has stopped the whole process; what keeps its leases is another, and runs."""
    queue = mailq.open(path, lease=3, reap_interval=0.1, durability="process-crash")
    queue.push(3600)
    with Work(path, "handlers:nap", "--threads", "--timeout", "5s", "--kill-after", "0.1s", beats=20) as worker:
        wait_until(lambda: len(children(worker.pid)) == 1, "what keeps its lease is there")
        assert_the_lease_is_kept(queue, worker.is_over)
        worker.signal(signal.SIGSTOP)
        taken = queue.pop(wait=60)
        assert taken is not None
        assert taken.attempt == 2


@pytest.mark.parametrize("pool", ["--threads", "-c1"])
def test_a_job_whose_lease_is_lost_is_told_from_outside(path: Path, pool: str) -> None:
    queue = mailq.open(path)
    go = path.parent / "go"
    request = queue.request([str(path.parent / "run"), str(go)])
    with Work(path, "handlers:hold_until", pool, beats=OFTEN) as worker:
        wait_until((path.parent / "run.1").exists, "it runs")
        (name,) = os.listdir(path / "cur")
        queue.release(name, delay=3600)
        wait_until(lambda: "has lost its lease" in worker.log, "it is told")
        go.touch()
        wait_until(lambda: "lost after" in worker.log, "it ended")
        assert worker.stop() == 0
    assert not request.ready
    assert queue.stats()._replace(bytes=0, next_due_in=None) == mailq.Stats(delayed=1)


@pytest.mark.parametrize("body", ["hang", "hang deaf", "hang in children"])
def test_a_hung_job_is_killed_at_its_limit_with_all_its_children(path: Path, body: str) -> None:
    queue = mailq.open(path, **FAST)
    queue.push(body, timeout=0.3)
    queue.push("none")
    mailq.Worker(queue, handlers.outcome, kill_after=0.2).run(drain=True)
    (letter,) = queue.peek("dead")
    assert (letter.body, letter.history[0].outcome) == (body, "timeout")
    assert (letter.history[0].error or "").endswith("ran longer than its limit of 0.3 s")
    assert len(queue) == 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it is gone by now
            is_ours = os.fsencode(path.parent) in (process / "environ").read_bytes()
            assert not (is_ours and b"3601" in (process / "cmdline").read_bytes())


def test_a_hung_job_is_tried_again(path: Path) -> None:
    queue = mailq.open(path, timeout=0.1, max_retries=1, backoff=(0.01, 0.01))
    queue.push("hang")
    with mailq.Worker(queue, handlers.outcome, kill_after=0.1):
        wait_until(lambda: queue.stats().dead == 1, "it is dead")
    (letter,) = queue.peek("dead")
    assert [attempt.outcome for attempt in letter.history] == ["timeout", "timeout"]


@pytest.mark.parametrize("pool", ["processes", "threads"])
def test_the_soft_limit_is_an_exception_in_the_job(path: Path, pool: str) -> None:
    queue = mailq.open(path, soft_timeout=1, **FAST)
    said = path.parent / "said"
    queue.push([str(path.parent / "runs"), str(said)])
    mailq.Worker(queue, handlers.clean_up, **{pool: 1}).run(drain=True)  # type: ignore[arg-type]
    assert said.read_text() == "limit 1 cleaned up"
    assert queue.stats() == mailq.Stats()


def test_a_soft_limit_that_nobody_catches_is_a_timeout(path: Path) -> None:
    queue = mailq.open(path, soft_timeout=0.1, **FAST)
    queue.push("hang")
    mailq.Worker(queue, handlers.outcome).run(drain=True)
    ((_, outcome, error),) = letters(queue)
    assert (outcome, error) == (
        "timeout",
        "mailq.errors.TimeLimit: the job has run for its soft time limit of 0.1 s; it is to end now",
    )


def test_a_soft_limit_cancels_a_coroutine(path: Path) -> None:
    queue = mailq.open(path, soft_timeout=0.1, **FAST)
    cleaned = path.parent / "cleaned"
    queue.push(str(cleaned))
    queue.push(str(cleaned))
    mailq.Worker(queue, handlers.endless_coroutine, processes=1).run(drain=True)
    assert cleaned.exists()
    assert [outcome for _, outcome, _ in letters(queue)] == ["timeout", "timeout"]


def test_a_message_brings_its_own_limit(path: Path) -> None:
    queue = mailq.open(path, timeout=3600, **FAST)
    queue.push("hang", timeout=0.2)
    mailq.Worker(queue, handlers.outcome, timeout=3600).run(drain=True)
    assert [outcome for _, outcome, _ in letters(queue)] == ["timeout"]


def test_a_limit_that_is_nonsense_is_none(path: Path) -> None:
    queue = mailq.open(path, **FAST)
    queue.push("none", headers={"mailq-timeout": "soon"})
    mailq.Worker(queue, handlers.outcome).run(drain=True)
    assert queue.stats() == mailq.Stats()


def test_a_thread_that_does_not_end_is_left_behind(path: Path) -> None:
    queue = mailq.open(path, **FAST)
    queue.push(1.5, timeout=0.2)
    queue.push(0)
    mailq.Worker(queue, handlers.nap, threads=1, kill_after=0.1).run(drain=True)
    assert [(body, outcome) for body, outcome, _ in letters(queue)] == [(1.5, "timeout")]
    assert len(queue) == 0


def test_a_handler_sees_that_its_lease_is_lost(path: Path) -> None:
    queue = mailq.open(path)
    said = path.parent / "said"
    id = queue.push(str(said))
    mailq.Worker(queue, handlers.notice_loss).run(drain=True)
    assert said.read_text() == "False True"
    assert (queue.get(id).state, queue.get(id).attempt) == ("delayed", 1)


def test_a_lost_job_is_not_settled_and_ends_if_so_wished(path: Path) -> None:
    queue = mailq.open(path)
    id = queue.push("hang")
    with Work(path, "handlers:outcome", "--kill-on-lost-lease", "--kill-after", "0.1", beats=OFTEN) as worker:
        wait_until(lambda: queue.stats().leased == 1, "it runs")
        (name,) = os.listdir(path / "cur")
        (child,) = worker.slots()
        queue.release(name, delay=3600)
        wait_until(lambda: not is_alive(child) or worker.log.count("lost") > 1, "the job is ended")
        wait_until(lambda: "result will not count" in worker.log, "the loss is told")
        assert worker.stop() == 0
    assert (queue.get(id).state, queue.get(id).attempt, queue.stats().leased) == ("delayed", 1, 0)
