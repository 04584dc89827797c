"""The contract of replies: a request gets what the consumer replied, or learns why it never will."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mailq import reply
from mailq.errors import CodecError, JobFailed, ReplyTimeout
from mailq.queue import Queue
from mailq.settings import Settings
from mailq.testing.contract.base import PATIENCE, ContractBase, in_a_thread, needs, take

if TYPE_CHECKING:
    from mailq.engines.base import Record
    from mailq.message import State
    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import EngineFactory

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


@needs("replies")
class RepliesContract(ContractBase):
    """Replies, and requests that wait for them."""

    def test_a_reply_is_kept_by_id(self, make_engine: EngineFactory, clock: ManualClock) -> None:
        engine = make_engine(Settings(), clock)
        queue = Queue(engine)
        one, other = queue.push_many(["one", "other"])
        assert queue.replies.get_reply(one) is None
        queue.replies.put_reply(one, b"\x00 any bytes\n")
        assert queue.replies.get_reply(one) == b"\x00 any bytes\n"
        assert queue.replies.get_reply(other) is None
        queue.replies.put_reply(one, b"!")
        assert queue.replies.get_reply(one) == b"!"
        queue.close()

    def test_a_reply_that_is_older_than_reply_ttl_goes_with_a_later_one(
        self, make_engine: EngineFactory, clock: ManualClock
    ) -> None:
        engine = make_engine(Settings(reply_ttl=600.0), clock)
        queue = Queue(engine)
        old, young, new = queue.push_many(["old", "young", "new"])
        queue.replies.put_reply(old, b"!")
        clock.advance(500)
        queue.replies.put_reply(young, b"!")
        assert queue.replies.get_reply(old) == b"!"
        clock.advance(200)
        queue.replies.put_reply(new, b"!")
        assert queue.replies.get_reply(old) is None
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
        looks: list[Any] = []

        def hidden(state: State | None, **options: Any) -> list[Record]:  # noqa: ANN401 - those of look
            looks.append((state, options))
            if len(looks) > 1:
                delivery.reply("done")
                delivery.ack()
            return []

        monkeypatch.setattr(engine, "look", hidden)
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
        queue.replies.put_reply(request.id, data)
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
        queue.replies.put_reply(request.id, reply.encode_failure("ValueError: \udcff"))
        with pytest.raises(JobFailed) as failed:
            request.result(timeout=0)
        assert failed.value.error == "ValueError: \udcff"
        queue.close()
