from __future__ import annotations

import json
import os
import pty
import subprocess
import tarfile
from pathlib import Path

import pytest
from command import MAILQ, Shell

import mailq as library


def filled(mailq: Shell) -> None:
    mailq("push", "jobs", '{"resize": "cat.jpg"}', "text")
    mailq("push", "jobs", "--delay", "1h", "--priority", "3", stdin=b"\0\xff")


def test_a_queue_goes_through_a_pipe(mailq: Shell, shell: Shell, tmp_path: Path) -> None:
    filled(mailq)
    done = shell("set -o pipefail; mailq export jobs | mailq import copy --create")
    assert done.stderr.decode().splitlines() in (
        ["exported 3", "imported 3, already there 0, refused 0"],
        ["imported 3, already there 0, refused 0", "exported 3"],
    )
    assert done.stdout == b""
    assert sorted(os.listdir(tmp_path / "copy/new")) == sorted(os.listdir(tmp_path / "jobs/new"))
    assert os.listdir(tmp_path / "copy/later") == os.listdir(tmp_path / "jobs/later")
    lines = shell("set -o pipefail; mailq export jobs --format jsonl | mailq import copy --json").stdout
    assert json.loads(lines) == {"imported": 0, "already_there": 3, "refused": 0}


@pytest.mark.parametrize(
    "name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.jsonl", "a.jsonl.gz", "a.ndjson.xz", "a"]
)
def test_a_file_is_what_its_name_says_and_read_by_what_it_is(mailq: Shell, tmp_path: Path, name: str) -> None:
    filled(mailq)
    done = mailq("export", "jobs", name)
    assert (done.stdout, done.stderr) == (b"", b"exported 3\n")
    assert os.stat(tmp_path / name).st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("a")] == [name]
    if "jsonl" not in name and "ndjson" not in name:
        with tarfile.open(tmp_path / name) as archive:
            assert len([member for member in archive if member.isfile()]) == 4
    (tmp_path / name).rename(tmp_path / "unnamed")
    done = mailq("import", "copy", "unnamed", "--create")
    assert done.stderr == b"imported 3, already there 0, refused 0\n"


def test_the_summary_as_json_is_on_stdout_unless_the_archive_is(mailq: Shell) -> None:
    filled(mailq)
    facts = {"exported": 3, "torn": 0, "left_out": 0, "certain": True}
    assert json.loads(mailq("export", "jobs", "a.tar", "--json").stdout) == facts
    done = mailq("export", "jobs", "--json", "--format", "jsonl")
    assert json.loads(done.stderr) == facts
    assert done.stdout.count(b"\n") == 3


def test_an_export_into_a_directory_that_is_not_there_names_the_directory(mailq: Shell) -> None:
    filled(mailq)
    done = mailq("export", "jobs", "no/such/place/jobs.tar", code=1)
    assert done.stderr == (
        b"mailq: cannot write the archive: there is no such directory; make it, or name another FILE ('no/such/place')\n"
    )
    assert b".part" not in mailq("export", "jobs", "/proc/jobs.tar", code=1).stderr


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.jsonl", "a.NDJSON", "a.jsonl.gz", "a.ndjson.xz"])
def test_the_archive_of_a_queue_without_messages_is_one(mailq: Shell, name: str) -> None:
    mailq("init", "jobs")
    mailq("export", "jobs", name)
    assert mailq("import", "copy", name, "--create").stderr == b"imported 0, already there 0, refused 0\n"


