"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import elsewhere
import pytest

import mailq
from mailq.cli.main import _COMMANDS

ROOT = Path(mailq.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Each layer may import from itself as far as there is no circle, and from those below it.
LAYERS = [
    ["errors", "alarm", "ids"],
    ["message", "settings"],
    ["policy"],
    ["engines"],
    ["telemetry"],
    ["codecs", "new_message", "reply"],
    ["delivery"],
    ["queue"],
    ["connect"],
    ["workers", "tasks", "aio", "transfer", "measuring"],
    ["__init__"],
    ["testing", "cli"],
    ["__main__"],
]
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}
DURABLE = {"rename", "replace", "unlink", "remove", "fsync", "link", "utime", "mkdir", "makedirs", "rmdir", "chmod"}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("mailq", *(parts[:-1] if parts[-1] == "__init__" and parts[:-1] else parts)))


def level_of(module: str) -> int:
    return LEVEL[module.split(".")[1] if "." in module else "__init__"]


TYPED = {("mailq.delivery", "mailq.queue")}
"""Imported upward for its type: ``Delivery.queue`` is a Queue, for programs that use all of it."""


def imports(path: Path, *, at_top: bool, types: bool = False) -> set[str]:
    """The modules of mailq that a file imports when it runs; those within functions, and for types, only if asked for."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for outer in ast.walk(tree)
        if (not types and isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.unparse(outer.test))
        or (at_top and isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef))
        for node in ast.walk(outer)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mailq":
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                found.add(deeper if deeper in MODULES else str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "mailq"}
    return found


MODULES = {module_of(path): path for path in FILES}


def parsed(kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> list[tuple[str, ast.AST]]:
    return [
        (module, node)
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, kind)
    ]


def test_the_public_names_are_sorted_complete_and_no_more() -> None:
    assert mailq.__all__ == sorted(mailq.__all__)
    public = {name for name, value in vars(mailq).items() if not name.startswith("_") and not inspect.ismodule(value)}
    late = {name: getattr(mailq, name) for name in mailq._LATE}
    named = {name for name, value in late.items() if not inspect.ismodule(value)}
    assert set(mailq.__all__) == (public | named) - {"TYPE_CHECKING", "Any", "Final"}
    for name, value in late.items():
        assert value.__name__ == (name if name in named else mailq._LATE[name])
    assert len(mailq.__all__) <= 33


def test_what_is_loaded_late_is_there_when_asked_for() -> None:
    code = "import mailq; mailq.Worker, mailq.App, mailq.aio.open, mailq.telemetry.attach, mailq.Retry, mailq.Reject"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    loaded = "import sys, mailq; assert not {'asyncio', 'mailq.workers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'missing'"):
        mailq.missing  # noqa: B018 - asking is the test


def test_push_loads_nothing_slow_that_it_has_no_use_for(tmp_path: Path) -> None:
    slow = {"asyncio", "filelock", "importlib.metadata", "pathlib", "rich", "subprocess", "watchdog", "mailq.workers"}
    code = f"""if True:
        import sys
        from mailq.cli.main import main
        try:
            main(["push", "jobs", "{{}}"])
        finally:
            assert not {slow} & set(sys.modules), sys.modules
        """
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:] = {sys.path}\n{code}"], check=True, cwd=tmp_path
    )


@pytest.mark.parametrize("system", elsewhere.SYSTEMS)
def test_every_module_can_be_imported_on(system: str) -> None:
    done = elsewhere.run(system, "for name in modules:\n    print(importlib.import_module(name).__name__)")
    assert done.returncode == 0, done.stderr
    assert {"mailq.__init__", *done.stdout.split()} == set(MODULES) - {"mailq.__main__"}  # that one runs the command


def test_every_module_has_a_layer() -> None:
    assert {module.split(".")[1] for module in MODULES if "." in module} <= set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward_only(module: str) -> None:
    for imported in imports(MODULES[module], at_top=False, types=True):
        if (module, imported) not in TYPED:
            assert level_of(imported) <= level_of(module), f"{module} imports {imported}"


@pytest.mark.parametrize("types", [False, True], ids=["at run time", "with types"])
def test_there_are_no_circles(*, types: bool) -> None:
    graph = {module: imports(path, at_top=True, types=types) for module, path in MODULES.items()}
    graph = {module: {one for one in found if (module, one) not in TYPED} for module, found in graph.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for imported in graph.get(module, ()):
                visit(imported, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_only_what_is_about_directories_names_an_engine() -> None:
    for module, path in MODULES.items():
        # What an archive or an examination is of is a directory, with its names and texts: no verb of the waist tells of them.
        if not module.startswith(
            ("mailq.engines", "mailq.connect", "mailq.transfer", "mailq.measuring", "mailq.cli.doctor")
        ):
            named = {name for name in imports(path, at_top=False) if name.startswith("mailq.engines")}
            assert not named - {"mailq.engines.base"}, module


def test_every_durable_call_stands_in_one_module() -> None:
    for module, node in parsed(ast.Attribute):
        assert isinstance(node, ast.Attribute)
        if isinstance(node.value, ast.Name) and node.value.id in {"os", "shutil"} and node.attr in DURABLE:
            # The command's own temporary file, for the editor, is no file of the queue.
            assert module in {"mailq.engines.maildir.disk", "mailq.cli.edit"}, f"{module}: os.{node.attr}"


def test_no_thread_has_a_member_of_its_own_that_python_uses() -> None:
    """Python 3.13 gave its threads a ``_handle``: a method of that name was not called any more."""
    known = {*dir(threading.Thread()), "_handle", "_os_thread_handle", "_context"}
    for module, node in parsed(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        if any(ast.unparse(base).endswith("Thread") for base in node.bases):
            own = {member.name for member in node.body if isinstance(member, ast.FunctionDef)}
            assert own & known <= {"__init__", "run", "start", "__repr__"}, f"{module}: {own & known}"


def test_every_module_is_described() -> None:
    page = (ROOT.parent / "docs/internals.md").read_text()
    for path in FILES:
        name = path.relative_to(ROOT).as_posix().removeprefix("engines/maildir/")
        if not path.name.startswith("__") and not name.startswith("testing/contract/"):
            assert f"`{name}`" in page or f"`{path.name}`" in page, f"docs/internals.md does not describe {name}"


def test_there_is_no_global_state() -> None:
    assert parsed(ast.Global) == []
    for module in MODULES:
        for name, value in vars(import_module(module if module != "mailq.__init__" else "mailq")).items():
            if not name.startswith("__") and isinstance(value, list | set | bytearray):
                raise AssertionError(f"{module}.{name} can be changed")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_fit(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 55, f"{path.name}: {node.name}"


def test_everything_public_says_what_it_is() -> None:
    for module, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text())), module
    for module, node in parsed((ast.ClassDef, ast.FunctionDef)):
        assert isinstance(node, ast.ClassDef | ast.FunctionDef)
        elsewhere = (
            module.startswith("mailq.engines.") or module == "mailq.aio"
        )  # the waist and the queue document them
        if not node.name.startswith(("_", "test_")) and not elsewhere and not module.startswith("mailq.testing"):
            assert (
                ast.get_docstring(node)
                or node.name in {"list_commands", "get_command", "convert"}
                or _is_local(module, node)
                or any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)
            ), f"{module}: {node.name}"


def _is_local(module: str, node: ast.AST) -> bool:
    """Whether a definition stands within a function."""
    tree = ast.parse(MODULES[module].read_text())
    return any(
        inner.lineno == node.lineno  # type: ignore[attr-defined]
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef)
        for inner in ast.walk(outer)
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) and inner is not outer
    )


def test_the_command_offers_what_the_readme_lists() -> None:
    readme = (ROOT.parent / "README.md").read_text()
    for command in _COMMANDS:
        assert f"`{command}" in readme, command
