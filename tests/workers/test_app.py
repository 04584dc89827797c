"""Named tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from together import wait_until
from working import Work, letters

import mailq
from mailq import codecs

CODE = """
import asyncio, time
import mailq

app = mailq.App("jobs", "others")

@app.task(max_retries=0, priority=3)
def add(a, b=10):
    return a + b

@app.task(name="slow", timeout=0.2, max_retries=0)
def hang():
    time.sleep(3600)

@app.task(soft_timeout=0.1, max_retries=0)
def soft():
    time.sleep(3600)

@app.task(queue="others")
async def wait(n: int) -> int:
    await asyncio.sleep(0)
    return n

@app.task
def plain():
    return mailq.Reject("not today")
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mailq.App:
    (tmp_path / "tasks.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, mailq.App] = {}
    exec(CODE, {"__name__": "tasks"}, scope)
    for name in scope["app"].queues:
        mailq.open(name)
    return scope["app"]


def test_tasks_are_pushed_and_run(app: mailq.App, tmp_path: Path) -> None:
    tasks = app.tasks
    with Work(f"{tmp_path}/tasks.py:app", "-c", 2) as worker:
        assert tasks["add"].request(1).result(30) == 11
        assert tasks["add"].request(1, b=2).result(30) == 3
        assert tasks["wait"].request(7).result(30) == 7
        by_hand = app.queue().request({"task": "add", "args": [5]})
        assert by_hand.result(30) == 15
        with pytest.raises(mailq.JobFailed, match=r"ran longer than its limit of 0\.2 s"):
            tasks["slow"].request().result(30)
        with pytest.raises(mailq.JobFailed, match="soft time limit"):
            tasks["soft"].request().result(30)
        with pytest.raises(mailq.JobFailed, match="not today"):
            tasks["plain"].request().result(30)
        assert worker.stop() == 0


def test_calling_a_task_calls_the_function(app: mailq.App) -> None:
    assert app.tasks["add"](1, b=1) == 2
    assert (getattr(app.tasks["add"], "__name__", ""), app.tasks["slow"].name) == ("add", "slow")


def test_the_options_of_a_task_are_those_of_its_pushes(app: mailq.App) -> None:
    app.tasks["add"].push(1)
    app.tasks["add"].using(delay=60, priority=7).push(2)
    (ready,), (delayed,) = app.queue().peek("ready"), app.queue().peek("delayed")
    assert (ready.priority, delayed.priority) == (3, 7)
    assert ready.body == {"task": "add", "args": [1], "kwargs": {}}
    app.tasks["wait"].push(3)
    assert len(app.queue("others")) == 1


def test_an_unknown_task_is_given_back_with_a_delay_and_told(app: mailq.App, tmp_path: Path) -> None:
    id = app.queue().push({"task": "of the next release"})
    with Work(f"{tmp_path}/tasks.py:app") as worker:
        wait_until(lambda: app.queue().get(id).state == "delayed", "it is given back")
        wait_until(lambda: "no task is named 'of the next release'" in worker.log, "it is told")
        assert worker.stop() == 0
    assert app.queue().get(id).attempt == 1
    assert 20 < (app.queue().stats().next_due_in or 0) < 31


@pytest.mark.parametrize(
    "body", [7, {"args": []}, {"task": 7}, {"task": "add", "args": 7}, {"task": "add", "kwargs": [1]}]
)
def test_a_message_that_is_no_task_fails(tmp_path: Path, body: object) -> None:
    queue = mailq.open(tmp_path / "jobs", max_retries=0)
    app = mailq.App(queue)

    @app.task
    def add(a: int) -> int:
        return a

    queue.push(body)
    mailq.Worker(app, threads=1).run(drain=True)
    assert [outcome for _, outcome, _ in letters(queue)] == ["error"]


def test_an_app_works_in_threads_of_this_process() -> None:
    with mailq.open("memory://") as queue:
        app = mailq.App(queue)
        seen = []

        @app.task(max_retries=1)
        def see(n: int) -> None:
            seen.append(n)

        see.push(7)
        mailq.Worker(app, threads=1).run(drain=True)
        assert seen == [7]


def test_two_tasks_of_one_name_are_refused() -> None:
    app = mailq.App("memory://")
    app.task(name="x")(lambda: 1)
    with pytest.raises(mailq.UsageError, match="there is a task 'x' already"):
        app.task(name="x")(lambda: 2)


def test_an_app_needs_a_queue_and_knows_only_its_own(tmp_path: Path) -> None:
    with pytest.raises(mailq.UsageError, match="needs a queue"):
        mailq.App()
    with pytest.raises(mailq.UsageError, match="is no queue of this App"):
        mailq.App(tmp_path / "jobs").queue("elsewhere")


@pytest.mark.parametrize("timeout", [None, 60])
def test_a_body_is_decoded_once_a_job(monkeypatch: pytest.MonkeyPatch, timeout: float | None) -> None:
    decoded = []
    decode = codecs.decode

    def counted(raw: bytes, content_type: str) -> Any:
        decoded.append(raw)
        return decode(raw, content_type)

    with mailq.open("memory://") as queue:
        app = mailq.App(queue)

        @app.task(timeout=timeout)
        def add(a: int, *, b: int) -> int:
            return a + b

        reply = add.request(1, b=2)
        monkeypatch.setattr(codecs, "decode", counted)
        mailq.Worker(app, threads=1).run(drain=True)
        assert reply.result(0) == 3
    assert len(decoded) == 1
