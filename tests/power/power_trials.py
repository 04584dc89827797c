"""What is cut, how often, and what must come of it; the controls leave something out, and must be found out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import power_broken
import power_disks
import power_logged
import power_shutdown
import power_uml
from power_books import DEFECTS, Audit
from power_disks import BTRFS, EXT4, EXT4_FAST, EXT4_WRITEBACK, XFS, FileSystem
from power_programs import Work

AT_ONCE: Final = 20
"""So many cuts are made of one log."""

_CUTS: Final[dict[str, Callable[[FileSystem, Work, Path, int], Audit]]] = {
    "mount": power_shutdown.cut,
    "broken": power_broken.cut,
    "kernel": power_uml.cut,
}


class Trial(NamedTuple):
    """Cuts of one kind on one file system.

    ``kind``: a ``mount`` is shut down, a ``disk`` loses its cache, a disk is ``broken``, or a ``kernel`` is killed.
    ``few`` cuts are made by default, ``many`` in a full run. ``expected`` are the defects that a control must show,
    at least ``least`` of them together.
    """

    kind: str
    system: FileSystem
    few: int
    many: int
    control: str = ""
    work: Work = Work()
    expected: tuple[str, ...] = ()
    least: int = 0

    def __str__(self) -> str:
        return " ".join([self.kind, self.system.name, *([self.control] if self.control else [])])

    @property
    def missing(self) -> str:
        """Why it cannot be made here; nothing if it can."""
        reason = power_disks.missing(self.system)
        if not reason and self.kind in ("disk", "broken"):
            reason = power_logged.missing()
        if not reason and self.kind == "kernel":
            reason = power_uml.missing()
        if not reason and self.work.wrapper and not shutil.which(self.work.wrapper[0]):
            reason = f"{self.work.wrapper[0]} is not installed (Debian: the package of that name)"
        return reason

    def run(self, place: Path, count: int) -> Audit:
        result = Audit()
        if self.kind == "disk":
            for seed in range(-(-count // AT_ONCE)):
                here = min(AT_ONCE, count - seed * AT_ONCE)
                result.add(power_logged.cuts(self.system, self.work, place, seed, here))
        else:
            for seed in range(count):
                result.add(_CUTS[self.kind](self.system, self.work, place, seed))
        return result

    def complaint(self, audit: Audit) -> str:
        """What is wrong with the result; nothing if all is as it must be."""
        found = sum(audit.figures[word] for word in self.expected)
        if found < self.least:
            return f"the control shows {found} {' or '.join(self.expected)}, not {self.least}: {audit}"
        wrong = [
            word for word in DEFECTS if audit.figures[word] and word not in {*self.expected, *self.system.forgiven}
        ]
        if wrong:
            return f"{', '.join(wrong)}: {audit}"
        return "" if audit.figures["pushed"] else f"nothing was pushed: {audit}"


TRIALS: Final = [
    Trial("mount", EXT4, 4, 60),
    Trial("mount", EXT4_WRITEBACK, 4, 60),
    Trial("mount", EXT4_FAST, 4, 60),
    Trial("mount", XFS, 4, 60),
    Trial("disk", EXT4, 6, 100),
    Trial("disk", EXT4_WRITEBACK, 6, 100),
    Trial("disk", EXT4_FAST, 6, 100),
    Trial("disk", XFS, 6, 100),
    Trial("disk", BTRFS, 6, 100),
    Trial("broken", EXT4, 1, 30),
    Trial("broken", XFS, 1, 30),
    Trial("broken", BTRFS, 1, 30),
    Trial("kernel", EXT4, 1, 10),
    Trial("kernel", XFS, 1, 10),
    Trial("kernel", BTRFS, 1, 10),
]


FSYNC_ALONE: Final = Trial(
    "disk", EXT4_FAST, 0, 60, "fsync alone", Work(disk="fsync-alone"), ("lost", "torn", "twice", "stuck")
)
"""What mailq makes good for where commits are fast. Measured, and no control: a kernel may come that loses nothing."""


class Control(NamedTuple):
    """What is left out, and what must be seen then."""

    name: str
    work: Work
    expected: tuple[str, ...]

    def on(self, kind: str, system: FileSystem, count: int, least: int) -> Trial:
        return Trial(kind, system, count, count, self.name, self.work, self.expected, least)


_CRASH: Final = Control("process-crash", Work("process-crash"), ("lost", "torn"))
_EATEN: Final = Control("eatmydata", Work(wrapper=("eatmydata",)), ("lost", "torn"))
_FILES: Final = Control("files not synced", Work(disk="without-file-sync"), ("torn",))
# Whoever else syncs anything takes the names along that were not synced: so one producer, alone.
# On a disk with a cache: what is written past the kernel's is gone from a mount that is shut down only if it was never written.
_JOURNALS: Final = Control(
    "journals not synced", Work(disk="without-journal-sync", producers=1, consumers=0), ("lost", "torn")
)
_NAMES: Final = Control("names not synced", Work(disk="without-directory-sync", producers=1, consumers=0), ("lost",))

CONTROLS: Final = [
    _CRASH.on("mount", EXT4, 1, 100),
    _CRASH.on("mount", XFS, 1, 100),
    _CRASH.on("disk", BTRFS, 4, 100),
    _CRASH.on("kernel", EXT4, 1, 20),
    _EATEN.on("mount", EXT4, 1, 100),
    _EATEN.on("mount", XFS, 1, 100),
    _JOURNALS.on("disk", EXT4, 6, 1),
    _JOURNALS.on("disk", XFS, 6, 1),
    _JOURNALS.on("disk", BTRFS, 6, 1),
    _NAMES.on("mount", EXT4, 4, 1),
    _NAMES.on("mount", XFS, 4, 1),
    _NAMES.on("disk", BTRFS, 6, 1),
    _FILES.on("mount", XFS, 1, 20),
    _FILES.on("disk", EXT4_WRITEBACK, 3, 20),
]
