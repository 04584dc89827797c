from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import MAILQ, Shell
from together import wait_until

import mailq as library


@pytest.fixture
def receipt(mailq: Shell) -> str:
    mailq("push", "jobs", "work")
    return str(json.loads(mailq("pop", "jobs").stdout)["receipt"])


def stats(tmp_path: Path) -> library.Stats:
    return library.open(tmp_path / "jobs").stats()


@pytest.mark.quick
def test_ack_removes_and_says_nothing(mailq: Shell, receipt: str, tmp_path: Path) -> None:
    done = mailq("ack", "jobs", receipt)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert stats(tmp_path).leased == 0


@pytest.mark.parametrize("verb", [["ack"], ["nack"], ["release"], ["reject"], ["extend", "--for", "1m"]])
def test_a_stale_receipt_is_exit_code_4_and_leaves_the_new_holder_alone(
    mailq: Shell, receipt: str, tmp_path: Path, verb: list[str]
) -> None:
    mailq("release", "jobs", receipt)
    holder = json.loads(mailq("pop", "jobs").stdout)
    done = mailq(verb[0], "jobs", receipt, *verb[1:], code=4)
    assert done.stderr.startswith(f"mailq: cannot {verb[0]}: the lease is gone".encode())
    assert done.stderr.count(b"\n") == 1
    mailq("ack", "jobs", holder["receipt"])


def test_every_receipt_is_tried_whatever_becomes_of_the_others(mailq: Shell, receipt: str, tmp_path: Path) -> None:
    mailq("push", "jobs", "second")
    second = json.loads(mailq("pop", "jobs").stdout)["receipt"]
    mailq("ack", "jobs", receipt)
    mailq("ack", "jobs", receipt, second, code=4)
    assert stats(tmp_path).leased == 0


@pytest.mark.parametrize("bad", ["../../etc/passwd", "/etc/passwd", "", "x" * 10_000, "é\n"])
def test_what_is_no_receipt_is_refused_in_one_line(mailq: Shell, bad: str) -> None:
    mailq("init", "jobs")
    done = mailq("ack", "jobs", bad, code=2)
    assert b"is not a receipt" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert len(done.stderr) < 300


def test_nack_counts_keeps_the_error_and_waits(mailq: Shell, receipt: str, tmp_path: Path) -> None:
    mailq("nack", "jobs", receipt, "--delay", "5m", "--error", "no disk")
    (message,) = library.open(tmp_path / "jobs").peek("delayed")
    assert message.attempt == 2
    assert [(a.outcome, a.error) for a in message.history] == [("error", "no disk")]


def test_release_does_not_count(mailq: Shell, receipt: str) -> None:
    mailq("release", "jobs", receipt)
    assert json.loads(mailq("pop", "jobs").stdout)["attempt"] == 1


def test_reject_buries_with_the_reason(mailq: Shell, receipt: str) -> None:
    mailq("reject", "jobs", receipt, "--reason", "no such customer")
    (dead,) = (json.loads(line) for line in mailq("ls", "jobs", "--state", "dead", "--json").stdout.splitlines())
    assert dead["reason"] == "rejected"
    assert b"no such customer" in mailq("show", "jobs", dead["id"]).stdout


def test_extend_moves_the_deadline(mailq: Shell, receipt: str, tmp_path: Path) -> None:
    mailq("extend", "jobs", receipt, "--for", "2h")
    (message,) = library.open(tmp_path / "jobs").peek("leased")
    assert message.deadline_at is not None
    assert message.deadline_at > message.pushed_at + 7000


def run(mailq: Shell, *arguments: str, **options: Any) -> bytes:
    return bytes(mailq("run", "jobs", *arguments, **options).stdout)


