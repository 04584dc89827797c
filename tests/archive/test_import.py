from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time as clock
from pathlib import Path
from typing import Any

import pytest
from making import exported, ids_on_disk, imported, lay, make, plain, rows, sealed, tar

import mailq
from mailq import transfer
from mailq.engines.maildir import names

MARKER = 'format = 1\nqueue = "' + "0" * 32 + '"\n'


def name_of(number: int, data: bytes = b"body", **fields: Any) -> str:
    return names.format_name(sealed(number, data, **fields))


GOOD = (f"new/{name_of(1)}", b"body")
LAST = (f"new/{name_of(2)}", b"body")


def line(number: int = 1, **keys: Any) -> dict[str, Any]:
    return {"id": sealed(number).id, "content_type": "text/plain", "body_text": "body", **keys}


def lines(*objects: dict[str, Any] | bytes) -> bytes:
    return b"".join(one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in objects)


def take(path: Path, data: bytes, **options: Any) -> tuple[transfer.Imported, list[str]]:
    told: list[str] = []
    return imported(path, data, tell=told.append, **options), told


# Once each


def test_a_second_import_finds_everything_there(path: Path) -> None:
    data = tar(GOOD, LAST, GOOD)
    make(path)
    assert imported(path, data) == transfer.Imported(2, 1, 0)
    assert imported(path, data) == transfer.Imported(0, 3, 0)
    assert len(ids_on_disk(path)) == 2


@pytest.mark.parametrize("state", ["ready", "delayed", "leased", "dead"])
def test_what_is_in_the_queue_in_any_state_is_left_alone(path: Path, state: str) -> None:
    make(path)
    imported(path, tar(GOOD))
    queue = mailq.open(path)
    if state != "ready":
        delivery = queue.pop()
        assert delivery is not None
        if state == "delayed":
            delivery.nack(delay=60)
        elif state == "dead":
            delivery.reject()
    before = sorted(str(file) for file in path.glob("*/2*"))
    assert imported(path, tar(GOOD)) == transfer.Imported(0, 1, 0)
    assert sorted(str(file) for file in path.glob("*/2*")) == before
    queue.close()


def test_a_dead_letter_that_went_to_another_queue_is_there(tmp_path: Path) -> None:
    queue = mailq.open(tmp_path / "jobs", dead_letters=tmp_path / "failed")
    imported(tmp_path / "jobs", tar(GOOD))
    delivery = queue.pop()
    assert delivery is not None
    delivery.reject("no good")
    assert imported(tmp_path / "jobs", tar(GOOD)) == transfer.Imported(0, 1, 0)
    assert imported(tmp_path / "failed", exported(tmp_path / "failed")) == transfer.Imported(0, 1, 0)
    assert rows(tmp_path / "jobs") == {}
    (row,) = rows(tmp_path / "failed").values()
    assert (row["from"], row["errors"][0]["text"]) == (
        (tmp_path / "jobs/mailq.toml").read_text().split('queue = "')[1][:8],
        "no good",
    )


def test_what_was_acked_in_between_comes_again(path: Path) -> None:
    make(path)
    imported(path, tar(GOOD))
    queue = mailq.open(path)
    delivery = queue.pop()
    assert delivery is not None
    delivery.ack()
    assert imported(path, tar(GOOD)) == transfer.Imported(1, 0, 0)


def test_a_waiting_consumer_gets_what_is_imported(path: Path) -> None:
    make(path)
    with mailq.open(path) as queue:
        assert queue.pop() is None
        imported(path, tar(GOOD))
        delivery = queue.pop(wait=30)
        assert delivery is not None
        assert delivery.id == sealed(1).id


def test_max_length_does_not_limit_an_import(path: Path) -> None:
    make(path, max_length=1)
    assert imported(path, tar(GOOD, LAST)) == transfer.Imported(2, 0, 0)


def test_the_stream_stays_open_for_whoever_passed_it(path: Path) -> None:
    make(path)
    stream = io.BytesIO(gzip.compress(tar(GOOD)))
    for done in (transfer.Imported(1, 0, 0), transfer.Imported(0, 1, 0)):
        stream.seek(0)
        assert transfer.import_(path, stream) == done