def test_no_lines_can_go_through_a_pipe(mailq: Shell, shell: Shell) -> None:
    filled(mailq)
    export = "mailq export jobs --state dead --format jsonl"
    assert b"imported 0" in shell(f"{export} | mailq import copy --create --format jsonl").stderr
    assert b"taken with --format jsonl" in shell(f"{export} | mailq import copy", code=1).stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.jsonl.bz2", b"an export is not written as .bz2; end the name in .tar, .tgz"),
        ("a.tar.ZST", b"an export is not written as .zst; end"),
        ("a.zip", b"an export is not written as .zip; end"),
        ("a.json", b"JSON is written as lines; end the name in .jsonl"),
        ("a.json.gz", b"JSON is written as lines; end the name in .jsonl"),
        ("jobs/new/a.tar", b"is within the queue"),
        ("link/../dead/a.tar", b"is within the queue"),
        ("jobs/a.jsonl", b"is within the queue"),
    ],
)
def test_a_file_that_would_be_taken_for_something_else_is_not_written(
    mailq: Shell, tmp_path: Path, name: str, said: bytes
) -> None:
    filled(mailq)
    (tmp_path / "link").symlink_to("jobs/new")
    before = sorted(tmp_path.rglob("*"))
    done = mailq("export", "jobs", name, code=2)
    assert said in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["2026.11.21", "a.json", "new/a.zip.tar", "a.bak", "zip"])
def test_any_other_name_is_taken(mailq: Shell, tmp_path: Path, name: str) -> None:
    filled(mailq)
    (tmp_path / "new").mkdir()
    mailq("export", "jobs", name, "--format", "jsonl")
    assert (tmp_path / name).read_bytes().count(b"\n") == 3


def test_only_some_states(mailq: Shell) -> None:
    filled(mailq)
    mailq("export", "jobs", "a.tar", "--state", "delayed", "--state", "dead")
    assert mailq("import", "copy", "a.tar", "--create").stderr == b"imported 1, already there 0, refused 0\n"


def test_a_refused_message_is_told_of_and_makes_the_exit_code_1(mailq: Shell) -> None:
    filled(mailq)
    lines = mailq("export", "jobs", "--format", "jsonl").stdout
    done = mailq("import", "copy", "--create", stdin=lines + b"rubbish\n", code=1)
    assert done.stderr.startswith(b"mailq: line 4: refused: this is not JSON")
    assert done.stderr.endswith(b"imported 3, already there 0, refused 1\n")


def test_an_archive_that_is_cut_off_is_told_of_with_what_was_imported(mailq: Shell) -> None:
    filled(mailq)
    data = mailq("export", "jobs").stdout
    done = mailq("import", "copy", "--create", stdin=data[: data.index(b"\xff")], code=1)
    assert b"cut off" in done.stderr
    assert (
        b"2 were imported before; import a whole copy of it: messages that are in the queue are passed over"
        in done.stderr
    )
    assert done.stderr.decode().splitlines()[-1].startswith("imported ")
    assert mailq("import", "copy", stdin=b"", code=1).stderr.startswith(b"mailq: this is not an archive: it is empty")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no /dev/zero here")
def test_zeros_are_no_archive_however_many_there_are(mailq: Shell, tmp_path: Path) -> None:
    done = mailq("import", "copy", "/dev/zero", "--create", code=1)
    assert done.stderr.startswith(
        b"mailq: this is not an archive: it begins with zeros, what a power cut or a bad disk leaves"
    )
    assert not (tmp_path / "copy").exists()


def test_an_archive_that_was_zeroed_in_part_is_told_of_with_what_was_imported(mailq: Shell, tmp_path: Path) -> None:
    filled(mailq)
    mailq("export", "jobs", "jobs.tar")
    with open(tmp_path / "jobs.tar", "r+b") as file, tarfile.open(tmp_path / "jobs.tar") as archive:
        file.seek(archive.getmembers()[-3].offset)
        file.write(bytes(512))
    told, summary = mailq("import", "copy", "jobs.tar", "--create", code=1).stderr.decode().splitlines()
    assert "what a power cut or a bad disk leaves" in told
    assert "; 1 were imported before; import a whole copy of it: " in told
    assert summary == "imported 1, already there 0, refused 0"


def test_gnu_tar_takes_an_export_without_a_word_and_may_have_its_own_records(
    mailq: Shell, shell: Shell, tmp_path: Path
) -> None:
    filled(mailq)
    done = shell("set -e; mkdir out; mailq export jobs jobs.tar; tar xf jobs.tar -C out; tar tf jobs.tar | tail -n 1")
    assert done.stderr == b"exported 3\n"
    assert done.stdout == b"tmp/\n"
    assert sorted(os.listdir(tmp_path / "out/new")) == sorted(os.listdir(tmp_path / "jobs/new"))
    shell("set -e; for b in 1 20 64 2048; do tar cb $b -C out . | mailq import of-$b --create; done")


