"""The next ready messages, held in order, so that a claim need not list the directory."""

from __future__ import annotations

import heapq
import threading
from typing import Final

SIZE: Final = 32_768
"""How many names a window holds: about 5 MB."""


class Window:
    """The first names in line, as sort keys, up to the last that a listing found.

    It is a memory of a listing and of arrivals since, never the truth: a name in
    it may be gone (a lost race). Safe to share between threads.
    """

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._heap: list[str] = []
        self._bound = ""
        self._meanwhile: list[str] = []
        # Reentrant: a signal handler that pushes may interrupt its own thread in here.
        self._lock = threading.RLock()

    def take(self) -> str | None:
        """Take the first key; None when the window is dry."""
        with self._lock:
            return heapq.heappop(self._heap) if self._heap else None

    def begin(self) -> None:
        """A listing begins: what arrives from now on it may miss."""
        with self._lock:
            self._meanwhile = []

    def fill(self, keys: list[str]) -> None:
        """Take over a listing, keeping the first of it, and what arrived during it."""
        with self._lock:
            self._keep(keys)
            for key in self._meanwhile:
                self.offer(key)

    def _keep(self, keys: list[str]) -> None:
        if len(keys) > self._size:
            keys = heapq.nsmallest(self._size, keys)
        else:
            keys.sort()
        self._heap = keys
        self._bound = keys[-1] if keys else ""

    def offer(self, key: str) -> None:
        """Add an arrival that belongs before the last name of the listing.

        Any other waits for the next listing: between the two may stand messages of
        other producers that this window has not heard of.
        """
        with self._lock:
            if len(self._meanwhile) < self._size:
                self._meanwhile.append(key)
            if key < self._bound:
                heapq.heappush(self._heap, key)
                if len(self._heap) > 2 * self._size:
                    self._keep(self._heap)

    def clear(self) -> None:
        """Forget everything: the next claim lists the directory."""
        with self._lock:
            self._heap = []
            self._bound = ""

    def after_fork(self) -> None:
        """Start with a free lock in a forked child: the parent's may have been held."""
        self._lock = threading.RLock()
        self.clear()
