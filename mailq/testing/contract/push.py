# ruff: noqa: PLR2004 - what a test expects are numbers
"""The contract of push: what goes in comes out, in order, or is refused whole."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from mailq.errors import CodecError, MessageTooLarge, QueueFull, UsageError
from mailq.testing.contract.base import PATIENCE, ContractBase, bodies, take

if TYPE_CHECKING:
    from pathlib import Path

    from mailq.queue import Queue
    from mailq.testing.clock import ManualClock
    from mailq.testing.contract.base import OpenQueue

_BODIES: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1.5,
    10**30,
    [],
    {},
    {"resize": "cat.jpg", "sizes": [16, {"deep": None}]},
    "",
    "text",
    'quotes " and \\ and \n lines \0',
    "Grüße, 世界, 🐈",
    b"",
    b"\x00\xff\r\n not text",
    b"x" * 100_000,
)

_NO_TIMEOUTS: dict[str, Any] = {
    "nothing": 0,
    "negative": -1,
    "infinite": float("inf"),
    "no number": float("nan"),
    "text": "90",
    "a truth": True,
    "a list": [90],
}


class PushContract(ContractBase):
    """Bodies, types, headers, options, batches and limits."""

    @pytest.mark.parametrize("body", _BODIES, ids=lambda body: repr(body)[:20])
    def test_a_body_comes_out_as_it_went_in(self, queue: Queue, body: Any) -> None:  # noqa: ANN401 - any body
        queue.push(body)
        delivered = take(queue).body
        assert delivered == body
        assert type(delivered) is type(body)

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [({"a": 1}, "application/json"), ("a", "text/plain"), (b"a", "application/octet-stream")],
    )
    def test_the_body_decides_the_content_type(self, queue: Queue, body: Any, content_type: str) -> None:  # noqa: ANN401 - any body
        queue.push(body)
        assert take(queue).content_type == content_type

    @pytest.mark.parametrize(
        ("raw", "content_type", "decoded"),
        [
            (b"\x89PNG", "image/png", b"\x89PNG"),
            (b"%PDF", "application/pdf", b"%PDF"),
            (b"a,b\n", "text/csv", "a,b\n"),
            (b'{"a":1}', "application/json", {"a": 1}),
            (b"[1]", "application/vnd.api+json", [1]),
            (b"hi", "text/plain; charset=utf-8", "hi"),
            (b"?", "application/x-unheard-of", b"?"),
        ],
    )
    def test_a_given_content_type_is_kept_and_decides_how_the_body_is_read(
        self,
        queue: Queue,
        raw: bytes,
        content_type: str,
        decoded: Any,  # noqa: ANN401 - any body
    ) -> None:
        queue.push(raw, content_type=content_type)
        delivery = take(queue)
        assert (delivery.content_type, delivery.raw, delivery.body) == (content_type, raw, decoded)
        assert delivery.headers == {}

    def test_a_text_pushed_as_json_is_a_json_string(self, queue: Queue) -> None:
        queue.push("17", content_type="application/json")
        delivery = take(queue)
        assert delivery.raw == b'"17"'
        assert delivery.body == "17"

    @pytest.mark.parametrize(
        "body",
        [{1, 2}, object(), math.nan, "\ud800", {"a": b"bytes"}],
        ids=["set", "object", "nan", "surrogate", "bytes"],
    )
    def test_a_body_that_cannot_be_written_is_refused(self, queue: Queue, body: Any) -> None:  # noqa: ANN401 - any body
        with pytest.raises(CodecError) as refused:
            queue.push(body)
        assert refused.value.raw is None
        assert refused.value.content_type in ("application/json", "text/plain")
        assert len(queue) == 0

    def test_headers_come_out_as_they_went_in(self, queue: Queue) -> None:
        headers = {"trace": "1-2", "Größe": "groß\n", "empty": "", "size": "999"}
        queue.push(b"body", headers=headers, content_type="image/png")
        delivery = take(queue)
        assert delivery.headers == headers
        assert (delivery.raw, delivery.content_type) == (b"body", "image/png")

    @pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, {"a": None}, {"Content-Type": "text/plain"}], ids=repr)
    def test_headers_that_are_not_text_or_not_headers_are_refused(self, queue: Queue, headers: Any) -> None:  # noqa: ANN401 - wrong on purpose
        with pytest.raises(UsageError):
            queue.push(b"", headers=headers)
        assert len(queue) == 0

    def test_a_pushed_file_keeps_its_type_and_its_name(self, queue: Queue, tmp_path: Path) -> None:
        file = tmp_path / "my cat.PNG"
        file.write_bytes(b"\x89PNG")
        queue.push_file(file, headers={"by": "me"})
        delivery = take(queue)
        assert (delivery.raw, delivery.content_type) == (b"\x89PNG", "image/png")
        assert delivery.headers == {"filename": "my cat.PNG", "by": "me"}

    def test_an_id_is_32_hex_digits_and_never_given_twice(self, queue: Queue) -> None:
        ids = [queue.push(n) for n in range(50)] + queue.push_many(range(50))
        assert len(set(ids)) == 100
        assert all(len(id) == 32 and int(id, 16) for id in ids)
        assert ids == sorted(ids)

    def test_a_delivery_carries_the_id_and_the_time_of_its_push(self, queue: Queue, clock: ManualClock) -> None:
        id, pushed_at = queue.push(1), clock.seconds
        clock.advance(5)
        delivery = take(queue)
        assert delivery.id == id
        assert delivery.pushed_at == pytest.approx(pushed_at, abs=1e-6)

    @pytest.mark.parametrize("count", [1, 2, 15, 16, 40])
    def test_a_batch_comes_out_in_order(self, queue: Queue, count: int) -> None:
        ids = queue.push_many({"n": n} for n in range(count))
        deliveries = list(queue.drain())
        assert [delivery.id for delivery in deliveries] == ids
        assert [delivery.body for delivery in deliveries] == [{"n": n} for n in range(count)]

    def test_an_empty_batch_is_nothing(self, queue: Queue) -> None:
        assert queue.push_many([]) == []
        assert len(queue) == 0

    def test_the_options_of_a_batch_are_for_each_message(self, queue: Queue) -> None:
        queue.push("low")
        queue.push_many(["a", "b"], priority=3, headers={"h": "1"})
        found = [(delivery.body, delivery.priority, delivery.headers) for delivery in queue.drain()]
        assert found == [("a", 3, {"h": "1"}), ("b", 3, {"h": "1"}), ("low", 0, {})]

    @pytest.mark.parametrize("bad", ["x" * 101, {1, 2}], ids=["too large", "not JSON"])
    def test_a_batch_with_one_bad_body_is_refused_whole(self, open_queue: OpenQueue, bad: Any) -> None:  # noqa: ANN401 - any body
        queue = open_queue(max_message_bytes=100)
        with pytest.raises((MessageTooLarge, CodecError)):
            queue.push_many(["good", bad, "good"])
        assert len(queue) == 0

    def test_messages_pushed_by_several_threads_are_all_there(self, queue: Queue) -> None:
        def produce(part: int) -> None:
            for n in range(25):
                queue.push([part, n])

        threads = [threading.Thread(target=produce, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        delivered = bodies(queue)
        assert sorted(delivered) == [[part, n] for part in range(4) for n in range(25)]
        for part in range(4):
            assert [n for p, n in delivered if p == part] == list(range(25))

    @pytest.mark.parametrize(
        "options",
        [
            {"priority": -1},
            {"priority": 10},
            {"priority": True},
            {"priority": 1.0},
            {"delay": -1},
            {"delay": math.nan},
            {"delay": math.inf},
            {"delay": "30"},
            {"lease": 0},
            {"lease": -1},
            {"ttl": 0},
            {"ttl": math.inf},
            {"max_retries": -1},
            {"max_retries": 1.5},
            {"max_retries": 100_000},
        ],
        ids=str,
    )
    def test_an_option_out_of_range_is_refused(self, queue: Queue, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match=next(iter(options))):
            queue.push("x", **options)
        assert len(queue) == 0

    def test_the_largest_of_every_option_is_delivered(self, queue: Queue) -> None:
        decade = 315_360_000.0
        id = queue.push("x", priority=9, lease=decade, ttl=decade, max_retries=99_999)
        delivery = take(queue)
        assert (delivery.id, delivery.body, delivery.priority) == (id, "x", 9)

    # Limits

    def test_a_message_of_the_largest_size_is_taken_and_one_byte_more_refused(self, open_queue: OpenQueue) -> None:
        queue = open_queue(max_message_bytes=100)
        queue.push(b"x" * 100)
        with pytest.raises(MessageTooLarge) as refused:
            queue.push(b"x" * 101)
        assert (refused.value.size, refused.value.limit) == (101, 100)
        assert bodies(queue) == [b"x" * 100]

    def test_headers_count_towards_the_size(self, open_queue: OpenQueue) -> None:
        queue = open_queue(max_message_bytes=100)
        with pytest.raises(MessageTooLarge) as refused:
            queue.push(b"x" * 60, headers={"trace": "y" * 60})
        assert refused.value.size > 120
        assert len(queue) == 0

    def test_a_full_queue_refuses_and_takes_again_when_there_is_room(self, open_queue: OpenQueue) -> None:
        queue = open_queue(max_length=2)
        queue.push_many([1, 2])
        with pytest.raises(QueueFull) as refused:
            queue.push(3)
        assert (refused.value.length, refused.value.limit, refused.value.asked) == (2, 2, 1)
        assert take(queue).body == 1
        queue.push(3)
        assert bodies(queue) == [2, 3]

    def test_a_batch_that_would_not_fit_is_refused_whole(self, open_queue: OpenQueue) -> None:
        queue = open_queue(max_length=3)
        queue.push(0)
        with pytest.raises(QueueFull) as refused:
            queue.push_many([1, 2, 3])
        assert (refused.value.length, refused.value.limit, refused.value.asked) == (1, 3, 3)
        assert bodies(queue) == [0]

    def test_delayed_messages_count_towards_the_length_and_leased_and_dead_ones_do_not(
        self, open_queue: OpenQueue
    ) -> None:
        queue = open_queue(max_length=1)
        queue.push("leased")
        take(queue)
        queue.push("dead")
        take(queue).reject()
        queue.push("delayed", delay=30)
        with pytest.raises(QueueFull):
            queue.push("one too many")

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