# A new queue


def test_a_missing_queue_is_made_only_when_asked_for(path: Path) -> None:
    with pytest.raises(mailq.QueueNotFound):
        imported(path, tar(GOOD))
    assert not path.exists()


def test_a_new_queue_has_the_settings_of_the_archive_and_an_identity_of_its_own(tmp_path: Path) -> None:
    mailq.open(tmp_path / "a", lease=7, max_retries=2, dead_letters=tmp_path / "failed")
    done, told = take(tmp_path / "deep" / "b", exported(tmp_path / "a"), create=True)
    assert done == transfer.Imported()
    assert told == ["dead_letters = '../failed' was not taken over; 'mailq config' sets it"]
    a, b = ((tmp_path / name / "mailq.toml").read_text() for name in ("a", "deep/b"))
    assert a.split('queue = "')[1][:32] != b.split('queue = "')[1][:32]
    assert mailq.open(tmp_path / "deep/b").settings == mailq.Settings(lease=7, max_retries=2)
    assert not (tmp_path / "deep/failed").exists()


def test_lines_make_a_queue_with_the_default_settings(path: Path) -> None:
    assert imported(path, lines(line()), create=True).imported == 1
    assert mailq.open(path).settings == mailq.Settings()


def test_a_queue_keeps_its_settings(tmp_path: Path) -> None:
    mailq.open(tmp_path / "a", lease=7)
    make(tmp_path / "b", lease=9)
    imported(tmp_path / "b", exported(tmp_path / "a"), create=True)
    assert mailq.open(tmp_path / "b").settings.lease == 9


@pytest.mark.parametrize("text", ["format = 1\nqueue = 5\n", "rubbish", MARKER + "lease = -1\n", MARKER + "evil = 1\n"])
def test_settings_that_are_none_make_no_queue(path: Path, text: str) -> None:
    with pytest.raises(transfer.ImportStopped, match=r"the archive's mailq\.toml.*: .*; the archive is damaged, or"):
        imported(path, tar(("mailq.toml", text.encode()), GOOD), create=True)
    assert not path.exists()


# What is refused


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


TARS: dict[str, Any] = {
    "dots": ("../../etc/cron.d/x", b"x"),
    "dots within": (f"new/../../{name_of(3)}", b"body"),
    "dots as a name": ("new/..", b"x"),
    "absolute": (f"/new/{name_of(3)}", b"body"),
    "NUL": ("new/a\0b", b"x"),
    "deeper": (f"new/sub/{name_of(3)}", b"body"),
    "beside": (f"jobs/new/{name_of(3)}", b"body"),
    "symlink": special(f"new/{name_of(3)}", tarfile.SYMTYPE, "/etc/passwd"),
    "symlink that could be empty": special(f"new/{name_of(3, b'')}", tarfile.SYMTYPE, "/etc/passwd"),
    "directory link": special("new/sub", tarfile.SYMTYPE, "/etc"),
    "hard link": special(f"new/{name_of(3)}", tarfile.LNKTYPE, GOOD[0]),
    "hard link out": special(f"dead/{name_of(3)}", tarfile.LNKTYPE, "/etc/shadow"),
    "device": special(f"new/{name_of(3)}", tarfile.CHRTYPE),
    "block device": special(f"later/{name_of(3)}", tarfile.BLKTYPE),
    "FIFO": special(f"cur/{name_of(3)}", tarfile.FIFOTYPE),
    "no name of ours": ("new/cat.jpg", b"miau"),
    "unknown key": (f"new/{name_of(3)[:-4]},evil=1.txt", b"body"),
    "other size": (f"new/{name_of(3)}", b"bod"),
    "other bytes": (f"new/{name_of(3)}", b"bodY"),
    "dead but not torn": (f"dead/{name_of(3, tries='Er')}", b"bodY"),
    "head beyond the end": (f"new/{name_of(3, header_bytes=100)}", b"body"),
    "gigantic headers": (f"new/{name_of(3, b'x' * 70_000, header_bytes=70_000)}", b"x" * 70_000),
    "too large": (f"new/{name_of(3, b'x' * 100_001)}", b"x" * 100_001),
    "a story too long to be claimed": (f"new/{name_of(3, tries='EN' * 70)}", b"body"),
    "no error text": ("errors/../../x", b"x"),
    "an error text of nobody": ("errors/x.txt", b"x"),
    "an endless error text": (f"errors/{sealed(2).id}.1.txt", b"x" * 65_537),
}


