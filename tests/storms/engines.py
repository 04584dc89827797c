"""The engines of a storm: the real one, and two that are wrong on purpose."""

from __future__ import annotations

import os
from collections.abc import Callable

import mailq
from mailq.engines.base import Claimed, Settled, Settlement
from mailq.engines.maildir import names
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.journal import PUSHES_BEFORE_JOURNAL


class Losing(MaildirEngine):
    """Removes a message before it hands it over: whoever is killed with it has lost it."""

    def claim(self, limit: int, *, lease: float | None, detached: bool) -> Claimed:
        claimed = super().claim(limit, lease=lease, detached=detached)
        for claim in claimed.claims:
            super().settle(claim.receipt, Settlement("ack"))
        return claimed

    def settle(self, receipt: str, settlement: Settlement) -> Settled:
        if settlement.verb == "ack":
            return Settled(_name(receipt), None)
        return super().settle(receipt, settlement)


class ById(MaildirEngine):
    """Acks whatever has the id, whoever holds it: a stale holder does harm."""

    def settle(self, receipt: str, settlement: Settlement) -> Settled:
        for directory in ("cur", "new", "later") if settlement.verb == "ack" else ():
            for name in os.listdir(f"{self.location}/{directory}"):
                if _name(receipt).id in name:
                    os.unlink(f"{self.location}/{directory}/{name}")
                    return Settled(_name(receipt), None)
        return super().settle(receipt, settlement)


def _name(receipt: str) -> names.MessageName:
    name = names.parse(receipt)
    assert name is not None
    return name


class Ordered(Disk):
    """A disk to which names come in order, whatever it really is."""

    def keeps_order(self, path: str) -> bool:
        """So it is."""
        return bool(path)


def journaled(path: str) -> MaildirEngine:
    """Pushes through a journal from the first one on."""
    engine = MaildirEngine(path, disk=Ordered())
    engine._store.journal._pushes = PUSHES_BEFORE_JOURNAL
    return engine


_ENGINES: dict[str, Callable[[str], MaildirEngine]] = {
    "maildir": MaildirEngine,
    "journaled": journaled,
    "losing": Losing,
    "by id": ById,
}


def open_queue(path: str, engine: str) -> mailq.Queue:
    return mailq.Queue(_ENGINES[engine](path))
