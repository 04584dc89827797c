from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from envelopes import envelopes
from hypothesis import given
from hypothesis import strategies as st

import mailq
from mailq.engines.maildir import names, receipts
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.names import MessageName
from mailq.engines.maildir.receipts import Receipts
from mailq.errors import InvalidReceipt
from mailq.ids import new_id
from mailq.testing import take

held = st.builds(
    lambda envelope, ms, claim: envelope.claimed(until=ms * 1_000_000, owner="7f3a9c01", claim=f"{claim:06x}"),
    envelopes(),
    st.integers(0, 4_000_000_000_000),
    st.integers(0, 0xFFFFFF),
)


@given(held)
def test_what_is_remembered_of_a_receipt_is_what_its_text_says(envelope: MessageName) -> None:
    receipt, known = names.format_name(envelope), Receipts()
    known.remember(receipt, envelope)
    assert known.read(receipt) == Receipts().read(receipt) == envelope


def test_a_receipt_that_was_settled_is_read_from_its_text() -> None:
    envelope = MessageName(0, new_id(0), claim="51d2", until=0)
    receipt, known = names.format_name(envelope), Receipts()
    known.remember(receipt, envelope._replace(tries="E"))
    assert known.read(receipt).tries == "E"
    assert known.take(receipt).tries == "E"
    assert known.read(receipt).tries == ""


def test_receipts_that_never_come_back_take_no_more_room_than_they_may() -> None:
    known = Receipts()
    for claim in range(3 * receipts._MOST):
        known.remember(f"{claim}", MessageName(0, "", claim=f"{claim:06x}"))
        assert len(known._known) <= receipts._MOST
    assert known.read(f"{3 * receipts._MOST - 1}").claim == f"{3 * receipts._MOST - 1:06x}"


@pytest.mark.parametrize(
    "receipt", [None, 7, b"x", [], {}, "", "x", f"../{names.format_name(MessageName(0, '0' * 32))}"]
)
def test_what_is_no_receipt_is_refused(receipt: Any) -> None:
    for read in (Receipts().read, Receipts().take):
        with pytest.raises(InvalidReceipt):
            read(receipt)


def test_a_message_that_is_being_edited_is_nobodys_to_settle() -> None:
    name = names.format_name(MessageName(0, new_id(0), until=0, claim="51d2", edit="dead"))
    with pytest.raises(InvalidReceipt):
        Receipts().read(name)


def test_the_next_attempt_counts_those_that_were_given_back(path: Path) -> None:
    """A receipt is remembered with the attempts before it, not with those of an earlier claim."""
    mailq.open(path, max_retries=2).push("x")
    queue = mailq.Queue(MaildirEngine(str(path)))
    for attempt in (1, 2, 3):
        delivery = take(queue)
        assert delivery.attempt == attempt
        queue.nack(delivery.receipt, delay=0)
    assert [message.reason for message in queue.peek("dead")] == ["retries"]
