"""An examination under conditions that a test chooses."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from mailq.engines.maildir.doctor import Finding, examine
from mailq.engines.maildir.doctor.machine import Machine
from mailq.ids import NS

MOUNTED = "36 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"


def proc(
    root: Path,
    mounts: str = MOUNTED,
    *,
    journal: bool = True,
    fast: bool = False,
    options: str = "rw\nbarrier\ndata=ordered\n",
) -> str:
    """A ``/proc`` and a ``/sys`` that tell of a machine without faults, or with these."""
    for directory in ("proc/self", "proc/fs/ext4/sda1", "proc/fs/jbd2/sdb1-8", "proc/sys/fs/inotify", "sys/dev/block"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "proc/self/mountinfo").write_text(mounts)
    (root / "proc/fs/ext4/sda1/options").write_text(options)
    (root / "proc/fs/ext4/sda1/fc_info").write_text(f"fc stats:\n{int(fast)} commits\n0 ineligible\n")
    (root / "proc/sys/fs/inotify/max_user_instances").write_text("128\n")
    (root / "proc/sys/fs/inotify/max_user_watches").write_text("65536\n")
    if journal:
        (root / "proc/fs/jbd2/sda1-8").mkdir(exist_ok=True)
    if not os.path.lexists(root / "sys/dev/block/8:1"):
        (root / "sys/dev/block/8:1").symlink_to("../../devices/sda1")
    return str(root)


def machine(root: Path, **told: Any) -> Machine:
    """A machine without faults, or with these."""
    place = proc(root, **told)
    return Machine(proc=f"{place}/proc", sys=f"{place}/sys")


def look(path: Path, *, ahead: float = 0.0, **how: Any) -> dict[str, list[Finding]]:
    """Examine, by a clock that is so many seconds ahead; the findings by their check."""
    if "machine" not in how:
        how["machine"] = machine(path.parent / "machine")
    found: dict[str, list[Finding]] = {}
    for finding in examine(path, clock=lambda: time.time_ns() + round(ahead * NS), **how):
        found.setdefault(finding.check, []).append(finding)
    return found


def troubles(found: dict[str, list[Finding]]) -> list[tuple[str, str]]:
    """What is not well."""
    return [(f.check, f.level) for findings in found.values() for f in findings if f.level != "ok"]


def level(found: dict[str, list[Finding]], check: str) -> str:
    """The worst that one check says."""
    return max((f.level for f in found[check]), key=("ok", "warning", "error").index)
