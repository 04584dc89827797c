from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import time
from pathlib import Path

import pytest
from command import MAILQ, Shell

import mailq as library


def dead_letter(tmp_path: Path, body: object = "x") -> str:
    queue = library.open(tmp_path / "jobs")
    id = queue.push(body)
    delivery = queue.pop()
    assert delivery is not None
    delivery.reject("broken\nbeyond repair")
    return id


def test_ls_lists_each_state_as_lines_of_tabs(mailq: Shell, tmp_path: Path) -> None:
    id = dead_letter(tmp_path)
    mailq("push", "jobs", "ready")
    mailq("push", "jobs", "later", "--delay", "1h")
    rows = [line.split("\t") for line in mailq("ls", "jobs").stdout.decode().splitlines()]
    assert [row[1] for row in rows] == ["ready", "delayed", "dead"]
    assert rows[2][0] == id
    assert rows[2][-1] == "rejected"


def test_ls_json_is_an_object_a_line(mailq: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", "x", "y")
    rows = [json.loads(line) for line in mailq("ls", "jobs", "--json", "--limit", "1").stdout.splitlines()]
    assert [(row["state"], row["attempt"], row["size"]) for row in rows] == [("ready", 1, 1)]


def test_show_explains_a_dead_letter_completely(mailq: Shell, tmp_path: Path) -> None:
    id = dead_letter(tmp_path, {"a": 1})
    text = mailq("show", "jobs", id).stdout.decode()
    for expected in (id, "dead", "rejected", "application/json", "attempt 1: rejected", "    beyond repair"):
        assert expected in text
    shown = json.loads(mailq("show", "jobs", id, "--json").stdout)
    assert shown["body"] == {"a": 1}
    assert shown["history"][0]["error"] == "broken\nbeyond repair"
    assert shown["origin"] == str(tmp_path / "jobs")


def test_cat_prints_the_bytes(mailq: Shell) -> None:
    (id,) = mailq("push", "jobs", "--header", "a=b", stdin=b"\0\xff").stdout.decode().split()
    assert mailq("cat", "jobs", id).stdout == b"\0\xff"


@pytest.mark.parametrize("bad", ["../mailq.toml", "/etc/passwd", "", "x" * 10_000, "a b"])
@pytest.mark.parametrize("verb", ["show", "cat", "edit"])
def test_an_unknown_id_is_one_clear_line(mailq: Shell, verb: str, bad: str) -> None:
    mailq("init", "jobs")
    done = mailq(verb, "jobs", bad, code=1)
    assert b"no message" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_edit_seals_a_dead_message_anew_and_redrive_delivers_it(mailq: Shell, tmp_path: Path) -> None:
    id = dead_letter(tmp_path, {"width": "wrong"})
    mailq("edit", "jobs", id, EDITOR="sed -i s/wrong/200/")
    assert mailq("redrive", "jobs", id).stdout == b"1\n"
    popped = json.loads(mailq("pop", "jobs").stdout)
    assert (popped["id"], popped["body"], popped["attempt"]) == (id, {"width": "200"}, 1)


def test_edit_keeps_headers_and_delay(mailq: Shell, tmp_path: Path) -> None:
    (id,) = mailq("push", "jobs", "old", "--delay", "1h", "--header", "k=v").stdout.decode().split()
    mailq("edit", "jobs", id, EDITOR="sed -i s/old/new/")
    (message,) = library.open(tmp_path / "jobs").peek("delayed")
    assert (message.id, message.body, message.headers) == (id, "new", {"k": "v"})
    assert sorted(p.name for p in (tmp_path / "jobs/tmp").iterdir()) == []


def test_edit_mends_a_torn_message(mailq: Shell, tmp_path: Path) -> None:
    (id,) = mailq("push", "jobs", "whole").stdout.decode().split()
    (file,) = (tmp_path / "jobs/new").iterdir()
    file.write_bytes(b"who")
    mailq("pop", "jobs", code=3)
    assert b"torn" in mailq("show", "jobs", id).stdout
    mailq("edit", "jobs", id, EDITOR="true")
    mailq("redrive", "jobs", id)
    assert json.loads(mailq("pop", "jobs").stdout)["body"] == "who"


def test_edit_leaves_a_message_that_was_taken_meanwhile_and_keeps_the_text(mailq: Shell, tmp_path: Path) -> None:
    (id,) = mailq("push", "jobs", "old").stdout.decode().split()
    editor = tmp_path / "editor"
    editor.write_text(f'#!/bin/sh\n"{MAILQ}" pop jobs > receipt\nprintf new > "$1"\n')
    editor.chmod(0o755)
    done = mailq("edit", "jobs", id, code=1, EDITOR=str(editor))
    kept = done.stderr.decode().rsplit("kept in ", 1)[1].strip()
    assert Path(kept).read_text() == "new"
    Path(kept).unlink()
    assert library.open(tmp_path / "jobs").get(id).body == "old"


def test_edit_refuses_a_leased_message_and_survives_a_missing_editor(mailq: Shell) -> None:
    (id,) = mailq("push", "jobs", "x").stdout.decode().split()
    assert b"set EDITOR" in mailq("edit", "jobs", id, code=1, EDITOR="no-such-editor").stderr
    mailq("pop", "jobs")
    assert b"is leased" in mailq("edit", "jobs", id, code=1, EDITOR="true").stderr


@pytest.mark.parametrize(
    ("editor", "said"),
    [
        ("vi '", b'cannot start the editor "vi \'": no closing quotation; set EDITOR'),
        ("no-such-editor", b"cannot start the editor 'no-such-editor': No such file or directory; set EDITOR"),
        ("rm", b"the editor 'rm' removed the file; nothing was changed"),
        ("sh -c 'rm $0; exit 1'", b"removed the file; nothing was changed"),
    ],
)
def test_edit_with_an_editor_that_is_none_is_one_clear_line_and_leaves_no_file(
    mailq: Shell, tmp_path: Path, editor: str, said: bytes
) -> None:
    (id,) = mailq("push", "jobs", "x").stdout.decode().split()
    (tmp_path / "aside").mkdir()
    done = mailq("edit", "jobs", id, code=1, EDITOR=editor, TMPDIR=str(tmp_path / "aside"))
    assert said in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert list((tmp_path / "aside").iterdir()) == []
    assert library.open(tmp_path / "jobs").get(id).body == "x"


def test_stats_count_and_measure(mailq: Shell, tmp_path: Path) -> None:
    dead_letter(tmp_path)
    mailq("push", "jobs", "abc")
    counted = json.loads(mailq("stats", "jobs", "--json").stdout)
    assert (counted["ready"], counted["dead"], counted["bytes"]) == (1, 1, 1 + 3)
    assert counted["oldest_ready_age"] >= 0
    assert b"oldest ready" in mailq("stats", "jobs").stdout


def test_redrive_wants_ids_or_all(mailq: Shell, tmp_path: Path) -> None:
    dead_letter(tmp_path)
    dead_letter(tmp_path)
    assert b"pass --all" in mailq("redrive", "jobs", code=2).stderr
    assert mailq("redrive", "jobs", "--all", "--limit", "1").stdout == b"1\n"
    assert mailq("redrive", "jobs", "--all").stdout == b"1\n"
    assert mailq("redrive", "jobs", "0" * 32, code=1).stdout == b"0\n"


def test_purge_deletes_one_state_and_says_how_many(mailq: Shell, tmp_path: Path) -> None:
    dead_letter(tmp_path)
    mailq("push", "jobs", "keep")
    assert mailq("purge", "jobs", "--state", "dead").stdout == b"1\n"
    assert library.open(tmp_path / "jobs").stats()[:4] == (1, 0, 0, 0)
    assert list((tmp_path / "jobs/errors").iterdir()) == []
    mailq("purge", "jobs", code=2)


def test_reap_says_what_it_did(mailq: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", "x", "--lease", "1ms")
    deadline = json.loads(mailq("pop", "jobs").stdout)["deadline_at"]
    assert deadline <= time.time()
    assert mailq("reap", "jobs").stdout == b"returned 1, died 0, due 0\n"


def test_init_and_config_show_and_change_settings(mailq: Shell, tmp_path: Path) -> None:
    assert b"lease = 300\n" in mailq("init", "jobs", "--lease", "5m", "--backoff", "2s:1h").stdout
    assert mailq("config", "jobs", "lease").stdout == b"300\n"
    assert mailq("config", "jobs", "ttl", "1d").stdout == b"86400\n"
    assert mailq("config", "jobs", "ttl", "none").stdout == b"none\n"
    assert b"backoff = 2:3600\n" in mailq("config", "jobs").stdout
    mailq("init", "jobs", "--lease", "5m")
    assert b"the queue has lease = 300.0, not 60.0" in mailq("init", "jobs", "--lease", "1m", code=2).stderr


def test_a_queue_that_is_made_for_dead_letters_is_told_of(mailq: Shell) -> None:
    made = b"mailq: made the queue '%s' for the dead letters: there was none\n"
    assert mailq("init", "jobs", "--dead-letters", "failed").stderr == made % b"failed"
    assert mailq("init", "more", "--dead-letters", "failed").stderr == b""
    done = mailq("config", "jobs", "dead_letters", "nowhere")
    assert (done.stdout, done.stderr) == (b"../nowhere\n", made % b"nowhere")
    assert mailq("config", "jobs", "dead_letters", "nowhere").stderr == b""
    assert mailq("config", "jobs", "dead_letters", "none").stderr == b""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["config", "jobs", "leese"], b"there is no setting 'leese'"),
        (["config", "jobs", "lease", "soon"], b"is not a duration"),
        (["config", "jobs", "max_retries", "many"], b"whole number"),
        (["config", "jobs", "durability", "hope"], b"'power-loss' or 'process-crash'"),
        (["pop", "jobs", "--lease", "1y"], b"is not a duration"),
        (["push", "jobs", "x", "--priority", "10"], b"priority"),
        (["push", "jobs", "x", "--header", "novalue"], b"write --header KEY=VALUE"),
        (["pop", "jobs", "-n", "0"], b"number"),
        (["reap", "jobs", "--every", "0"], b"'--every': it is at least 0.1s; see"),
        (["top", "jobs", "--every", "99ms"], b"'--every': it is at least 0.1s; see"),
        (["frobnicate", "jobs"], b"there is no command 'frobnicate'; see"),
        (["stat", "jobs"], b"there is no command 'stat', perhaps you mean stats; see"),
        (["push", "redis://jobs", "x"], b"there is no redis:// here"),
    ],
)
def test_bad_usage_is_exit_code_2_and_one_line(mailq: Shell, arguments: list[str], said: bytes) -> None:
    mailq("init", "jobs")
    done = mailq(*arguments, code=2)
    assert said.lower() in done.stderr.lower()
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b""


