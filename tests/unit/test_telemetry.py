from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mailq
from mailq import telemetry
from mailq.engines.base import Engine
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.layout import Layout, create
from mailq.engines.memory import MemoryEngine
from mailq.settings import Settings
from mailq.telemetry import Event
from mailq.testing import ManualClock, take

Open = Callable[..., mailq.Queue]


@pytest.fixture(autouse=True)
def nobody_is_left_listening() -> Iterator[None]:
    assert not telemetry.attached()
    yield
    left = telemetry.attached()
    telemetry._SEAM.handlers = ()
    assert not left


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "disk"])
def open_queue(request: pytest.FixtureRequest, path: Path, clock: ManualClock) -> Iterator[Open]:
    opened: list[mailq.Queue] = []

    def open_one(**settings: Any) -> mailq.Queue:
        wanted, engine = Settings().merged(settings), None
        if request.param == "memory":
            engine = _as_engine(MemoryEngine(wanted, clock=clock))
        else:
            create(Layout(str(path)), wanted, Disk())
            engine = _as_engine(MaildirEngine(str(path), clock=clock))
        opened.append(mailq.Queue(engine))
        return opened[-1]

    yield open_one
    for queue in opened:
        queue.close()


def _as_engine(engine: Engine) -> Engine:
    return engine


@pytest.fixture
def jobs(open_queue: Open) -> mailq.Queue:
    return open_queue()


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What is told from here on."""
    heard: list[Event] = []
    detach = telemetry.attach(heard.append)
    yield heard
    detach()


def told(events: list[Event]) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, id and facts of each, and forget them."""
    listed = [(event.name, event.id, dict(event.facts)) for event in events]
    events.clear()
    return listed


# The events


def test_a_push_is_told(jobs: mailq.Queue, events: list[Event]) -> None:
    before = time.time()
    id = jobs.push("four", delay=1.5, priority=3)
    (event,) = events
    assert (event.name, event.queue, event.id) == ("push", jobs.location, id)
    assert before <= event.at <= time.time()
    assert event.facts == {"size": 4, "delay": 1.5, "priority": 3}


def test_each_of_many_pushed_is_told_in_order(jobs: mailq.Queue, events: list[Event], tmp_path: Path) -> None:
    ids = jobs.push_many(["a", "bc"])
    (tmp_path / "x.txt").write_text("def")
    ids.append(jobs.push_file(tmp_path / "x.txt"))
    listed = told(events)
    assert [(name, id) for name, id, _ in listed] == [("push", id) for id in ids]
    sizes = [facts["size"] for _, _, facts in listed]
    assert sizes[:2] == [1, 2]
    assert sizes[2] == jobs.get(ids[2]).size  # with its headers


def test_a_push_that_finds_the_queue_full_is_told(open_queue: Open, events: list[Event]) -> None:
    jobs = open_queue(max_length=3)
    jobs.push_many(["a", "b"])
    told(events)
    with pytest.raises(mailq.QueueFull):
        jobs.push_many(["c", "d"])
    assert events[0].queue == jobs.location
    assert told(events) == [("full", "", {"length": 2, "limit": 3, "asked": 2})]


def test_a_push_that_is_refused_is_not_told_as_pushed(jobs: mailq.Queue, events: list[Event]) -> None:
    with pytest.raises(mailq.CodecError):
        jobs.push(object())
    assert events == []


def test_a_pop_is_told_with_how_long_the_message_waited(jobs: mailq.Queue, events: list[Event]) -> None:
    id = jobs.push("x")
    told(events)
    take(jobs)
    ((name, told_id, facts),) = told(events)
    assert (name, told_id, set(facts)) == ("pop", id, {"attempt", "waited"})
    assert facts["attempt"] == 1
    assert 0 <= facts["waited"] < 60


def test_a_delayed_message_has_waited_since_it_was_due(
    jobs: mailq.Queue, clock: ManualClock, events: list[Event]
) -> None:
    clock.advance(-3600)  # it is pushed an hour ago, and was due half an hour ago
    jobs.push("x", delay=1800)
    clock.advance(3600)
    told(events)
    take(jobs)
    ((_, _, facts),) = told(events)
    assert facts["waited"] == pytest.approx(1800, abs=60)


def test_each_of_many_popped_is_told_and_a_pop_of_nothing_is_not(jobs: mailq.Queue, events: list[Event]) -> None:
    ids = jobs.push_many(["a", "b"])
    told(events)
    jobs.pop_many(5)
    assert [(name, id) for name, id, _ in told(events)] == [("pop", id) for id in ids]
    assert jobs.pop() is None
    assert events == []


def test_an_ack_is_told(jobs: mailq.Queue, events: list[Event]) -> None:
    id = jobs.push("x")
    take(jobs).nack(delay=0)
    delivery = take(jobs)
    told(events)
    delivery.ack()
    assert told(events) == [("ack", id, {"attempt": 2})]


