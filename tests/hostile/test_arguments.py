"""Receipts, ids, headers and numbers of any kind: one clear error, and nothing outside the queue is touched."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import using
from bait import Bait
from command import Shell
from hypothesis import given, settings
from hypothesis import strategies as st

import mailq as library

GOOD = "20261121T013205.123456789Z," + "0" * 32 + ",claim=0.txt"
GARBAGE: list[Any] = [
    "",
    "garbage",
    ".",
    "..",
    "../bait/secret",
    "../../bait/documents/letter.txt",
    "/etc/passwd",
    f"../{GOOD}",
    f"{GOOD}/../../bait/secret",
    f"../../bait/documents/{GOOD}",
    f"{GOOD}\0",
    f"\0{GOOD}",
    f"{GOOD}\n",
    f" {GOOD}",
    GOOD.replace(",claim=0", ""),
    GOOD.replace("0.txt", "../x.txt"),
    "\udcff\udcfe",
    "\x1b]0;owned\x07",
    "x" * 100_000,
    GOOD * 2000,
    "é" * 300,
    None,
    5,
    10**6000,
    b"bytes",
    [GOOD],
    math.nan,
]


@pytest.fixture
def bait(tmp_path: Path) -> Bait:
    return Bait(tmp_path / "bait")


@pytest.mark.parametrize("receipt", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_no_receipt_is_refused_by_every_verb(queue: library.Queue, bait: Bait, receipt: Any) -> None:
    queue.push("x")
    for verb in (
        queue.ack,
        queue.nack,
        queue.release,
        queue.reject,
        queue.delivery,
        lambda receipt: queue.extend(receipt, 5),
        lambda receipt: queue.nack(receipt, error="text"),
    ):
        with pytest.raises(library.InvalidReceipt) as refused:
            verb(receipt)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 200
    assert queue.stats()[:4] == (1, 0, 0, 0)
    bait.check()


def test_a_receipt_of_nobodys_is_a_lost_lease(queue: library.Queue) -> None:
    with pytest.raises(library.LeaseLost):
        queue.ack(GOOD)


@pytest.mark.parametrize("id", [*GARBAGE, "0" * 32, "*", "%", "0" * 31 + "g"], ids=range(len(GARBAGE) + 4))
def test_what_is_no_id_is_no_message_and_no_reply(queue: library.Queue, bait: Bait, id: Any) -> None:
    queue.push("x")
    with pytest.raises(library.MessageNotFound) as missing:
        queue.get(id)
    assert str(missing.value).isprintable()
    assert len(str(missing.value)) < 400
    if isinstance(id, str):
        assert not queue.reply_to(id).ready
        assert queue.redrive(id) == 0
        with pytest.raises(library.ReplyTimeout):
            queue.reply_to(id).result(timeout=0)
    else:
        with pytest.raises(library.UsageError):
            queue.redrive([id])
    bait.check()


@given(st.text(max_size=300) | st.binary(max_size=100))
@settings(max_examples=300)
def test_any_text_for_a_receipt_or_an_id_is_one_error(text: Any) -> None:
    queue = library.open("memory://")
    with pytest.raises((library.InvalidReceipt, library.LeaseLost)):
        queue.ack(text)
    with pytest.raises(library.MessageNotFound):
        queue.get(text)


# The shell


SHELL = [text for text in GARBAGE if isinstance(text, str) and "\0" not in text]


@pytest.mark.parametrize("text", SHELL, ids=range(len(SHELL)))
def test_the_shell_refuses_them_in_one_plain_line(queue: library.Queue, bait: Bait, text: str) -> None:
    queue.push("x")
    place = queue.location
    for verb in (["ack"], ["nack"], ["release"], ["reject"], ["extend", "--for", "5s"]):
        code, out, said = using.run(verb[0], *verb[1:], "--", place, text)
        assert (code, out) == (2, "")
        assert said.count("\n") == 1
        assert said[:-1].isprintable()
    for verb in (["show"], ["cat"], ["edit"], ["redrive"]):
        code, out, said = using.run(verb[0], "--", place, text)
        assert code == 1
        assert said.count("\n") == 1
        assert said[:-1].isprintable()
    assert queue.stats()[:4] == (1, 0, 0, 0)
    bait.check()


def test_a_real_process_does_so_too(queue: library.Queue, mailq: Shell) -> None:
    for text in ("garbage", "../x", "\udcff\x1b[2J", "x" * 100_000):
        said = mailq("ack", queue.location, text, code=2).stderr.decode()
        assert said.endswith("is not a receipt; pass the one that the delivery carries, unchanged\n")
        assert said[:-1].isprintable()


@pytest.mark.parametrize("name", ["\x1b]0;x\x07", "a\nb", "\udcff", "no/such", "x" * 5000, "\u202e"])
def test_a_place_of_any_name_is_one_plain_line(tmp_path: Path, name: str) -> None:
    code, out, said = using.run("stats", "--", str(tmp_path / name))
    assert (code, out) == (1, "")
    assert said.count("\n") == 1
    assert said[:-1].isprintable()


# Numbers, headers, bodies


ODD: list[Any] = [10**6000, -(10**6000), math.nan, math.inf, "5" * 100_000, b"5", None, [], {}, object(), True]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_a_number_that_is_none_is_a_usage_error(queue: library.Queue, value: Any) -> None:
    calls: list[Any] = [
        lambda: queue.push("x", priority=value),
        lambda: queue.pop_many(value),
        lambda: queue.peek(value),
        lambda: queue.purge(value),
    ]
    if value is not None:
        calls += [
            lambda: queue.push("x", lease=value),
            lambda: queue.push("x", max_retries=value),
            lambda: queue.push("x", ttl=value),
            lambda: queue.push("x", timeout=value),
            lambda: queue.pop(lease=value),
            lambda: queue.redrive(limit=value),
            lambda: queue.configure(lease=value),
            lambda: queue.configure(max_retries=value),
            lambda: queue.configure(file_mode=value),
            lambda: queue.configure(backoff=value),
        ]
    if value not in (None, math.inf, ODD[0]):
        calls.append(lambda: queue.pop(wait=value))
    for call in calls:
        with pytest.raises(library.UsageError) as refused:
            call()
        assert len(str(refused.value)) < 400
    assert queue.stats()[:4] == (0, 0, 0, 0)


def test_a_wait_of_ages_is_a_wait(queue: library.Queue) -> None:
    queue.push("x")
    delivery = queue.pop(wait=10**6000)
    assert delivery is not None
    request = queue.request("y")
    answered = queue.pop(wait=10**6000)
    assert answered is not None
    answered.reply("z")
    assert request.result(timeout=10**6000) == "z"


headers = st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=4)


@given(headers)
@settings(max_examples=200)
def test_any_headers_arrive_as_they_were_and_fit_into_an_environment(given_headers: dict[str, str]) -> None:
    from mailq.workers.command import environment  # noqa: PLC0415 - what 'mailq run' and 'mailq work' tell commands

    queue = library.open("memory://")
    if any(key.lower() == "content-type" for key in given_headers):
        with pytest.raises(library.UsageError):
            queue.push("x", headers=given_headers)
        return
    queue.push("x", headers=given_headers)
    delivery = queue.pop()
    assert delivery is not None
    assert delivery.headers == given_headers
    for key, value in environment(delivery).items():
        assert "=" not in key
        assert "\0" not in key + value
        (key + value).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("kind", ["a\0b", "\x1b[2J\n", "\ud800", "x" * 65_000])
def test_a_command_can_be_run_whatever_the_content_type(queue: library.Queue, mailq: Shell, kind: str) -> None:
    queue.push(b"x", content_type=kind, headers={"=\0": "\0\udcff"})
    mailq("run", queue.location, "--", "true")
    assert queue.stats()[:4] == (0, 0, 0, 0)