def test_run_hands_the_body_to_the_command_and_acks(mailq: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", '{"n": 1}')
    assert run(mailq, "--", "cat") == b'{"n": 1}'
    assert stats(tmp_path)[:4] == (0, 0, 0, 0)


def test_run_tells_the_command_about_the_message(mailq: Shell, tmp_path: Path) -> None:
    (id,) = mailq("push", "jobs", "x", "--header", "trace-id=7").stdout.decode().split()
    output = run(
        mailq,
        "--",
        "sh",
        "-c",
        'echo "$MAILQ_ID $MAILQ_ATTEMPT $MAILQ_QUEUE $MAILQ_CONTENT_TYPE $MAILQ_HEADER_TRACE_ID"',
    )
    assert output.decode().split() == [id, "1", str(tmp_path / "jobs"), "text/plain", "7"]


def test_run_nacks_a_failure_with_the_end_of_its_stderr(mailq: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", "x")
    done = mailq("run", "jobs", "--", "sh", "-c", "echo out; echo broken pipe in engine 3 >&2; exit 7", code=1)
    assert done.stdout == b"out\n"
    assert done.stderr == b"broken pipe in engine 3\n"
    (message,) = library.open(tmp_path / "jobs").peek("delayed")
    assert [a.error for a in message.history] == ["broken pipe in engine 3\nexit code 7"]


def test_run_tells_a_signal_from_an_exit_code(mailq: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", "x")
    mailq("run", "jobs", "--", "sh", "-c", "kill -9 $$", code=1)
    (message,) = library.open(tmp_path / "jobs").peek("delayed")
    assert message.history[0].error == "killed by SIGKILL"


def test_run_pops_nothing_for_a_command_that_is_not_there(mailq: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", "x")
    done = mailq("run", "jobs", "--", "no-such-command", code=2)
    assert b"there is no command 'no-such-command'; nothing was popped" in done.stderr
    assert stats(tmp_path).ready == 1


def test_run_extends_its_lease_while_the_command_runs(mailq: Shell, shell: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", "x")
    os.mkfifo(tmp_path / "started")
    os.mkfifo(tmp_path / "stop")
    often = "from mailq.cli import main, run; run._BEATS = 600; main.main()"
    shell(
        f"{sys.executable} -c '{often}' run jobs -- sh -c 'echo > started; read end < stop' > log 2>&1 & "
        "read begun < started"
    )
    queue = library.open(tmp_path / "jobs")
    deadlines: set[float | None] = set()

    def are_told() -> bool:
        deadlines.update(message.deadline_at for message in queue.peek("leased"))
        return len(deadlines) > 3

    wait_until(are_told, "its lease is extended")
    (tmp_path / "stop").write_text("\n")
    wait_until(lambda: not queue.stats().leased, "it has ended")
    assert len(queue) == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="how often a process was woken is read from /proc")
def test_run_sleeps_until_the_end_of_a_command_whose_lease_is_lost(tmp_path: Path, environment: dict[str, str]) -> None:
    queue = library.open(tmp_path / "jobs", lease=0.3, reap_interval=0.05)
    queue.push("x")
    for name in ("started", "stop"):
        os.mkfifo(tmp_path / name)
    command = [MAILQ, "run", "jobs", "--", "sh", "-c", "echo > started; read end < stop"]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=log) as process,
    ):
        (tmp_path / "started").read_text()
        try:
            process.send_signal(signal.SIGSTOP)
            delivery = queue.pop(wait=60, lease=600)
            assert delivery is not None
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: b"its result will not count" in (tmp_path / "log").read_bytes(), "it notices the loss")
            wait_until(lambda: sleeps(process.pid), "it sleeps")
        finally:
            process.send_signal(signal.SIGCONT)
            (tmp_path / "stop").write_text("\n")
        assert process.wait(60) == 4
    delivery.ack()
    assert len(queue) == 0


def sleeps(pid: int) -> bool:
    """Whether the first thread of a process sleeps through half a second."""

    def naps() -> list[str]:
        return re.findall(r"^voluntary_ctxt_switches:.*", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)

    before = naps()
    time.sleep(0.5)
    return naps() == before


def test_run_releases_uncounted_when_it_is_interrupted(mailq: Shell, shell: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", "x")
    done = shell(
        "mkfifo started; mailq run jobs -- sh -c 'echo > started; exec tail -f /dev/null' & "
        "read begun < started; kill -TERM $!; wait $!; echo $?"
    )
    assert done.stdout == b"143\n"
    (message,) = library.open(tmp_path / "jobs").peek("ready")
    assert message.attempt == 1


def test_a_killed_run_gives_its_message_back_at_once(mailq: Shell, shell: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", "x")
    shell(
        "mkfifo started; mailq run jobs -- sh -c 'echo $$ > started; exec tail -f /dev/null' & "
        "read child < started; kill -KILL $!; wait $!; kill $child"
    )
    delivery = library.open(tmp_path / "jobs").pop(wait=60)
    assert delivery is not None
    assert [a.outcome for a in delivery.history] == ["killed"]


def test_a_command_that_finishes_its_work_when_told_to_stop_is_acked(
    mailq: Shell, shell: Shell, tmp_path: Path
) -> None:
    mailq("push", "jobs", "x")
    done = shell(
        "mkfifo started stop; mailq run jobs -- sh -c 'trap \"\" TERM; echo > started; read end < stop; exit 0' & "
        "read begun < started; kill -TERM $!; echo > stop; wait $!; echo $?"
    )
    assert done.stdout == b"0\n"
    assert len(library.open(tmp_path / "jobs")) == 0


def test_a_reader_of_stderr_that_goes_away_does_not_hang_the_command(
    mailq: Shell, shell: Shell, tmp_path: Path
) -> None:
    mailq("push", "jobs", "x")
    shell("mailq run jobs -- sh -c 'for i in $(seq 20000); do echo line $i >&2; done' 2>&1 | head -n 1")
    assert len(library.open(tmp_path / "jobs")) == 0