@pytest.mark.parametrize(
    ("options", "outcome"),
    [({}, "nack"), ({"error": "no"}, "error"), ({"outcome": "timeout"}, "timeout"), ({"outcome": "killed"}, "killed")],
    ids=str,
)
def test_a_nack_is_told(jobs: mailq.Queue, events: list[Event], options: dict[str, Any], outcome: str) -> None:
    id = jobs.push("x")
    delivery = take(jobs)
    told(events)
    delivery.nack(delay=2.5, **options)
    assert told(events) == [("nack", id, {"attempt": 1, "outcome": outcome, "delay": 2.5})]


def test_the_delay_of_a_nack_that_the_queue_chose_is_told(open_queue: Open, events: list[Event]) -> None:
    jobs = open_queue()
    id = jobs.push("x")
    delivery = take(jobs)
    told(events)
    delivery.nack()
    ((name, told_id, facts),) = told(events)
    assert (name, told_id) == ("nack", id)
    assert facts["delay"] == pytest.approx((jobs.get(id).due_at or 0) - jobs._engine._clock() / 1e9, abs=0.01)  # type: ignore[attr-defined]


def test_a_release_is_told(jobs: mailq.Queue, events: list[Event]) -> None:
    id = jobs.push("x")
    delivery = take(jobs)
    told(events)
    delivery.release(delay=5)
    assert told(events) == [("release", id, {"attempt": 1, "delay": 5})]


def test_a_reject_is_told_and_the_death(jobs: mailq.Queue, events: list[Event]) -> None:
    id = jobs.push("x")
    take(jobs).nack(delay=0)
    delivery = take(jobs)
    told(events)
    delivery.reject("never")
    listed = told(events)
    assert ("reject", id, {"attempt": 2, "reason": "never"}) in listed
    assert ("dead", id, {"attempts": 2, "reason": "rejected"}) in listed
    assert len(listed) == 2


def test_an_extension_is_told(jobs: mailq.Queue, events: list[Event]) -> None:
    id = jobs.push("x")
    delivery = take(jobs)
    told(events)
    delivery.extend(90)
    assert told(events) == [("extend", id, {"attempt": 1, "seconds": 90})]


def test_the_death_of_a_message_without_retries_left_is_told(open_queue: Open, events: list[Event]) -> None:
    jobs = open_queue(max_retries=1)
    id = jobs.push("x")
    take(jobs).nack(delay=0)
    delivery = take(jobs)
    told(events)
    delivery.nack(delay=0, error="no")
    listed = told(events)
    assert ("dead", id, {"attempts": 2, "reason": "retries"}) in listed
    assert ("nack", id, {"attempt": 2, "outcome": "error", "delay": 0.0}) in listed
    assert len(listed) == 2


@pytest.mark.parametrize("whose", ["the message's", "the queue's"])
def test_an_expiry_is_told_after_the_death(
    open_queue: Open, clock: ManualClock, events: list[Event], whose: str
) -> None:
    jobs = open_queue(ttl=None if whose == "the message's" else 5)
    id = jobs.push("x", ttl=5 if whose == "the message's" else None)
    told(events)
    clock.advance(6)
    assert jobs.pop() is None
    assert told(events) == [("dead", id, {"attempts": 0, "reason": "expired"}), ("expire", id, {"ttl": 5})]


def test_a_message_that_is_too_large_to_be_delivered_is_told_dead(open_queue: Open, events: list[Event]) -> None:
    jobs = open_queue()
    id = jobs.push("x" * 2000)
    jobs.configure(max_message_bytes=1024)
    told(events)
    assert jobs.pop() is None
    assert told(events) == [("dead", id, {"attempts": 0, "reason": "too-large"})]


def test_what_a_reaper_takes_back_is_told(jobs: mailq.Queue, clock: ManualClock, events: list[Event]) -> None:
    id = jobs.push("x")
    take(jobs)
    told(events)
    clock.advance(61)
    jobs.reap()
    assert told(events) == [("requeue", id, {"attempt": 1, "outcome": "timeout"})]


def test_the_death_of_what_a_reaper_takes_back_for_the_last_time_is_told(
    open_queue: Open, clock: ManualClock, events: list[Event]
) -> None:
    jobs = open_queue(max_retries=0)
    id = jobs.push("x")
    take(jobs)
    told(events)
    clock.advance(61)
    assert jobs.reap().died == 1
    listed = told(events)
    assert ("dead", id, {"attempts": 1, "reason": "retries"}) in listed
    assert ("requeue", id, {"attempt": 1, "outcome": "timeout"}) in listed
    assert len(listed) == 2


def test_what_a_dead_owner_held_is_told_as_killed(path: Path, events: list[Event]) -> None:
    jobs, other = mailq.open(path), mailq.open(path)
    id = jobs.push("x")
    take(other)
    other.close()
    told(events)
    assert jobs.reap().returned == 1
    assert told(events) == [("requeue", id, {"attempt": 1, "outcome": "killed"})]


def test_a_redrive_is_told(jobs: mailq.Queue, events: list[Event]) -> None:
    ids = jobs.push_many(["a", "b"])
    for _ in ids:
        take(jobs).reject()
    told(events)
    assert jobs.redrive() == 2
    assert told(events) == [("redrive", id, {}) for id in ids]


