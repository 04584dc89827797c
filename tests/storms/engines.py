"""The engines of a storm: the real one, and two that are wrong on purpose."""

from __future__ import annotations

import os
from collections.abc import Callable

import mailq
from mailq.engines.base import Claim
from mailq.engines.maildir import names
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.journal import WARM


class Losing(MaildirEngine):
    """Removes a message before it hands it over: whoever is killed with it has lost it."""

    def claim(self, limit: int, *, lease: float | None, detached: bool) -> list[Claim] | None:
        claims = super().claim(limit, lease=lease, detached=detached)
        for claim in claims or ():
            super().ack(claim.receipt)
        return claims

    def ack(self, receipt: str) -> None:
        pass


class ById(MaildirEngine):
    """Acks whatever has the id, whoever holds it: a stale holder does harm."""

    def ack(self, receipt: str) -> None:
        envelope = names.parse(receipt)
        assert envelope is not None
        for directory in ("cur", "new", "later"):
            for name in os.listdir(f"{self.location}/{directory}"):
                if envelope.id in name:
                    os.unlink(f"{self.location}/{directory}/{name}")
                    return
        super().ack(receipt)


class Ordered(Disk):
    """A disk to which names come in order, whatever it really is."""

    def keeps_order(self, path: str) -> bool:
        """So it is."""
        return bool(path)


def journaled(path: str) -> MaildirEngine:
    """Pushes through a journal from the first one on."""
    engine = MaildirEngine(path, disk=Ordered())
    engine._store.journal._pushes = WARM
    return engine


_ENGINES: dict[str, Callable[[str], MaildirEngine]] = {
    "maildir": MaildirEngine,
    "journaled": journaled,
    "losing": Losing,
    "by id": ById,
}


def open_queue(path: str, engine: str) -> mailq.Queue:
    return mailq.Queue(_ENGINES[engine](path))
