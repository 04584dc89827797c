"""One walk through the messages, which shows each file to every collector.

A queue may hold a million files: they are listed once, and nobody keeps more than
counts and a few names.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mailq.engines.maildir import names
from mailq.engines.maildir.doctor.listing import everything
from mailq.message import STATES

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from mailq.engines.maildir.doctor.context import Patient
    from mailq.engines.maildir.names import MessageName
    from mailq.message import State


class Seen(NamedTuple):
    """A directory entry. ``foreign`` says that its name is not of the format; the envelope is then a guess."""

    state: State
    path: str
    name: str
    status: os.stat_result
    envelope: MessageName
    foreign: bool


class Collector(Protocol):
    """Is shown every message, and says afterwards what is to be said."""

    def see(self, seen: Seen) -> None:
        """Look at one."""


class Stray(NamedTuple):
    """An entry that is no message: a link, a FIFO, a directory, a dot-name."""

    path: str
    kind: str


class Walk(NamedTuple):
    """What a walk came to: the entries that are no messages, some of them by name."""

    kinds: dict[str, int]
    strays: tuple[Stray, ...]


def walk(patient: Patient, collectors: Sequence[Collector]) -> Walk:
    """Show every message to every collector; a file that goes away meanwhile is nobody's business."""
    kinds: dict[str, int] = {}
    strays: list[Stray] = []
    for state in STATES:
        directory = patient.layout.directory(state)
        for name, status in everything(directory):
            path = f"{directory}/{name}"
            if name[0] == "." or not stat.S_ISREG(status.st_mode):
                kind = _kind(status)
                if kinds.setdefault(kind, 0) == 0:
                    strays.append(Stray(path, kind))
                kinds[kind] += 1
                continue
            envelope = names.parse(name)
            foreign = envelope is None
            if envelope is None:
                envelope = names.from_dropped_file(
                    name, visible_at=status.st_ctime_ns, size=status.st_size, number=status.st_ino
                )
            seen = Seen(state, path, name, status, envelope, foreign)
            for collector in collectors:
                collector.see(seen)
    return Walk(kinds, tuple(strays))


def _kind(status: os.stat_result) -> str:
    """What an entry is that is no message."""
    for is_kind, word in (
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISSOCK, "socket"),
    ):
        if is_kind(status.st_mode):
            return word
    return "dot-name" if stat.S_ISREG(status.st_mode) else "device"
