"""Measure the source: ``python tests/house/figures.py`` prints what docs/internals.md says of it, in one table."""

from __future__ import annotations

import ast
import io
import re
import sys
import tempfile
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = ROOT / "mailq"
TOOLS: Final = {
    "doctor": ("engines/maildir/doctor/", "cli/doctor.py"),
    "transfer": ("transfer/", "cli/export.py", "cli/import_.py"),
    "bench": ("measuring.py", "cli/bench.py"),
    "top": ("cli/top.py", "cli/top_data.py", "cli/top_view.py"),
}
TWICE: Final = re.compile(r"\b(whoever|told of|but for|so many|likewise|anew|he|she|him|his)\b", re.IGNORECASE)
"""What makes a reader read a sentence twice."""


def modules() -> dict[str, Path]:
    """The modules of the package, without the contract suite."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith("testing/contract"):
            found[name] = path
    return found


def code_lines(path: Path) -> int:
    """The lines of code: no docstrings, no comments, no blank lines."""
    text = path.read_text()
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len({line for line in lines if text.splitlines()[line - 1 : line] != [""]})


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, known: set[str], *, also_types: bool) -> set[str]:
    """The modules that a module imports when it is loaded; with ``also_types``, those for type checkers too."""
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    for node in ast.walk(tree):
        is_late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        is_type = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if is_late or (is_type and not also_types):
            skipped |= {id(inner) for inner in ast.walk(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                found.add(deeper if deeper in known else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


def cycles(*, also_types: bool) -> list[list[str]]:
    """The groups of modules that import each other."""
    paths = {name_of(path): path for path in PACKAGE.rglob("*.py")}
    graph = {name: imports(path, set(paths), also_types=also_types) - {name} for name, path in paths.items()}
    reached = {name: _reachable(name, graph) for name in graph}
    groups = {frozenset({name, *(other for other in reached[name] if name in reached[other])}) for name in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def _reachable(name: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    todo = [name]
    while todo:
        for other in graph[todo.pop()] - found:
            found.add(other)
            todo.append(other)
    return found


def ambiguous_classes() -> dict[str, list[str]]:
    """Class names that stand in more than one module, without those that begin with an underscore."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, path in modules().items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    return {name: where for name, where in places.items() if len(where) > 1}


def ambiguous_modules() -> dict[str, list[str]]:
    """Module names that occur more than once, without packages; one name in the command and elsewhere is the same thing."""
    places: dict[str, list[str]] = defaultdict(list)
    for name in modules():
        stem = Path(name).stem
        if not stem.startswith("__") and not name.startswith("cli/"):
            places[stem].append(name)
    return {stem: where for stem, where in places.items() if len(where) > 1}


def waist() -> dict[str, int]:
    """The number of members of each protocol of the waist."""
    tree = ast.parse((PACKAGE / "engines/base.py").read_text())
    return {
        node.name: sum(isinstance(member, ast.FunctionDef) for member in node.body)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)
    }


def calls(run: Callable[[], object]) -> tuple[int, int]:
    """The number of functions of mailq that are called, and of modules that they stand in."""
    seen: set[tuple[str, int]] = set()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            seen.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return len(seen), len({file for file, _ in seen})


def verbs() -> Iterator[tuple[str, int, int]]:
    """What push, pop and nack call, when the queue is in use."""
    import mailq  # noqa: PLC0415 - only this needs it

    with tempfile.TemporaryDirectory() as directory:
        queue = mailq.open(f"{directory}/jobs", durability="process-crash")
        for _ in range(3):
            queue.push("x")
        with queue.pop() as _:  # type: ignore[union-attr] # it is there
            pass
        yield "push", *calls(lambda: queue.push("x"))
        held: list[mailq.Delivery] = []
        yield "pop", *calls(lambda: held.append(queue.pop()))  # type: ignore[arg-type] # as above
        yield "nack", *calls(lambda: held[0].nack(delay=0))


def sentences() -> Counter[str]:
    """How often words stand in prose that make a reader read twice."""
    found: Counter[str] = Counter()
    texts = [path.read_text() for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]]
    for path in modules().values():
        text = path.read_text()
        tree = ast.parse(text)
        texts += [
            node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        ]
        texts += [
            token.string
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.COMMENT
        ]
    for text in texts:
        found.update(match[1].lower() for match in TWICE.finditer(text))
    return found


def main() -> None:
    lines = {name: code_lines(path) for name, path in modules().items()}
    total = sum(lines.values())
    print(f"{'modules':44}{len(lines)}")
    print(f"{'lines of product code':44}{total}")
    tools = 0
    for tool, prefixes in TOOLS.items():
        count = sum(count for name, count in lines.items() if name.startswith(prefixes))
        tools += count
        print(f"{'  ' + tool:44}{count}")
    print(f"{'  these four as a share':44}{tools / total:.0%}")
    for name, count in waist().items():
        print(f"{'members of ' + name:44}{count}")
    print(f"{'import cycles':44}{len(cycles(also_types=False))}")
    print(f"{'import cycles, with those for types':44}{cycles(also_types=True) or 0}")
    print(f"{'class names in two modules':44}{ambiguous_classes() or 0}")
    print(f"{'module names used twice':44}{ambiguous_modules() or 0}")
    for verb, functions, touched in verbs():
        print(f"{'functions / modules of ' + verb:44}{functions} / {touched}")
    print(f"{'words that make one read twice':44}{sum(sentences().values())} {dict(sentences().most_common(8))}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
