"""The wheel, as a stranger gets it: built, installed in another environment, used from another directory."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from together import PATIENCE

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (built,) = tmp_path.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"mailq"}
    assert "mailq/py.typed" in names
    assert not [name for name in names if "test_" in name]


def test_the_wheel_works_where_the_source_is_not(wheel: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    venv.create(elsewhere / "env", with_pip=False, symlinks=True)
    (site,) = (elsewhere / "env").glob("lib/python*/site-packages")
    run(
        sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", site, wheel, cwd=elsewhere
    )  # fmt: skip
    # Its dependencies are taken from here, behind its own packages.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = elsewhere / "env" / "bin" / "python"
    assert run(python, "-c", "import mailq; print(mailq.__file__)", cwd=elsewhere).startswith(str(site))
    assert run(python, "-m", "mailq", "--version", cwd=elsewhere).startswith("mailq, version ")
    (id,) = run(python, "-m", "mailq", "push", "jobs", '{"a": 1}', cwd=elsewhere).split()
    assert id in run(python, "-m", "mailq", "pop", "jobs", cwd=elsewhere)
