"""The bench: that its arithmetic is right, and that it runs. How fast anything is, is not asked here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_a_quick_bench_says_everything_in_json(tmp_path: Path) -> None:
    done = run("--quick", "--only", "push,syncs", "--sides", "mailq,floor", "--json", "--dir", tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["file_system"]["directory"] == str(tmp_path)
    pushed = [result for result in told["results"] if result["section"] == "push"]
    assert {(result["side"], result["durability"]) for result in pushed} == {
        (side, durability) for side in ("mailq", "floor") for durability in ("power-loss", "process-crash")
    }
    assert all(len(result["values"]) == 1 and result["median"] > 0 for result in pushed)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_begin_is_refused_clearly(tmp_path: Path) -> None:
    done = run("--quick", "--dir", tmp_path / "missing")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "missing" in done.stderr
