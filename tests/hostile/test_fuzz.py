"""Any names and any files in every directory: no crash, nothing lost, nothing outside touched."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import using
from bait import Bait
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from janitor import memory

import mailq
from mailq.engines.maildir.engine import MaildirEngine
from mailq.message import STATES
from mailq.testing import ManualClock

DIRECTORIES = ("tmp", "new", "later", "cur", "dead", "errors", "owners", "replies", "origins")
MESSAGES = ("new", "later", "cur", "dead")

# Names

raw_names = st.binary(min_size=1, max_size=255).map(lambda raw: raw.replace(b"/", b"\x1b").replace(b"\0", b"\n"))
nasty_names = st.sampled_from(
    [
        b"\n",
        b" ",
        b"-rf",
        b"~",
        b"\xff\xfe",
        b"\x1b]0;x\x07",
        b"\x9b31m",
        b"a,b=c",
        b"$(id)",
        b"x" * 255,
        "é".encode() * 127,
        "\u202egnp.exe".encode(),
        b"...",
        b".",
        b"..",
        b"con",
        b"paused",
        b"mailq.toml",
    ]
)
times = st.sampled_from(
    [
        "20261121T013205.123456789Z",
        "19700101T000000.000000000Z",
        "99991231T235959.999999999Z",
        "00010101T000000.000000000Z",
        "20260230T000000.000000000Z",
        "20261231T235960.000000000Z",
        "00000000T000000.000000000Z",
        "20261121T013205.12345678Z",
    ]
)
ids = st.sampled_from(
    ["0" * 32, "f" * 32, "01936f0c2b7d7a3e9c41b6d07f52e811", "ffffffffffff7fffbfffffffffffffff", "0" * 31]
)
values: dict[str, list[str]] = {
    "size": ["0", "1", "9999999999", "99999999999", "-1", "01"],
    "crc": ["00000000", "ffffffff", "0"],
    "head": ["0", "2", "3", "9999999999"],
    "file": ["x" * 100, ".", "..", "a.b+c-d_e"],
    "prio": ["0", "9", "10"],
    "lease": ["0", "0.001", "999999999.999", "1e9"],
    "max": ["0", "9999999999"],
    "ttl": ["0", "0.001", "999999999"],
    "tries": [
        "E",
        "E999999",
        "X999999999",
        "X999999999" * 4,
        "ENENENENENENENENEN",
        "rjxtul",
        "E0",
        "E3rN2x",
        "Q",
        "EN" * 60,
    ],
    "from": ["deadbeef", "0", "123456789"],
    "until": ["99991231T235959.999Z", "00010101T000000Z", "19700101T000000Z", "20261121T013335Z", "x"],
    "by": ["deadbeef", "0", "ffffffff"],
    "claim": ["0", "ffffff"],
    "why": ["retries", "x" * 50, "unknown"],
    "zzz": ["1"],
}
fields = st.lists(st.sampled_from([(key, value) for key in values for value in values[key]]), max_size=8)


def spell(time: str, id: str, pairs: list[tuple[str, str]], ext: str) -> bytes:
    return (",".join([time, id, *(f"{key}={value}" for key, value in pairs)]) + f".{ext}")[:255].encode()


absurd_names = st.builds(
    spell,
    times,
    ids,
    fields | fields.map(lambda pairs: list(dict(pairs).items())),
    st.sampled_from(["json", "txt", "bin", "EXE", "x" * 8]),
)
names = st.one_of(absurd_names, raw_names, nasty_names)

# Files

contents = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"{}\n", b'{"a":"b"}\nbody', b"NaN", b"[" * 3000, b"1e999", b'"\\ud800"', b"9" * 5000, b"\xff" * 9]
    ),
    st.sampled_from(
        [b'{"host":"\\u001b[2J","pid":1,"boot":"","since":1e300}', b'{"ok":true,"result":NaN}', b"[]", b"null"]
    ),
)
instants = st.sampled_from([None, 0, 1, 2**31, 2**33, -(2**31)])  # mtimes
kinds = st.sampled_from(
    ["file"] * 6 + ["directory", "fifo", "link to a file", "link to a directory", "dangling", "unreadable"]
)
litter = st.lists(st.tuples(st.sampled_from(DIRECTORIES), names, kinds, contents, instants), min_size=1, max_size=12)


def plant(root: Path, bait: Bait, planted: tuple[str, bytes, str, bytes, int | None]) -> None:
    """Put a file there; not one that the file system refuses."""
    directory, name, kind, content, instant = planted
    path = os.path.join(os.fsencode(root / directory), name)
    try:
        match kind:
            case "directory":
                os.mkdir(path)
            case "fifo":
                os.mkfifo(path)
            case "link to a file":
                os.symlink(bait.file, path)
            case "link to a directory":
                os.symlink(bait.directory, path)
            case "dangling":
                os.symlink("nowhere", path)
            case _:
                with open(path, "xb") as file:
                    file.write(content)
                os.chmod(path, 0o000 if kind == "unreadable" else 0o644)
        if instant is not None:
            os.utime(path, (instant, instant), follow_symlinks=False)
    except OSError:
        return


def messages(root: Path) -> int:
    """How many files are messages, by the rule of the specification."""
    return sum(
        entry.is_file(follow_symlinks=False) and not entry.name.startswith(".")
        for directory in MESSAGES
        for entry in os.scandir(root / directory)
    )


@pytest.fixture(scope="module")
def room() -> Iterator[Path]:
    """A place in memory, where there is one: thousands of queues are made."""
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        yield Path(name)


numbers = itertools.count()


def made(room: Path, **options: Any) -> tuple[Path, Path, Bait]:
    home = room / str(next(numbers))
    home.mkdir()
    bait = Bait(home / "bait")
    mailq.open(home / "jobs", durability="process-crash", max_retries=0, lease=1, **options).close()
    (home / "jobs" / "origins").mkdir()
    return home, home / "jobs", bait


FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
LONG = settings(FUZZ, max_examples=10_000)


def in_python(room: Path, planted: list[Any]) -> None:
    home, root, bait = made(room)
    for each in planted:
        plant(root, bait, each)
    there = messages(root)
    with mailq.open(root) as queue:
        queue.push_many(["a", "b"])
        using.look(queue)
        delivered = using.drain(queue)
        queue.reap()
        using.look(queue)
        delivered += using.drain(queue)
        assert there + 2 == delivered + messages(root)
        assert delivered >= 2
        queue.redrive()
        delivered += using.drain(queue)
        assert there + 2 == delivered + messages(root)
        for state in STATES:
            queue.purge(state)
        assert messages(root) == 0
        queue.push("c")
        assert using.drain(queue) == 1
    bait.check()
    shutil.rmtree(home)


@given(litter)
@FUZZ
def test_anything_anywhere_stops_nothing(room: Path, planted: list[Any]) -> None:
    in_python(room, planted)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@given(litter)
@LONG
def test_anything_anywhere_stops_nothing_at_length(room: Path, planted: list[Any]) -> None:
    in_python(room, planted)


@given(litter)
@settings(FUZZ, max_examples=100)
def test_the_shell_prints_plain_lines_and_strict_json_of_anything(room: Path, planted: list[Any]) -> None:
    home, root, bait = made(room)
    for each in planted:
        plant(root, bait, each)
    queue = str(root)
    for command in (
        ["ls", "--json"],
        ["workers", "--json"],
        ["stats", "--json"],
        ["ls"],
        ["workers"],
        ["top", "--once"],
    ):
        code, text, said = using.run(*command[:1], queue, *command[1:])
        assert (code, said) == (0, "")
        assert "--json" not in command or using.objects(text) is not None
        assert all(line.isprintable() for line in text.replace("\t", " ").split("\n"))
    for summary in using.objects(using.run("ls", queue, "--json")[1]):
        for command in (["show", queue, summary["id"]], ["show", queue, summary["id"], "--json"]):
            code, text, said = using.run(*command)
            assert code in (0, 1)
            assert all(line.isprintable() for line in (text + said).split("\n"))
            if "--json" in command:
                using.objects(text)
    code, text, said = using.run("pop", queue, "-n", "100")
    receipts = [each["receipt"] for each in using.objects(text)]
    if receipts:
        assert using.run("ack", queue, *receipts) == (0, "", "")
    bait.check()
    shutil.rmtree(home)


# Names, one after the other, through a whole life


def take(queue: mailq.Queue, id: str) -> mailq.Delivery | None:
    """The one message there is; None if it was given up on instead, with a reason."""
    delivery = queue.pop(lease=60)  # a name may say that its lease is none at all
    if delivery is None:
        (dead,) = queue.peek("dead")
        assert dead.reason in ("torn", "expired")
        assert dead.id == id
        return None
    assert delivery.id == id
    return delivery


@given(absurd_names, contents)
@settings(FUZZ, max_examples=250)
def test_a_name_with_absurd_values_lives_a_whole_life(room: Path, name: bytes, content: bytes) -> None:
    home, root, _ = made(room)
    with open(os.path.join(os.fsencode(root / "new"), name), "wb") as file:
        file.write(content)
    clock = ManualClock()
    with mailq.Queue(MaildirEngine(str(root), clock=clock)) as queue:
        (found,) = queue.peek()
        if (first := take(queue, found.id)) is not None:
            first.extend(5)
            first.release(delay=1)
            clock.advance(2)
            if (second := take(queue, found.id)) is not None:
                second.nack(delay=0, error="text")
                (third,) = [*queue.peek("ready"), *queue.peek("dead")]
                assert third.id == found.id
                assert third.attempt in (1, second.attempt + 1)
                if b"tries=E999999" not in name:  # one more, and it is folded with all the others
                    assert third.history[-1].error == "text"
    shutil.rmtree(home)


LIFE = "20261121T013205.123456789Z," + "0" * 32
LONGEST = f"{LIFE},size=4294967296,crc=ffffffff,head=65536,prio=9,lease=315360000.999,max=9999999999,ttl=315360000.999"


@pytest.mark.parametrize(
    "tries", ["E" * 23, "X999999999rE999999", "EN" * 11, "EN" * 12, "EN" * 60, "X999999999" * 2, "E999999"]
)
@pytest.mark.parametrize("front", [LIFE + ",max=9999999999", LONGEST])
def test_a_story_told_by_hand_leaves_room_for_a_claim(path: Path, front: str, tries: str) -> None:
    queue = mailq.open(path, durability="process-crash")
    name = f"{front},tries={tries}.txt"[-255:]
    (path / "new" / name).write_bytes(b"x")
    delivery = queue.pop()
    if delivery is None:
        assert [message.reason for message in queue.peek("dead")] == ["torn"]
        return
    number = delivery.attempt
    delivery.nack(delay=0)
    again = queue.pop()
    assert again is not None
    assert again.id == delivery.id
    assert again.attempt == number + 1 or number > 999_999_999
    again.ack()
