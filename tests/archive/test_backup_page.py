"""The code blocks of docs/backup.md run as they stand, top to bottom, in one directory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import Shell

import mailq as library
from mailq.transfer.jsonl import _KEYS

PAGE = (Path(__file__).parents[2] / "docs/backup.md").read_text()


def test_the_blocks_run_as_they_stand(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 6
    monkeypatch.chdir(tmp_path)
    for kind, code in blocks:
        if kind == "python":
            exec(compile(code, "docs/backup.md", "exec"), {})
        else:
            shell(f"set -euo pipefail\n{code}")
    ids = {message.id for message in library.open("jobs").peek()}
    assert len(ids) == 2
    for name in ("copy", "elsewhere", "again", "urgent", "there", "third"):
        messages = library.open(name, create=False).peek()
        assert {message.id for message in messages} == ids, name
        assert {message.priority for message in messages} == {5 if name == "urgent" else 0}


def test_the_table_has_every_key() -> None:
    told = {key for cell in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE) for key in re.findall(r"`(\w+)`", cell)}
    assert told | {"head", "size", "crc"} == set(_KEYS)
