"""``mailq bench``: what it says, and that it leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command import MAILQ, Shell
from together import PATIENCE, family, is_alive, wait_until

import mailq as library

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

RATES = {"push", "pop-ack", "push-pop-ack", "batch"}


def everything(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def test_it_measures_and_touches_no_message(mailq: Shell, path: Path) -> None:
    queue = library.open(path)
    id = queue.push("mine")
    before = everything(path)
    report = json.loads(mailq("bench", "jobs", "--json", "--seconds", "0.05").stdout)
    assert everything(path) == before
    assert [message.id for message in queue.peek()] == [id]
    assert report["directory"] == str(path)
    assert {durability: set(rates) for durability, rates in report["rates"].items()} == {
        "power-loss": RATES,
        "process-crash": RATES,
    }
    assert all(rate > 0 for rates in report["rates"].values() for rate in rates.values())
    assert report["worker_jobs"] > 0
    assert 0 < report["fsync_seconds"]["median"] <= report["fsync_seconds"]["worst"]
    assert sum("messages a second" in sentence for sentence in report["meaning"]) == 2


def test_it_tells_a_person_what_that_means(mailq: Shell, tmp_path: Path) -> None:
    done = mailq("bench", "not-there-yet", "--seconds", "0.05")
    text = done.stdout.decode()
    assert text.startswith(f"directory    {tmp_path}\nfile system  ")
    heading, *rows = (line.split("\t") for line in text.splitlines() if "\t" in line)
    assert heading == ["messages a second", "power-loss", "process-crash"]
    assert [row[0] for row in rows] == ["push", "pop, ack", "push, pop, ack", "push, pop, ack, by 64"]
    assert "\n- One producer pushes " in text
    assert everything(tmp_path) == set()


@pytest.mark.parametrize(
    ("place", "code", "complaint"),
    [
        ("missing/jobs", 2, "there is no '{}/missing'"),
        ("file", 2, "'{}/file' is no directory"),
        ("file/jobs", 2, "'{}/file' is no directory"),
        ("memory://", 2, "only queues on disk"),
    ],
)
def test_where_no_queue_could_be_it_says_so(
    mailq: Shell, tmp_path: Path, place: str, code: int, complaint: str
) -> None:
    (tmp_path / "file").touch()
    done = mailq("bench", place, code=code)
    assert complaint.format(tmp_path) in done.stderr.decode()
    assert everything(tmp_path) == {"file"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a directory that nobody can write to: /sys")
def test_where_nothing_can_be_written_it_says_so(mailq: Shell) -> None:
    done = mailq("bench", "/sys", code=1)
    assert done.stderr.decode().splitlines()[-1].startswith("mailq: cannot measure: ")


def test_who_is_told_not_to_hang_up_does_not(path: Path, environment: dict[str, str]) -> None:
    """As by ``nohup``, which leaves the signal ignored."""
    library.open(path)
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", MAILQ, "bench", str(path), "--seconds", "1", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        wait_until(lambda: any(path.glob(".mailq-bench-*")), "it has come so far")
        process.send_signal(signal.SIGHUP)
        printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert json.loads(printed)["worker_jobs"] > 0


@pytest.mark.parametrize(
    ("number", "code", "stage", "seconds"),
    [
        (signal.SIGINT, 130, "short-power-loss", "60"),
        (signal.SIGTERM, 143, "short-power-loss", "60"),
        (signal.SIGTERM, 143, "worker", "1"),
    ],
)
def test_what_is_ended_leaves_nothing(
    path: Path, environment: dict[str, str], number: signal.Signals, code: int, stage: str, seconds: str
) -> None:
    library.open(path)
    before = everything(path)
    with subprocess.Popen([MAILQ, "bench", str(path), "--seconds", seconds], env=environment) as process:
        wait_until(lambda: any(path.glob(f".mailq-bench-*/{stage}")), "it has come so far")
        pids: AbstractSet[int] = set(family(process.pid))
        process.send_signal(number)
        assert process.wait(PATIENCE) == code
    assert everything(path) == before
    wait_until(lambda: not [pid for pid in pids if is_alive(pid)], "nothing runs on")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a directory may not be locked")
def test_what_one_that_was_killed_left_the_next_removes_and_nothing_of_one_that_lives(
    mailq: Shell, path: Path, environment: dict[str, str]
) -> None:
    library.open(path)
    before = everything(path)
    command = [MAILQ, "bench", str(path), "--seconds", "60"]
    with subprocess.Popen(command, env=environment) as killed:
        wait_until(lambda: any(path.glob(".mailq-bench-*/short-power-loss")), "it has come so far")
        killed.kill()
    (left,) = path.glob(".mailq-bench-*")
    with subprocess.Popen(command, env=environment) as living:
        wait_until(lambda: not left.exists(), "it has removed what was left")
        wait_until(lambda: any(path.glob(".mailq-bench-*/short-power-loss/mailq.toml")), "it has come so far, too")
        (own,) = path.glob(".mailq-bench-*")
        mailq("bench", "jobs", "--seconds", "0.05")
        assert (own / "short-power-loss/mailq.toml").exists()
        assert living.poll() is None
        living.terminate()
    assert everything(path) == before
