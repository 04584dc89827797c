"""A set of ids that stays small: a million take some 20 megabytes."""

from __future__ import annotations

from typing import Final

_WIDTH: Final = 16


class Ids:
    """Ids, kept as 16 bytes each. The last bytes of an id are random: they choose the bucket."""

    def __init__(self) -> None:
        self._buckets: dict[bytes, bytearray] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def __contains__(self, id: str) -> bool:
        """Whether an id is among them."""
        raw = bytes.fromhex(id)
        bucket = self._buckets.get(raw[-2:])
        return bucket is not None and _holds(bucket, raw)

    def add(self, id: str) -> bool:
        """Remember an id; False if it is known."""
        raw = bytes.fromhex(id)
        bucket = self._buckets.setdefault(raw[-2:], bytearray())
        if _holds(bucket, raw):
            return False
        bucket += raw
        self._count += 1
        return True


def _holds(bucket: bytearray, raw: bytes) -> bool:
    at = bucket.find(raw)
    while at > 0 and at % _WIDTH:  # it stands across two others
        at = bucket.find(raw, at + 1)
    return at >= 0
