"""Break mailq in a copy, and see that its tests notice. To run all of them, or those whose names have a word in them:

python tests/mutants/breaking.py [WORD]...
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from mutations import MUTANTS, Mutant

ROOT: Final = Path(__file__).parents[2]
FAILED: Final = 1
"""pytest's exit code when tests failed; others say that none ran, or that they could not."""


def is_caught(mutant: Mutant) -> bool:
    """Whether its tests, which pass without it, fail with it. Raises if they did not run."""
    with tempfile.TemporaryDirectory(prefix="mailq-mutant-") as place:
        copy = Path(place)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for directory in ("mailq", "tests", "examples", "docs"):
            shutil.copytree(ROOT / directory, copy / directory, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / mutant.file
        text = path.read_text()
        if text.count(mutant.old) != 1:
            raise ValueError(f"{mutant.name}: {mutant.file} has the old text {text.count(mutant.old)} times")
        path.write_text(text.replace(mutant.old, mutant.new))
        done = _run(mutant, copy)
        if done.returncode not in (0, FAILED):
            raise ValueError(f"{mutant.name}: its tests did not run\n{done.stdout}{done.stderr}")
        return done.returncode == FAILED


def passes(mutant: Mutant) -> bool:
    """Whether its tests pass without it: else their failure says nothing."""
    return _run(mutant, ROOT).returncode == 0


def _run(mutant: Mutant, place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def main(words: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    survivors = 0
    for mutant in chosen:
        try:
            caught = passes(mutant) and is_caught(mutant)
        except ValueError as error:
            print(error)  # noqa: T201 - a command's output
            caught = False
        survivors += not caught
        print(f"{'caught' if caught else 'MISSED'}  {mutant.name}", flush=True)  # noqa: T201
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants were caught")  # noqa: T201
    return min(survivors, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
