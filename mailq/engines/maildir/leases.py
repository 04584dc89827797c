"""Who holds leases, and whether they live.

A process that holds leases keeps a file in ``owners/`` locked; the kernel lets
go of the lock when the process dies, however it dies. So a dead owner is
recognised at once, immune to reused process ids and across containers. A lock of
another machine may not reach across a shared disk: its owners' leases end by time.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from mailq.engines.base import LeaseHolder
from mailq.engines.maildir import at_fork, filesystems, names
from mailq.engines.maildir.layout import entries, log, read_small
from mailq.engines.maildir.locks import LockFile
from mailq.engines.maildir.names import is_token
from mailq.ids import is_id
from mailq.message import is_instant

try:
    import fcntl
except ImportError:  # Windows: leases end by time alone
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mailq.engines.maildir.disk import Disk
    from mailq.engines.maildir.layout import Layout

_LONGEST: Final = 65_536
"""A longer status is not published."""

_MACHINE_ID: Final = "/etc/machine-id"
_ID_BYTES: Final = 64
"""More than a machine id has, with its newline."""


class Holder:
    """This process as a holder of leases on one queue."""

    def __init__(self, layout: Layout, disk: Disk, *, mode: int) -> None:
        self._mode = mode
        self._layout = layout
        self._disk = disk
        self._file: LockFile | None = None
        self._token = ""
        self._complained = False
        self._identity: dict[str, Any] = {}
        self._told = 0
        self._lock = threading.RLock()
        at_fork.register(self)

    def token(self) -> str:
        """The name of this owner, for the ``by=`` of its claims; from the first call on it is locked.

        Empty where that cannot be had (no locks here, or the disk is full): leases
        end by time alone then, and a full queue can still be emptied.
        """
        if not self._token and fcntl is not None:
            with self._lock:
                try:
                    if not self._token:
                        self._enter()
                except OSError as error:
                    self._complain(error)
        return self._token

    def check(self) -> None:
        """Register under another name if the file was removed: other processes take this one for dead then.

        Only then. While it merely cannot be looked at (owners/ may not be entered for a
        moment) others cannot either and take us for alive; to let go of the lock would have all
        our leases reaped.
        """
        if not self._token:
            return
        with self._lock:
            token = self._token
            try:
                os.lstat(f"{self._layout.owners}/{token}")
            except FileNotFoundError:
                if token == self._token:  # a signal handler may have registered again by now
                    self.close()
            except OSError:
                pass

    def _complain(self, error: OSError) -> None:
        """Say once that this process cannot be an owner."""
        if not self._complained:
            log().warning("leases end by time alone: cannot register as an owner: %s", error)
            self._complained = True

    def _enter(self) -> None:
        sweep(self._layout, self._disk)
        token = os.urandom(4).hex()
        temporary = f"{self._layout.tmp}/.owner.{token}"
        identity = {
            "host": platform.node(),
            "machine": machine_id(),
            "boot": boot_id(),
            "pid": os.getpid(),
            "since": time.time(),
        }
        file = None
        try:
            file = LockFile(self._disk, temporary, os.O_RDWR, self._mode)
            self._disk.write(file.fd, (json.dumps(identity) + "\n").encode())
            fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Locked before it can be seen: a sweeper that met it unlocked would take it for dead.
            self._disk.rename(temporary, f"{self._layout.owners}/{token}")
        except BaseException:
            if file is not None:
                file.close()
            with contextlib.suppress(OSError):
                self._disk.unlink(temporary)
            raise
        self._file, self._identity, self._token = file, identity, token

    def publish(self, story: Mapping[str, Any]) -> None:
        """Rewrite the file with a story behind the identity.

        In place, since the lock is on the file. A process that reads meanwhile may see half of
        it, which proves all the same that this one lives.

        And by its name, not through the descriptor that holds the lock: that may be closed
        by then, in a signal handler too, and its number another file's, even a message's.
        """
        with self._lock:
            token = self.token()
            if not token:
                return
            text = json.dumps(self._identity) + "\n"
            with contextlib.suppress(TypeError, ValueError, RecursionError):  # no JSON: then without it
                told = json.dumps({**story, **self._identity}) + "\n"
                text = told if len(told) <= _LONGEST else text
            # Blanks over the rest of a longer one before: it stays one JSON text.
            self._told, padded = len(text), text.ljust(self._told)
            with contextlib.suppress(OSError):
                self._rewrite(f"{self._layout.owners}/{token}", padded.encode())

    def _rewrite(self, path: str, data: bytes) -> None:
        fd = self._disk.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            self._disk.pwrite(fd, data, 0)
        finally:
            self._disk.drop(fd)

    def unregister(self) -> None:
        """Stop being an owner: leases still held under the token are up for reaping."""
        with self._lock:
            token = self._token
            self.close()  # first: nothing must be claimed under a name whose file is gone
            if token:
                with contextlib.suppress(OSError):
                    self._disk.unlink(f"{self._layout.owners}/{token}")

    def after_fork(self) -> None:
        """Forget the parent's name: a child that lives on must not claim under it."""
        self._lock = threading.RLock()
        self.close()

    def close(self) -> None:
        """Close the lock file and forget the token, without a trace on disk."""
        with self._lock:  # or two threads would close it, the second one another's file of that number
            file, self._file, self._token = self._file, None, ""
            if file is not None:
                file.close()


