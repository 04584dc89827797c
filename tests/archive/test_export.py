"""What an export makes of files that are not where their message belongs."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from making import BORN, imported, lay, make, plain, rows

import mailq
from mailq import transfer
from mailq.engines.maildir import names
from mailq.engines.maildir.journal import encode
from mailq.ids import NS
from mailq.message import RestingState


def test_an_export_beside_a_journal_that_nobody_has_replayed_is_not_certain(path: Path) -> None:
    queue = mailq.open(path)
    queue.push("there")
    name = "20261121T013205.123456789Z,01936f0c2b7d7a3e9c41b6d07f52e811,size=1,crc=8cdc1683.bin"
    (path / "journal").mkdir()
    (path / "journal" / "7f3a9c01").write_bytes(encode("7f3a9c01", 1, "new", name, b"x"))
    told: list[str] = []
    assert transfer.export(path, io.BytesIO(), tell=told.append) == transfer.Exported(1, certain=False)
    assert "'mailq reap' replays it" in told[0]
    queue.reap()
    assert transfer.export(path, io.BytesIO(), tell=told.append) == transfer.Exported(2)


@pytest.mark.parametrize("state", ["ready", "delayed", "dead"])
@pytest.mark.parametrize("how", ["export", "plain tar"])
def test_a_message_whose_editor_died_is_in_an_archive_in_the_state_that_it_came_from(
    tmp_path: Path, state: RestingState, how: str
) -> None:
    source = make(tmp_path / "source")
    item = plain(1, state=state, tries="Rj" if state == "dead" else "", dead=state == "dead")
    held = item.envelope.claimed(until=NS, owner="abcd", claim="1")._replace(edit=state, size=None, crc=None)
    os.rename(lay(source, item), f"{source}/cur/{names.format_name(held)}")
    stream = io.BytesIO()
    if how == "export":
        transfer.export(source, stream)
    else:
        with tarfile.open(fileobj=stream, mode="w") as file:
            file.add(source, ".")
    imported(tmp_path / "target", stream.getvalue(), create=True)
    message = mailq.open(tmp_path / "target").get(item.envelope.id)
    assert (message.state, message.raw, message.attempt) == (state, b"body", 1)
    assert message.reason == ("rejected" if state == "dead" else "")
    assert message.died_at == (BORN / NS if state == "dead" else None)
    (line,) = rows(source).values()
    assert line["state"] == state
