"""Whatever lies in the directories: it stops nothing, slows nothing, leaks nothing."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from together import wait_until

import mailq
from mailq.engines.maildir import names
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.ids import new_id

DIRECTORIES = ("tmp", "new", "later", "cur", "dead", "errors", "owners", "replies")
NOW = 1_795_225_925_123_456_789
ID = "01936f0c2b7d7a3e9c41b6d07f52e811"


def ours(**fields: Any) -> str:
    """A name of ours, well spelled."""
    return names.format_name(names.MessageName(NOW, new_id(NOW), "txt")._replace(**fields))


def litter(directory: Path, sockets: list[socket.socket]) -> None:
    """One of everything that is no message."""
    (directory / "a directory").mkdir()
    (directory / ours()).mkdir()
    (directory / ".hidden").write_text("dot")
    (directory / "link").symlink_to("/etc/passwd")
    (directory / ours()).symlink_to("/etc/passwd")
    (directory / "dangling").symlink_to("nowhere")
    os.mkfifo(directory / "fifo")
    os.mkfifo(directory / ours())
    made = socket.socket(socket.AF_UNIX)
    sockets.append(made)
    here = os.open(directory, os.O_RDONLY)  # a socket's path is short
    try:
        made.bind(f"/proc/self/fd/{here}/sock")
    finally:
        os.close(here)


def bodies(queue: mailq.Queue) -> list[bytes]:
    got = []
    for delivery in queue.drain():
        got.append(delivery.raw)
        delivery.ack()
    return got


def test_garbage_in_every_directory_stops_nothing_and_leaks_nothing(queue: mailq.Queue, path: Path) -> None:
    sockets: list[socket.socket] = []
    for directory in DIRECTORIES:
        litter(path / directory, sockets)
    queue.push_many(["a", "b"])
    queue.push("later", delay=0.001)
    wait_until(lambda: queue.stats().next_due_in == 0, "it is due")
    held = queue.pop()
    assert held is not None
    queue.reap()
    held.nack(delay=0, error="text")
    assert sorted(bodies(queue)) == [b"a", b"b", b"later"]
    assert queue.stats()[:4] == (0, 0, 0, 0)
    for verb in (queue.reap, queue.redrive, lambda: queue.purge("dead"), lambda: queue.peek("leased")):
        verb()
    for directory in DIRECTORIES:
        assert os.readlink(path / directory / "link") == "/etc/passwd"
        assert {"a directory", ".hidden", "fifo", "sock", "dangling"} <= set(os.listdir(path / directory))
    for made in sockets:
        made.close()


@pytest.mark.parametrize("state", ["new", "later", "cur", "dead"])
def test_foreign_files_in_any_state_are_messages_in_that_state(path: Path, state: str) -> None:
    queue = mailq.open(path, lease=0.001)
    contents = {b"empty": b"", b"x" * 255: b"long", b"\xff\xfe": b"bytes", b"a,b=c.d": b"commas"}
    for name, content in contents.items():
        with open(os.path.join(os.fsencode(path / state), name), "wb") as file:
            file.write(content)
    if state == "dead":
        assert queue.redrive() == 4
    while queue.stats().leased:
        queue.reap()
    queue.reap()
    assert sorted(bodies(queue)) == sorted(contents.values())


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: data + b"x", lambda data: bytes(len(data)), lambda data: b"X" + data[1:]],
)
def test_a_torn_file_goes_to_the_dead_and_its_neighbours_are_delivered(
    queue: mailq.Queue, path: Path, damage: object
) -> None:
    queue.push_many([b"first", b"second", b"third"])
    files = sorted((path / "new").iterdir())
    files[1].write_bytes(damage(files[1].read_bytes()))  # type: ignore[operator]
    assert bodies(queue) == [b"first", b"third"]
    (dead,) = queue.peek("dead")
    assert dead.reason == "torn"
    assert dead.history[0].outcome == "torn"
    assert "'mailq edit' re-seals it" in str(dead.history[0].error)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data + b"x"])
def test_a_length_without_a_checksum_as_shell_producers_write_it_tells_a_torn_file(
    queue: mailq.Queue, path: Path, damage: Callable[[bytes], bytes]
) -> None:
    body = b"written by printf"
    (path / "new" / ours(size=len(body))).write_bytes(damage(body))
    (path / "new" / ours(size=len(body))).write_bytes(body)
    assert bodies(queue) == [body]
    (dead,) = queue.peek("dead")
    assert dead.reason == "torn"


def test_a_file_above_the_limit_is_not_read_but_kept_with_the_reason(path: Path) -> None:
    queue = mailq.open(path, max_message_bytes=1000)
    with open(path / "tmp" / "huge.bin", "wb") as file:
        file.truncate(1 << 30)
    (path / "tmp" / "huge.bin").rename(path / "new" / "huge.bin")
    queue.push("small")
    assert bodies(queue) == [b"small"]
    (dead,) = queue.peek("dead")
    assert (dead.reason, dead.size) == ("too-large", 1 << 30)


@pytest.mark.skipif(
    not hasattr(os, "fork") or os.getuid() != 0, reason="needs root, to become somebody who may not read"
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_file_that_may_not_be_read_goes_to_the_dead(path: Path) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _consume_as_nobody(path)
        except BaseException:  # noqa: BLE001 - a forked child must not go on as a second pytest
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _consume_as_nobody(path: Path) -> int:
    queue = mailq.open(path)
    queue.push_many(["secret", "open"])
    secret, other = sorted((path / "new").iterdir())
    for directory in [path, *path.iterdir()]:
        os.chown(directory, 65534, 65534)
    os.chown(other, 65534, 65534)
    for parent in path.parents:
        os.chmod(parent, parent.stat().st_mode | 0o011)  # pytest's own, of which there may be more or fewer
    os.setgid(65534)
    os.setuid(65534)
    queue = mailq.open(path)
    ok = bodies(queue) == [b"open"] and [m.reason for m in queue.peek("dead")] == ["unreadable"]
    return 0 if ok and secret.name.split(",")[1] == queue.peek("dead")[0].id else 1


@pytest.mark.parametrize(
    "name",
    [
        "19700101T000000.000000000Z,00000000000070008000000000000000.txt",
        "99991231T235959.999999999Z,00000000000070008000000000000001.txt",
        "00010101T000000.000000000Z,00000000000000000000000000000000.txt",
        "20261231T235960.000000000Z,00000000000070008000000000000002.txt",
        ours(id=ID, tries="X999999999E2"),
        ours(id=ID, until=NOW + 10**18, owner="ffffffff", claim="ffffff"),
        ours(id=ID, dead=True, tries="r"),
    ],
)
def test_strange_names_are_delivered_settled_and_found(queue: mailq.Queue, path: Path, name: str) -> None:
    (path / "new" / name).write_text("strange")
    delivery = queue.pop()
    assert delivery is not None
    assert delivery.raw == b"strange"
    assert queue.get(delivery.id).state == "leased"
    delivery.release()
    again = queue.pop()
    assert again is not None
    again.ack()
    assert len(queue) == 0


class CountingDisk(Disk):
    """Counts the calls that open something."""

    def __init__(self) -> None:
        self.opened = 0

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        self.opened += 1
        return super().open(path, flags, mode)


def test_two_thousand_pieces_of_garbage_cost_a_pop_nothing(path: Path) -> None:
    """Neither another listing nor another open for each message."""
    mailq.open(path, durability="process-crash").push_many(range(100))
    for n in range(2000):
        (path / "new" / f".{n}").touch()
        (path / "new" / f"directory {n}").mkdir()
    disk = CountingDisk()
    queue = mailq.Queue(MaildirEngine(str(path), disk=disk))
    before = disk.opened
    assert len(bodies(queue)) == 100
    assert disk.opened - before == 100 + 1  # a body each, and the owner's file once
