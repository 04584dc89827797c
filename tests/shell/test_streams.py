"""Standard streams that are closed, full, empty, or whose reader is gone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest
from command import Shell

import mailq

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")

ONE_LINE: Final = re.compile(rb"mailq: [^\n]+\n")
"""And nothing of Python's own."""


def standing(queue: mailq.Queue) -> tuple[int, int]:
    """How many messages are ready, and how many leased."""
    stats = queue.stats()
    return stats.ready, stats.leased


@pytest.mark.parametrize("streams", ["-n 2 >&-", "-n 2 >/dev/full", "--body >&-"])
def test_what_cannot_be_printed_is_given_back(queue: mailq.Queue, shell: Shell, streams: str) -> None:
    queue.push_many("xy")
    done = shell(f"mailq pop jobs {streams}", code=1)
    assert ONE_LINE.fullmatch(done.stderr), done.stderr
    assert b"given back" in done.stderr
    assert standing(queue) == (2, 0)
    assert [message.attempt for message in queue.peek()] == [1, 1]


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full"])
def test_a_receipt_that_cannot_be_printed_gives_the_message_back(
    queue: mailq.Queue, shell: Shell, streams: str
) -> None:
    queue.push("x")
    shell(f"mailq pop jobs --body {streams}", code=1)
    assert standing(queue) == (1, 0)


def test_what_a_reader_that_has_gone_did_not_take_is_given_back(queue: mailq.Queue, shell: Shell) -> None:
    queue.push_many(range(1000))
    done = shell("set -o pipefail; mailq pop jobs -n 1000 | head -n 1", code=1)
    assert json.loads(done.stdout)["body"] == 0
    assert done.stderr == b""
    ready, leased = standing(queue)
    assert ready > 0
    assert ready + leased == 1000


@pytest.mark.parametrize(
    "command",
    ["ls jobs >&-", "export jobs >&-", "stats jobs >/dev/full", "cat jobs ID >/dev/full", "--help >/dev/full"],
)
def test_output_that_cannot_be_written_is_a_failure_in_one_line(queue: mailq.Queue, shell: Shell, command: str) -> None:
    done = shell(f"mailq {command.replace('ID', queue.push('x'))}", code=1)
    assert ONE_LINE.fullmatch(done.stderr), done.stderr
    assert done.stderr.startswith(b"mailq: cannot write to standard output: ")


@pytest.mark.parametrize("streams", [">&-", ">/dev/full", "| true"])
def test_ids_that_cannot_be_printed_are_told_to_be_stored(queue: mailq.Queue, shell: Shell, streams: str) -> None:
    told = shell(f"set -o pipefail; mailq push jobs one never {streams}", code=1).stderr.decode()
    (message,) = queue.peek()
    assert message.body == "one"
    assert told.startswith(f"mailq: stored {message.id}, but cannot print that: ")
    assert told.endswith("; nothing more was pushed\n")
    some = shell(f"set -o pipefail; seq 3 | mailq push jobs --lines {streams}", code=1)
    ids = [message.id for message in queue.peek()[1:]]
    assert len(ids) == 3
    assert some.stderr.startswith(f"mailq: stored 3 messages, {ids[0]} to {ids[2]}, but cannot print ".encode())
    assert ONE_LINE.fullmatch(some.stderr), some.stderr


def test_a_reply_that_cannot_be_printed_is_told_to_be_there(queue: mailq.Queue, shell: Shell) -> None:
    ids = []
    with mailq.Worker(queue, lambda delivery: ids.append(delivery.id), threads=1):
        done = shell("mailq request jobs x >/dev/full", code=1)
    assert done.stderr.startswith(f"mailq: there is a reply to {ids[0]}, but it cannot be printed: ".encode())


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full"])
def test_what_cannot_be_complained_of_keeps_its_exit_code(queue: mailq.Queue, shell: Shell, streams: str) -> None:
    queue.push("x")
    commands = (f"export jobs jobs.tar {streams}", f"ack jobs nope {streams}", f"drain jobs {streams} -- true")
    done = shell("; ".join(f"mailq {command}; echo $?" for command in commands))
    assert done.stdout.split() == [b"0", b"2", b"0"]


def test_an_empty_standard_input_is_a_message_only_for_a_dash(queue: mailq.Queue, shell: Shell) -> None:
    for command in ("push jobs", "push jobs --content-type image/png", "request jobs"):
        done = shell(f"mailq {command} </dev/null", code=2)
        assert ONE_LINE.fullmatch(done.stderr), done.stderr
        assert b"standard input is empty" in done.stderr
    assert standing(queue) == (0, 0)
    shell("mailq push jobs - </dev/null && mailq push jobs --file - </dev/null && mailq push jobs ''")
    assert [message.raw for message in queue.peek()] == [b""] * 3


@pytest.mark.parametrize(
    "command", ["push jobs", "push jobs -", "push jobs --file -", "push jobs --lines", "request jobs", "import jobs"]
)
def test_a_closed_standard_input_is_refused(queue: mailq.Queue, shell: Shell, command: str) -> None:
    done = shell(f"mailq {command} <&-", code=2)
    assert ONE_LINE.fullmatch(done.stderr), done.stderr
    assert b"standard input is closed" in done.stderr
    assert standing(queue) == (0, 0)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what a descriptor leads to is read from /proc")
def test_no_file_gets_the_place_of_a_closed_stream(queue: mailq.Queue, shell: Shell, tmp_path: Path) -> None:
    """Whatever is printed, by whomever, would be written into it."""
    queue.push("x")
    shell("mailq run jobs -- sh -c 'exec >fds; readlink /proc/$PPID/fd/[0-2]' <&- >&- 2>&-")
    assert (tmp_path / "fds").read_text().split() == ["/dev/null"] * 3


@pytest.mark.parametrize("options", ["-c 1 <&- >&- 2>&-", "--threads >&-"])
def test_handlers_of_a_worker_without_streams_print_to_nobody(
    queue: mailq.Queue, shell: Shell, tmp_path: Path, options: str
) -> None:
    (tmp_path / "loud.py").write_text(
        "import os, subprocess\n"
        "def job(body):\n"
        "    print('x' * 100_000, flush=True)\n"
        "    os.write(1, b'not for the supervisor')\n"
        "    subprocess.run(['echo', 'hello'], check=True)\n"
    )
    queue.push("x", max_retries=0)
    shell(f"mailq drain jobs loud:job {options}")
    assert standing(queue) == (0, 0)
    assert [message.history for message in queue.peek("dead")] == []