def is_dead(layout: Layout, disk: Disk, token: str) -> bool:
    """Whether an owner is known to be dead; False also means not known."""
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
        return runs_here(layout, disk.read_all(fd, _LONGEST))
    except OSError:
        return False
    finally:
        disk.drop(fd)


def runs_here(layout: Layout, data: bytes) -> bool:
    """Whether the lock of the owner whose file holds this can be seen from here: if it can be had, the owner is dead.

    So it is under the same kernel, whatever the names of its containers; and for what ran before this machine
    was last started. A machine is known by its name and its id, which its clones may share: on a disk that
    several machines may use, nothing but the kernel counts.
    """
    story, name, boot = _read_story(data), platform.node(), boot_id()
    if boot and story.get("boot") == boot:
        return True
    # What is missing differs from nothing: a file that a power cut has torn says nothing at all, one that
    # was written before there was an id has the name alone.
    is_this_machine = story.get("host", name) == name and story.get("machine", machine_id()) == machine_id()
    # Where one start cannot be told from another (not on Linux), machines that share a queue need different names.
    return bool(is_this_machine and (not boot or filesystems.is_all_here(layout.owners)))


def sweep(layout: Layout, disk: Disk) -> None:
    """Remove the files of dead owners. What they held, every consumer reaps; what is no owner's stays."""
    for entry in entries(layout.owners):
        if is_token(entry.name) and is_dead(layout, disk, entry.name):
            with contextlib.suppress(OSError):
                disk.unlink(entry.path)


def list_holders(layout: Layout, disk: Disk) -> list[LeaseHolder]:
    """The owners, oldest first; the dead among them are swept with this look."""
    found = []
    for entry in entries(layout.owners):
        data = read_small(disk, entry.path, _LONGEST) if is_token(entry.name) else None
        if data is None:
            continue  # it left meanwhile, or is no owner's
        told = _read_story(data)
        dead = is_dead(layout, disk, entry.name)
        if dead:
            with contextlib.suppress(OSError):
                disk.unlink(entry.path)
        host, pid, since = (told.pop(key, default) for key, default in (("host", ""), ("pid", 0), ("since", 0.0)))
        for key in ("machine", "boot"):
            told.pop(key, None)
        if not isinstance(host, str) or not isinstance(pid, int) or not is_instant(since):
            host, pid, since = "", 0, 0.0  # not written by us
        found.append(LeaseHolder(entry.name, host, pid, since, not dead, told))
    return sorted(found, key=lambda owner: owner.since)


def _read_story(data: bytes) -> dict[str, Any]:
    try:
        story = json.loads(data)
        json.dumps(story, allow_nan=False)  # what Python reads as JSON and is none stops here
    except (ValueError, RecursionError):
        return {}  # half written, or not ours
    return story if isinstance(story, dict) else {}


@cache
def boot_id() -> str:
    """What distinguishes this start of this kernel; empty where the system does not say."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return file.read().strip()
    return ""


@cache
def machine_id() -> str:
    """What distinguishes this machine, see machine-id(5): a checksum, since the id itself is confidential.

    Empty where there is none, as in most containers.
    """
    # Read as bytes: a process that has become another user may not be able to import a codec any more.
    with contextlib.suppress(OSError), open(_MACHINE_ID, "rb") as file:
        data = file.read(_ID_BYTES).rstrip()
        if is_id(data.decode(errors="replace")):
            return f"{names.checksum(data):08x}"
    return ""
