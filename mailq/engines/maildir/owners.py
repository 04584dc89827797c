"""Who holds leases, and whether they live.

A process that holds leases keeps a file in ``owners/`` locked; the kernel lets
go of the lock when the process dies, however it dies. So a dead owner is
recognised at once, immune to reused process ids and across containers.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
import weakref
from functools import cache
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows: leases end by time alone
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from mailq.engines.disk import Disk
    from mailq.engines.maildir.layout import Layout


class Owner:
    """This process as a holder of leases on one queue."""

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self._layout = layout
        self._disk = disk
        self._fd: int | None = None
        self._token = ""
        self._complained = False
        _forget_in_children(self)

    def token(self) -> str:
        """The name of this owner, for the ``by=`` of its claims; from the first call on it is locked.

        Empty where that cannot be had (no locks here, or the disk is full): leases
        end by time alone then, and a full queue can still be emptied.
        """
        if not self._token and fcntl is not None:
            try:
                self._enter()
            except OSError as error:
                self._complain(error)
        return self._token

    def _complain(self, error: OSError) -> None:
        """Say once that this process cannot be an owner."""
        if not self._complained:
            import logging  # noqa: PLC0415 - slow to load, and only wanted here

            logging.getLogger("mailq").warning("leases end by time alone: cannot register as an owner: %s", error)
            self._complained = True

    def _enter(self) -> None:
        token = os.urandom(4).hex()
        temporary = f"{self._layout.tmp}/.owner.{token}"
        story = {"host": platform.node(), "boot": boot_id(), "pid": os.getpid(), "since": time.time()}
        fd = self._disk.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            self._disk.write(fd, (json.dumps(story) + "\n").encode())
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Locked before it can be seen: a sweeper that met it unlocked would take it for dead.
            self._disk.rename(temporary, f"{self._layout.owners}/{token}")
        except BaseException:
            self._disk.drop(fd)
            with contextlib.suppress(OSError):
                self._disk.unlink(temporary)
            raise
        self._fd, self._token = fd, token

    def leave(self) -> None:
        """Stop being an owner: leases still held under the token are up for reaping."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self._disk.unlink(f"{self._layout.owners}/{self._token}")
            self.abandon()

    def __del__(self) -> None:
        """An owner that nobody can reach any more holds nothing."""
        self.abandon()

    def abandon(self) -> None:
        """Close the lock file and forget the token, without a trace on disk."""
        fd, self._fd, self._token = self._fd, None, ""
        if fd is not None:
            self._disk.drop(fd)


def _forget_in_children(owner: Owner) -> None:
    """Have a forked child close its copy of the lock.

    A fork inherits an flock: a child that lives on would keep its dead parent's
    leases alive, and would claim under the parent's name.
    """
    reference = weakref.ref(owner)

    def forget() -> None:
        if (mine := reference()) is not None:
            mine.abandon()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)


def is_dead(layout: Layout, disk: Disk, token: str) -> bool:
    """Whether an owner is known to be dead; False also means not known.

    A lock that can be had proves death only under the same kernel, or before its
    last start: another host's locks may not reach across a shared disk.
    """
    if fcntl is None:
        return False
    try:
        fd = disk.open_to_read(f"{layout.owners}/{token}")
    except FileNotFoundError:
        return True  # it left, or was swept when it was dead
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        story = json.loads(disk.read_all(fd, 4096))
        same_kernel = story["boot"] and story["boot"] == boot_id()
        return bool(same_kernel or story["host"] == platform.node())
    except OSError:
        return False
    except (ValueError, KeyError, TypeError):
        # Not ours, or torn by a power cut: whoever held the lock is gone with the kernel.
        return True
    finally:
        disk.drop(fd)


@cache
def boot_id() -> str:
    """What tells this start of this kernel from any other; empty where the system does not say."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return file.read().strip()
    return ""
