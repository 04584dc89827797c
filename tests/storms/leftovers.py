"""What a storm may have left behind: processes, descriptors, locks, leases, litter, damage."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections import Counter
from pathlib import Path

from together import ahead

from mailq.engines.maildir.doctor import examine

_DAYS = 2 * 86_400.0
_LOCKS = (".reap.lock", ".settings.lock", ".import.lock")

_OF_THE_MACHINE = (
    "clock-drift",
    "file-system",
    "free-bytes",
    "free-inodes",
    "fsync",
    "inotify",
    "locks",
    "mount-options",
    "name-length",
)
_NOT_LEFT = (*_OF_THE_MACHINE, "dead-letters")
"""What the doctor says that is not about what a storm has left behind."""


def in_session(leader: int) -> dict[int, str]:
    """The processes of a session that are not dead, each with its command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                found[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")
    return found


def descriptors(pid: int) -> dict[int, str]:
    """The descriptors of a process, each with what it is open on."""
    found = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(path)
            if target != f"/proc/{pid}/fd":  # that of this very look
                found[int(path.name)] = target
    return found


def kinds_of_descriptors(pid: int) -> Counter[str]:
    """How many descriptors of each kind a process has: their numbers, and those of sockets, come and go."""
    return Counter(re.sub(r"\[?\d[0-9a-f]*\]?", "", target) for target in descriptors(pid).values())


def leftovers(root: Path, queues: tuple[str, ...], calm: tuple[str, ...]) -> list[str]:
    """Everything that is left where nothing may be. In ``calm`` queues no process was killed while it pushed."""
    found = [f"process {pid} has {path} open" for pid, path in holders(root)]
    for queue in queues:
        place = root / queue
        found += [f"a lock is held: {path}" for path in _lock_files(place) if _is_locked(path)]
        found += [f"a lease is left: {path}" for path in (place / "cur").iterdir()]
        found += [f"an owner is left: {path}" for path in (place / "owners").iterdir()]
        if (place / "journal").is_dir():
            found += [f"a journal is left: {path}" for path in (place / "journal").iterdir()]
        if queue not in calm:  # what the killed were writing is removed when a day has passed
            with ahead(place, _DAYS) as later:
                later.reap()
        found += [f"litter is left: {path}" for path in (place / "tmp").iterdir()]
        found += [
            f"the doctor of {queue}: {finding.check}: {finding.what} {finding.paths}"
            for finding in examine(place, full=True)
            if finding.level != "ok" and finding.check not in _NOT_LEFT
        ]
    return found


def holders(root: Path) -> list[tuple[int, str]]:
    """The processes that have something open below a directory, and what."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if (target := os.readlink(path)).startswith(f"{root}/"):
                found.append((int(path.parts[2]), target))
    return found


def _lock_files(place: Path) -> list[Path]:
    files = [place / name for name in _LOCKS]
    for directory in ("owners", "journal"):
        files += (place / directory).glob("*")
    return [path for path in files if path.exists()]


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
