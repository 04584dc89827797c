"""A queue whose producers keep journals, on any disk; and what they leave behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mailq
from mailq.engines.maildir import journal
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine


class Ordered(Disk):
    """A disk to which names come in order, and that makes no fast commits, whatever it really is; counts what is synced."""

    _looks_left = 0

    def __init__(self) -> None:
        self.syncs: list[str] = []

    def keeps_order(self, path: str) -> bool:
        """So it is."""
        return bool(path)

    def fsync(self, fd: int) -> None:
        self.syncs.append("fsync")
        super().fsync(fd)

    def fdatasync(self, fd: int) -> None:
        self.syncs.append("fdatasync")
        super().fdatasync(fd)

    def syncfs(self, fd: int) -> None:
        self.syncs.append("syncfs")
        super().syncfs(fd)


def opened(path: Path, disk: Disk | None = None, **settings: Any) -> mailq.Queue:
    mailq.open(path, **settings).close()
    return mailq.Queue(MaildirEngine(str(path), disk=disk or Ordered()))


def journal_of(queue: mailq.Queue) -> journal.Journal:
    engine = queue._engine
    assert isinstance(engine, MaildirEngine)
    return engine._store.journal


def kill(queue: mailq.Queue) -> None:
    """What of a producer that was killed is seen by others."""
    assert left(Path(queue.location))
    journal_of(queue).after_fork()


def left(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path / "journal") if name[0] != "." and "." not in name)


def bodies(queue: mailq.Queue) -> list[bytes]:
    return [delivery.raw for delivery in iter(queue.pop, None)]
