"""What can be a handler, and what its end means."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import ending
import pytest
import unfit
from command import Shell
from working import HERE

import mailq
from mailq.workers.handler import Handler

ALONE = "cannot be called with a message alone: "
UNFIT = {
    "generator": "unfit.generator is a generator",
    "asynchronous_generator": "is a generator",
    "generator_method": "is a generator",
    "instance": "is a generator",
    "partial_generator": "is a generator",
    "generator_in_a_lambda": "is a generator",
    "wrapped_generator": "is a generator",
    "twice_wrapped_generator": "is a generator",
    "context_manager": "is a generator",
    "no_argument": f"unfit.no_argument {ALONE}too many positional arguments",
    "wrapped_without_an_argument": f"{ALONE}too many positional arguments",
    "partial_with_too_much": f"{ALONE}too many positional arguments",
    "two_arguments": f"{ALONE}missing a required argument: 'body'",
    "two_in_a_lambda": f"{ALONE}missing a required argument: 'more'",
    "unbound_method": f"{ALONE}missing a required argument: 'body'",
    "keyword": f"{ALONE}missing a required",
    "AClass": "unfit.AClass is a class",
    "outcome": "Reject is a class",
    "partial_class": "only makes a unfit.AClass",
    "a_number": "7 cannot be called",
    "a_generator": "cannot be called",
}
FIT = (
    "a_method",
    "fit",
    "is_lambda",
    "asynchronous_instance",
    "wrapped_with_the_rest",
    "decorated",
    "partial_that_fits",
    "partial_without_the_rest",
)


@pytest.fixture
def jobs() -> mailq.Queue:
    return mailq.open("memory://")


def drained(queue: mailq.Queue, handler: Any) -> None:
    """In a thread: it takes anything that can be called, and what comes of that does not depend on where it is called."""
    mailq.Worker(queue, handler, threads=1).run(drain=True)


def fate(queue: mailq.Queue, id: str) -> tuple[str, str, str]:
    """Where a message is, how its last attempt ended, and the last line of its error."""
    message = queue.get(id)
    last = message.history[-1]
    return message.state, last.outcome, (last.error or "").strip().rpartition("\n")[2]


# What cannot begin


@pytest.mark.parametrize(("name", "text"), UNFIT.items(), ids=UNFIT)
def test_what_cannot_work_is_refused_before_anything_is_popped(jobs: mailq.Queue, name: str, text: str) -> None:
    id = jobs.push("stays")
    for handler in (f"unfit:{name}", getattr(unfit, name)):
        with pytest.raises(mailq.UsageError) as refused:
            drained(jobs, handler)
        assert text in str(refused.value)
        assert "\n" not in str(refused.value)
    assert (jobs.get(id).state, jobs.get(id).attempt) == ("ready", 1)


@pytest.mark.parametrize("name", FIT)
def test_what_can_work_is_not_refused(jobs: mailq.Queue, name: str) -> None:
    jobs.push("x")
    drained(jobs, getattr(unfit, name))
    assert jobs.stats() == mailq.Stats()


def test_a_decorated_handler_gets_the_delivery_if_what_is_decorated_asks_for_it(jobs: mailq.Queue) -> None:
    for handler, result in ((unfit.decorated, 1), (unfit.partial_that_fits, 201)):
        reply = jobs.request("x")
        drained(jobs, handler)
        assert reply.result(0) == result


def test_a_worker_refuses_at_once_what_it_is_given(path: Path) -> None:
    queue = mailq.open(path)
    with pytest.raises(mailq.UsageError, match="is a generator"):
        mailq.Worker(queue, unfit.generator)
    with pytest.raises(mailq.UsageError, match="has parts that are not text"):
        mailq.Worker(queue, ["sleep", 5])  # type: ignore[list-item]


@pytest.mark.parametrize("words", [("work",), ("drain", "--threads")], ids=["processes", "threads"])
def test_the_shell_refuses_it_in_one_line_with_the_code_of_a_wrong_call(mailq: Shell, words: tuple[str, ...]) -> None:
    mailq("init", "jobs")
    mailq("push", "jobs", "1")
    (line,) = mailq(*words, "jobs", f"{HERE}/unfit.py:generator", code=2).stderr.splitlines()
    assert line.startswith(b"mailq: unfit.generator is a generator, and cannot be a handler: ")
    assert len(mailq("ls", "jobs", "--state", "ready").stdout.splitlines()) == 1


def test_a_handler_for_the_dead_is_refused_too(path: Path, jobs: mailq.Queue) -> None:
    failed = mailq.open(path)
    worker = mailq.Worker(jobs, unfit.fit, threads=1, dead={failed.location: "unfit:two_arguments"})
    with pytest.raises(mailq.UsageError, match=ALONE):
        worker.run(drain=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (unfit.generator, "unfit.generator is a generator, and cannot be a task"),
        (unfit.asynchronous_generator, "is a generator"),
        (unfit.instance, "is a generator"),
        (unfit.wrapped_generator, "is a generator"),
        (unfit.AClass, "is a class"),
        (7, "7 cannot be called"),
        ("name", "'name' cannot be called"),
        (unfit.partial_that_fits, "has no name"),
    ],
)
def test_a_task_that_cannot_work_is_refused_where_it_is_made(value: Any, text: str) -> None:
    app = mailq.App("memory://")
    for decorate in (app.task, app.task(max_retries=3)):
        with pytest.raises(mailq.UsageError, match=text):
            decorate(value)
    assert app.tasks == {}


# Outcomes


@pytest.mark.parametrize(
    ("handler", "body", "end"),
    [
        (ending.returned, "Retry", ("delayed", "nack", "")),
        (ending.returned, "Reject", ("dead", "rejected", "")),
        (ending.raised, "Retry", ("delayed", "error", "again later")),
        (ending.raised, "Retry from", ("delayed", "error", "KeyError: 'width'")),
        (ending.raised, "Reject", ("dead", "rejected", "not for me")),
        (ending.raised, "Reject from", ("dead", "rejected", "KeyError: 'width'")),
        (ending.raised, "class", ("dead", "rejected", "")),
        (ending.raised_in_a_task, "Reject", ("dead", "rejected", "not for me")),
        (ending.raised_in_a_block, "Retry from", ("delayed", "error", "KeyError: 'width'")),
        (ending.raised_in_a_block, "Reject", ("dead", "rejected", "not for me")),
    ],
)
def test_an_outcome_counts_returned_as_a_class_or_raised(
    jobs: mailq.Queue, handler: Any, body: str, end: tuple[str, str, str]
) -> None:
    id = jobs.push(body)
    drained(jobs, handler)
    assert fate(jobs, id) == end
    assert "Traceback" not in (jobs.get(id).history[-1].error or "")


def test_an_outcome_that_is_raised_in_a_process_counts(path: Path) -> None:
    queue = mailq.open(path)
    id = queue.push("Reject from")
    mailq.Worker(queue, ending.raised).run(drain=True)
    assert fate(queue, id) == ("dead", "rejected", "KeyError: 'width'")


def test_whoever_waits_for_a_reply_gets_the_reason_of_a_raised_outcome(jobs: mailq.Queue) -> None:
    reply = jobs.request("Reject")
    drained(jobs, ending.raised)
    with pytest.raises(mailq.JobFailed, match="not for me"):
        reply.result(0)


@pytest.mark.parametrize("body", ["generator", "async"])
def test_a_generator_that_is_returned_is_a_failure_and_not_an_ack(jobs: mailq.Queue, body: str) -> None:
    id = jobs.push(body, max_retries=0)
    drained(jobs, ending.returned)
    state, outcome, error = fate(jobs, id)
    assert (state, outcome) == ("dead", "error")
    assert error.startswith("the handler returned a generator, so nothing was done; ")


@pytest.mark.parametrize("handler", [ending.coroutine_without_an_await, ending.of_a_future])
def test_what_is_still_to_be_awaited_is_awaited(jobs: mailq.Queue, handler: Any) -> None:
    reply = jobs.request("x")
    drained(jobs, handler)
    assert reply.result(0) == ["done", "x"]


@pytest.mark.parametrize(
    ("outcome", "end"),
    [
        (mailq.Retry(delay=3600, error="later"), ("delayed", "error", "later")),
        (mailq.Reject("no"), ("dead", "rejected", "no")),
    ],
)
def test_a_block_settles_by_the_outcome_that_is_raised_in_it(
    jobs: mailq.Queue, outcome: mailq.Retry | mailq.Reject, end: tuple[str, str, str]
) -> None:
    id = jobs.push("x")
    (delivery,) = jobs.pop_many(1)
    with pytest.raises(type(outcome)), delivery:
        raise outcome
    assert fate(jobs, id) == end


@pytest.mark.parametrize(
    ("outcome", "text", "spelled"),
    [
        (mailq.Retry(), "", "Retry(delay=None, error=None)"),
        (mailq.Retry(5, "later"), "later", "Retry(delay=5.0, error='later')"),
        (mailq.Retry(delay=0.5), "", "Retry(delay=0.5, error=None)"),
        (mailq.Reject(), "", "Reject(None)"),
        (mailq.Reject(reason="no"), "no", "Reject('no')"),
    ],
)
def test_an_outcome_is_a_value(outcome: mailq.Retry | mailq.Reject, text: str, spelled: str) -> None:
    assert (str(outcome), repr(outcome)) == (text, spelled)
    for other in (pickle.loads(pickle.dumps(outcome)), copy.copy(outcome), copy.deepcopy(outcome)):
        assert (type(other), repr(other), vars(other)) == (type(outcome), spelled, vars(outcome))


def test_an_object_that_says_without_end_that_it_wraps_another_is_looked_at_all_the_same() -> None:
    class Endless:
        @property
        def __wrapped__(self) -> Endless:
            return Endless()

        def __call__(self, body: Any) -> None:
            pass

    Handler(Endless())
