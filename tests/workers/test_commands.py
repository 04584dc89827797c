"""Commands as handlers: what they get, and what becomes of what they print."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command import MAILQ, Shell
from together import wait_until
from working import Work, all_settled, letters

import mailq

ONCE: dict[str, Any] = {"max_retries": 0, "backoff": (0.01, 0.01), "durability": "process-crash"}


def drained(queue: mailq.Queue, line: str, **options: Any) -> None:
    mailq.Worker(queue, ["sh", "-c", line], **options).run(drain=True)


def test_a_command_has_the_body_on_its_input_and_the_rest_in_its_environment(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    out = path.parent / "out"
    id = queue.push(b"\x00\xff\n", headers={"trace-id": "7f\u00fc", "odd name": "x"}, content_type="image/png")
    drained(queue, f"cat > {out}.body; env > {out}.env")
    assert Path(f"{out}.body").read_bytes() == b"\x00\xff\n"
    told = dict(line.split("=", 1) for line in Path(f"{out}.env").read_text().splitlines() if line.startswith("MAILQ_"))
    assert (told["MAILQ_QUEUE"], told["MAILQ_ID"], told["MAILQ_ATTEMPT"]) == (str(path), id, "1")
    assert (told["MAILQ_CONTENT_TYPE"], told["MAILQ_HEADER_TRACE_ID"]) == ("image/png", "7f\u00fc")
    assert told["MAILQ_HEADER_ODD_NAME"] == "x"
    assert float(told["MAILQ_PUSHED_AT"]) == pytest.approx(queue.stats().dead, abs=1e12)
    assert told["MAILQ_RECEIPT"]


def test_what_a_command_prints_passes_through_unless_the_log_is_json_or_it_is_a_reply(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    with Work(path, "--", "sh", "-c", "echo heard; echo seen >&2") as worker:
        queue.push("x")
        wait_until(lambda: all_settled(queue), "it is done")
        assert {"heard", "seen"} <= set(worker.log.split())
        assert queue.request("x").result(30) == "heard"
        assert worker.log.count("heard") == 1
        assert worker.stop() == 0
    with Work(path, "--log-format", "json", "--", "sh", "-c", "echo heard; echo seen >&2") as worker:
        queue.push("x")
        wait_until(lambda: all_settled(queue), "it is done")
        assert worker.stop() == 0
        assert [line for line in worker.log.splitlines() if not line.startswith("{")] == []


def test_what_a_failed_command_wrote_is_kept(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    queue.push("x")
    drained(queue, "echo out; echo err >&2; exit 7")
    (letter,) = queue.peek("dead")
    assert letter.history[0].error == "--- stdout\nout\n--- stderr\nerr\nexit code 7"


def test_of_much_output_the_end_is_kept(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    queue.push("x")
    drained(queue, "seq 1000000; seq 1000000 >&2; exit 1")
    error = queue.peek("dead")[0].history[0].error or ""
    assert len(error) < 40_000
    assert error.count("\n1000000\n") == 2


def test_a_command_that_is_killed_is_killed(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    queue.push("x")
    drained(queue, "kill -9 $$")
    assert list(letters(queue)) == [("x", "killed", "killed by SIGKILL")]


def test_a_killed_command_takes_what_it_started_with_it_only_at_its_limit(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    queue.push("x")
    nap = f"sleep 3603.{os.getpid()}"  # unlike that of a run of these tests beside this one
    mailq.Worker(queue, ["sh", "-c", f"trap '' TERM; {nap} & {nap}"], timeout=0.2, kill_after=0.2).run(drain=True)
    assert [outcome for _, outcome, _ in letters(queue)] == ["timeout"]
    found = subprocess.run(["pgrep", "-f", f"^{nap}"], capture_output=True, check=False)
    assert found.stdout == b""


def test_a_command_is_told_of_its_limit_first(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    queue.push("x")
    mailq.Worker(queue, ["sh", "-c", "trap 'echo cleaned up; exit 9' TERM; sleep 3604 & wait"], timeout=2).run(
        drain=True
    )
    error = queue.peek("dead")[0].history[0].error or ""
    assert error.splitlines() == ["--- stdout", "cleaned up", "exit code 9", "ran longer than its limit of 2 s"]


def test_what_a_command_wrote_before_it_had_to_be_killed_is_kept(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    queue.push("x")
    deaf = ["sh", "-c", "trap '' TERM; echo step 1; echo no answer from the host >&2; sleep 3606"]
    mailq.Worker(queue, deaf, timeout=3, kill_after=0.5).run(drain=True)
    error = queue.peek("dead")[0].history[0].error or ""
    assert error.splitlines() == [
        "--- stdout",
        "step 1",
        "--- stderr",
        "no answer from the host",
        "killed by SIGKILL",
        "ran longer than its limit of 3 s",
    ]


def test_a_reply_is_what_the_command_printed(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    structured, text, failed = queue.request('{"n": 1}'), queue.request("plain"), queue.request("fail")
    drained(queue, 'read -r x; test "$x" != fail && echo "$x"', processes=2)
    assert (structured.result(0), text.result(0)) == ({"n": 1}, "plain")
    with pytest.raises(mailq.JobFailed, match="exit code 1"):
        failed.result(0)


def test_a_command_that_is_not_there_any_more_gives_the_message_back_uncounted(path: Path, tmp_path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    with Work(path, "--", script) as worker:
        script.unlink()
        id = queue.push("x")
        wait_until(lambda: queue.get(id).state == "delayed", "it is given back")
        assert queue.get(id).attempt == 1
        wait_until(lambda: "cannot start" in worker.log, "it is told")
        assert worker.stop() == 0


def test_a_grandchild_that_keeps_the_output_open_does_not_hold_the_job(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    queue.push("x")
    drained(queue, "sleep 3605 & echo done")
    assert queue.stats() == mailq.Stats()


# The shell


def test_drain_works_until_nothing_is_ready(mailq: Shell, shell: Shell) -> None:
    shell("seq 5 | mailq push jobs --lines")
    mailq("push", "jobs", "later", "--delay", "1h")
    done = mailq("drain", "jobs", "-c", "2", "--", "sh", "-c", "x=$(cat); echo $x >> out")
    assert b"attempt 1: ack" in done.stderr
    assert sorted(shell("cat out").stdout.split()) == [b"1", b"2", b"3", b"4", b"5"]
    assert json.loads(mailq("stats", "jobs", "--json").stdout)["delayed"] == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["work", "jobs"], b"'jobs' names no handler"),
        (["work", "jobs", "--"], b"there is no command behind --"),
        (["work", "jobs", "--", "no-such-command"], b"there is no command 'no-such-command'"),
        (["work", "jobs", "nowhere:x"], b"there is no module 'nowhere'"),
        (["work", "os:getcwd"], b"cannot be called with a message alone"),
        (["work", "os.path:basename"], b"brings no queues"),
        (["work", "jobs", "os.path:basename", "--dead", "x"], b"is no pair"),
        (["work", "jobs", "os.path:basename", "--max-rss", "much"], b"is no size"),
        (["work", "jobs", "--threads", "--", "true"], b"leave threads out"),
    ],
)
def test_what_cannot_work_is_one_clear_line(mailq: Shell, arguments: list[str], text: bytes) -> None:
    mailq("init", "jobs")
    done = mailq(*arguments, code=2)
    assert text in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_missing_queue_is_told(mailq: Shell) -> None:
    assert b"there is no queue here" in mailq("work", "jobs", "os.path:basename", code=1).stderr


def test_a_handler_that_fails_to_load_is_told_with_its_traceback(mailq: Shell, shell: Shell) -> None:
    shell("mailq init jobs; echo 'import nothing_like_this' > broken.py")
    # Not the one exit without a traceback: it is what the user needs to see.
    done = subprocess.run([MAILQ, "work", "jobs", "broken:x"], cwd=shell("pwd").stdout.decode().strip(), env={**os.environ}, capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 1
    assert b"Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(b"mailq: the worker cannot start: ModuleNotFoundError")


def test_a_request_from_the_shell(mailq: Shell, tmp_path: Path) -> None:
    mailq("init", "jobs", "--max-retries", "0")
    with Work(tmp_path / "jobs", "handlers:outcome") as worker:
        assert mailq("request", "jobs", '{"deep": [1]}', "--timeout", "30s").stdout == b'{"deep": [1]}\n'
        failed = subprocess.run(
            [MAILQ, "request", "jobs", "raise", "--timeout", "30s"],
            cwd=tmp_path, capture_output=True, check=False,
        )  # fmt: skip
        assert failed.returncode == 1
        assert b"ValueError: no good" in failed.stderr
        assert worker.stop() == 0
    late = mailq("request", "jobs", "x", "--timeout", "0.1s", code=3)
    assert b"no reply to" in late.stderr


def test_pause_and_resume_from_the_shell(mailq: Shell, shell: Shell) -> None:
    mailq("push", "jobs", "x")
    mailq("pause", "jobs")
    assert b"paused" in shell("ls jobs").stdout
    mailq("pop", "jobs", code=3)
    assert b"paused" in mailq("stats", "jobs").stdout
    mailq("resume", "jobs")
    mailq("pop", "jobs")


def test_workers_are_listed(mailq: Shell, tmp_path: Path) -> None:
    mailq("init", "jobs")
    with Work(tmp_path / "jobs", "handlers:noop", "-c", 2) as worker:
        row = mailq("workers", "jobs").stdout.decode().split("\t")
        assert (row[0], row[2], row[4]) == ("running", str(worker.pid), "2")
        assert json.loads(mailq("workers", "jobs", "--json").stdout)["slots"] == 2
        worker.kill()
    assert mailq("workers", "jobs").stdout.startswith(b"dead\t")
    assert mailq("workers", "jobs").stdout == b""