@pytest.mark.parametrize("queue", ["memory://", "redis://x", ""])
@pytest.mark.parametrize(
    "arguments",
    [
        *(["push", "Q", "x"], ["init", "Q"], ["export", "Q"], ["top", "Q"], ["drain", "Q", "--", "true"]),
        ["drain", "jobs", "os:getpid", "--dead", "Q=os:getpid"],
    ],
    ids=" ".join,
)
def test_what_is_no_queue_on_disk_is_wrong_usage_of_every_command(
    mailq: Shell, arguments: list[str], queue: str
) -> None:
    mailq("init", "jobs")
    done = mailq(*(argument.replace("Q", queue) for argument in arguments), stdin=b"x", code=2)
    assert done.stderr.count(b"\n") == 1
    assert (b"; pass a path" if "://" in queue else b"is no ") in done.stderr
    assert b"or memory" not in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize("verb", ["pop", "ls", "stats", "reap", "config"])
def test_only_init_and_push_make_a_queue(mailq: Shell, tmp_path: Path, verb: str) -> None:
    done = mailq(verb, "nowhere", code=1)
    assert b"create it with 'mailq init" in done.stderr
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("verb", ["push", "init", "stats"])
def test_where_no_queue_can_be_none_is_advised(mailq: Shell, tmp_path: Path, verb: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").touch()
    for place, why in (("file", b"this is a file"), ("home", b"holds other things")):
        if (place, verb) != ("home", "stats"):
            done = mailq(verb, place, stdin=b"x", code=1)
            assert why in done.stderr
            assert b"name the directory of a queue, or one that is empty or not there yet" in done.stderr
            assert b"mailq init" not in done.stderr


def test_limits_are_exit_code_5(mailq: Shell) -> None:
    mailq("init", "jobs", "--max-length", "1", "--max-message-bytes", "10")
    assert b"11 bytes" in mailq("push", "jobs", "x" * 11, code=5).stderr
    mailq("push", "jobs", "x")
    assert b"the queue is full: 1 of 1" in mailq("push", "jobs", "y", code=5).stderr


def test_a_directory_with_other_things_in_it_is_not_taken_over(mailq: Shell, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    assert b"one that is empty or not there yet" in mailq("push", "home", "x", code=1).stderr
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["letter.txt"]


def test_every_command_has_help_with_an_example(mailq: Shell) -> None:
    listing = mailq("--help").stdout.decode()
    commands = re.findall(r"^  ([a-z]+)  ", listing.split("Commands:")[1], re.MULTILINE)
    assert len(commands) >= 18
    for command in commands:
        assert f"mailq {command}".encode() in mailq(command, "--help").stdout.split(b"Options:")[0].split(b"\n", 2)[2]


def test_a_terminal_gets_a_table(tmp_path: Path, environment: dict[str, str]) -> None:
    library.open(tmp_path / "jobs").push("x")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [MAILQ, "ls", "jobs"], stdout=theirs, cwd=tmp_path, env={**environment, "COLUMNS": "160", "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        text = b""
        while b"text" not in text and (chunk := _read(ours)):
            text += chunk
        assert process.wait() == 0
    os.close(ours)
    assert b"pushed" in text
    assert b"1 B" in text


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65_536)
    except OSError:  # the other side of a terminal went away
        return b""


def test_a_pause_is_a_setting_too(mailq: Shell, tmp_path: Path) -> None:
    mailq("init", "jobs")
    mailq("push", "jobs", "x")
    assert mailq("config", "jobs", "paused").stdout == b"false\n"
    assert mailq("config", "jobs", "paused", "true").stdout == b"true\n"
    assert (tmp_path / "jobs" / "paused").exists()
    mailq("pop", "jobs", code=3)
    assert mailq("config", "jobs", "paused").stdout == b"true\n"
    assert b"it must be true or false" in mailq("config", "jobs", "paused", "maybe", code=2).stderr
    mailq("resume", "jobs")
    assert mailq("config", "jobs", "paused").stdout == b"false\n"
    mailq("config", "jobs", "paused", "true")
    assert mailq("config", "jobs", "paused", "none").stdout == b"false\n"
    mailq("pop", "jobs")
