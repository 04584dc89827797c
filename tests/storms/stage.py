"""Where a storm takes place, and what its messages look like. Loads nothing of mailq: commands need it, too."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from history import Log

_ROUNDING = 5_000_000
_UNTIL = re.compile(r",until=(\d{8}T\d{6}(?:\.\d{3})?)Z,")


class Stage(NamedTuple):
    """Where a storm takes place, with which engine; of some thirty deliveries ``late`` are settled late.

    A storm of workers has ``backlog`` messages expire at a time, and jobs that run for ``long`` seconds, to outlast
    their leases; ``patience`` seconds after its end everything is done.
    """

    root: str
    engine: str = "maildir"
    late: int = 2
    backlog: int = 0
    long: float = 0.0
    patience: float = 60.0

    @property
    def jobs(self) -> str:
        return self.queue("jobs")

    def queue(self, name: str) -> str:
        return f"{self.root}/{name}"

    def log(self, name: str) -> Log:
        return Log(Path(self.root, "logs", name))

    def acknowledge(self, keys: list[str]) -> None:
        """Note for the second count that their push returned."""
        self._note("acknowledged", keys)

    def effect(self, key: str) -> None:
        """Do the work: one more line in a file."""
        self._note("effects", [key])

    def _note(self, what: str, keys: list[str]) -> None:
        with open(f"{self.root}/{what}/{os.getpid()}", "ab", buffering=0) as file:
            file.write("".join(f"{key}\n" for key in keys).encode())

    def noted(self, what: str) -> Counter[str]:
        """How often each key was."""
        return Counter(key for path in Path(self.root, what).iterdir() for key in path.read_text().splitlines())


def body_of(key: str, size: int) -> dict[str, str]:
    return {"key": key, "fill": key * (size // len(key))}


def digest_of(body: Any) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def key_of(body: Any) -> str:
    return str(body.get("key", "?")) if isinstance(body, dict) else "?"


def claimed_at(receipt: str, lease: float) -> int:
    """An instant before a claim, in nanoseconds: from the end of its lease, if no other was asked for."""
    found = _UNTIL.search(receipt)
    assert found is not None, receipt
    until = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
    return round((until.timestamp() - lease) * 1e9) - _ROUNDING
