"""How often a side syncs for a message: counted by strace, since a setting proves nothing.

The counting runs in a process of its own, whose servers are its children, so that
all of them are seen. ``python -m bench.syncs`` is that process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

from bench.results import Result
from bench.sides import POWER_LOSS, Side, fresh

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MESSAGES: Final = 16
SYNCS: Final = "syncs a message"
CALLS: Final = "calls a message"

_MARK: Final = "/mark-of-the-bench"
_CALL: Final = re.compile(r"^\d+ +(?P<name>\w+)\((?P<rest>.*)$")
_OPENED: Final = re.compile(r"= (\d+<[^>]*>)$")
_WRITES: Final = frozenset(("write", "writev", "pwrite64", "pwritev", "pwritev2"))


class Counts(NamedTuple):
    """The calls between two marks."""

    calls: int
    syncs: int


def count(directory: str, sides: Sequence[type[Side]]) -> list[Result]:
    """The syncs and the system calls of one message, for each side in each class that it claims.

    Raises OSError if that cannot be counted here.
    """
    if shutil.which("strace") is None:
        raise FileNotFoundError("there is no strace here")
    with tempfile.NamedTemporaryFile(prefix="trace-", dir=directory) as trace:
        watched = [
            sys.executable,
            "-m",
            "bench.syncs",
            directory,
            *(f"{side.__module__}:{side.__name__}" for side in sides),
        ]
        command = ["strace", "-f", "-qq", "-y", "-s", "256", "-o", trace.name, *watched]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"strace or what it watched failed: {done.stderr.strip()[-2000:]}")
        with open(trace.name, encoding="utf-8", errors="replace") as file:
            found = counts(file)
    return [
        Result(section, case, side, durability, unit, [number / MESSAGES])
        for (side, durability, case), counted in found.items()
        for section, unit, number in (("syncs", SYNCS, counted.syncs), ("calls", CALLS, counted.calls))
    ]


def counts(trace: Iterable[str]) -> dict[tuple[str, ...], Counts]:
    """Read what strace wrote: the calls of all processes between each pair of marks."""
    found: dict[tuple[str, ...], Counts] = {}
    within: tuple[str, ...] | None = None
    synced = _SyncedFiles()
    counted: Counter[str] = Counter()
    for line in trace:
        synced.hear(line)
        call = _CALL.match(line)
        if call is None:
            continue
        if _MARK in line:
            if within is not None:
                found[within] = Counts(counted["calls"], counted["syncs"])
            within = tuple(line.split(_MARK, 1)[1].split('"')[0].split("/")[1:]) or None
            counted.clear()
            continue
        counted["calls"] += 1
        counted["syncs"] += _is_sync(call["name"], call["rest"], synced)
    return found


def _is_sync(name: str, rest: str, synced: _SyncedFiles) -> bool:
    """Whether a call waits for the disk. An msync that is asynchronous does not, nor does sync_file_range."""
    if name == "msync":
        return "MS_SYNC" in rest
    if name in _WRITES:
        return "RWF_DSYNC" in rest or "RWF_SYNC" in rest or rest.split(",", 1)[0] in synced.descriptors
    return name in {"fsync", "fdatasync", "syncfs", "sync"}


class _SyncedFiles:
    """The descriptors whose writes are syncs in themselves, as strace -y writes them: number and path."""

    def __init__(self) -> None:
        self.descriptors: set[str] = set()
        self._opening: set[str] = set()

    def hear(self, line: str) -> None:
        pid = line.split(" ", 1)[0]
        if "open" in line and ("O_DSYNC" in line or "O_SYNC" in line):
            self._opening.add(pid)
        if pid in self._opening and "<unfinished" not in line:
            self._opening.discard(pid)
            self.descriptors.update(_OPENED.findall(line.rstrip()))


def proved(sides: Sequence[type[Side]], counted: Sequence[Result], durability: str) -> list[type[Side]]:
    """Those that belong in a class: they claim it, and nothing was counted that says otherwise."""
    out = unproved(counted) if durability == POWER_LOSS else set()
    return [side for side in sides if durability in side.claims and side.name not in out]


def unproved(counted: Sequence[Result]) -> set[str]:
    """The sides that claim to be safe against a power cut, and sync less than once a push."""
    pushes = [
        result for result in counted if (result.unit, result.case, result.durability) == (SYNCS, "push", POWER_LOSS)
    ]
    return {result.side for result in pushes if result.values[0] < 1}


# The process that is watched


def _mark(*words: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open("/".join((_MARK, *words)), os.O_RDONLY))


def _work(side: Side, *names: str) -> None:
    body = bytes(1024)
    for _ in range(2):  # what is done once: the second time nothing is new
        _mark(*names, "push")
        for _ in range(MESSAGES):
            side.push(body)
        _mark(*names, "pop+ack")
        for _ in range(MESSAGES):
            taken = side.pop()
            if taken is None:
                raise RuntimeError("a message that was pushed is not there")
            side.ack(taken[1])
        _mark()


def main(directory: str, names: Sequence[str]) -> None:
    """Use each side a little, with marks that the trace shows."""
    for name in names:
        module, _, attribute = name.partition(":")
        kind: type[Side] = getattr(import_module(module), attribute)
        for durability in kind.claims:
            with fresh(kind, directory, durability) as (_, side):
                _work(side, kind.name, durability)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
