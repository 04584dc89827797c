"""What a handler does, and what becomes of its message."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import handlers
import pytest
from together import PATIENCE, wait_until
from working import Work, letters

import mailq
from mailq.workers import worker as workers

ONCE: dict[str, Any] = {"max_retries": 0, "backoff": (0.01, 0.01), "durability": "process-crash"}


@pytest.fixture
def jobs(path: Path) -> mailq.Queue:
    """A queue whose messages have one attempt."""
    return mailq.open(path, **ONCE)


def drained(queue: mailq.Queue, handler: Any, **options: Any) -> None:
    mailq.Worker(queue, handler, **options).run(drain=True)


@pytest.fixture(params=["processes", "threads"])
def pool(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {request.param: 2}


def test_what_returns_is_acked(jobs: mailq.Queue, pool: dict[str, Any]) -> None:
    jobs.push_many(range(20))
    drained(jobs, handlers.noop, **pool)
    assert jobs.stats() == mailq.Stats()


def test_a_reply_is_what_the_handler_returned(jobs: mailq.Queue, pool: dict[str, Any]) -> None:
    reply = jobs.request({"deep": [1, None, "ü"]})
    drained(jobs, handlers.echo, **pool)
    assert reply.result(0) == {"deep": [1, None, "ü"]}


def test_a_retry_is_a_failed_attempt_that_waits(path: Path, pool: dict[str, Any]) -> None:
    queue = mailq.open(path)
    id = queue.push("retry")
    drained(queue, handlers.outcome, **pool)
    message = queue.get(id)
    assert (message.state, message.attempt, message.history[0].outcome) == ("delayed", 2, "error")
    assert message.history[0].error == "again later"


def test_a_reject_is_dead_at_once(path: Path, pool: dict[str, Any]) -> None:
    queue = mailq.open(path)
    queue.push("reject")
    drained(queue, handlers.outcome, **pool)
    assert list(letters(queue)) == [("reject", "rejected", "not for me")]


def test_an_exception_is_kept_with_its_traceback_from_the_handler_on(jobs: mailq.Queue, pool: dict[str, Any]) -> None:
    jobs.push("raise")
    drained(jobs, handlers.outcome, **pool)
    (letter,) = jobs.peek("dead")
    error = letter.history[0].error or ""
    assert error.startswith("Traceback")
    assert "handlers.py" in error
    assert "mailq/workers" not in error
    assert error.endswith("ValueError: no good\n")


@pytest.mark.parametrize(
    ("body", "outcome", "error"),
    [
        ("exit", "killed", "the worker process died: exit code 3"),
        ("segfault", "killed", "the worker process died: killed by SIGSEGV"),
        ("kill", "killed", "the worker process died: killed by SIGKILL"),
        ("sys.exit", "error", "SystemExit: goodbye"),
        ("interrupt", "error", "KeyboardInterrupt"),
        ("memory", "error", "MemoryError"),
    ],
)
def test_a_job_that_takes_its_process_with_it_costs_its_attempt_alone(
    jobs: mailq.Queue, body: str, outcome: str, error: str
) -> None:
    jobs.push_many([body, *range(10)])
    drained(jobs, handlers.outcome, processes=2)
    assert list(letters(jobs)) == [(body, outcome, error)]
    assert len(jobs) == 0


def test_a_message_that_keeps_killing_its_process_is_dead_after_its_retries(path: Path) -> None:
    queue = mailq.open(path, max_retries=2, backoff=(0.001, 0.001))
    queue.push("kill")
    with mailq.Worker(queue, handlers.outcome):
        wait_until(lambda: queue.stats().dead == 1, "it is dead")
    (letter,) = queue.peek("dead")
    assert [attempt.outcome for attempt in letter.history] == ["killed"] * 3


def test_the_exits_of_a_job_in_a_thread_cost_its_attempt_alone(jobs: mailq.Queue) -> None:
    jobs.push_many(["sys.exit", "interrupt", "fine"])
    drained(jobs, handlers.outcome, threads=2)
    assert {body: outcome for body, outcome, _ in letters(jobs)} == {"sys.exit": "error", "interrupt": "error"}


def test_a_result_that_is_no_json_fails_the_request_and_not_the_job(jobs: mailq.Queue, pool: dict[str, Any]) -> None:
    reply = jobs.request("not json")
    drained(jobs, handlers.outcome, **pool)
    with pytest.raises(mailq.JobFailed, match="the result cannot be a reply"):
        reply.result(0)
    assert jobs.stats().dead == 0


def test_what_cannot_be_answered_is_not_acked(path: Path) -> None:
    queue = mailq.open(path, lease=0.5, reap_interval=0.05, max_retries=100)
    with Work(path, "handlers:echo") as worker:
        assert queue.request("at first").result(30) == "at first"
        wait_until(lambda: len(queue) == 0, "it is acked")
        shutil.rmtree(path / "replies")
        (path / "replies").touch()
        request = queue.request("x")
        wait_until(lambda: "stays leased, ack failed" in worker.log, "its reply is refused")
        (path / "replies").unlink()
        (path / "replies").mkdir()
        assert request.result(30) == "x"
        assert worker.stop() == 0


@pytest.mark.parametrize(
    ("body", "error"), [("raise", "ValueError: no good"), ("reject", "not for me"), ("kill", "SIGKILL")]
)
def test_whoever_waits_for_a_reply_is_told_of_the_end(jobs: mailq.Queue, body: str, error: str) -> None:
    reply = jobs.request(body)
    drained(jobs, handlers.outcome)
    with pytest.raises(mailq.JobFailed, match=error):
        reply.result(0)


def test_a_body_that_does_not_decode_is_the_messages_fault(jobs: mailq.Queue, pool: dict[str, Any]) -> None:
    jobs.push(b"{", content_type="application/json")
    drained(jobs, handlers.noop, **pool)
    ((_, outcome, error),) = [(x.raw, x.history[0].outcome, x.history[0].error or "") for x in jobs.peek("dead")]
    assert (outcome, "is not application/json" in error) == ("error", True)


def test_a_handler_that_settles_is_not_settled_again(jobs: mailq.Queue, pool: dict[str, Any]) -> None:
    jobs.push("x")
    drained(jobs, handlers.settle_itself, **pool)
    assert list(letters(jobs)) == [("x", "rejected", "settled in the handler")]


def test_a_handler_gets_the_delivery_if_it_asks_for_it(jobs: mailq.Queue, pool: dict[str, Any]) -> None:
    reply = jobs.request("x")
    drained(jobs, handlers.attempt, **pool)
    assert reply.result(0) == 1


def test_coroutines_of_one_process_share_a_loop(jobs: mailq.Queue) -> None:
    replies = [jobs.request(n) for n in range(5)]
    drained(jobs, handlers.coroutine, processes=1)
    results = [reply.result(0) for reply in replies]
    assert [result["body"] for result in results] == list(range(5))
    assert len({result["loop"] for result in results}) == 1


def test_threads_share_the_memory_of_this_process(pool: dict[str, Any]) -> None:
    with mailq.open("memory://") as queue:
        seen: list[int] = []
        queue.push_many(range(50))
        drained(queue, seen.append, threads=3)
        assert sorted(seen) == list(range(50))


def test_jobs_run_side_by_side(path: Path, pool: dict[str, Any]) -> None:
    queue = mailq.open(path)
    go = path.parent / "go"
    for n in range(2):
        queue.push([str(path.parent / f"running{n}"), str(go)])
    with mailq.Worker(queue, handlers.hold_until, **pool):
        wait_until(lambda: all((path.parent / f"running{n}.1").exists() for n in range(2)), "both run")
        go.touch()
        wait_until(lambda: len(queue) == 0, "both are done")


def test_several_queues_and_a_handler_for_the_dead(path: Path) -> None:
    failed = path.parent / "failed"
    one = mailq.open(path, dead_letters=failed, **ONCE)
    two = mailq.open(path.parent / "two", dead_letters=failed, **ONCE)
    one.push_many(["raise", "none"])
    two.push_many(["raise", "none"])
    log = path.parent / "log"
    with mailq.Worker([one, two], handlers.outcome, dead={str(failed): "handlers:settle_itself"}):
        wait_until(lambda: mailq.open(failed).stats().dead == 2, "both were buried")
    assert (len(one), len(two), log.exists()) == (0, 0, False)


def test_one_command_works_several_queues_and_the_dead_of_all(path: Path, tmp_path: Path) -> None:
    failed = mailq.open(tmp_path / "failed")
    queues = [mailq.open(tmp_path / name, dead_letters=failed.location, **ONCE) for name in ("one", "two", "three")]
    arguments = [queue.location for queue in queues]
    with Work(*arguments, "handlers:outcome", "-c", 2, "--dead", f"{failed.location}=handlers:settle_itself") as worker:
        replies = [queue.request("fine") for queue in queues]
        for queue in queues:
            queue.push("raise")
        assert [reply.result(30) for reply in replies] == ["fine"] * 3
        wait_until(lambda: failed.stats().dead == 3, "all are buried")
        assert {message.origin for message in failed.peek("dead")} == set(arguments)
        wait_until(lambda: worker.log.count("settled after") == 3, "it is told")
        assert worker.stop() == 0
    assert [len(queue) for queue in queues] == [0, 0, 0]
    assert [attempt.error for attempt in failed.peek("dead")[0].history][-1] == "settled in the handler"


def test_a_worker_started_and_stopped_can_start_again(jobs: mailq.Queue, pool: dict[str, Any]) -> None:
    worker = mailq.Worker(jobs, handlers.echo, **pool)
    for n in range(2):
        worker.start()
        assert jobs.request(n).result(30) == n
        worker.stop()
        worker.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mailq-worker")]


def test_a_worker_that_opened_its_queue_can_run_again(jobs: mailq.Queue) -> None:
    worker = mailq.Worker(jobs.location, handlers.echo, threads=1)
    for n in range(2):
        reply = jobs.request(n)
        worker.run(drain=True)
        assert reply.result(0) == n


def test_a_worker_whose_queue_is_closed_ends_with_that(jobs: mailq.Queue, pool: dict[str, Any]) -> None:
    worker = mailq.Worker(jobs, handlers.echo, **pool)
    ends: list[str] = []

    def work() -> None:
        with pytest.raises(mailq.QueueClosed) as closed:
            worker.run()
        ends.append(closed.value.location)

    thread = threading.Thread(target=work)
    thread.start()
    jobs.push("x")
    try:
        wait_until(lambda: any(owner.status.get("done") for owner in jobs.workers()), "it is idle, and has said so")
        jobs.close()
        thread.join(PATIENCE)
        assert ends == [jobs.location]
    finally:
        worker.stop(at_once=True)
    with pytest.raises(mailq.QueueClosed):
        worker.run(drain=True)


def test_a_running_worker_does_not_start_again(jobs: mailq.Queue) -> None:
    with mailq.Worker(jobs, handlers.noop, threads=1) as worker, pytest.raises(mailq.UsageError, match="runs already"):
        worker.start()


@pytest.mark.parametrize("runs", [True, False])
def test_a_worker_whose_start_was_interrupted_can_be_stopped_and_started_again(
    jobs: mailq.Queue, pool: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, runs: bool
) -> None:
    """By a signal, in the midst of it: nobody knows then whether its thread is about to run."""
    worker = mailq.Worker(jobs, handlers.echo, **pool)
    threads: list[threading.Thread] = []

    class Interrupted(threading.Thread):
        def start(self) -> None:
            threads.append(self)
            if runs:
                threading.Timer(0.1, super().start).start()
            raise KeyboardInterrupt

    monkeypatch.setattr(workers, "_MOMENT", 30.0 if runs else 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(workers, "threading", SimpleNamespace(**{**vars(threading), "Thread": Interrupted}))
        with pytest.raises(KeyboardInterrupt):
            worker.start()
    worker.stop(at_once=True)
    assert (threads[0].ident is not None) == runs, "it was waited for, if it was about to run"
    with worker:
        assert jobs.request("again").result(30) == "again"


# What cannot begin


CANNOT_BEGIN = {
    "handlers:missing": "has no 'missing'",
    "no_such_module:x": "there is no module 'no_such_module'",
    "/no/such/file.py:x": "there is no file",
    "handlers:not_callable": "cannot be called",
    "handlers:no_argument": "cannot be called with a message alone",
    "nonsense": "names no handler",
    ("/no/such/command",): "there is no command",
}


@pytest.mark.parametrize(("handler", "text"), CANNOT_BEGIN.items(), ids=map(str, CANNOT_BEGIN))
def test_what_cannot_be_a_handler_is_a_usage_error(jobs: mailq.Queue, handler: Any, text: str) -> None:
    id = jobs.push("stays")
    with pytest.raises(mailq.UsageError, match=text):
        drained(jobs, handler)
    with pytest.raises(mailq.UsageError, match=text):
        mailq.Worker(jobs, handler).start()
    assert jobs.get(id).attempt == 1


def test_a_module_that_fails_when_it_is_loaded_is_told_with_its_traceback(
    jobs: mailq.Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("import json\nraise RuntimeError('half way')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(mailq.WorkerFailed, match="RuntimeError: half way") as caught:
        drained(jobs, "broken:handle")
    assert "broken.py" in caught.value.text


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((), {}, "needs a handler"),
        ((handlers.noop,), {"processes": 1, "threads": 1}, "not both"),
        ((handlers.noop,), {"processes": 0}, "processes is 0"),
        ((lambda body: None,), {}, "use threads="),
        ((handlers.noop,), {"grace": -1}, "grace"),
        ((handlers.noop,), {"timeout": "soon"}, "timeout"),
    ],
)
def test_a_worker_refuses_what_makes_no_sense(
    jobs: mailq.Queue, arguments: tuple[Any, ...], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(mailq.UsageError, match=text):
        mailq.Worker(jobs, *arguments, **options)


def test_a_queue_is_named_once(path: Path) -> None:
    mailq.open(path)
    with pytest.raises(mailq.UsageError, match="is named twice"):
        mailq.Worker([path, f"{path}/"], handlers.noop)


def test_processes_cannot_see_a_queue_in_memory() -> None:
    with mailq.open("memory://") as queue, pytest.raises(mailq.UsageError, match="use threads="):
        mailq.Worker(queue, handlers.noop)


def test_a_worker_does_not_make_queues(path: Path) -> None:
    with pytest.raises(mailq.QueueNotFound):
        mailq.Worker(path, handlers.noop)


def test_a_nested_handler_and_one_in_a_file_are_found(jobs: mailq.Queue, tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text("def handle(body):\n    return [__name__, body]\n")
    nested, alone = jobs.request(1), None
    drained(jobs, handlers.Nested.handler)
    assert nested.result(0) == ["nested", 1]
    alone = jobs.request(2)
    drained(jobs, f"{tmp_path}/alone.py:handle")
    assert alone.result(0) == ["alone", 2]
