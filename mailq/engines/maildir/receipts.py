"""Receipts: read from their text, or remembered from the claims that returned them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import names
from mailq.errors import InvalidReceipt

if TYPE_CHECKING:
    from mailq.engines.maildir.names import MessageName

_MOST: Final = 1024
"""The number of receipts that are remembered; about a megabyte."""


class Receipts:
    """The envelopes of the last claims: to read a receipt again would take as long as two system calls.

    Safe to share between threads: each step is a single call of a dict.
    """

    def __init__(self) -> None:
        self._known: dict[str, MessageName] = {}

    def remember(self, receipt: str, envelope: MessageName) -> None:
        """Remember a receipt that a claim has returned."""
        if len(self._known) >= _MOST:
            self._known.clear()  # of those that were settled elsewhere, or never
        self._known[receipt] = envelope

    def read(self, receipt: str) -> MessageName:
        """The envelope in a receipt. Raises InvalidReceipt. What can be read is a plain file name: no path is in it."""
        envelope = (self._known.get(receipt) or names.parse(receipt)) if isinstance(receipt, str) else None
        if envelope is None or not envelope.claim or envelope.edit:
            raise InvalidReceipt(receipt)
        return envelope

    def take(self, receipt: str) -> MessageName:
        """The same for a receipt that is about to be settled: it is remembered no more."""
        envelope = self.read(receipt)
        self._known.pop(receipt, None)
        return envelope
