from __future__ import annotations

import copy
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailq.engines.maildir.names import MessageName, checksum, is_intact
from mailq.errors import CodecError, UsageError
from mailq.ids import MonotonicIds, id_time, new_id
from mailq.message import MAX_HEADERS, join_headers, split_headers

texts = st.text(st.characters(codec=None), max_size=40)
headers = st.dictionaries(texts, texts, max_size=5)


@given(headers, st.binary(max_size=200))
@example({"a": "\ud800 lone \n \0"}, b'{"not":"headers"}\n')
@example({}, b'{"not":"headers"}\n')
def test_what_was_sealed_is_unsealed(headers: dict[str, str], body: bytes) -> None:
    data, head = join_headers(headers, body)
    assert split_headers(data, head) == (headers, body)
    assert data[head:] == body


def test_headers_are_one_line_of_json_in_front_of_the_body() -> None:
    data, head = join_headers({"trace": "1\n2", "größe": "1"}, b"body")
    assert data == b'{"trace":"1\\n2","gr\\u00f6\\u00dfe":"1"}\n' + b"body"
    assert head == len(data) - 4


def test_without_headers_a_body_is_stored_as_it_is() -> None:
    assert join_headers({}, b"body") == (b"body", 0)


def test_headers_take_no_more_room_than_they_may() -> None:
    most = MAX_HEADERS - len('{"k":""}\n')
    assert join_headers({"k": "x" * most}, b"")[1] == MAX_HEADERS
    with pytest.raises(UsageError, match=str(MAX_HEADERS)):
        join_headers({"k": "x" * (most + 1)}, b"")


@pytest.mark.parametrize("headers", [{"a": 1}, {"a": None}, {"a": b"x"}, {1: "a"}, {None: "a"}], ids=repr)
def test_headers_map_text_to_text(headers: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="text"):
        join_headers(headers, b"")


@pytest.mark.parametrize(
    "front", [b"{", b"[]", b'"a"', b'{"a":1}', b"\xff\xfe", b"null", b"[" * 100_000, b'{"a":' * 100_000]
)
def test_damaged_headers_are_told_with_all_the_bytes_at_hand(front: bytes) -> None:
    with pytest.raises(CodecError) as damaged:
        split_headers(front + b"body", len(front))
    assert damaged.value.raw == front + b"body"


# Whole or torn


def sealed(data: bytes) -> MessageName:
    return MessageName(0, new_id(0), size=len(data), crc=checksum(data))


@given(st.binary(max_size=100))
def test_a_message_is_whole_as_it_was_sealed(data: bytes) -> None:
    assert is_intact(sealed(data), data)


@given(st.binary(min_size=1, max_size=100), st.data())
def test_any_flipped_bit_and_any_missing_end_is_noticed(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    bit = draw.draw(st.integers(0, 7))
    torn = bytearray(data)
    torn[at] ^= 1 << bit
    assert not is_intact(sealed(data), bytes(torn))
    assert not is_intact(sealed(data), data[:at])
    assert not is_intact(sealed(data), data + b"\0")


def test_zeros_of_the_right_length_are_noticed() -> None:
    """What some file systems show of a file whose data did not reach the disk."""
    assert not is_intact(sealed(b"message"), bytes(7))


def test_a_name_that_promises_nothing_is_always_kept() -> None:
    assert is_intact(MessageName(0, new_id(0)), b"anything")


def test_headers_longer_than_the_message_are_torn() -> None:
    assert not is_intact(MessageName(0, new_id(0), header_bytes=9), b"12345678")
    assert is_intact(MessageName(0, new_id(0), header_bytes=8), b"12345678")


# MonotonicIds


@given(st.lists(st.integers(0, 50), min_size=1, max_size=50))
def test_stamps_never_repeat_or_go_back_whatever_the_clock_does(readings: list[int]) -> None:
    clock = iter(readings)
    stamps = MonotonicIds(lambda: next(clock))
    taken = [stamps.next() for _ in readings]
    assert taken == sorted(set(taken))
    assert all(stamp >= reading for stamp, reading in zip(taken, readings, strict=True))


def test_stamps_tell_the_time_of_a_clock_that_runs() -> None:
    clock = iter([5, 8, 13])
    stamps = MonotonicIds(lambda: next(clock))
    assert [stamps.next() for _ in range(3)] == [5, 8, 13]


def test_stamps_never_repeat_between_threads() -> None:
    stamps = MonotonicIds(lambda: 7)
    taken: list[int] = []

    def take() -> None:
        mine = [stamps.next() for _ in range(2000)]
        taken.extend(mine)
        assert mine == sorted(mine)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(taken)) == 8000


def test_stamps_go_on_in_a_forked_child() -> None:
    stamps = MonotonicIds(lambda: 7)
    first = stamps.next()
    stamps.after_fork()
    assert stamps.next() == first + 1


def test_a_forked_child_makes_ids_of_its_own() -> None:
    stamps = MonotonicIds(lambda: 7)
    stamps.new_id(7)
    parents, children = copy.copy(stamps), stamps
    parents._salts = list(stamps._salts)
    children.after_fork()
    assert {parents.new_id(7) for _ in range(50)}.isdisjoint(children.new_id(7) for _ in range(50))


def test_ids_of_one_instant_are_never_the_same() -> None:
    stamps = MonotonicIds(lambda: 7)
    ids = {stamps.new_id(7) for _ in range(10_000)}
    assert len(ids) == 10_000
    assert {id[:12] for id in ids} == {"000000000000"}
    assert {id_time(id) for id in ids} == {7}
