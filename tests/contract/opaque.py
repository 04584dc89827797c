"""Engines that keep the waist honest: one whose receipts say nothing, and one that does only what it must."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from typing import ClassVar, TypeVar

from mailq.engines.base import Capabilities, Claim, Claimed, Extended, Record, Settled, Settlement
from mailq.engines.memory import MemoryEngine
from mailq.errors import InvalidReceipt, LeaseLost
from mailq.message import State

_T = TypeVar("_T")


class OpaqueEngine(MemoryEngine):
    """A queue in memory whose receipts are random, and whose locations say nothing either."""

    capabilities: ClassVar = Capabilities(shared=False)
    _known: dict[str, str] | None = None

    @property
    def location(self) -> str:
        return "opaque://"

    def claim(self, limit: int, *, lease: float | None, detached: bool) -> Claimed:
        claimed = super().claim(limit, lease=lease, detached=detached)
        return claimed._replace(claims=[self._hidden(claim) for claim in claimed.claims])

    def _hidden(self, claim: Claim) -> Claim:
        token = f"receipt-{secrets.token_hex(16)}"
        self._tokens()[token] = claim.receipt
        return claim._replace(receipt=token)

    def _tokens(self) -> dict[str, str]:
        if self._known is None:
            self._known = {}
        return self._known

    def _by(self, receipt: str, verb: str, call: Callable[[str], _T]) -> _T:
        if not isinstance(receipt, str) or not re.fullmatch("receipt-[0-9a-f]{32}", receipt):
            raise InvalidReceipt(receipt)
        try:
            return call(self._tokens()[receipt])
        except (KeyError, LeaseLost):
            raise LeaseLost(receipt, verb) from None

    def claimed(self, receipt: str) -> Claim:
        return self._by(receipt, "read", super().claimed)._replace(receipt=receipt)

    def settle(self, receipt: str, settlement: Settlement) -> Settled:
        if receipt in self._tokens().values():  # the reference gives back what an interrupted claim has taken
            return super().settle(receipt, settlement)
        call = super().settle
        return self._by(receipt, settlement.verb, lambda known: call(known, settlement))

    def extend(self, receipt: str, seconds: float) -> Extended:
        call = super().extend
        return self._by(receipt, "extend", lambda known: call(known, seconds))

    def look(self, state: State | None, **options: object) -> list[Record]:
        found = super().look(state, **options)  # type: ignore[arg-type] # those of look
        return [record._replace(location=hashlib.sha256(record.location.encode()).hexdigest()) for record in found]


class LeastEngine(OpaqueEngine):
    """The same, without all that an engine may lack."""

    capabilities: ClassVar = Capabilities(shared=False, presence=False, replies=False, edit=False)
    publish = holders = put_reply = get_reply = replace = None  # type: ignore[assignment] # nobody may call them


def forge(receipt: str) -> str:
    """A receipt as good as this one, of no claim."""
    return f"receipt-{secrets.token_hex(16)}" if receipt else ""
