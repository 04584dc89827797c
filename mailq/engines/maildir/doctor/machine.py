"""What the machine under a queue says of itself: mounts, room, limits.

All of it is read and nothing is asked for: where a system does not tell, the
answer is None, and a check says that it does not know.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from mailq.engines.maildir import filesystems

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailq.engines.maildir.filesystems import Mount


class Space(NamedTuple):
    """Room on a file system; inodes are None where it does not count them."""

    free_bytes: int
    total_bytes: int
    free_inodes: int | None
    total_inodes: int | None


class Inotify(NamedTuple):
    """What this user has of inotify, and may have."""

    instances: int
    max_instances: int
    watches: int
    max_watches: int


class Machine:
    """Reads ``/proc`` and ``/sys``; both, and the timer, can be others for tests."""

    def __init__(
        self, *, proc: str = "/proc", sys: str = "/sys", timer: Callable[[], float] = time.perf_counter
    ) -> None:
        self._proc = proc
        self._sys = sys
        self.timer = timer

    def mount_of(self, path: str) -> Mount | None:
        """The file system that a path is on; None where the system does not say."""
        found = filesystems.mount_of(path, proc=self._proc)
        return found and found._replace(options=found.options | self._ext4_options(found))

    def has_journal(self, mount: Mount) -> bool | None:
        """Whether an ext4 file system has a journal; None where the kernel does not say."""
        return filesystems.has_journal(mount, proc=self._proc, sys=self._sys)

    def makes_fast_commits(self, mount: Mount) -> bool:
        """Whether an ext4 file system is known to make fast commits."""
        return bool(filesystems.makes_fast_commits(mount.device, proc=self._proc, sys=self._sys))

    def space(self, path: str) -> Space | None:
        """How much room there is for this user."""
        try:
            if not hasattr(os, "statvfs"):
                usage = shutil.disk_usage(path)
                return Space(usage.free, usage.total, None, None)
            status = os.statvfs(path)
        except OSError:
            return None
        counted = status.f_files > 0  # btrfs makes inodes as it needs them, and says 0
        return Space(
            status.f_bavail * status.f_frsize,
            status.f_blocks * status.f_frsize,
            status.f_favail if counted else None,
            status.f_files if counted else None,
        )

    def longest_name(self, path: str) -> int | None:
        """How many bytes a file name may have; None where the system does not say."""
        try:
            return os.pathconf(path, "PC_NAME_MAX")
        except (OSError, ValueError, AttributeError):  # Windows has no pathconf
            return None

    def inotify(self) -> Inotify | None:
        """What this user has of inotify, over all processes that can be looked into."""
        most, watches = (self._read(f"sys/fs/inotify/max_user_{what}") for what in ("instances", "watches"))
        if not most.strip().isdigit() or not watches.strip().isdigit():
            return None
        held = [self._inotify_of(pid) for pid in self._processes()]
        return Inotify(sum(a for a, _ in held), int(most), sum(b for _, b in held), int(watches))

    def is_stopped(self, pid: int) -> bool:
        """Whether a process is known to be stopped: by a signal, by Ctrl-Z, or by a debugger."""
        _, _, fields = self._read(f"{pid}/stat").rpartition(") ")  # the name before may hold anything
        return fields[:1] in {"T", "t"}

    def open_files(self) -> int | None:
        """How many files a process may have open; None if there is no limit, or none is known."""
        if resource is None:
            return None
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return None if soft == resource.RLIM_INFINITY else soft

    def _read(self, name: str) -> str:
        try:
            with open(f"{self._proc}/{name}", encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError:
            return ""

    def _ext4_options(self, mount: Mount) -> frozenset[str]:
        """What ext4 really does: the mount table leaves out its defaults."""
        if mount.type != "ext4":
            return frozenset()
        name = filesystems.name_of_device(mount.device, sys=self._sys)
        return frozenset(self._read(f"fs/ext4/{name}/options").split()) - {"rw", "ro"}

    def _processes(self) -> list[str]:
        if sys.platform == "win32":
            return []
        mine = os.getuid()
        found = []
        with contextlib.suppress(OSError), os.scandir(self._proc) as scan:
            for entry in scan:
                with contextlib.suppress(OSError):
                    if entry.name.isdigit() and entry.stat().st_uid == mine:
                        found.append(entry.name)
        return found

    def _inotify_of(self, pid: str) -> tuple[int, int]:
        """The instances and the watches of one process."""
        instances = watches = 0
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"{self._proc}/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"{self._proc}/{pid}/fd/{fd}") == "anon_inode:inotify":
                        instances += 1
                        watches += self._read(f"{pid}/fdinfo/{fd}").count("inotify wd:")
        return instances, watches
