"""What the parts of the bench agree on: what they are asked, and what they answer."""

from __future__ import annotations

import sys
from typing import NamedTuple


class Plan(NamedTuple):
    """What a part is to do. Each part has ``measure(plan)``, which does its own interleaving."""

    directory: str
    """Where to measure: a directory of this run's own, on the disk that is measured."""
    rounds: int
    quick: bool
    """Does it run, not how fast: a few seconds a section."""
    left_out: list[str]
    """Who or what was not measured, and why: the report says so."""
    sections: frozenset[str] = frozenset()
    """Those that are asked for; none means all. What a part measures beyond them is dropped."""
    sides: frozenset[str] = frozenset()
    """Likewise."""

    def leave_out(self, what: str) -> None:
        """Say now, and in the report, that something is not measured."""
        print(what, file=sys.stderr)
        if what not in self.left_out:
            self.left_out.append(what)

    def wants(self, section: str) -> bool:
        """Whether a section is asked for."""
        return not self.sections or section in self.sections


class Result(NamedTuple):
    """What one side did in one case of a section."""

    section: str
    """"push", "push-pop-ack", "4+4", "batch", "sizes", "backlog", "wake-up", "worker", "command", "idle" ..."""
    case: str
    """"1 KiB", "1M first pop", "p99 alone" ..."""
    side: str
    """"mailq", "floor", "redis" ..."""
    durability: str
    """"power-loss", "process-crash", or "" where it makes no difference."""
    unit: str
    """"messages/s", "ms", "MiB", "% of a core" ..."""
    values: list[float]
    """One a round, in order: ratios are made round by round, of sides that were interleaved."""
