"""What ``mailq doctor`` prints, and how it exits."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from command import MAILQ, Shell

import mailq as library


def tear_one(tmp_path: Path) -> None:
    library.open(tmp_path / "jobs").push("x" * 100)
    (file,) = (tmp_path / "jobs" / "new").iterdir()
    os.truncate(file, 7)


def test_errors_are_exit_code_1_and_mended_ones_0(mailq: Shell, tmp_path: Path) -> None:
    tear_one(tmp_path)
    done = mailq("doctor", "jobs", code=1)
    assert b"1 error" in done.stderr
    assert b"--fix mends what can be mended" in done.stderr
    last = done.stdout.decode().splitlines()[-1].split("\t")
    assert last[:2] == ["error", "torn"], "the worst comes last"
    mended = mailq("doctor", "jobs", "--fix").stdout.decode()
    assert "1 moved to dead/, with the reason" in mended
    assert "no errors" in mailq("doctor", "jobs").stderr.decode()
    assert b"torn" in mailq("ls", "jobs", "--state", "dead").stdout


def test_an_error_that_cannot_be_mended_stays_one(mailq: Shell, tmp_path: Path) -> None:
    mailq("init", "jobs")
    (tmp_path / "jobs" / "mailq.toml").write_text("format = 1\nqueue = 7\n")
    done = mailq("doctor", "jobs", "--fix", code=1)
    assert b"mailq.toml, line 2: queue must be 32 hex digits" in done.stdout


def test_warnings_alone_are_exit_code_0(mailq: Shell) -> None:
    mailq("init", "jobs")
    mailq("pause", "jobs")
    done = mailq("doctor", "jobs")
    assert b"warning\tpaused\t" in done.stdout
    assert b"well enough" in done.stderr


def test_a_line_ends_with_what_it_is_about(mailq: Shell, tmp_path: Path) -> None:
    """So that what is to be done can be done: ``mailq edit QUEUE ID`` needs the id."""
    tear_one(tmp_path)
    (name,) = os.listdir(tmp_path / "jobs" / "new")
    lines = [line.split("\t") for line in mailq("doctor", "jobs", code=1).stdout.decode().splitlines()]
    assert lines[-1][4:] == ["", f"new/{name}"]
    assert all(len(cells) == 5 for cells in lines if cells[0] == "ok")
    (tmp_path / "jobs" / "new" / "a\tb\n").symlink_to("nowhere")
    strays = next(line for line in mailq("doctor", "jobs", code=1).stdout.splitlines() if b"strays" in line)
    assert strays.endswith(b"\t\tnew/a\\tb\\n"), strays


def test_json_is_one_object(mailq: Shell, tmp_path: Path) -> None:
    tear_one(tmp_path)
    report = json.loads(mailq("doctor", "jobs", "--json", code=1).stdout)
    assert (report["queue"], report["healthy"]) == (str(tmp_path / "jobs"), False)
    assert sum(report["counts"].values()) == len(report["findings"])
    (torn,) = [f for f in report["findings"] if f["check"] == "torn"]
    assert set(torn) == {"check", "level", "what", "remedy", "fixed", "affected", "paths"}
    assert torn["paths"][0].startswith("new/")
    assert json.loads(mailq("doctor", "jobs", "--json", "--fix").stdout)["healthy"] is True


@pytest.mark.parametrize("queue", ["memory://", "http://x", ""])
def test_what_is_no_directory_is_a_usage_error(mailq: Shell, queue: str) -> None:
    assert mailq("doctor", queue, code=2).stderr.count(b"\n") == 1


def test_maildir_urls_are_paths(mailq: Shell) -> None:
    mailq("init", "jobs")
    assert b"settings" in mailq("doctor", "maildir://jobs").stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_a_coloured_table_that_fits(tmp_path: Path, environment: dict[str, str], columns: int) -> None:
    tear_one(tmp_path)
    ours, theirs = pty.openpty()
    settings = {**environment, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    settings.pop("NO_COLOR", None)
    with subprocess.Popen(
        [MAILQ, "doctor", "jobs"], stdout=theirs, stderr=theirs, cwd=tmp_path, env=settings
    ) as process:
        os.close(theirs)
        text = b""
        while chunk := _read(ours):
            text += chunk
        assert process.wait() == 1
    os.close(ours)
    assert b"\x1b[" in text
    shown = _without_colour(text.decode()).splitlines()
    assert max(map(len, shown[:-1])) <= columns
    assert "1 error" in shown[-1]
    assert any(line.startswith("error    torn") for line in shown)


def _without_colour(text: str) -> str:
    parts = text.split("\x1b[")
    return parts[0] + "".join(part.partition("m")[2] for part in parts[1:])


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65_536)
    except OSError:  # the other side of a terminal went away
        return b""
