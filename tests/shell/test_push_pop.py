from __future__ import annotations

import base64
import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command import MAILQ, Shell

import mailq as library


def popped(mailq: Shell, *options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in mailq("pop", "jobs", *options).stdout.splitlines()]


@pytest.mark.quick
def test_push_prints_an_id_a_line_and_pop_gives_the_messages_in_order(mailq: Shell) -> None:
    ids = mailq("push", "jobs", '{"a": 1}', "hello", "3").stdout.decode().split()
    messages = popped(mailq, "-n", "5")
    assert [message["id"] for message in messages] == ids
    assert [message["body"] for message in messages] == [{"a": 1}, "hello", 3]
    assert [message["content_type"] for message in messages] == ["application/json", "text/plain", "application/json"]
    assert all(message["attempt"] == 1 for message in messages)


def test_pop_tells_all_that_settling_needs(mailq: Shell) -> None:
    mailq("push", "jobs", "x", "--header", "trace=7", "--lease", "5m")
    (message,) = popped(mailq)
    assert sorted(message) == [
        "attempt", "body", "content_type", "deadline_at", "headers", "id", "pushed_at", "receipt",
    ]  # fmt: skip
    assert message["headers"] == {"trace": "7"}
    assert 299 < message["deadline_at"] - message["pushed_at"] < 310


def test_text_option_keeps_what_looks_like_json_as_text(mailq: Shell) -> None:
    mailq("push", "jobs", "--text", "17")
    assert popped(mailq)[0]["body"] == "17"


def test_nan_is_text_since_it_is_not_json(mailq: Shell) -> None:
    mailq("push", "jobs", "NaN")
    assert popped(mailq)[0]["body"] == "NaN"


