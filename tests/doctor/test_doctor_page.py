"""docs/doctor.md names every check, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from clinic import look
from kinds import DAMAGES

import mailq
from mailq.engines.maildir.doctor import examine

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"


def test_every_check_has_its_line(queue: mailq.Queue, path: Path) -> None:
    explained = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert len(explained) == len(set(explained))
    code = ast.parse(Path(examine.__code__.co_filename).read_text())
    last_words = {  # what a check is called that could not look at all
        node.args[0].value
        for node in ast.walk(code)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "carefully"
        and isinstance(node.args[0], ast.Constant)
    }
    assert set(explained) == {*look(path), *last_words}


def test_every_damage_is_of_a_check_that_is_explained() -> None:
    assert {damage.check for damage in DAMAGES} <= set(
        re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE)
    )


def test_every_check_that_can_find_something_is_tried() -> None:
    """Each is in the table of damages, or in the tests of the ground and of the leases."""
    here = Path(__file__).parent
    tried = "".join(file.read_text() for file in here.glob("*.py") if file != Path(__file__))
    for check in re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE):
        assert f'"{check}"' in tried, check
