"""How a worker ends: at a deploy, at once, and with kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from together import PATIENCE, family, is_alive, wait_until
from working import HERE, Work, all_settled

import mailq
from mailq.workers.channel import Helper


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_jobs_finish_within_the_grace(path: Path, number: signal.Signals) -> None:
    queue = mailq.open(path)
    go = path.parent / "go"
    queue.push_many([[str(path.parent / f"run{n}"), str(go)] for n in range(20)])
    with Work(path, "handlers:hold_until", "-c", 20, "--grace", "1h") as worker:
        wait_until(lambda: queue.stats().leased == 20, "all 20 run")
        worker.signal(number)
        wait_until(lambda: "stopping" in worker.log, "the signal is heard")
        queue.push("not to be begun")
        go.touch()
        assert worker.wait() == 0
        assert worker.log.count("attempt 1: ack") == 20
    assert queue.stats()._replace(bytes=0, oldest_ready_age=None) == mailq.Stats(ready=1)
    assert os.listdir(path / "owners") == []


def test_what_is_not_finished_within_the_grace_is_released_uncounted(path: Path) -> None:
    queue = mailq.open(path)
    queue.push_many([3600.0] * 20)
    with Work(path, "handlers:nap", "-c", 20, "--grace", "0.5s") as worker:
        wait_until(lambda: queue.stats().leased == 20, "all 20 run")
        assert worker.stop() == 0
    assert [message.attempt for message in queue.peek("ready", None)] == [1] * 20
    assert [message.history for message in queue.peek("ready", None)] == [[]] * 20
    assert os.listdir(path / "owners") == []


def test_an_interrupted_job_can_clean_up(path: Path) -> None:
    queue = mailq.open(path)
    runs, said = path.parent / "runs", path.parent / "said"
    queue.push([str(runs), str(said)])
    with Work(path, "handlers:clean_up", "--grace", "0.1s") as worker:
        wait_until(runs.exists, "it runs")
        assert worker.stop() == 0
    assert said.read_text() == " cleaned up"
    assert queue.stats().ready == 1


def test_a_second_signal_ends_it_at_once(path: Path) -> None:
    queue = mailq.open(path)
    queue.push_many(["hang deaf"] * 3)
    with Work(path, "handlers:outcome", "-c", 3, "--grace", "1h", "--kill-after", "1h") as worker:
        wait_until(lambda: queue.stats().leased == 3, "they run")
        worker.signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in worker.log, "the first is heard")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert [message.attempt for message in queue.peek("ready")] == [1] * 3


def test_a_killed_supervisor_takes_everything_with_it_and_its_messages_are_back_in_seconds(path: Path) -> None:
    queue = mailq.open(path, lease=3600)
    queue.push_many(["hang deaf", "hang in children", "hang"])
    with Work(path, "handlers:outcome", "-c", 3) as worker:
        wait_until(lambda: queue.stats().leased == 3 and len(worker.processes()) >= 8, "they run")
        worker.kill()
        worker.gone()
        wait_until(
            lambda: queue.reap().returned >= 0 and queue.stats().ready == 3, "they are back before their leases end"
        )
    assert [message.history[0].outcome for message in queue.peek("ready")] == ["killed"] * 3


def test_a_killed_supervisor_of_commands_takes_them_with_it(path: Path) -> None:
    queue = mailq.open(path, lease=3600)
    queue.push_many([1, 2])
    with Work(path, "-c", 2, "--", "sh", "-c", "trap '' TERM; sleep 3602; sleep 3602") as worker:
        wait_until(lambda: len(worker.processes()) >= 8, "they run")
        worker.kill()


@pytest.mark.parametrize(
    "arguments", [["handlers:outcome"], ["--", "sh", "-c", "trap '' TERM; read -r x; exec sleep 3611"]]
)
def test_when_supervisor_and_fork_server_are_killed_at_once_nothing_runs_on(path: Path, arguments: list[str]) -> None:
    """Nobody is left to kill the others: each process has asked the kernel to."""
    queue = mailq.open(path, lease=3600)
    queue.push_many(["hang", "hang deaf"])
    with Work(path, "-c", 2, *arguments) as worker:
        wait_until(lambda: queue.stats().leased == 2, "they run")
        if "--" in arguments:
            wait_until(lambda: len(worker.processes()) == 6, "the commands are there")
        everybody = worker.processes()
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: neither sees the other's end
            for pid in everybody[:2]:
                os.kill(pid, number)
        worker.wait()
        worker.gone()
        wait_until(lambda: queue.reap().returned >= 0 and queue.stats().ready == 2, "they are back")
    assert [message.history[0].outcome for message in queue.peek("ready")] == ["killed"] * 2


def test_a_killed_fork_server_is_replaced_and_its_jobs_are_tried_again(path: Path) -> None:
    queue = mailq.open(path, backoff=(0.01, 0.01))
    go = path.parent / "go"
    queue.push([str(path.parent / "run"), str(go)])
    with Work(path, "handlers:hold_until") as worker:
        wait_until((path.parent / "run.1").exists, "it runs")
        forkserver = family(worker.pid)[1]
        os.kill(forkserver, signal.SIGKILL)
        wait_until((path.parent / "run.2").exists, "it runs again")
        go.touch()
        wait_until(lambda: all_settled(queue), "it is done")
        assert worker.stop() == 0


def test_an_idle_process_that_is_killed_is_replaced(path: Path) -> None:
    queue = mailq.open(path)
    with Work(path, "handlers:tell_pid") as worker:
        first = queue.request(None).result(30)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: worker.slots() != [first] and len(worker.slots()) == 1, "another is there")
        assert queue.request(None).result(30) != first
        assert "died without a job: killed by SIGKILL" in worker.log
        assert worker.stop() == 0


@pytest.mark.parametrize("module", ["heartbeat", "forkserver"])
def test_a_process_whose_supervisor_is_done_before_it_has_started_ends_without_a_word(
    capfd: pytest.CaptureFixture[str], module: str
) -> None:
    helper = Helper(f"mailq.workers.{module}")
    helper.close()
    assert helper.process.returncode == 0
    assert capfd.readouterr().err == ""


def test_code_is_loaded_anew_on_sighup_while_the_old_job_ends(path: Path, tmp_path: Path) -> None:
    queue = mailq.open(path)
    code = tmp_path / "changing.py"
    slow = "import handlers\ndef handle(delivery):\n    if isinstance(delivery.body, list):\n        handlers.hold_until(delivery)\n    return "
    code.write_text(f"{slow}'old'\n")
    go = tmp_path / "go"
    with Work(path, f"{code}:handle", "-c", 2) as worker:
        held = queue.request([str(tmp_path / "run"), str(go)])
        wait_until((tmp_path / "run.1").exists, "the old job runs")
        assert queue.request("x").result(30) == "old"
        code.write_text(f"{slow}'new one'\n")
        worker.signal(signal.SIGHUP)
        wait_until(lambda: queue.request("x").result(30) == "new one", "the new code is there")
        go.touch()
        assert held.result(30) == "old"
        wait_until(lambda: len(worker.slots()) == 2, "the old processes are gone")
        assert worker.stop() == 0


def test_new_code_that_does_not_load_leaves_the_old_at_work(path: Path, tmp_path: Path) -> None:
    queue = mailq.open(path)
    code = tmp_path / "changing.py"
    code.write_text("def handle(body):\n    return 'old'\n")
    with Work(path, f"{code}:handle") as worker:
        assert queue.request("x").result(30) == "old"
        code.write_text("def handle(body) oops\n")
        worker.signal(signal.SIGHUP)
        wait_until(lambda: "SyntaxError" in worker.log, "the failure is told")
        assert queue.request("x").result(30) == "old"
        code.write_text("def handle(body):\n    return 'mended one'\n")
        worker.signal(signal.SIGHUP)
        wait_until(lambda: queue.request("x").result(30) == "mended one", "the mended code is there")
        assert worker.stop() == 0


def test_it_stops_when_its_terminal_is_closed(path: Path) -> None:
    queue = mailq.open(path)
    ours, theirs = os.openpty()
    line = ["setsid", "--ctty", "--wait", sys.executable, "-m", "mailq", "work", str(path), "handlers:echo"]
    environment = {**os.environ, "PYTHONPATH": HERE}
    with subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as outer:
        os.close(theirs)
        assert queue.request(1).result(30) == 1
        everybody = family(outer.pid)
        os.close(ours)
        wait_until(lambda: not [pid for pid in everybody if is_alive(pid)], "it is gone")
    assert os.listdir(path / "owners") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a process namespace")
def test_it_works_as_the_first_process_of_a_container(path: Path) -> None:
    """No default action of a signal protects process 1, and orphans become its children."""
    queue = mailq.open(path)
    orphan = "(sleep 0.1 &) ; true"
    line = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-m", "mailq", "work"]
    with subprocess.Popen([*line, path, "--", "sh", "-c", orphan], stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": HERE}) as outer:  # fmt: skip
        try:
            queue.push_many(range(5))
            wait_until(lambda: all_settled(queue), "the jobs are done")
            worker = family(outer.pid)[1]
            os.kill(worker, signal.SIGTERM)
            assert outer.wait(PATIENCE) == 0
            assert not is_alive(worker)
        finally:
            outer.kill()
