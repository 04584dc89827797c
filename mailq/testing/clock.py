"""Time that stands still until a test moves it."""

from __future__ import annotations

import time
from typing import Final

_MILLI: Final = 1_000_000


class ManualClock:
    """A clock for engines, in nanoseconds since 1970; only ``advance`` moves it.

    It starts at the present, rounded down to the millisecond in which deadlines
    are told. A fixed date would not do: a disk stamps files with the real time,
    and an engine compares those stamps with its clock. A clock far in the past
    would make every lease seem extended by years, one far ahead would make every
    file dropped in by hand old at once.
    """

    def __init__(self, start: int | None = None) -> None:
        self._now = time.time_ns() // _MILLI * _MILLI if start is None else start

    def __call__(self) -> int:
        """Tell the time."""
        return self._now

    @property
    def seconds(self) -> float:
        """The time as deliveries and messages tell it, in seconds since 1970."""
        return self._now / 1_000_000_000

    def advance(self, seconds: float) -> None:
        """Move on; a negative number is somebody setting the clock back."""
        self._now += round(seconds * 1_000_000_000)
