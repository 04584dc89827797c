"""How much a claim may do beside claiming."""

from __future__ import annotations

import time
from typing import Final

SECONDS: Final = 0.05
"""What one claim may spend so. A heartbeat that has to wait for it is late by little, also where leases are short."""

FEWEST: Final = 16
"""The number of messages that every budget allows: also where a disk is slow, each claim gets on."""


class Budget:
    """Bounds what one claim buries, readies and gives back; the next claim goes on with the rest.

    There may be any number of such messages, and the heartbeats for the messages
    that a consumer holds wait for its claims. ``seconds`` is ``SECONDS`` if it is None.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._until = time.monotonic() + (SECONDS if seconds is None else seconds)
        self._free = FEWEST
        self.left_some = False
        """Whether there may be something to do that was left to the next claim."""

    def allows_more(self) -> bool:
        """Count one message as dealt with. False when no other one should be."""
        self._free -= 1
        if self._free > 0 or time.monotonic() < self._until:
            return True
        self.left_some = True
        return False
