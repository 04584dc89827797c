"""The systemd units of the documentation are such that systemd ignores nothing in them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
UNITS = [
    (page.name, unit, kind.lower())
    for page in PAGES
    for unit in re.findall(r"^```ini\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    for kind in re.findall(r"^\[(Service|Timer|Path|Socket)\]$", unit, re.MULTILINE)
]


def test_there_are_some() -> None:
    assert any(kind == "service" for _, _, kind in UNITS)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here (package systemd)")
@pytest.mark.parametrize(("unit", "kind"), [unit[1:] for unit in UNITS], ids=[unit[0] for unit in UNITS])
def test_systemd_has_no_complaint(tmp_path: Path, unit: str, kind: str) -> None:
    file = tmp_path / f"mailq.{kind}"
    # The program that it starts is not on this machine.
    file.write_text(re.sub(r"^(Exec\w+=)/\S+", r"\1/bin/sh", unit, flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", file], capture_output=True, text=True, check=False
    )
    # What it ignores it tells, and ends with 0; it also tells of this machine's other units.
    assert [line for line in done.stderr.splitlines() if file.name in line] == []
    assert done.returncode == 0, done.stderr
