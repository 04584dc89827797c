# ruff: noqa: PLR2004 - what a test expects are numbers
"""Pauses, time limits, stories and replies."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from mailq import reply
from mailq.errors import (
    CodecError,
    JobFailed,
    MessageNotFound,
    ReplyTimeout,
    UsageError,
)
from mailq.queue import Queue
from mailq.settings import Settings
from mailq.testing.contract.base import LEASE, PATIENCE, Claims, ContractBase, bodies, in_a_thread, lapse, take

if TYPE_CHECKING:
    from mailq.engines.base import Record
    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import EngineFactory

_NO_TIMEOUTS: dict[str, Any] = {
    "nothing": 0,
    "negative": -1,
    "infinite": float("inf"),
    "no number": float("nan"),
    "text": "90",
    "a truth": True,
    "a list": [90],
}

_NO_IDS: dict[str, str] = {
    "empty": "",
    "a dot": ".",
    "two dots": "..",
    "a way out": "../mailq",
    "an absolute path": "/etc/passwd",
    "an id behind a path": "./" + "0" * 32,
    "an id and more": "0" * 32 + "/../x",
    "a newline": "0" * 32 + "\n",
    "a NUL": "0" * 31 + "\0",
    "not ASCII": "\u0660" * 32,
}

_NO_REPLIES: dict[str, bytes] = {
    "empty": b"",
    "half": b'{"ok": true, "res',
    "no JSON": b"\xff\xfe\x00",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "without a word": b"{}",
    "without a result": b'{"ok": true}',
    "without an error": b'{"ok": false}',
    "nested without end": b"[" * 100_000,
}


class WorkContract(ContractBase):
    """What a worker needs of the queue as a whole."""

    # Pausing

    def test_a_paused_queue_delivers_nothing_until_it_is_resumed(self, queue: Queue) -> None:
        queue.push_many(["a", "b"])
        queue.pause()
        assert queue.pop() is None
        assert queue.pop_many(5) == []
        assert queue.pop(wait=0.01) is None
        assert list(queue.drain()) == []
        queue.resume()
        assert bodies(queue) == ["a", "b"]

    def test_the_count_of_a_queue_says_whether_it_is_paused(self, queue: Queue) -> None:
        queue.push("x")
        assert not queue.stats().paused
        queue.pause()
        assert queue.stats().paused
        assert queue.stats().ready == 1
        queue.resume()
        assert not queue.stats().paused

    def test_pausing_and_resuming_twice_is_the_same_as_once(self, queue: Queue) -> None:
        queue.push("x")
        queue.resume()
        queue.pause()
        queue.pause()
        assert queue.pop() is None
        queue.resume()
        assert take(queue).body == "x"
        queue.resume()
        assert not queue.stats().paused

    def test_a_paused_queue_takes_pushes(self, queue: Queue) -> None:
        queue.pause()
        queue.push("x")
        assert queue.pop() is None
        assert queue.stats().ready == 1
        queue.resume()
        assert bodies(queue) == ["x"]

    def test_what_is_out_can_be_settled_while_the_queue_is_paused(self, queue: Queue) -> None:
        queue.push_many(["ack", "nack", "release", "reject", "extend"])
        ack, nack, release, reject, extend = queue.pop_many(5)
        queue.pause()
        ack.ack()
        nack.nack(delay=0)
        release.release()
        reject.reject()
        extend.extend(2 * LEASE)
        assert queue.delivery(extend.receipt).body == "extend"
        stats = queue.stats()
        assert (stats.ready, stats.leased, stats.dead) == (2, 1, 1)
        assert queue.pop() is None

    def test_what_comes_due_or_lapses_while_the_queue_is_paused_waits_for_the_end(
        self, queue: Queue, clock: ManualClock
    ) -> None:
        queue.push("lapsed")
        take(queue)
        queue.push("due", delay=5)
        queue.pause()
        lapse(queue, clock)
        assert queue.pop() is None
        queue.resume()
        assert sorted(bodies(queue)) == ["due", "lapsed"]

    def test_a_consumer_that_waits_at_a_paused_queue_does_not_spin(
        self, make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = make_engine(Settings(), time.time_ns)
        queue = Queue(engine)
        queue.push("ready")
        queue.push("due meanwhile", delay=0.05)
        queue.pause()
        claims = Claims(engine, monkeypatch)
        assert queue.pop(wait=0.3) is None
        # One, one behind the first wait, one when the message is due, one at the end; and a few to spare.
        assert claims.count <= 8
        queue.resume()
        assert sorted(bodies(queue)) == ["due meanwhile", "ready"]
        queue.close()

    def test_a_consumer_that_waits_at_a_paused_queue_wakes_when_it_is_resumed(
        self, make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = make_engine(Settings(), time.time_ns)
        queue = Queue(engine)
        queue.push("x")
        queue.pause()
        claims = Claims(engine, monkeypatch)
        thread, results = in_a_thread(lambda: take(queue, wait=10 * PATIENCE).body)
        claims.until(1)
        queue.resume()
        thread.join(PATIENCE)
        assert results == ["x"]
        queue.close()

    def test_a_consumer_that_waits_already_gets_nothing_from_a_queue_that_is_paused(
        self, make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = make_engine(Settings(), time.time_ns)
        queue = Queue(engine)
        claims = Claims(engine, monkeypatch)
        thread, results = in_a_thread(lambda: take(queue, wait=10 * PATIENCE).body)
        claims.until(1)
        with claims:
            queue.pause()
            queue.push("x")
            before = claims.count
        claims.until(before + 1)  # the push woke it
        assert results == []
        queue.resume()
        thread.join(PATIENCE)
        assert results == ["x"]
        queue.close()

    # A job's time limit

    @pytest.mark.parametrize(
        ("timeout", "header"), [(90, "90"), (90.0, "90"), (0.5, "0.5"), (0.001, "0.001"), (86_400, "86400")]
    )
    def test_a_time_limit_is_a_header(self, queue: Queue, timeout: float, header: str) -> None:
        queue.push("x", timeout=timeout)
        delivery = take(queue)
        assert (delivery.body, delivery.headers) == ("x", {"mailq-timeout": header})

    @pytest.mark.parametrize("timeout", [1_234_567, 999.999, 123_456.0])
    def test_a_time_limit_is_told_exactly(self, queue: Queue, timeout: float) -> None:
        queue.push("x", timeout=timeout)
        assert float(take(queue).headers["mailq-timeout"]) == timeout

    def test_a_time_limit_stands_with_other_headers_and_for_each_of_many(self, queue: Queue) -> None:
        queue.push_many(["a", "b"], timeout=90, headers={"trace": "7"})
        for _ in range(2):
            assert take(queue).headers == {"trace": "7", "mailq-timeout": "90"}

    def test_without_a_time_limit_there_is_no_header(self, queue: Queue) -> None:
        queue.push("x")
        queue.push("x", timeout=None, headers={"trace": "7"})
        assert [take(queue).headers, take(queue).headers] == [{}, {"trace": "7"}]

    @pytest.mark.parametrize("timeout", _NO_TIMEOUTS.values(), ids=_NO_TIMEOUTS)
    def test_a_time_limit_that_is_none_is_refused(self, queue: Queue, timeout: Any) -> None:  # noqa: ANN401 - wrong on purpose
        with pytest.raises(UsageError):
            queue.push("x", timeout=timeout)
        with pytest.raises(UsageError):
            queue.push_many(["x"], timeout=timeout)
        with pytest.raises(UsageError):
            queue.request("x", timeout=timeout)
        assert len(queue) == 0

    # Owners

    def test_a_story_comes_back(self, queue: Queue) -> None:
        before = time.time()
        queue.tell({"running": ["a", "b"], "done": 3, "name": "Größe", "nested": {"x": None}})
        (owner,) = queue.owners()
        assert owner.story == {"running": ["a", "b"], "done": 3, "name": "Größe", "nested": {"x": None}}
        assert (owner.pid, owner.alive) == (os.getpid(), True)
        assert before - 60 < owner.since < time.time() + 60
        assert owner.host
        assert owner.token

    def test_a_story_is_replaced_by_the_next_longer_or_shorter(self, queue: Queue) -> None:
        for length in (10, 1000, 0, 30_000, 1, 500):
            queue.tell({"text": "x" * length})
            (owner,) = queue.owners()
            assert owner.story == {"text": "x" * length}
        queue.tell({})
        (owner,) = queue.owners()
        assert owner.story == {}

    def test_a_holder_of_leases_is_an_owner(self, queue: Queue) -> None:
        queue.push("x")
        take(queue)
        (owner,) = queue.owners()
        assert (owner.pid, owner.alive, owner.story) == (os.getpid(), True, {})

    def test_telling_a_story_changes_nothing_about_leases(self, queue: Queue) -> None:
        queue.push("x")
        delivery = take(queue)
        for n in range(10):
            queue.tell({"n": "x" * n})
            assert queue.reap() == (0, 0, 0)
        delivery.ack()

    @pytest.mark.parametrize("value", [object(), b"x", {1, 2}, "\udcff"], ids=["object", "bytes", "set", "surrogate"])
    def test_a_story_that_cannot_be_told_does_no_harm(self, queue: Queue, value: Any) -> None:  # noqa: ANN401 - anything
        queue.tell({"before": 1})
        queue.tell({"value": value})
        (owner,) = queue.owners()
        assert (owner.pid, owner.alive) == (os.getpid(), True)

    def test_a_story_does_not_change_who_tells_it(self, queue: Queue) -> None:
        queue.tell({"pid": 1, "host": "elsewhere", "since": 0.0, "boot": "never", "n": 1})
        (owner,) = queue.owners()
        assert (owner.pid, owner.alive) == (os.getpid(), True)
        assert owner.host != "elsewhere"
        assert owner.story["n"] == 1

    # Replies

    def test_a_reply_is_kept_by_id(self, make_engine: EngineFactory, clock: ManualClock) -> None:
        engine = make_engine(Settings(), clock)
        queue = Queue(engine)
        one, other = queue.push_many(["one", "other"])
        assert engine.get_reply(one) is None
        engine.put_reply(one, b"\x00 any bytes\n")
        assert engine.get_reply(one) == b"\x00 any bytes\n"
        assert engine.get_reply(other) is None
        engine.put_reply(one, b"!")
        assert engine.get_reply(one) == b"!"
        queue.close()

    def test_a_reply_that_is_older_than_reply_ttl_goes_with_a_later_one(
        self, make_engine: EngineFactory, clock: ManualClock
    ) -> None:
        engine = make_engine(Settings(reply_ttl=600.0), clock)
        queue = Queue(engine)
        old, young, new = queue.push_many(["old", "young", "new"])
        engine.put_reply(old, b"!")
        clock.advance(500)
        engine.put_reply(young, b"!")
        assert engine.get_reply(old) == b"!"
        clock.advance(200)
        engine.put_reply(new, b"!")
        assert engine.get_reply(old) is None
        queue.close()

    @pytest.mark.parametrize("id", _NO_IDS.values(), ids=_NO_IDS)
    def test_what_is_no_id_has_no_reply(self, queue: Queue, id: str) -> None:
        queue.push("x")
        assert not queue.reply_to(id).ready
        with pytest.raises(ReplyTimeout):
            queue.reply_to(id).result(timeout=0)

    @pytest.mark.parametrize("result", [{"n": [1, 2.5, None]}, "Größe", None, False, [], 0, "x" * 100_000], ids=repr)
    def test_a_request_gets_what_the_consumer_replied(self, queue: Queue, result: Any) -> None:  # noqa: ANN401 - anything
        reply = queue.request({"n": 10})
        assert not reply.ready
        delivery = take(queue)
        assert (delivery.id, delivery.body, delivery.wants_reply) == (reply.id, {"n": 10}, True)
        delivery.reply(result)
        assert reply.ready
        delivery.ack()
        assert reply.result(timeout=0) == result
        assert reply.result() == result
        assert queue.reply_to(reply.id).result(timeout=0) == result

    def test_a_request_waits_for_its_reply(self, queue: Queue) -> None:
        reply = queue.request("x")
        thread, results = in_a_thread(lambda: reply.result(timeout=PATIENCE))
        delivery = take(queue)
        delivery.reply([1, 2])
        delivery.ack()
        thread.join(PATIENCE)
        assert results == [[1, 2]]

    def test_a_request_has_the_options_of_a_push(self, queue: Queue) -> None:
        queue.push("first")
        reply = queue.request("x", headers={"trace": "7"}, priority=5, timeout=90)
        delivery = take(queue)
        assert (delivery.id, delivery.priority) == (reply.id, 5)
        assert delivery.headers == {"trace": "7", "mailq-timeout": "90", "mailq-reply": "1"}
        assert not take(queue).wants_reply

    def test_a_request_that_nobody_answers_in_time_says_so(self, queue: Queue) -> None:
        reply = queue.request("x")
        for timeout in (0, 0.02):
            with pytest.raises(ReplyTimeout) as late:
                reply.result(timeout=timeout)
            assert (late.value.id, late.value.timeout) == (reply.id, timeout)
        delivery = take(queue)
        with pytest.raises(TimeoutError):
            reply.result(timeout=0)
        delivery.reply("at last")
        assert reply.result(timeout=0) == "at last"

    @pytest.mark.parametrize("reason", ["it is no prime", "Traceback\n  line 1\nValueError: no prime\n"])
    def test_a_request_that_was_rejected_fails_with_the_reason(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch, reason: str
    ) -> None:
        monkeypatch.setattr(reply, "_CHECK", 0.01)
        request = queue.request("x")
        take(queue).nack(delay=0, error="the first time")
        take(queue).reject(reason)
        with pytest.raises(JobFailed) as failed:
            request.result(timeout=PATIENCE)
        assert (failed.value.id, failed.value.error) == (request.id, reason)
        assert reason.strip().splitlines()[-1] in str(failed.value)

    def test_a_request_that_used_up_its_retries_fails_with_the_last_error(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reply, "_CHECK", 0.01)
        request = queue.request("x", max_retries=1)
        for error in ("the first", "the last"):
            take(queue).nack(delay=0, error=error)
        with pytest.raises(JobFailed) as failed:
            request.result(timeout=PATIENCE)
        assert failed.value.error == "the last"

    def test_a_request_that_was_rejected_without_a_word_fails_all_the_same(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reply, "_CHECK", 0.01)
        request = queue.request("x")
        take(queue).reject()
        with pytest.raises(JobFailed, match="rejected"):
            request.result(timeout=PATIENCE)

    def test_a_request_that_was_acked_without_a_reply_fails(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reply, "_CHECK", 0.01)
        request = queue.request("x")
        take(queue).ack()
        with pytest.raises(JobFailed, match="no reply") as failed:
            request.result(timeout=PATIENCE)
        assert failed.value.id == request.id

    def test_a_request_that_is_tried_again_goes_on_waiting(self, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reply, "_CHECK", 0.0)
        request = queue.request("x")
        take(queue).nack(delay=0, error="not yet")
        with pytest.raises(ReplyTimeout):
            request.result(timeout=0.05)
        delivery = take(queue)
        with pytest.raises(ReplyTimeout):
            request.result(timeout=0.05)
        delivery.reply("done")
        delivery.ack()
        assert request.result(timeout=0) == "done"

    def test_a_reply_that_comes_with_the_ack_between_two_looks_is_not_missed(
        self, make_engine: EngineFactory, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One look finds a message that is moved not at all, the next comes when it is answered and gone."""
        monkeypatch.setattr(reply, "_CHECK", 0.0)
        engine = make_engine(Settings(), clock)
        queue = Queue(engine)
        request = queue.request("x")
        delivery = take(queue)
        looks: list[str] = []

        def hidden_first(id: str) -> Record:
            looks.append(id)
            if len(looks) > 1:
                delivery.reply("done")
                delivery.ack()
            raise MessageNotFound(id)

        monkeypatch.setattr(engine, "find", hidden_first)
        assert request.result(timeout=PATIENCE) == "done"
        queue.close()

    @pytest.mark.parametrize(
        "result",
        [object(), {1, 2}, b"x", float("nan"), [float("inf")], "\udcff"],
        ids=["object", "set", "bytes", "nan", "inf", "surrogate"],
    )
    def test_a_result_that_is_no_json_is_refused(self, queue: Queue, result: Any) -> None:  # noqa: ANN401 - wrong on purpose
        request = queue.request("x")
        delivery = take(queue)
        with pytest.raises(CodecError):
            delivery.reply(result)
        assert not request.ready
        delivery.reply("better")
        assert request.result(timeout=0) == "better"

    @pytest.mark.parametrize("data", _NO_REPLIES.values(), ids=_NO_REPLIES)
    def test_a_damaged_reply_is_called_so(self, make_engine: EngineFactory, clock: ManualClock, data: bytes) -> None:
        engine = make_engine(Settings(), clock)
        queue = Queue(engine)
        request = queue.request("x")
        engine.put_reply(request.id, data)
        assert request.ready
        with pytest.raises(CodecError) as damaged:
            request.result(timeout=0)
        assert damaged.value.raw == data
        assert request.id in str(damaged.value)
        queue.close()

    def test_a_failure_that_was_kept_as_the_reply_is_raised(
        self, make_engine: EngineFactory, clock: ManualClock
    ) -> None:
        engine = make_engine(Settings(), clock)
        queue = Queue(engine)
        request = queue.request("x")
        engine.put_reply(request.id, reply.encode_failure("ValueError: \udcff"))
        with pytest.raises(JobFailed) as failed:
            request.result(timeout=0)
        assert failed.value.error == "ValueError: \udcff"
        queue.close()
