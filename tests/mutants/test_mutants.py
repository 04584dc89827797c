"""Each way of breaking mailq is noticed by a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import breaking
import contained
import pytest
from breaking import ROOT
from mutant import Mutant
from mutations import MUTANTS
from together import is_alive

# The table


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mutant_still_fits_the_source(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    assert mutant.new != mutant.old
    assert mutant.tests
    if mutant.file.endswith(".py"):
        compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")  # any test would notice what does not


def test_there_is_one_mutant_of_a_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_the_tests_of_each_mutant_are_there() -> None:
    files = {test.partition("::")[0] for mutant in MUTANTS for test in mutant.tests}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *sorted(files)]
    # How much is said of each is read here, whatever else is wished for.
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=env)
    found = set()
    for line in done.stdout.splitlines():
        node = line.partition("[")[0]
        found |= {line, node, node.partition("::")[0]}
    assert {test for mutant in MUTANTS for test in mutant.tests} <= found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_mutant_is_caught() -> None:
    failure, outcomes = breaking.try_all(MUTANTS)
    assert not failure
    assert [outcome.mutant.name for outcome in outcomes if outcome.why] == []


# Its runner

WHERE = """\
import subprocess, sys
from command import MAILQ
import mailq

def test_where_it_comes_from():
    code = "import mailq; print(mailq.__file__)"
    theirs = subprocess.check_output([sys.executable, "-c", code], env={"PYTHONPATH": "/"}, text=True, cwd="/")
    assert theirs.strip() == mailq.__file__
    assert "tree" in mailq.__file__
    assert subprocess.run([MAILQ, "--version"], cwd="/").returncode == 77
"""


@pytest.mark.skipif(sys.platform == "win32", reason="mutants are tried where there is a shell")
def test_a_copy_does_not_see_the_original(tmp_path: Path) -> None:
    copy = breaking.Copy(tmp_path)
    (copy.tree / "mailq/cli/main.py").write_text("import sys\n\ndef main():\n    sys.exit(77)\n")
    (copy.tree / "tests/test_where.py").write_text(WHERE)
    done = copy.test(["tests/test_where.py"], stalls=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone lets one have the orphans")
@pytest.mark.parametrize("ending", ["exit 3", "sleep 1000"])
def test_nothing_that_a_broken_test_started_lives_on(tmp_path: Path, ending: str) -> None:
    script = f"setsid sh -c 'sleep 1000 & echo $$ $! > pids.part; mv pids.part pids; wait' & until [ -e pids ]; do sleep 0.01; done; {ending}"
    done = subprocess.run([sys.executable, contained.__file__, "2", "sh", "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == (3 if ending == "exit 3" else contained.TIME_IS_UP)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert not [pid for pid in pids if is_alive(pid)]
