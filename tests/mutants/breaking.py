"""Break mailq in a copy, and see that its tests notice. To try all mutants, or those whose names have a word in them:

python tests/mutants/breaking.py [WORD]...
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import contained
from mutations import MUTANTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mutant import Mutant

ROOT: Final = Path(__file__).parents[2]
_PARTS: Final = ("mailq", "tests", "examples", "docs")
_AT_ONCE: Final = 2
_PATIENCE: Final = {True: 10, False: 60}
"""Seconds that tests wait for what should come: few where a mutant shows by its not coming."""
_ONE_TEST: Final = 120
_ALL_TESTS: Final = 1200
_PASSED: Final = 0
_FAILED: Final = 1
"""pytest's exit codes; others say that no test ran, or that they could not."""

_COMMAND: Final = """\
#!{python}
import sys
from {module} import {function}
sys.exit({function}())
"""


class Outcome(NamedTuple):
    """How it went with a mutant; ``why`` it does not count as caught, if it does not."""

    mutant: Mutant
    why: str = ""


class Copy:
    """A copy of the source with an environment of its own, which does not see the original.

    Tests start processes, some with a PYTHONPATH of their own or by the installed
    command: whatever they do, they must get the copy. What the tests need besides is taken
    from where this process has it, but no ``.pth`` file there counts: an editable install is one.
    """

    def __init__(self, place: Path) -> None:
        self.tree = place / "tree"
        self.tree.mkdir()
        shutil.copy(ROOT / "pyproject.toml", self.tree)
        for part in _PARTS:
            shutil.copytree(ROOT / part, self.tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        self._scratch = place / "scratch"
        self._environment = place / "environment"
        venv.create(self._environment, symlinks=os.name != "nt")
        self._python = self._environment / "bin" / "python"
        (site,) = self._environment.glob("lib/python*/site-packages")
        others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (site / "copy.pth").write_text("\n".join([str(self.tree), *others]))
        module, _, function = _project()["scripts"]["mailq"].partition(":")
        command = self._environment / "bin" / "mailq"
        command.write_text(_COMMAND.format(python=self._python, module=module, function=function))
        command.chmod(0o755)

    def test(self, tests: Iterable[str], *, stalls: bool) -> subprocess.CompletedProcess[str]:
        pytest = [
            str(self._python),
            "-m",
            "pytest",
            "-q",
            "-x",
            "-n0",
            f"--timeout={_ONE_TEST}",
            "-p",
            "no:cacheprovider",
        ]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST", "MAILQ"))}
        return subprocess.run(
            [sys.executable, contained.__file__, str(_ALL_TESTS), *pytest, f"--basetemp={self._scratch}", *tests],
            cwd=self.tree,
            env={
                **kept,
                "PATH": f"{self._python.parent}{os.pathsep}{os.environ['PATH']}",
                "VIRTUAL_ENV": str(self._environment),
                "PYTHONDONTWRITEBYTECODE": "1",
                "TEST_PATIENCE": str(_PATIENCE[stalls]),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def _project() -> dict[str, dict[str, str]]:
    project: dict[str, dict[str, str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def try_unbroken(mutants: Sequence[Mutant]) -> str:
    """Run the tests of all of them on an unbroken copy: else their failure would say nothing. Returns what failed."""
    failed = ""
    with tempfile.TemporaryDirectory(prefix="mailq-mutant-") as place:
        copy = Copy(Path(place))
        for stalls in (False, True):
            tests = dict.fromkeys(test for mutant in mutants if mutant.stalls == stalls for test in mutant.tests)
            done = copy.test(tests, stalls=stalls) if tests else None
            if done is not None and done.returncode != _PASSED:
                failed += done.stdout + done.stderr
    return failed


def try_mutant(mutant: Mutant) -> Outcome:
    """Break a copy, and see whether one of its tests fails."""
    with tempfile.TemporaryDirectory(prefix="mailq-mutant-") as place:
        copy = Copy(Path(place))
        path = copy.tree / mutant.file
        text = path.read_text()
        if text.count(mutant.old) != 1:
            return Outcome(mutant, f"{mutant.file} has the old text {text.count(mutant.old)} times")
        path.write_text(text.replace(mutant.old, mutant.new))
        done = copy.test(mutant.tests, stalls=mutant.stalls)
    said = done.stdout + done.stderr
    if done.returncode == _PASSED:
        return Outcome(mutant, "its tests pass all the same")
    if done.returncode == contained.TIME_IS_UP:
        return Outcome(mutant, "its tests did not end")
    if done.returncode != _FAILED:
        return Outcome(mutant, f"its tests did not run\n{said}")
    if "from pytest-timeout" in said and not mutant.stalls:
        return Outcome(mutant, f"its tests ran out of time, which is not how it should show\n{said}")
    return Outcome(mutant)


def try_all(mutants: Sequence[Mutant]) -> tuple[str, list[Outcome]]:
    """Try them, some at a time, and say how it goes. Returns what failed without any mutant, and the outcomes."""
    outcomes = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        unbroken = pool.submit(try_unbroken, mutants)
        try:
            for outcome in pool.map(try_mutant, mutants):
                print(f"{'MISSED' if outcome.why else 'caught'}  {outcome.mutant.name}", flush=True)  # noqa: T201 - a command's output
                if outcome.why:
                    print(f"        {outcome.why}", flush=True)  # noqa: T201
                outcomes.append(outcome)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return unbroken.result(), outcomes


def main(words: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the copies are removed
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    failure, outcomes = try_all(chosen)
    if failure:
        print(f"the tests fail without any mutant\n{failure}")  # noqa: T201
    caught = sum(not outcome.why for outcome in outcomes)
    print(f"{caught} of {len(outcomes)} mutants were caught")  # noqa: T201
    return 0 if caught == len(outcomes) and not failure else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