@pytest.mark.parametrize("verb", ["ack", "nack", "release", "reject", "extend"])
def test_what_failed_is_not_told(jobs: mailq.Queue, events: list[Event], verb: str) -> None:
    jobs.push("x")
    delivery = take(jobs)
    jobs.ack(delivery.receipt)
    told(events)
    with pytest.raises(mailq.LeaseLost):
        getattr(delivery, verb)(*([60] if verb == "extend" else []))
    assert events == []


def test_looking_pausing_and_telling_a_story_tell_nothing(jobs: mailq.Queue, events: list[Event]) -> None:
    jobs.push("x")
    delivery = take(jobs)
    told(events)
    for look in (jobs.stats, jobs.peek, jobs.workers, jobs.reap, jobs.pause, jobs.resume):
        look()
    jobs.publish({})
    jobs.delivery(delivery.receipt).reply("x")
    assert events == []


# The seam


def test_an_event_is_told_in_the_thread_where_it_happens(jobs: mailq.Queue) -> None:
    threads: list[threading.Thread] = []
    detach = telemetry.attach(lambda event: threads.append(threading.current_thread()))
    thread = threading.Thread(target=jobs.push, args=("x",))
    thread.start()
    thread.join()
    jobs.push("y")
    detach()
    assert threads == [thread, threading.current_thread()]


def test_an_event_is_told_when_it_has_happened(jobs: mailq.Queue) -> None:
    seen: list[str] = []
    detach = telemetry.attach(lambda event: seen.append(jobs.get(event.id).state))
    jobs.push("x")
    take(jobs).reject()
    detach()
    assert seen == ["ready", "leased", "dead", "dead"]


def test_a_handler_may_use_the_queue(jobs: mailq.Queue) -> None:
    def again(event: Event) -> None:
        if event.name == "ack":
            jobs.push("next")

    detach = telemetry.attach(again)
    jobs.push("first")
    take(jobs).ack()
    detach()
    assert take(jobs).body == "next"


def test_a_handler_that_raises_is_logged_and_stops_nothing(
    jobs: mailq.Queue, events: list[Event], caplog: pytest.LogCaptureFixture, clock: ManualClock
) -> None:
    def broken(event: Event) -> None:
        raise ValueError("no metrics today")

    telemetry.detach(events.append)
    telemetry.attach(broken)
    telemetry.attach(events.append)  # behind it
    with caplog.at_level(logging.ERROR, "mailq"):
        jobs.push_many(["a", "b"])
        take(jobs).ack()
        take(jobs)
        clock.advance(61)
        jobs.reap()
        take(jobs).reject()
        jobs.redrive()
    telemetry.detach(broken)
    names = [name for name, _, _ in told(events)]
    assert names == ["push", "push", "pop", "ack", "pop", "requeue", "pop", "dead", "reject", "redrive"]
    assert len(caplog.records) == len(names)
    first = caplog.records[0]
    assert "push" in first.getMessage()
    assert first.exc_info is not None
    assert str(first.exc_info[1]) == "no metrics today"


def test_who_detached_hears_nothing_more(jobs: mailq.Queue) -> None:
    heard: list[Event] = []
    detach = telemetry.attach(heard.append)
    jobs.push("x")
    detach()
    jobs.push("y")
    detach()  # again does nothing
    telemetry.detach(print)
    assert len(heard) == 1


def test_two_handlers_hear_everything_in_the_order_they_came(jobs: mailq.Queue) -> None:
    heard: list[tuple[int, str]] = []
    first = telemetry.attach(lambda event: heard.append((1, event.name)))
    second = telemetry.attach(lambda event: heard.append((2, event.name)))
    jobs.push("x")
    assert heard == [(1, "push"), (2, "push")]
    first()
    take(jobs)
    assert heard[2:] == [(2, "pop")]
    second()
    assert not telemetry.attached()


def test_a_handler_may_detach_itself(jobs: mailq.Queue) -> None:
    heard: list[str] = []

    def once(event: Event) -> None:
        heard.append(event.name)
        telemetry.detach(once)

    telemetry.attach(once)
    jobs.push_many(["a", "b"])
    assert heard == ["push"]


def test_while_nobody_listens_no_event_is_made(
    open_queue: Open, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*_: object) -> Event:
        raise AssertionError("an event is made for nobody")

    monkeypatch.setattr(telemetry, "Event", made)
    jobs = open_queue(max_length=3)
    jobs.push_many(["a", "b"])
    with pytest.raises(mailq.QueueFull):
        jobs.push_many(["c", "d"])
    take(jobs).ack()
    take(jobs)
    clock.advance(61)
    jobs.reap()
    delivery = take(jobs)
    delivery.extend(90)
    delivery.release()
    take(jobs).nack(delay=0)
    take(jobs).reject()
    jobs.redrive()
    jobs.push("x", ttl=1, priority=9)
    clock.advance(2)
    assert take(jobs).body == "b"
