"""What reaches a terminal, seen through a pseudo-terminal: mailq's own colours, and nothing that others wrote."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest
import using
from command import MAILQ

import mailq

# Sets a title, clears, colours, answers back, moves up; the last three in one character, and a text that runs backwards.
EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[6n\r\x1b[A\x9b2J\x9d0;owned\x9c\u202eback\b\x0c\x00"
# What a table, a title in bold and a live screen consist of.
OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?(?:25|1049)[hl]|\x1b\[H|\x1b\[[0-9]*[AGK]|\x1b\[2K")


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A queue in which everything that can be written holds escapes; its path too."""
    path = tmp_path / "jobs\x1b[31m"
    queue = mailq.open(path, durability="process-crash", max_retries=0)
    clean = EVIL.replace("\0", "")
    for state in ("new", "later", "cur", "dead"):
        (path / state / f"{clean}.json").write_text("x")
        (path / state / f"{clean}\n\t.txt").write_text(EVIL)
    queue.push(EVIL, headers={EVIL: EVIL}, content_type=f"text/{EVIL}")
    queue.push({EVIL: [EVIL]}, delay=1000)
    for _ in range(2):
        delivery = queue.pop()
        assert delivery is not None
        delivery.nack(error=f"{EVIL}\n{EVIL}")
    queue.pop()
    story = {
        "stage": EVIL,
        "slots": EVIL,
        "done": EVIL,
        "host": EVIL,
        "since": 1.5,
        "pid": 7,
        "jobs": [{"id": EVIL, "since": 1.0}],
    }
    (path / "owners" / "cafe").write_text(json.dumps(story))
    queue.publish({**story, EVIL: EVIL})
    (path / "origins").mkdir()
    (path / "origins" / "deadbeef").write_text(EVIL)
    (path / "new" / f"20261121T013205.123456789Z,{'0' * 32},from=deadbeef.txt").write_text("x")
    return str(path)


def seen(*arguments: str, keys: bytes = b"") -> str:
    """What ``mailq`` writes to a terminal; ``keys`` are pressed once it has written something."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 200, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1"}
    with subprocess.Popen([MAILQ, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        return read_all(ours, keys)


def read_all(terminal: int, keys: bytes = b"") -> str:
    """All that is written to a terminal, until the last who can has ended."""
    data = b""
    while True:
        try:
            data += os.read(terminal, 65_536)
        except OSError:
            os.close(terminal)
            return data.decode()
        if keys and b"mailq top" in data:
            os.write(terminal, keys)
            keys = b""


def check(text: str) -> None:
    assert text
    rest = OURS.sub("", text)
    assert all(c.isprintable() or c in "\r\n" for c in rest), [c for c in rest if not c.isprintable()]
    # What looks like a style of ours, but was theirs.
    assert not any(theirs in text for theirs in ("\x1b[31mred", "\x1b[A\x9b", "jobs\x1b"))


@pytest.mark.parametrize(
    "command", [["ls"], ["stats"], ["workers"], ["top", "--once"], ["config"], ["pop", "-n", "20"]], ids=" ".join
)
def test_a_command_writes_no_escapes_of_others(place: str, command: list[str]) -> None:
    check(seen(command[0], place, *command[1:]))


def test_every_message_is_shown_without_escapes(place: str) -> None:
    summaries = using.objects(using.run("ls", place, "--json")[1])
    assert len(summaries) >= 11
    dead = next(each for each in summaries if each["reason"])  # with its error text
    check(seen("show", place, dead["id"]))
    for each in summaries:
        for form in ([], ["--json"]):
            code, text, _ = using.run("show", place, each["id"], *form)
            assert code == 0
            assert all(line.isprintable() for line in re.sub(r"\x1b\[[01]m", "", text).split("\n"))


def test_the_live_screen_writes_no_escapes_of_others(place: str) -> None:
    check(seen("top", place, keys=b"q"))


COMPLAINTS = [
    ["ack", "QUEUE", EVIL],
    ["stats", EVIL],
    [EVIL],
    ["show", "QUEUE", EVIL],
    ["pop", "QUEUE", "--lease", EVIL],
    ["config", "QUEUE", EVIL],
    ["config", "QUEUE", "lease", EVIL],
    ["push", "QUEUE", "x", "--header", EVIL],
]


def test_a_complaint_writes_no_escapes(place: str) -> None:
    for number, command in enumerate(COMPLAINTS):
        words = [place if word == "QUEUE" else word.replace("\0", "") for word in command]
        code, _, said = using.run(*words)
        assert code in (1, 2)
        assert said.count("\n") == 1
        assert said[:-1].isprintable()
        if number < 3:  # each kind of error once before a real terminal
            check(seen(*words))


def test_a_failed_request_writes_no_escapes(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    queue = mailq.open(path, max_retries=0)
    ours, theirs = pty.openpty()
    with subprocess.Popen([MAILQ, "request", str(path), "x"], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        delivery = queue.pop(wait=30)
        assert delivery is not None
        delivery.reject(f"{EVIL}\n{EVIL}")
        text = read_all(ours)
    assert process.returncode == 1
    check(text)


def test_a_reply_is_printed_as_json_without_escapes(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    queue = mailq.open(path)
    with subprocess.Popen([MAILQ, "request", str(path), "x"], stdout=subprocess.PIPE) as process:
        delivery = queue.pop(wait=30)
        assert delivery is not None
        delivery.reply({"ü": EVIL})
        delivery.ack()
        assert process.stdout is not None
        text = process.stdout.read().decode()
    assert text[:-1].isprintable()
    assert using.objects(text) == [{"ü": EVIL}]


@pytest.mark.parametrize("instant", [2**31 - 1, 2**33, 2**40, 2**55, -(2**31), -(2**45)])
def test_a_time_that_no_calendar_has_is_shown_as_unknown(tmp_path: Path, instant: int) -> None:
    root = Path("/dev/shm") if os.path.isdir("/dev/shm") else tmp_path  # keeps any time; ext4 does not
    path = root / f"mailq-{os.getpid()}-{instant}"
    try:
        queue = mailq.open(path, durability="process-crash")
        for state in ("new", "later", "cur", "dead"):
            file = path / state / f"20261121T013205.123456789Z,{instant & 0xFFFF:032x}.txt"
            file.write_text("x")
            os.utime(file, (instant, instant))
        queue.publish(
            {
                "since": 1e300,
                "run_times": [1e300] * 3,
                "jobs": [{"id": "x", "since": -1e300}, {"id": "y", "since": 1e308}],
            }
        )
        (path / "owners" / "cafe").write_text('{"host":"h","boot":"","pid":1,"since":1e300}')
        for command in (["ls"], ["ls", "--json"], ["workers"], ["workers", "--json"], ["top", "--once"], ["stats"]):
            code, text, said = using.run(command[0], str(path), *command[1:])
            assert (code, said) == (0, "")
            assert text
        assert using.run("show", str(path), f"{instant & 0xFFFF:032x}")[0] == 0
        queue.close()
    finally:
        subprocess.run(["rm", "-rf", str(path)], check=True)
