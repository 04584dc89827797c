"""Every kind of damage that the doctor is to name, done to a real queue."""

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
from mailq import names
from mailq.engines.maildir.journal import encode

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
    return names.format_name(names.Envelope(NOW, names.new_id(NOW), "txt")._replace(**fields))


def push(path: Path, **options: Any) -> Path:
    """Push one message; its file."""
    queue = mailq.open(path, create=False)
    id = queue.push("body", **options)
    return Path(queue.get(id).name)


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
    text = path / "errors" / f"{names.new_id(NOW)}.1.txt"
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
    (path / "replies" / f"{names.new_id(NOW)}.json").write_text("{}")


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


DAMAGES: Final = [
    Damage("nothing there", shutil.rmtree, "marker", "error", "nothing at this place", after="error"),
    Damage(
        "a file",
        a_file,
        "marker",
        "error",
        "no directory",
        after="error",
    ),
    Damage(
        "an unmounted disk",
        an_empty_directory,
        "marker",
        "error",
        "its disk is not mounted",
        after="error",
    ),
    Damage(
        "no marker and no messages",
        lambda path: (path / "mailq.toml").unlink(),
        "marker",
        "error",
        "no messages",
        after="error",
    ),
    Damage("a directory half made anew", half_remade, "spares", "warning", "1 directory", "taken over"),
    Damage("a journal left behind", lose_what_is_in_a_journal, "journals", "warning", "1 journal", "replayed"),
    Damage(
        "strangers among the journals",
        strangers_among_journals,
        "journals",
        "warning",
        "3 entries in journal/",
        after="warning",
    ),
    Damage("a lost marker", lose_the_marker, "marker", "error", "1 message is here", "made anew"),
    Damage(
        "settings that are no TOML",
        lambda path: edit(path, "lease = 60.0", "lease = = 60"),
        "settings",
        "error",
        "line 8",
        after="error",
    ),
    Damage(
        "a setting that cannot be",
        lambda path: edit(path, "lease = 60.0", 'lease = "soon"'),
        "settings",
        "error",
        "line 8: lease is 'soon'",
        after="error",
    ),
    Damage(
        "a newer format",
        lambda path: edit(path, "format = 1", "format = 2"),
        "settings",
        "error",
        "format is 2",
        after="error",
    ),
    Damage("settings of zeros", lambda path: zero(path / "mailq.toml"), "settings", "error", "not TOML", after="error"),
    Damage(
        "settings that are no text",
        lambda path: (path / "mailq.toml").write_bytes(b"\xff\xfe"),
        "settings",
        "error",
        "not UTF-8",
        after="error",
    ),
    Damage(
        "a marker that is a link",
        link_for_the_marker,
        "settings",
        "error",
        "cannot read the settings",
        after="error",
    ),
    Damage(
        "missing directories",
        two_directories_less,
        "directories",
        "error",
        "later, errors",
        "made",
    ),
    Damage(
        "a link for a directory", link_for_a_directory, "directories", "error", "refused: later, journal", after="error"
    ),
    Damage("a file for a directory", file_for_a_directory, "directories", "error", "later", after="error"),
    Damage(
        "a directory open to all",
        lambda path: (path / "dead").chmod(0o777),
        "permissions",
        "warning",
        "1 directory is open to others",
        "0700",
    ),
    Damage(
        "directories that are shut",
        two_directories_shut,
        "permissions",
        "error",
        "2 directories lack",
        "0700",
    ),
    Damage("a file that is shut", lambda path: push(path).chmod(0), "file-permissions", "error", "1 file", "0600"),
    Damage(
        "a file that all may read",
        a_file_open_to_all,
        "file-permissions",
        "warning",
        "1 file is open to more",
        "0600",
        after="ok",
    ),
    Damage("torn, ready", lambda path: tear(push(path)), "torn", "error", "1 message is not", "1 moved to dead/"),
    Damage("torn, delayed", lambda path: tear(push(path, delay=60)), "torn", "error", "1 message", "1 moved to dead/"),
    Damage("zeros, ready", lambda path: zero(push(path)), "torn", "error", "1 message is not", "1 moved to dead/"),
    Damage(
        "torn, leased and overdue", lambda path: tear(held(path)), "torn", "error", "1 message", "1 moved", ahead=600
    ),
    Damage(
        "torn, in somebody's hands", lambda path: tear(held(path)), "torn", "warning", "in somebody's", after="warning"
    ),
    Damage("torn, dead", lambda path: tear(died(path)), "torn", "warning", "dead for another", after="warning"),
    Damage(
        "too large",
        lambda path: (path / "new" / "big.bin").write_bytes(bytes(1001)),
        "too-large",
        "warning",
        "1 message is larger",
        after="warning",
        settings={"max_message_bytes": 1000},
    ),
    Damage("dropped in", lambda path: (path / "new" / "cat.jpg").write_text("x"), "foreign", "ok", "1 file dropped"),
    Damage(
        "misspelled",
        lambda path: (path / "new" / ours().replace(".txt", ",shape=round.txt")).write_text("x"),
        "foreign",
        "warning",
        "1 name misspelled",
        after="warning",
    ),
    Damage(
        "strays",
        lambda path: one_of_each(path / "new"),
        "strays",
        "warning",
        "1 FIFO",
        after="warning",
    ),
    Damage(
        "a name from the future",
        lambda path: (path / "new" / ours(place=NOW + 10**18)).write_text("x"),
        "future",
        "warning",
        "1 file with a name",
        after="warning",
    ),
    Damage(
        "an mtime from the future",
        lambda path: os.utime(push(path), (4e9, 4e9)),
        "future",
        "warning",
        "1 file with a name or a stamp",
        after="warning",
    ),
    Damage(
        "a lease without end",
        lambda path: os.utime(held(path), (4e9, 4e9)),
        "long-leases",
        "warning",
        "1 lease ends only",
        after="warning",
    ),
    Damage(
        "a claim by mv",
        lambda path: (file := push(path)).rename(path / "cur" / file.name),
        "bare-claims",
        "ok",
        "1 message without an end",
    ),
    Damage("an overdue lease", held, "overdue", "warning", "1 lease ran out", "1 to be tried again", ahead=600),
    Damage(
        "a lease of nobody",
        lambda path: (path / "cur" / ours(until=9 * 10**18, owner="abcd", claim="1")).write_text("x"),
        "orphans",
        "warning",
        "1 lease is of dead or unknown",
        "1 to be tried again",
    ),
    Damage(
        "an owner's file that is torn",
        lambda path: (path / "owners" / "0123abcd").write_text(""),
        "owners",
        "ok",
        "1 ended without a close",
        "removed",
    ),
    Damage(
        "an owner that died with a lease",
        an_owner_that_died,
        "owners",
        "warning",
        "1 process died",
        "removed",
    ),
    Damage(
        "an owner that a copy brought along",
        lambda path: old(owner(path, "0123abcd")),
        "other-hosts",
        "warning",
        "1 owner of other hosts",
        after="warning",
    ),
    Damage("an owner elsewhere", lambda path: owner(path, "0123abcd"), "other-hosts", "ok", "1 owner on other hosts"),
    Damage(
        "a delay that nobody ended",
        lambda path: push(path, delay=10),
        "overdue-delays",
        "warning",
        "1 delayed message came due",
        "1 due",
        ahead=600,
    ),
    Damage("expired", expire, "expired", "warning", "1 ready message outlived", after="warning", ahead=600),
    Damage(
        "litter of ours",
        litter,
        "litter",
        "warning",
        "2 files in tmp/",
        "removed",
        ahead=2 * DAY,
    ),
    Damage("litter of others", stranger_in_tmp, "litter", "warning", "left alone", after="warning", ahead=2 * DAY),
    Damage(
        "a text without a message",
        old_text,
        "error-texts",
        "warning",
        "1 error text",
        after="warning",
    ),
    Damage(
        "an old reply",
        an_old_reply,
        "replies",
        "warning",
        "1 reply older",
        "1 removed",
        ahead=DAY,
    ),
    Damage(
        "a message among the replies",
        a_message_among_the_replies,
        "strays",
        "warning",
        "in replies/ and owners/: 1 entry",
        after="warning",
        ahead=DAY,
    ),
    Damage(
        "a file among the owners",
        lambda path: (path / "owners" / "notes.txt").write_text("x"),
        "strays",
        "warning",
        "in replies/ and owners/: 1 entry",
        after="warning",
    ),
    Damage("a dead letter", died, "dead-letters", "warning", "1 message is dead", after="warning"),
    Damage(
        "a dead-letter queue that is gone",
        lambda path: shutil.rmtree(path.parent / "failed"),
        "dead-letter-queue",
        "warning",
        "the dead stay here",
        after="warning",
        settings={"dead_letters": "failed"},
    ),
    Damage(
        "a letter from an unknown queue",
        lambda path: (path / "new" / ours(origin="59e10ab6")).write_text("x"),
        "origins",
        "warning",
        "1 message of other queues",
        after="warning",
    ),
    Damage(
        "a reaping in the future",
        reaped_in_the_future,
        "reap-lock",
        "warning",
        "in the future",
        "set to now",
    ),
    Damage("a pause", lambda path: mailq.open(path).pause(), "paused", "warning", "since 20", after="warning"),
    Damage("a stranger", lambda path: (path / "notes.txt").touch(), "strangers", "warning", "1 entry", after="warning"),
    Damage(
        "ready and delayed", lambda path: copy_to(push(path), "later"), "duplicates", "error", "1 file holds", "1 file"
    ),
    Damage(
        "twice in one directory",
        lambda path: copy_to(push(path), "new", place=NOW),
        "duplicates",
        "error",
        "1 file holds",
        "1 file moved",
    ),
    Damage(
        "one file, two names",
        lambda path: os.link(file := push(path), path / "later" / file.name),
        "duplicates",
        "error",
        "1 file holds",
        "1 file moved",
    ),
]
