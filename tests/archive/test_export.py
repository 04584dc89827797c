"""What an export does not find in the directories it tells of."""

from __future__ import annotations

import io
from pathlib import Path

import mailq
from mailq import archive
from mailq.engines.maildir.journal import encode


def test_an_export_beside_a_journal_that_nobody_has_replayed_is_not_certain(path: Path) -> None:
    queue = mailq.open(path)
    queue.push("there")
    name = "20261121T013205.123456789Z,01936f0c2b7d7a3e9c41b6d07f52e811,size=1,crc=8cdc1683.bin"
    (path / "journal").mkdir()
    (path / "journal" / "7f3a9c01").write_bytes(encode("7f3a9c01", 1, "new", name, b"x"))
    told: list[str] = []
    assert archive.export_to(path, io.BytesIO(), tell=told.append) == archive.Exported(1, certain=False)
    assert "'mailq reap' replays it" in told[0]
    queue.reap()
    assert archive.export_to(path, io.BytesIO(), tell=told.append) == archive.Exported(2)
