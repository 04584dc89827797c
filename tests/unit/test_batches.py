"""What a batch costs, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty import FaultyDisk

import mailq
from mailq.engines.disk import can_syncfs
from mailq.engines.maildir.engine import MaildirEngine


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
