"""Workers on systems that can do less than Linux."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import elsewhere
import handlers
import pytest
from together import children, wait_until
from working import HERE, OFTEN, Work, all_settled, assert_the_lease_is_kept, letters

import mailq
from mailq.workers import job

THREADS = """
os.O_NONBLOCK = 0  # for filelock, whose part for this system is what is loaded
import mailq, sys, threading
from mailq.workers import job
job._BEATS = 600
queue = mailq.open(sys.argv[1], max_retries=0)
reply, go = queue.request(None), threading.Event()
with mailq.Worker(queue, lambda body: go.wait() and "done", threads=1):
    deadlines = set()
    while len(deadlines) < 4:
        deadlines.update(message.deadline_at for message in queue.peek("leased"))
    go.set()
    print(reply.result(30))
print(queue.stats() == mailq.Stats())
"""


def test_threads_work_on_windows(path: Path) -> None:
    done = elsewhere.run("windows", THREADS, path)
    assert (done.stdout.split("\n"), done.stderr) == (["done", "True", ""], "")


def test_processes_on_windows_are_refused_in_one_clear_line(path: Path) -> None:
    mailq.open(path)
    done = elsewhere.run("windows", f"from mailq.cli.main import main; main({['work', str(path), 'os.path:basename']})")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "mailq: this system cannot fork worker processes; run the handler in threads: --threads, threads=\n"
    )


def test_without_processes_the_worker_itself_keeps_the_leases_of_threads(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_BEATS", OFTEN)
    queue = mailq.open(path, max_retries=0)
    go = path.parent / "go"
    reply = queue.request([str(path.parent / "run"), str(go)])
    before = children(os.getpid())
    monkeypatch.delattr(os, "fork")
    with mailq.Worker(queue, handlers.hold_until, threads=1):
        wait_until((path.parent / "run.1").exists, "it runs")
        assert_the_lease_is_kept(queue, lambda: reply.ready)
        assert children(os.getpid()) == before
        go.touch()
        reply.result(60)
    assert queue.stats() == mailq.Stats()


@pytest.mark.parametrize("system", ["here", "macos"])
def test_what_a_dead_child_has_started_dies_with_it(path: Path, tmp_path: Path, system: str) -> None:
    """On macOS there is no ``os.waitid`` before Python 3.13."""
    (tmp_path / "sitecustomize.py").write_text("import os\ndel os.waitid\n" if system == "macos" else "")
    unlike_others = f"3609.{os.getpid()}"
    queue = mailq.open(path, max_retries=0)
    with Work(path, "handlers:leave_and_exit", "-c", 2, PYTHONPATH=f"{tmp_path}{os.pathsep}{HERE}") as worker:
        queue.push_many([["sleep", unlike_others]] * 4)
        wait_until(lambda: all_settled(queue), "all slots died")
        assert worker.stop() == 0
    assert {(outcome, error) for _, outcome, error in letters(queue)} == {
        ("killed", "the worker process died: exit code 3")
    }
    assert subprocess.run(["pgrep", "-f", f"^sleep {unlike_others}"], capture_output=True, check=False).stdout == b""