@pytest.mark.parametrize("bad", TARS.values(), ids=TARS)
def test_a_bad_member_is_refused_by_name_and_the_others_are_taken(tmp_path: Path, bad: Any) -> None:
    path = tmp_path / "deep" / "jobs"
    path.parent.mkdir()
    make(path, max_message_bytes=100_000)
    before = {file for file in tmp_path.rglob("*") if path not in file.parents}
    done, told = take(path, tar(GOOD, bad, LAST))
    assert done == transfer.Imported(2, 0, 1)
    assert len(told) == 1
    assert told[0].startswith("member '")
    assert "refused: " in told[0]
    assert ids_on_disk(path) == sorted((sealed(1).id, sealed(2).id))
    assert {file for file in tmp_path.rglob("*") if path not in file.parents} == before
    assert os.listdir(path / "tmp") == []
    assert not any(file.is_symlink() for file in path.rglob("*"))
    assert os.listdir(path / "errors") == []


LINES: dict[str, dict[str, Any] | bytes] = {
    "not JSON": b"{rubbish\n",
    "not UTF-8": b'{"id": "\xff"}\n',
    "UTF-16": json.dumps(line(3)).encode("utf-16").replace(b"\n", b"") + b"\n",
    "NaN": b'{"id": NaN}\n',
    "deep": b"[" * 100_000 + b"\n",
    "a list": b"[1]\n",
    "no id": {"body": 1},
    "an id that leads out": line(3, id="../../../etc/passwd"),
    "an id of a number": line(3, id=5),
    "an unknown key": line(3, evil=1),
    "an unknown state": line(3, state="leased"),
    "a state of a list": line(3, state=["ready"]),
    "two bodies": line(3, body=1),
    "no body": {"id": sealed(3).id},
    "not base64": {"id": sealed(3).id, "body_base64": "???"},
    "base64 of an object": {"id": sealed(3).id, "body_base64": {}},
    "a lone surrogate": line(3, body_text="\ud800"),
    "an extension that leads out": line(3, ext="/../x"),
    "headers of numbers": line(3, headers={"a": 1}),
    "gigantic headers": line(3, headers={"a": "x" * 70_000}),
    "priority 10": line(3, priority=10),
    "priority true": line(3, priority=True),
    "a negative lease": line(3, lease=-1),
    "an endless lease": line(3, lease=10**400),
    "a ttl too fine": line(3, ttl=0.00001),
    "too many retries": line(3, max_retries=10**30),
    "a story that is none": line(3, tries="../x"),
    "an origin that is none": line(3, **{"from": "../x"}),
    "a file name that leads out": line(3, file="../../x"),
    "a file name too long": line(3, file="x" * 300),
    "delayed until never": line(3, state="delayed"),
    "a time that is none": line(3, place_at="yesterday"),
    "month 13": line(3, place_at="2026-13-01T00:00:00Z"),
    "too large": line(3, body_text="x" * 100_001),
    "a longer line than there may be": b'{"id": "' + b"x" * 60_000_000 + b'"}\n',
    "a size that does not fit": {"id": sealed(3).id, "sealed_base64": "AAAA", "size": 5},
    "a sum that does not fit": {"id": sealed(3).id, "sealed_base64": "AAAA", "crc": "00000000"},
    "a sum that is none": {"id": sealed(3).id, "sealed_base64": "AAAA", "crc": "x"},
    "a size beside a body": line(3, size=4),
    "a head that is too long": {"id": sealed(3).id, "sealed_base64": "AAAA", "head": 4},
    "a head below nothing": {"id": sealed(3).id, "sealed_base64": "AAAA", "head": -4},
    "errors of numbers": line(3, errors=[1]),
    "an error without a text": line(3, errors=[{"attempt": 1}]),
    "an error of an attempt below nothing": line(3, errors=[{"attempt": -1, "text": ""}]),
    "an endless error": line(3, tries="E", errors=[{"attempt": 1, "text": "x" * 65_537}]),
}


