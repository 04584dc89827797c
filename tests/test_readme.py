"""The README's code blocks run as they stand, top to bottom, in one directory."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from together import PATIENCE

import mailq

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"(<!-- ci: \w+ -->\n)?```(python|sh)\n(.*?)```", README.read_text(), re.DOTALL)
RUN = [(kind, code) for mark, kind, code in BLOCKS if not mark]  # the marked ones are CI's own commands


def test_the_blocks_run_as_they_stand_and_complain_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert {kind for kind, _ in RUN} == {"python", "sh"}
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    environment = {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"}
    for kind, code in RUN:
        if kind == "python":
            exec(compile(code, str(README), "exec"), namespace)
            assert capfd.readouterr().err == "", code
        else:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", code],
                env=environment,
                capture_output=True,
                check=False,
                timeout=PATIENCE,
            )
            assert done.returncode == 0, (code, done.stderr)
            assert b"Traceback" not in done.stderr, (code, done.stderr)


def test_the_first_example_runs_when_another_consumer_was_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mailq.Queue, "push", lambda queue, body: "it is taken at once")
    exec(compile(next(code for kind, code in RUN if kind == "python"), str(README), "exec"), {})
    assert capfd.readouterr() == ("", "")


def test_no_example_relies_on_finding_a_message() -> None:
    """pop() returns None where nothing is ready: what does not ask for that fails with an error of Python's own."""
    relies = re.compile(r"with (await )?\w+\.pop\(|^(>>> )?\w+ = (await )?\w+\.pop\(|\.pop\([^()]*\)\.\w", re.MULTILINE)
    for page in (README, *README.parent.glob("docs/*.md"), Path(mailq.__file__)):
        assert relies.search(page.read_text()) is None, (page.name, relies.findall(page.read_text()))


def test_each_command_of_ci_is_one_line() -> None:
    marked = [code for mark, _, code in BLOCKS if mark]
    assert [code.count("\n") for code in marked] == [1, 1, 1]


def test_every_link_within_the_project_leads_somewhere() -> None:
    for text in (README, *(README.parent / "docs").glob("*.md"), README.parent / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text.read_text()):
            assert (text.parent / target).exists(), (text.name, target)
