"""What the machine under a queue says of itself: mounts, room, limits.

All of it is read and nothing is asked for: where a system does not tell, the
answer is None, and a check says that it does not know.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from mailq.engines.maildir import filesystems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailq.engines.maildir.filesystems import Mount


class Space(NamedTuple):
    """Room on a file system; inodes are None where it does not count them."""

    free_bytes: int
    total_bytes: int
    free_inodes: int | None
    total_inodes: int | None


class InotifyUse(NamedTuple):
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
        self._proc, self._sys, self.timer = proc, sys, timer

    def mount_of(self, path: str) -> Mount | None:
        """The file system that a path is on, with all that ext4 does; None where the system does not say."""
        found = filesystems.mount_of(path, proc=self._proc)
        if found is None or found.type != "ext4":
            return found
        # The mount table leaves out its defaults.
        name = filesystems.name_of_device(found.device, sys=self._sys)
        options = set(self._read(f"fs/ext4/{name}/options").split()) - {"rw", "ro"}
        return found._replace(options=found.options | options)

    def has_journal(self, mount: Mount) -> bool | None:
        """Whether an ext4 file system has a journal; None where the kernel does not say."""
        return filesystems.has_journal(mount, proc=self._proc, sys=self._sys)

    def makes_fast_commits(self, mount: Mount) -> bool:
        """Whether an ext4 file system is known to make fast commits."""
        return bool(filesystems.makes_fast_commits(mount.device, proc=self._proc, sys=self._sys))

    def space(self, path: str) -> Space | None:
        """How much room there is for this user."""
        try:
            status = os.statvfs(path)
        except (OSError, AttributeError):  # Windows has no statvfs
            return None
        inodes = (
            (status.f_favail, status.f_files) if status.f_files else (None, None)
        )  # btrfs makes them as it needs them
        return Space(status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize, *inodes)

    def longest_name(self, path: str) -> int | None:
        """How many bytes a file name may have; None where the system does not say."""
        try:
            return os.pathconf(path, "PC_NAME_MAX")
        except (OSError, ValueError, AttributeError):  # Windows has no pathconf
            return None

    def inotify(self) -> InotifyUse | None:
        """What this user has of inotify, over all processes that can be looked into."""
        most, watches = (self._read(f"sys/fs/inotify/max_user_{what}").strip() for what in ("instances", "watches"))
        if not most.isdigit() or not watches.isdigit():
            return None
        held = list(self._watches())
        return InotifyUse(len(held), int(most), sum(held), int(watches))

    def is_stopped(self, pid: int) -> bool:
        """Whether a process is known to be stopped: by a signal, by Ctrl-Z, or by a debugger."""
        _, _, fields = self._read(f"{pid}/stat").rpartition(") ")  # the name before may hold anything
        return fields[:1] in {"T", "t"}

    def _read(self, name: str) -> str:
        try:
            with open(f"{self._proc}/{name}", encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError:
            return ""

    def _watches(self) -> Iterator[int]:
        """The number of watches of each instance of inotify that this user's processes have."""
        for pid in filter(str.isdigit, os.listdir(self._proc)):
            with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
                if os.stat(f"{self._proc}/{pid}").st_uid != os.getuid():
                    continue
                for fd in os.listdir(f"{self._proc}/{pid}/fd"):
                    with contextlib.suppress(OSError):
                        if os.readlink(f"{self._proc}/{pid}/fd/{fd}") == "anon_inode:inotify":
                            yield self._read(f"{pid}/fdinfo/{fd}").count("inotify wd:")