@pytest.mark.parametrize("bad", LINES.values(), ids=LINES)
def test_a_bad_line_is_refused_by_number_and_the_others_are_taken(path: Path, bad: dict[str, Any] | bytes) -> None:
    make(path, max_message_bytes=100_000)
    done, told = take(path, lines(line(1), b"\n", bad, line(2)))
    assert done == transfer.Imported(2, 0, 1)
    assert len(told) == 1
    assert told[0].startswith("line 3: refused: ")
    assert len(told[0]) < 800
    assert ids_on_disk(path) == sorted((sealed(1).id, sealed(2).id))


def test_lines_that_a_person_writes_need_little(path: Path) -> None:
    make(path)
    some = [{"id": f"{number:032x}", "body": {"n": number}, "pushed_at": "2026-11-21T01:32:05Z"} for number in range(3)]
    assert imported(path, lines(*some)).imported == 3
    with mailq.open(path) as queue:
        assert sorted(d.raw for d in queue.drain()) == [b'{"n":%d}' % number for number in range(3)]


def test_an_error_text_of_no_attempt_is_not_kept(path: Path) -> None:
    make(path)
    message = plain(1, tries="E2")
    data = exported(make(path.with_name("source")))
    assert data
    lay(path.with_name("source"), message)
    text = (f"errors/{message.envelope.id}.", b"text")
    archived = tar(
        *((f"{text[0]}{n}.txt", text[1]) for n in (0, 1, 3, 10**9)),
        (f"new/{names.format_name(message.envelope)}", b"body"),
    )
    assert imported(path, archived).imported == 1
    assert sorted(os.listdir(path / "errors")) == [f"{message.envelope.id}.{n}.txt" for n in (0, 1)]


def test_error_texts_without_their_message_are_told_of(path: Path) -> None:
    make(path)
    done, told = take(path, tar((f"errors/{sealed(9).id}.1.txt", b"x"), GOOD))
    assert done == transfer.Imported(1, 0, 0)
    assert told == ["1 error texts stood apart from their messages and were left out"]


@pytest.mark.parametrize("at", [-5, 1 << 80, 1 << 40])
def test_a_time_that_no_clock_shows_is_now_at_the_latest(path: Path, at: int) -> None:
    make(path)
    message = plain(1, tries="Er", state="dead")
    text = tarfile.TarInfo(f"errors/{message.envelope.id}.1.txt")
    body = tarfile.TarInfo(f"dead/{names.format_name(message.envelope)}")
    body.size, text.mtime, body.mtime = 4, at, at
    data = b"".join([text.tobuf(tarfile.GNU_FORMAT), body.tobuf(tarfile.GNU_FORMAT), b"body", bytes(508 + 1024)])
    assert imported(path, data) == transfer.Imported(1, 0, 0)
    with mailq.open(path) as queue:
        (found,) = queue.peek("dead")
        times = (found.died_at, found.history[0].at)
        assert all(time is not None and 0 <= time <= clock.time() for time in times)


def test_more_error_texts_than_memory_should_hold_are_let_go(path: Path) -> None:
    make(path)
    flood = [(f"errors/{sealed(n).id}.1.txt", b"x" * 65_536) for n in range(300)]
    done, told = take(path, tar(*flood, GOOD))
    assert done == transfer.Imported(1, 0, 0)
    assert "300 error texts" in told[0]


def test_lines_that_are_cut_off_are_noticed(path: Path) -> None:
    make(path)
    done, told = take(path, lines(line(1), line(2))[:-10])
    assert done == transfer.Imported(1, 0, 1)
    assert "cut off" in told[0]
