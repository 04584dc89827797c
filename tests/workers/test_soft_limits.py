"""The soft limit: whatever a job is doing, it ends by it, and is reported as a timeout."""

from __future__ import annotations

import asyncio
import collections
import sys
from pathlib import Path
from typing import Any

import endless
import pytest
from together import wait_until
from working import Work, all_settled, letters

import mailq
from mailq.workers.coroutines import Loop
from mailq.workers.job_input import JobInput
from mailq.workers.threads import _class_of

ERROR = "mailq.errors.TimeLimit: the job has run for its soft time limit of 0.1 s; it is to end now"
KINDS = (
    "push_and_pop",
    "push_and_pop_in_a_coroutine",
    "push_and_pop_beside_the_loop",
    "yield_all_the_time",
    "wait_for_busy_children",
    "leave_children_and_wait",
    "call_back_all_the_time",
    "run_a_busy_loop",
    "run_a_loop_of_children",
    "run_a_loop_and_keep_it_from_everything",
    "read_files",
    "sleep_and_lock",
    "wrap_every_exception",
)
IN_A_PROCESS = ("delete_for_ever", "wait_for_a_thread")
"""What holds up a thread, where an exception arrives between two steps in Python only, once."""

EARLY = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""An exception that strikes just behind an open() leaves that open; before a coroutine has begun, it never will."""

Pool = dict[str, Any]


@pytest.fixture(params=["processes", "threads"])
def pool(request: pytest.FixtureRequest) -> Pool:
    return {request.param: 2}


@EARLY
@pytest.mark.parametrize("count", [1, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_whatever_a_job_is_doing_it_is_reported_as_a_timeout(path: Path, pool: Pool, count: int) -> None:
    queue = mailq.open(path, max_retries=0, durability="process-crash")
    kinds = KINDS + IN_A_PROCESS * ("processes" in pool)
    queue.push_many([kind, str(path.parent / f"beside{n}")] for kind in kinds for n in range(count))
    mailq.Worker(queue, endless.by_name, soft_timeout=0.1, timeout=10, kill_after=0.1, **pool).run(drain=True)
    ends = ((letter.body[0], letter.history[-1]) for letter in queue.peek("dead", None))
    # Not always the last line: a push that was interrupted notes what may be in the queue all the same.
    counts = collections.Counter((kind, end.outcome, ERROR in (end.error or "").splitlines()) for kind, end in ends)
    assert counts == {(kind, "timeout", True): count for kind in kinds}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"threads": 1, "soft_timeout": 0.1}, ERROR),
        ({"processes": 1, "timeout": 0.1}, "ran longer than its limit of 0.1 s"),
    ],
    ids=["soft", "hard"],
)
def test_a_limit_counts_although_the_handler_settles_by_a_block(path: Path, options: Pool, error: str) -> None:
    """Whose end by an interrupt would release the message, uncounted, again and again."""
    queue = mailq.open(path, max_retries=1, backoff=(0.001, 0.001))
    runs = str(path.parent / "runs")
    queue.push(runs)
    with mailq.Worker(queue, endless.hold_in_a_block, **options):
        wait_until(lambda: queue.stats().dead == 1, "it is given up on")
    assert list(letters(queue)) == [(runs, "timeout", error)]
    assert [attempt.outcome for attempt in queue.peek("dead")[0].history] == ["timeout", "timeout"]


def test_a_worker_that_stops_counts_no_attempt_although_the_handler_settles_by_a_block(path: Path) -> None:
    queue = mailq.open(path)
    runs = path.parent / "runs"
    id = queue.push(str(runs))
    with mailq.Worker(queue, endless.hold_in_a_block, grace=0):
        wait_until(runs.exists, "it runs")
    assert (queue.get(id).state, queue.get(id).attempt) == ("ready", 1)


@EARLY
def test_a_coroutine_may_clean_up_and_return(path: Path) -> None:
    """ClaimAttempt again where it is so slow that it has not begun when the limit strikes."""
    queue = mailq.open(path, max_retries=1000, backoff=(0.001, 0.001))
    beside = mailq.open(path.parent / "beside")
    queue.push(beside.location)
    with mailq.Worker(queue, endless.clean_up_at_leisure, threads=1, soft_timeout=0.1):
        wait_until(lambda: all_settled(queue), "it has returned")
    assert queue.stats() == mailq.Stats()
    assert [message.body for message in beside.peek()] == ["cleaned up"]


def test_an_event_loop_outlives_a_coroutine_that_is_cancelled_and_what_that_has_started_does_not() -> None:
    queue, loop = mailq.open("memory://"), Loop()
    ended = []

    def new() -> JobInput:
        queue.push("x")
        delivery = queue.pop()
        assert delivery is not None
        return JobInput(delivery)

    async def tell() -> tuple[int, int]:
        return id(asyncio.get_running_loop()), len(asyncio.all_tasks())

    async def child(number: int) -> None:
        try:
            await endless.yield_all_the_time("x")
        finally:
            await asyncio.sleep(0.001)
            ended.append(number)

    async def leave_children_and_be_interrupted() -> None:
        children = [asyncio.create_task(child(number)) for number in range(3)]
        await asyncio.sleep(0)
        assert not given.interrupt(mailq.TimeLimit(0.1), sys._getframe())
        await asyncio.Event().wait()
        del children

    given = new()
    before = loop.run(tell(), new())
    with pytest.raises(asyncio.CancelledError):
        loop.run(leave_children_and_be_interrupted(), given)
    assert sorted(ended) == [0, 1, 2]
    assert loop.run(tell(), new()) == before
    loop.close()


def test_a_job_in_a_thread_finds_everything_loaded(path: Path) -> None:
    """An import that a limit breaks off fails in every thread that waits for it: in the supervisor's it ends the worker."""
    loaded = path.parent / "loaded"
    mailq.open(path).push(str(loaded))
    with Work(path, "handlers:use_everything", "--threads") as worker:
        wait_until(loaded.exists, "the job has told")
        assert loaded.read_text() == ""
        assert worker.stop() == 0


def test_an_interruption_that_an_event_loop_catches_ends_what_that_runs() -> None:
    """Its thread was not in the loop yet when it was looked at; by its arrival it was."""
    queue = mailq.open("memory://")
    queue.push("x")
    error, given = mailq.TimeLimit(0.1), JobInput(queue.pop_many(1)[0])
    assert given.interrupt(error, sys._getframe())

    def strike() -> None:
        raise _class_of(error, given)

    async def job() -> None:
        asyncio.get_running_loop().call_soon(strike)
        await asyncio.wait_for(asyncio.Event().wait(), 30)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(job())
