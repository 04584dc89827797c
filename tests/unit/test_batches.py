"""What a batch costs, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty import FaultyDisk

import mailq
from mailq.engines.maildir.disk import Disk, can_syncfs
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.journal import PUSHES_BEFORE_JOURNAL
from mailq.testing import take


class Said(Disk):
    """A disk to which names are said to come in order, or not to, whatever it really is."""

    def __init__(self, *, in_order: bool) -> None:
        self._in_order = in_order

    def keeps_order(self, path: str) -> bool:
        return self._in_order


@pytest.mark.skipif(not can_syncfs(), reason="there is no syncfs here that reports errors")
def test_a_large_batch_is_synced_at_once_and_before_any_of_it_can_be_seen(path: Path) -> None:
    mailq.open(path)
    disk = FaultyDisk()
    queue = mailq.Queue(MaildirEngine(str(path), disk=disk))
    queue.push("x")  # the queue's own directory is synced once
    disk.arm(None)
    queue.push_many(range(100))
    calls = [call for call in disk.armed_calls if call not in {"open", "close"}]
    assert calls == ["create", "write"] * 100 + ["syncfs"] + ["rename"] * 100 + ["fsync"]


@pytest.mark.parametrize(
    ("durability", "disk"),
    [
        pytest.param("process-crash", Disk(), id="process-crash"),
        pytest.param("power-loss", Said(in_order=False), id="power-loss"),
        pytest.param(
            "power-loss",
            Said(in_order=True),
            id="journal",
            marks=[
                pytest.mark.skipif(not can_syncfs(), reason="there are no journals here"),
                pytest.mark.xfail(
                    reason="an id that is in a journal keeps its time, which is before every place of its batch"
                ),
            ],
        ),
    ],
)
def test_a_retry_overtakes_nothing_that_stood_before_it_in_its_batch(path: Path, durability: str, disk: Disk) -> None:
    mailq.open(path, durability=durability)
    with mailq.Queue(MaildirEngine(str(path), disk=disk)) as queue:
        for _ in range(PUSHES_BEFORE_JOURNAL + 1):
            queue.push("warm")
            take(queue).ack()
        queue.push_many(["first", "second"])
        first, second = take(queue), take(queue)
        second.nack(delay=0)
        first.release()
        assert [take(queue).body, take(queue).body] == ["first", "second"]
