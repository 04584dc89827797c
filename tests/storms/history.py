"""What processes write down of what they do, each into a log of its own, so that it outlives them.

Each event is one line, appended with one write(2): a SIGKILL comes before or after it, never within. What is about to
be done is written before (``push?``), what was done after (``push!``); a process that is killed in between leaves the
question open. ``EVENTS`` says what there is.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

EVENTS = {
    "push?": (
        "keys: {key: digest}, plain: whether these are delivered in the order of their pushes; "
        "deaths: {reason: attempts} of which each may die, with the number of attempts that this takes or null; "
        "without it, of anything"
    ),
    "push!": "ids: {key: id}",
    "push-": "keys: [key]; it was refused, and nothing is there",
    "got": "a delivery: id, key, digest, receipt, attempt, deadline, since, detached, group, words, limit; see Got",
    "ack?": "receipt; the message is done, and about to be acked",
    "ack!": "receipt",
    "back?": "receipt; about to be nacked, released or rejected; words: [outcome] that the attempt may be counted as",
    "extend!": "receipt, deadline",
    "gone": "receipt; the answer was LeaseLost",
    "kill?": "group; one of these processes is about to be killed",
    "stop?": "group; these processes are about to be told to stop: they may give back what they hold, uncounted",
    "dead": "id, key: a dead letter, when all is over; reason, words: why, and the outcomes of its attempts",
}


class Event(NamedTuple):
    """Something that a process did. ``at`` is the time of day, in nanoseconds."""

    at: int
    who: int
    what: str
    facts: dict[str, Any]


class Log:
    """A process's own log."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, what: str, **facts: Any) -> None:
        assert what in EVENTS
        os.write(self._fd, json.dumps([time.time_ns(), os.getpid(), what, facts]).encode() + b"\n")


def read(paths: Iterable[Path]) -> list[Event]:
    """All events of all logs, by their times; those of one process in the order in which it wrote them."""
    events = [Event(*json.loads(line)) for path in paths for line in path.read_text().splitlines()]
    return sorted(events, key=lambda event: event.at)