def test_json_keeps_the_digits_that_were_given(mailq: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", '{"n": 12345678901234567890.10}')
    (message,) = library.open(tmp_path / "jobs").peek()
    assert message.raw == b'{"n": 12345678901234567890.10}'


def test_standard_input_is_one_message(mailq: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", stdin=b"two\nlines\n")
    assert popped(mailq)[0]["body"] == "two\nlines\n"


def test_bytes_that_are_no_text_come_out_as_base64_and_whole(mailq: Shell) -> None:
    raw = bytes(range(256))
    mailq("push", "jobs", stdin=raw)
    (message,) = popped(mailq)
    assert base64.b64decode(message["body_base64"]) == raw
    assert "body" not in message


def test_lines_are_a_message_each_whatever_their_types(mailq: Shell) -> None:
    ids = mailq("push", "jobs", "--lines", stdin=b'1\n\n{"x": 2}\r\nfoo\n\xff\nlast').stdout.split()
    assert len(ids) == 5
    bodies = [message.get("body") for message in popped(mailq, "-n", "9")]
    assert bodies == [1, {"x": 2}, "foo", None, "last"]


def test_thousands_of_lines_keep_their_order(mailq: Shell) -> None:
    mailq("push", "jobs", "--lines", stdin="\n".join(map(str, range(2500))).encode())
    assert [message["body"] for message in popped(mailq, "-n", "2500")] == list(range(2500))


def test_a_pushed_file_keeps_its_extension_its_name_and_its_bytes(mailq: Shell, tmp_path: Path) -> None:
    (tmp_path / "pic.JPG").write_bytes(b"\xff\xd8jpeg")
    (tmp_path / "odd.cr2").write_bytes(b"raw")
    mailq("push", "jobs", "--file", "pic.JPG", "--file", "odd.cr2")
    assert sorted(p.suffix for p in (tmp_path / "jobs/new").iterdir()) == [".cr2", ".jpg"]
    first, second = popped(mailq, "-n", "2")
    assert (first["content_type"], first["headers"]) == ("image/jpeg", {"filename": "pic.JPG"})
    assert base64.b64decode(first["body_base64"]) == b"\xff\xd8jpeg"
    assert base64.b64decode(second["body_base64"]) == b"raw"


def test_a_file_that_is_missing_is_one_clear_line(mailq: Shell) -> None:
    done = mailq("push", "jobs", "--file", "nope.txt", code=1)
    assert done.stderr == b"mailq: No such file or directory ('nope.txt')\n"


def test_body_option_prints_the_bytes_alone_and_the_receipt_aside(mailq: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", stdin=b"\0\1\2")
    done = mailq("pop", "jobs", "--body")
    assert done.stdout == b"\0\1\2"
    mailq("ack", "jobs", done.stderr.decode().strip())
    assert library.open(tmp_path / "jobs").stats().leased == 0


def test_a_popped_lease_outlives_the_command(mailq: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", "x")
    (message,) = popped(mailq)
    queue = library.open(tmp_path / "jobs")
    assert queue.reap().returned == 0
    queue.ack(message["receipt"])


@pytest.mark.quick
def test_an_empty_queue_is_exit_code_3_and_silent(mailq: Shell) -> None:
    mailq("init", "jobs")
    done = mailq("pop", "jobs", code=3)
    assert (done.stdout, done.stderr) == (b"", b"")
    mailq("run", "jobs", "--", "true", code=3)


def test_pop_waits_for_a_message_from_another_process(mailq: Shell, shell: Shell) -> None:
    mailq("init", "jobs")
    done = shell("mailq pop jobs --wait 30s > got & mailq push jobs late > id && wait && jq -r .body got")
    assert done.stdout == b"late\n"


def test_delay_keeps_a_message_back(mailq: Shell, tmp_path: Path) -> None:
    mailq("push", "jobs", "x", "--delay", "1h")
    mailq("pop", "jobs", code=3)
    assert library.open(tmp_path / "jobs").stats().delayed == 1


def test_priority_goes_first(mailq: Shell) -> None:
    mailq("push", "jobs", "low")
    mailq("push", "jobs", "high", "--priority", "9")
    assert [message["body"] for message in popped(mailq, "-n", "2")] == ["high", "low"]


def test_a_reader_that_goes_away_is_no_traceback(mailq: Shell, shell: Shell) -> None:
    mailq("push", "jobs", "--lines", stdin="\n".join(map(str, range(3000))).encode())
    done = shell("mailq ls jobs --limit 3000 | head -n 1; mailq pop jobs -n 2000 | head -n 1 | jq .body")
    assert done.stderr == b""
    assert done.stdout.splitlines()[-1] == b"0"


def test_pipes_into_jq(mailq: Shell, shell: Shell) -> None:
    mailq("push", "jobs", '{"resize": "cat.jpg"}')
    assert shell("mailq pop jobs | jq -r .body.resize").stdout == b"cat.jpg\n"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_what_a_terminal_cannot_spell_does_not_block_the_queue(mailq: Shell, tmp_path: Path, locale: str) -> None:
    environment = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}
    mailq("push", "jobs", '"\\ud800"', "世界", **environment)
    done = mailq("pop", "jobs", "-n", "2", **environment)
    assert [json.loads(line)["body"] for line in done.stdout.splitlines()] == ["\ud800", "世界"]
    mailq("ls", "jobs", **environment)


def test_lines_are_stored_as_they_come(mailq: Shell, shell: Shell) -> None:
    done = shell(
        "mkfifo lines; mailq push jobs --lines < lines > ids & exec 3> lines; echo first >&3; "
        "until mailq pop jobs --wait 20 --body; do :; done; exec 3>&-; wait"
    )
    assert done.stdout == b"first"


def test_a_closed_stream_is_no_bug(mailq: Shell, shell: Shell) -> None:
    mailq("init", "jobs")
    assert shell("mailq push jobs x <&-; mailq pop jobs --body 2>&- >&- | cat; mailq ls jobs").stderr == b""


def test_push_can_be_told_not_to_make_a_queue(mailq: Shell, tmp_path: Path) -> None:
    assert b"there is no queue here" in mailq("push", "--no-create", "mnt", "x", code=1).stderr
    assert not (tmp_path / "mnt").exists()


@pytest.mark.parametrize("arguments", [["-"], ["--file", "-"]])
def test_a_dash_is_standard_input(mailq: Shell, arguments: list[str]) -> None:
    mailq("push", "jobs", "first", *arguments, stdin=b"\x00\xffthe second")
    assert [mailq("pop", "jobs", "--body").stdout for _ in range(2)] == [b"first", b"\x00\xffthe second"]
    assert b"can be read once" in mailq("push", "jobs", "-", *arguments, stdin=b"x", code=2).stderr


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no /dev/zero here")
@pytest.mark.parametrize(
    "command",
    [
        "push jobs < /dev/zero",
        "push jobs --lines < /dev/zero",
        "push jobs --file - < /dev/zero",
        "push jobs --file /dev/zero",
        "push jobs --file /dev/zero --content-type image/png",
        "push jobs --file huge",
        "request jobs < /dev/zero",
    ],
)
def test_what_is_too_large_is_not_read_to_its_end(mailq: Shell, shell: Shell, tmp_path: Path, command: str) -> None:
    mailq("init", "jobs")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(3 << 30)
    done = shell(f"ulimit -v 1000000; mailq {command}", code=5)
    assert done.stderr.startswith(b"mailq: the message has ")
    assert (b"3221225472 bytes with" if "huge" in command else b" bytes or more with") in done.stderr
    assert library.open(tmp_path / "jobs").stats().ready == 0


def test_standard_input_of_the_largest_size_is_taken(mailq: Shell) -> None:
    mailq("init", "jobs", "--max-message-bytes", "2500000")
    for arguments in ([], ["--lines"]):
        mailq("push", "jobs", *arguments, stdin=b"x" * 2_500_000)
        assert len(mailq("pop", "jobs", "--body").stdout) == 2_500_000
        assert b"2500001 bytes" in mailq("push", "jobs", *arguments, stdin=b"x" * 2_500_001, code=5).stderr


def test_ctrl_d_on_a_terminal_ends_the_message_at_once(tmp_path: Path, environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"typed\n\x04")
    with subprocess.Popen([MAILQ, "push", "jobs"], stdin=theirs, cwd=tmp_path, env=environment) as process:
        os.close(theirs)
        assert process.wait(60) == 0
    os.close(ours)
    (message,) = library.open(tmp_path / "jobs").peek()
    assert message.body == "typed\n"