@pytest.mark.parametrize("begin", [b"{", b"\n\n", b"{\0}\n", b'{"id": "', b"\x7fELF" + bytes(600)])
def test_a_file_that_is_no_archive_is_told_in_one_line(mailq: Shell, tmp_path: Path, begin: bytes) -> None:
    done = mailq("import", "copy", "--create", stdin=begin + bytes(range(256)) * 50, code=1)
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("mailq: this is not an archive: ")
    assert lines[0].endswith("; 'mailq push --file' takes a file as a message; none were imported before")
    assert lines[1:] == ["imported 0, already there 0, refused 0"]
    assert not (tmp_path / "copy").exists()


def test_a_message_left_out_makes_the_exit_code_1(mailq: Shell) -> None:
    filled(mailq)
    mailq("config", "jobs", "max_message_bytes", "10")
    done = mailq("export", "jobs", "a.tar", code=1)
    assert b"is not in the archive" in done.stderr
    assert done.stderr.endswith(b"exported 2, left out 1\n")


def test_a_torn_message_is_told_of(mailq: Shell, tmp_path: Path) -> None:
    filled(mailq)
    (tmp_path / "jobs/new" / min(os.listdir(tmp_path / "jobs/new"))).write_bytes(b"{")
    done = mailq("export", "jobs", "a.tar")
    assert b"is torn, and dead in the archive" in done.stderr
    assert done.stderr.endswith(b"exported 3, of them torn 1\n")


def test_a_missing_queue_file_or_directory_is_one_clear_line(mailq: Shell, tmp_path: Path) -> None:
    for arguments in (["export", "jobs"], ["import", "jobs"]):
        done = mailq(*arguments, stdin=b"{}\n", code=1)
        assert b"there is no queue here" in done.stderr
        assert not (tmp_path / "jobs").exists()
    library.open(tmp_path / "jobs").close()
    assert b"No such file" in mailq("import", "jobs", "missing.tar", code=1).stderr
    assert (
        b"cannot write the archive: there is no such directory"
        in mailq("export", "jobs", "missing/a.tar", code=1).stderr
    )
    assert b"only queues on disk" in mailq("export", "memory://", code=2).stderr


def test_a_full_disk_leaves_no_file(mailq: Shell, shell: Shell, tmp_path: Path) -> None:
    filled(mailq)
    done = shell("ulimit -f 2; trap '' XFSZ; mailq export jobs a.tar", code=1)
    assert b"cannot write the archive: File too large" in done.stderr
    done = shell("ulimit -f 0; trap '' XFSZ; mailq export jobs a.tar.gz", code=1)
    assert b"cannot write the archive: File too large" in done.stderr
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("a.")] == []


def test_a_device_or_fifo_is_written_as_it_is(mailq: Shell, shell: Shell, tmp_path: Path) -> None:
    filled(mailq)
    mailq("export", "jobs", "/dev/null")
    assert Path("/dev/null").is_char_device()
    os.mkfifo(tmp_path / "fifo")
    done = shell("mailq export jobs fifo & mailq import copy fifo --create; wait $!")
    assert b"imported 3" in done.stderr


def test_a_tar_is_not_for_a_terminal(mailq: Shell, environment: dict[str, str], tmp_path: Path) -> None:
    filled(mailq)
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [MAILQ, "export", "jobs"], stdout=slave, stderr=subprocess.PIPE, env=environment, cwd=tmp_path, check=False
        )
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 2
    assert b"not for a terminal" in done.stderr


def test_whoever_stops_reading_ends_an_export_in_silence(mailq: Shell, shell: Shell, tmp_path: Path) -> None:
    with library.open(tmp_path / "jobs", durability="process-crash") as queue:
        queue.push_many([b"x" * 10_000] * 300)
    done = shell("mailq export jobs | head -c 100 >/dev/null")
    assert done.stderr == b""
