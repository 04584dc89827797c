"""The ids of messages: UUIDv7 in hex, which carry the time of the push to the nanosecond."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

NS: Final = 1_000_000_000
"""Nanoseconds in a second."""

END_OF_TIME: Final = 253_402_300_800 * NS
"""The year 10000: later times cannot be written with a year of four digits."""

_ID: Final = re.compile(r"[0-9a-f]{32}")
_RANDOM_NUMBERS: Final = 64
"""The number of random numbers that are drawn in one system call."""


def new_id(ns: int, salt: int | None = None) -> str:
    """Make a UUIDv7 (RFC 9562, section 5.7) in hex for an instant.

    The 20 bits after the milliseconds hold the nanoseconds within it, as the
    RFC's section 6.2 allows. The last 54 bits are random, or ``salt``.
    """
    milli, nano = divmod(ns, 1_000_000)
    if salt is None:
        salt = int.from_bytes(os.urandom(7))
    high = (milli & (1 << 48) - 1) << 16 | 7 << 12 | nano >> 8
    low = 2 << 62 | (nano & 0xFF) << 54 | salt & (1 << 54) - 1
    return f"{high << 64 | low:032x}"


def id_time(id: str) -> int | None:
    """Return the instant in an id, in nanoseconds; None for ids that mailq did not make."""
    if id[12] != "7" or id[16] not in "89ab":
        return None
    nano = int(id[13:16], 16) << 8 | int(id[16:20], 16) >> 6 & 0xFF
    ns = int(id[:12], 16) * 1_000_000 + min(nano, 999_999)
    return ns if ns < END_OF_TIME else None


def is_id(text: str) -> bool:
    """Whether a text is spelled like an id."""
    return _ID.fullmatch(text) is not None


class MonotonicIds:
    """Hands out instants that never repeat or go backwards, whatever the clock does, and ids for them.

    ``clock`` is read for each; when it stands still or steps back, the next nanosecond
    is taken. Safe to share between threads.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._last = 0
        self._salts: list[int] = []
        # Reentrant: a signal handler that pushes may interrupt its own thread in here.
        self._lock = threading.RLock()

    def next(self) -> int:
        """Return the next instant, in nanoseconds."""
        with self._lock:
            self._last = max(self._last + 1, self._clock())
            return self._last

    def new_id(self, ns: int) -> str:
        """Make an id for one of the instants; see new_id."""
        try:
            salt = self._salts.pop()
        except IndexError:  # many at a time: one by one, each would be a system call
            salts = memoryview(os.urandom(_RANDOM_NUMBERS * 8)).cast("Q").tolist()
            salt, self._salts = salts.pop(), salts
        return new_id(ns, salt)

    def after_fork(self) -> None:
        """Start in a forked child with a free lock, since the parent may have held it, and with random numbers of its own."""
        self._lock = threading.RLock()
        self._salts = []
