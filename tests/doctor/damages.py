"""Damages, done to a real queue."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import mailq
from mailq.engines.maildir import names
from mailq.engines.maildir.journal import encode
from mailq.ids import new_id

NOW: Final = 1_795_225_925_123_456_789
DAY: Final = 86_400.0


class Damage(NamedTuple):
    """``do`` damages a fresh queue; ``check`` then says ``level``, and ``fixed`` is in what ``--fix`` says it did.

    Without ``fixed`` nothing is done about it. ``after`` is the level of a second
    look. ``ahead`` is how far the doctor's clock is ahead, in seconds.
    """

    name: str
    do: Callable[[Path], object]
    check: str
    level: str
    says: str
    fixed: str = ""
    after: str = "ok"
    ahead: float = 0.0
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed


def ours(**fields: Any) -> str:
    """A name of ours, well spelled."""
    return names.format_name(names.MessageName(NOW, new_id(NOW), "txt")._replace(**fields))


def push(path: Path, **options: Any) -> Path:
    """Push one message; its file."""
    queue = mailq.open(path, create=False)
    id = queue.push("body", **options)
    return Path(queue.get(id).location)


def held(path: Path, **options: Any) -> Path:
    """A message under a lease that is bound to time alone."""
    push(path)
    delivery = mailq.open(path, create=False).pop(detached=True, **options)
    assert delivery is not None
    return path / "cur" / delivery.receipt


def died(path: Path) -> Path:
    """A dead message, with its text."""
    push(path)
    delivery = mailq.open(path, create=False).pop()
    assert delivery is not None
    delivery.reject("no")
    (dead,) = (path / "dead").iterdir()
    return dead


def tear(file: Path) -> None:
    os.truncate(file, 1)


def zero(file: Path) -> None:
    """As long as before, and nothing in it: delayed allocation and a power cut."""
    file.write_bytes(bytes(file.stat().st_size))


def edit(path: Path, old: str, new: str) -> None:
    marker = path / "mailq.toml"
    text = marker.read_text()
    assert old in text
    marker.write_text(text.replace(old, new))


def owner(path: Path, token: str, **story: Any) -> Path:
    """A file in owners/ that nobody locks."""
    file = path / "owners" / token
    file.write_text(json.dumps({"host": "elsewhere", "boot": "other", "pid": 1, "since": 1.0, **story}))
    return file


def an_owner_that_died(path: Path) -> None:
    owner(path, "0123abcd", host=platform.node())
    (path / "cur" / ours(until=9 * 10**18, owner="0123abcd", claim="1")).write_text("x")


def one_of_each(directory: Path) -> None:
    """What is no message."""
    (directory / "directory").mkdir()
    (directory / ".hidden").write_text("dot")
    (directory / ours()).symlink_to("/etc/passwd")
    os.mkfifo(directory / "fifo")
    made = socket.socket(socket.AF_UNIX)
    here = os.open(directory, os.O_RDONLY)  # a socket's path is short
    try:
        made.bind(f"/proc/self/fd/{here}/sock")
    finally:
        os.close(here)
        made.close()


def old(file: Path) -> None:
    os.utime(file, (1, 1))


def copy_to(file: Path, directory: str, **changes: Any) -> Path:
    """The same message in another place too, or in the same under another name."""
    envelope = names.parse(file.name)
    assert envelope is not None
    target = file.parents[1] / directory / names.format_name(envelope._replace(**changes))
    shutil.copy2(file, target)
    return target


def half_remade(path: Path) -> None:
    mailq.open(path).push("x")
    (path / "new").rename(path / ".new.1a2b3c4d")
    (path / "new").mkdir()


def lose_what_is_in_a_journal(path: Path) -> None:
    """A push whose file never came to the disk."""
    data, name = b"x", "20261121T013205.123456789Z,01936f0c2b7d7a3e9c41b6d07f52e811,size=1,crc=8cdc1683.bin"
    mailq.open(path).close()
    (path / "journal").mkdir()
    (path / "journal" / "7f3a9c01").write_bytes(encode("7f3a9c01", 1, "new", name, data))
    (path / "journal" / "7f3a9c01.mark").touch()
    os.utime(path / "journal" / "7f3a9c01.mark", (0, 0))


def strangers_among_journals(path: Path) -> None:
    (path / "journal").mkdir()
    (path / "journal" / "cafe").write_text("dear")
    (path / "journal" / "0badcafe").symlink_to("/etc/passwd")
    (path / "journal" / "letter.txt").touch()


def lose_the_marker(path: Path) -> None:
    push(path)
    (path / "mailq.toml").unlink()


def file_for_a_directory(path: Path) -> None:
    (path / "later").rmdir()
    (path / "later").write_text("in the way")


def link_for_a_directory(path: Path) -> None:
    (path / "later").rmdir()
    (path / "later").symlink_to("/etc")
    (path / "journal").symlink_to("/etc")


def expire(path: Path) -> None:
    push(path, ttl=5)


def stranger_in_tmp(path: Path) -> None:
    (path / "tmp" / "report.pdf").write_text("x")


def old_text(path: Path) -> None:
    text = path / "errors" / f"{new_id(NOW)}.1.txt"
    text.write_text("lost")
    old(text)


def link_for_the_marker(path: Path) -> None:
    (path / "mailq.toml").rename(path / "x")
    (path / "mailq.toml").symlink_to("x")


def two_directories_less(path: Path) -> None:
    (path / "later").rmdir()
    (path / "errors").rmdir()


def two_directories_shut(path: Path) -> None:
    (path / "new").chmod(0o500)
    (path / "tmp").chmod(0o500)


def a_file_open_to_all(path: Path) -> None:
    path.chmod(0o711)  # a drop-box: others may come in
    (path / "new").chmod(0o3733)
    push(path).chmod(0o644)


def litter(path: Path) -> None:
    (path / "tmp" / ours()).write_text("x")
    (path / "tmp" / ".reply.00").write_text("x")


def an_old_reply(path: Path) -> None:
    (path / "replies" / f"{new_id(NOW)}.json").write_text("{}")


def a_message_among_the_replies(path: Path) -> None:
    an_old_reply(path)
    push(path).rename(path / "replies" / ours())


def reaped_in_the_future(path: Path) -> None:
    (path / ".reap.lock").touch()
    os.utime(path / ".reap.lock", (4e9, 4e9))


def a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


def an_empty_directory(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()
