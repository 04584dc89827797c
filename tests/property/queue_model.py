"""What a queue is, in as few lines as it takes, written from its documentation.

Time is whole milliseconds. A place in line is (millisecond, rank within it).
"""

from __future__ import annotations

from dataclasses import dataclass, field

Place = tuple[int, int]
LEASE = 60_000


@dataclass
class Entry:
    """A message. ``story`` has one word a finished attempt; ``since`` counts those since the last death."""

    id: str
    priority: int
    max_retries: int
    pushed: Place
    place: Place
    state: str
    story: list[str] = field(default_factory=list)
    since: int = 0
    receipt: str = ""
    deadline: int = 0

    @property
    def line(self) -> tuple[int, Place]:
        return -self.priority, self.place


class Model:
    """The queue. Each verb takes the time, and says what the real one must do."""

    def __init__(self, *, front: bool) -> None:
        self.front = front
        self.entries: dict[str, Entry] = {}

    def state(self, state: str) -> list[Entry]:
        return sorted((entry for entry in self.entries.values() if entry.state == state), key=lambda e: e.line)

    def push(self, ids: list[str], now: int, *, delay: int, priority: int, max_retries: int) -> None:
        for rank, id in enumerate(ids):
            state = "delayed" if delay else "ready"
            self.entries[id] = Entry(id, priority, max_retries, (now, rank), (now + delay, rank), state)

    def next(self) -> set[str]:
        """The messages that may be popped now: the first in line, and those that came back with it."""
        ready = self.state("ready")
        return {entry.id for entry in ready if entry.line == ready[0].line}

    def pop(self, id: str, receipt: str, now: int) -> Entry:
        entry = self.entries[id]
        entry.state, entry.receipt, entry.deadline = "leased", receipt, now + LEASE
        return entry

    def held(self, receipt: str) -> Entry | None:
        return next((entry for entry in self.state("leased") if entry.receipt == receipt), None)

    def ack(self, entry: Entry) -> None:
        del self.entries[entry.id]

    def fail(self, entry: Entry, outcome: str, now: int, *, delay: int = 0) -> None:
        entry.story.append(outcome)
        entry.since += 1
        if outcome == "rejected" or entry.since > entry.max_retries:
            entry.state, entry.since = "dead", 0
        elif delay:
            entry.state, entry.place = "delayed", (now + delay, 0)
        else:
            entry.state, entry.place = "ready", entry.pushed if self.front else (now, 0)

    def release(self, entry: Entry, now: int, *, delay: int) -> None:
        entry.state, entry.place = ("delayed", (now + delay, 0)) if delay else ("ready", entry.place)

    def extend(self, entry: Entry, now: int, by: int) -> bool:
        if in_time := now < entry.deadline:
            entry.deadline = max(entry.deadline, now + by)
        return in_time

    def reap(self, now: int) -> tuple[int, int, int]:
        due = [entry for entry in self.state("delayed") if entry.place[0] <= now]
        late = [entry for entry in self.state("leased") if entry.deadline <= now]
        for entry in due:
            entry.state = "ready"
            entry.place = entry.pushed if self.front and entry.since else entry.place
        for entry in late:
            self.fail(entry, "timeout", now)
        died = sum(entry.state == "dead" for entry in late)
        return len(late) - died, died, len(due)

    def redrive(self, ids: set[str] | None, now: int) -> int:
        chosen = [entry for entry in self.state("dead") if ids is None or entry.id in ids]
        ranks = {line: rank for rank, line in enumerate(sorted({entry.line for entry in chosen}))}
        for entry in chosen:
            entry.state, entry.place = "ready", (now, ranks[entry.line])
        return len(chosen)

    def purge(self, state: str) -> int:
        doomed = self.state(state)
        for entry in doomed:
            del self.entries[entry.id]
        return len(doomed)
