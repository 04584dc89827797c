"""No loop stands in a block that holds a lock, or in a try that has to make good what an interrupt breaks off.

Where a loop turns a thread looks whether an exception is to be raised, and CPython 3.12 and 3.13 do so, for some loops, as if
that place were not within the block: then the lock stays taken, or nothing is made good. A loop in a function that is called from there is safe.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import mailq

ROOT: Final = Path(mailq.__file__).parent
LOOPS: Final = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp)
"""Since CPython 3.12 a comprehension is a loop of the function that it stands in; a generator is not."""

LOCKS: Final = ("_lock", "lock", "_hearing", "no_fork")
FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def within(node: ast.AST) -> Iterator[ast.AST]:
    """What is run in the same function as a block."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, FUNCTIONS):
            yield child
            yield from within(child)


def holding_blocks(tree: ast.AST) -> Iterator[ast.With]:
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            names = [ast.unparse(item.context_expr).rpartition(".")[2] for item in node.items]
            if any(name in LOCKS for name in names):
                yield node


def test_locks_are_found() -> None:
    found = [block for path in ROOT.rglob("*.py") for block in holding_blocks(ast.parse(path.read_text()))]
    assert len(found) > 20


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_loop_stands_in_a_block_that_holds_a_lock(path: Path) -> None:
    for block in holding_blocks(ast.parse(path.read_text())):
        loops = [node.lineno for node in within(block) if isinstance(node, LOOPS)]
        assert not loops, f"lines {loops} of {path.relative_to(ROOT)}: call a function for that"


@pytest.mark.parametrize("path", sorted((ROOT / "engines").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_loop_stands_in_a_try_that_makes_good_what_is_broken_off(path: Path) -> None:
    for block in ast.walk(ast.parse(path.read_text())):
        if isinstance(block, ast.Try) and any(
            "BaseException" in ast.unparse(each.type or each) for each in block.handlers
        ):
            body = [node for statement in block.body for node in (statement, *within(statement))]
            loops = [node.lineno for node in body if isinstance(node, LOOPS)]
            assert not loops, f"lines {loops} of {path.relative_to(ROOT)}: call a function for that"
