"""Where it was measured: the machine, and the file system with what to think of numbers from it."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import tempfile
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from mailq.engines.maildir.doctor.machine import Machine

if TYPE_CHECKING:
    from mailq.engines.maildir.filesystems import Mount

IN_MEMORY: Final = frozenset(("tmpfs", "ramfs"))
JOURNALED: Final = frozenset(
    ("ext3", "xfs", "btrfs", "zfs", "bcachefs", "f2fs", "jfs", "reiserfs", "apfs", "hfs", "ntfs", "ntfs3")
)
"""Those that cannot be without a journal, or something that does the same."""


def machine() -> dict[str, Any]:
    """What the numbers belong to."""
    cpu = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        models = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
        cpu = next(models, cpu)
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "mailq": _version(),
    }


def _version() -> str:
    try:
        return metadata.version("mailq")
    except metadata.PackageNotFoundError:
        return "unknown"


def file_system(directory: str, about: Machine | None = None) -> dict[str, Any]:
    """The file system that a directory is on."""
    about = about or Machine()
    mount = about.mount_of(directory)
    kind = mount.type if mount else "unknown"
    journal = _has_journal(about, mount)
    warning = None
    if kind in IN_MEMORY:
        warning = "this is memory, not a disk: syncing costs nothing here and means nothing; choose a disk with --dir"
    elif journal is False:
        warning = (
            "this file system has no journal: its syncs and its new files cost other than a user's; "
            "choose another with --dir, or make one: bench/disk.sh"
        )
    elif journal is None:
        warning = "whether this file system has a journal is not known; compare with one that has: bench/disk.sh"
    return {
        "directory": directory,
        "type": kind,
        "options": sorted(mount.options) if mount else [],
        "device": _device(mount),
        "journal": journal,
        "fdatasync_ms": fdatasync_ms(directory),
        "warning": warning,
    }


def _has_journal(about: Machine, mount: Mount | None) -> bool | None:
    if mount is None:
        return None
    if mount.type in IN_MEMORY or mount.type == "ext2":
        return False
    if mount.type == "ext4":
        return about.has_journal(mount)
    return mount.type in JOURNALED or None


def _device(mount: Mount | None) -> str:
    """The device, and the file behind it if it is a loop."""
    if mount is None:
        return "unknown"
    device = os.path.basename(mount.source)
    with contextlib.suppress(OSError), open(f"/sys/class/block/{device}/loop/backing_file", encoding="utf-8") as file:
        return f"{mount.source}, a loop over {file.read().strip()}"
    return mount.source


def fdatasync_ms(directory: str) -> float:
    """What it takes to write 1 KiB into a file whose blocks are there already, and to have that on disk."""
    sync = getattr(os, "fdatasync", os.fsync)
    took = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        file.write(bytes(1 << 16))
        os.fsync(file.fileno())
        for number in range(32):
            file.seek(number << 10)
            file.write(bytes(1 << 10))
            begun = time.perf_counter()
            sync(file.fileno())
            took.append(1000 * (time.perf_counter() - begun))
    return statistics.median(took)
