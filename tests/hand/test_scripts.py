"""The two POSIX-sh scripts of docs/disk-format.md, cut out of the page and run."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

import mailq

PAGE = Path(__file__).parents[2] / "docs" / "disk-format.md"
PRODUCER, CONSUMER = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    (tmp_path / "push.sh").write_text(PRODUCER)
    (tmp_path / "consume.sh").write_text(CONSUMER)
    return tmp_path


def push(scripts: Path, body: bytes, ext: str = "txt") -> str:
    done = subprocess.run(["sh", "push.sh", "jobs", ext], cwd=scripts, input=body, capture_output=True, check=True)
    return done.stdout.decode().strip()


def consume(scripts: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    arguments = ["sh", "consume.sh", "jobs", *command]
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"  # for the commands: it has mailq
    environment = {**os.environ, "PATH": path, **environment}
    return subprocess.run(arguments, cwd=scripts, capture_output=True, check=True, env=environment)


def test_both_are_about_ten_lines() -> None:
    for script in (PRODUCER, CONSUMER):
        assert len([line for line in script.splitlines() if not line.startswith("#")]) <= 14


def test_what_the_shell_pushes_python_pops(scripts: Path, queue: mailq.Queue) -> None:
    id = push(scripts, b'{"from": "sh"}', "json")
    delivery = queue.pop()
    assert delivery is not None
    assert (delivery.id, delivery.body, delivery.attempt) == (id, {"from": "sh"}, 1)
    assert re.fullmatch(r"[0-9a-f]{32}", id)
    delivery.ack()


def test_what_python_pushes_the_shell_consumes_without_its_headers(scripts: Path, queue: mailq.Queue) -> None:
    queue.push("one\n", headers={"trace": "7"})
    queue.push("two\n")
    assert consume(scripts, "cat").stdout == b"one\ntwo\n"
    assert len(queue) == 0


def test_the_shell_sets_no_time_of_a_file_that_another_queue_has_too(
    scripts: Path, queue: mailq.Queue, path: Path, tmp_path: Path
) -> None:
    queue.push("body")
    (file,) = (path / "new").iterdir()
    os.link(file, tmp_path / "there")
    os.utime(file, (1e9, 1e9))
    assert consume(scripts, "cat").stdout == b"body"
    assert (tmp_path / "there").stat().st_mtime == 1e9


def test_the_shell_takes_over_no_deadline_from_a_wrong_clock(scripts: Path, path: Path) -> None:
    queue = mailq.open(path, lease=0.1)
    queue.push("x")
    (file,) = (path / "new").iterdir()
    os.utime(file, (4_000_000_000, 4_000_000_000))  # in the year 2096
    consume(scripts, "false")
    delivery = queue.pop(wait=20)
    assert delivery is not None
    assert delivery.attempt == 2


def test_a_failed_command_leaves_the_message_to_the_reaper(scripts: Path, path: Path) -> None:
    queue = mailq.open(path, lease=0.1)
    queue.push("x")
    consume(scripts, "false")
    delivery = None
    while delivery is None:
        queue.reap()
        delivery = queue.pop()
    assert delivery.attempt == 2


def test_a_shell_consumer_that_lost_its_lease_harms_nobody(scripts: Path, queue: mailq.Queue, path: Path) -> None:
    """While the command runs its message goes to another holder, whose claim its rm must not touch."""
    queue.push("x")
    done = consume(scripts, "sh", "-c", 'mv jobs/cur/* jobs/new/; mailq pop jobs > "$OUT"', OUT=str(path / "tmp/out"))
    assert b"lease lost" in done.stderr
    (held,) = queue.peek("leased")
    assert held.body == "x"


def test_several_shell_consumers_lose_nothing_and_do_nothing_twice(scripts: Path, queue: mailq.Queue) -> None:
    ids = [push(scripts, f"{n}\n".encode()) for n in range(20)]
    queue.push_many([f"{n}\n" for n in range(20, 100)])
    assert len(set(ids)) == 20
    arguments = ["sh", "consume.sh", "jobs", "cat"]
    consumers = [subprocess.Popen(arguments, cwd=scripts, stdout=subprocess.PIPE) for _ in range(3)]
    bodies = b"".join(consumer.communicate()[0] for consumer in consumers).split()
    assert sorted(map(int, bodies)) == list(range(100))
    assert len(queue) == 0


def test_neither_takes_a_directory_without_a_marker_for_a_queue(scripts: Path) -> None:
    (scripts / "jobs").mkdir()
    for arguments in (["push.sh", "jobs", "txt"], ["consume.sh", "jobs", "cat"]):
        done = subprocess.run(["sh", *arguments], cwd=scripts, input=b"x", capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (1, b"jobs: no queue here\n")


def test_the_shell_consumes_what_a_person_took_back_from_a_holder(
    scripts: Path, queue: mailq.Queue, path: Path
) -> None:
    queue.push("body\n", headers={"trace": "7"})
    assert queue.pop() is not None
    (held,) = (path / "cur").iterdir()
    held.rename(path / "new" / held.name)
    assert consume(scripts, "cat").stdout == b"body\n"
    assert len(queue) == 0
