"""Gives back what dead and late consumers hold, and readies what is due.

Every consumer reaps, any number at once, none is needed: a reaping is only
renames, and a lost race is nothing. The lock merely spares the disk the same
listing twice.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from mailq import lifecycle, names
from mailq.engine import Reaped
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import owners

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailq.engines.maildir.store import Store
    from mailq.names import Envelope

_LITTER_AGE: Final = 86_400.0
"""After this many seconds a file of ours in tmp/ is what a dead producer left."""

_COARSE: Final = 2.0
"""A directory's mtime may stand still for this many seconds (FAT, some network disks)."""


class Reaper:
    """The maintenance of one queue."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._later_seen: tuple[int, int] | None = None
        self.next_due: int | None = None

    # Leases

    def reap_if_due(self) -> Reaped | None:
        """Reap unless somebody did within the interval, or is doing it; None if not done."""
        if next(layouts.entries(self._store.layout.cur), None) is None:
            return None  # nothing is leased: no lock, no stamp, no cost
        with self._turn() as mine:
            return self.reap() if mine else None

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """One reaping at a time a queue, and one an interval."""
        from filelock import FileLock, Timeout  # noqa: PLC0415 - slow to load, and a producer never needs it

        path = self._store.layout.reap_lock
        first = not os.path.exists(path)  # a lock file that is only just made is no stamp
        lock = FileLock(path, timeout=0, mode=0o600, thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        except OSError:  # no locks on this file system: several may reap at once, which is harmless
            yield True
            return
        try:
            now = self._store.clock()
            interval = lifecycle.ns(self._store.settings.reap_interval)
            # A stamp from the future is one from before the clock stepped back.
            if mine := first or not 0 <= now - os.stat(path).st_mtime_ns < interval:
                self._store.disk.utime(path, now)
            yield mine
        finally:
            lock.release()

    def reap(self) -> Reaped:
        """Give back overdue and orphaned messages, ready what is due, sweep what the dead left."""
        due = self.promote(force=True)
        # Read before any file is looked at: an extension that comes after the look then finds its
        # old deadline passed, and its holder is told LeaseLost.
        now = self._store.clock()
        returned = died = 0
        alive: dict[str, bool] = {}
        for name in [entry.name for entry in layouts.entries(self._store.layout.cur)]:
            envelope = layouts.envelope_of(self._store.layout.cur, name)
            if envelope is None:
                continue
            letter = self._verdict(name, envelope, now, alive)
            if not letter:
                continue
            step = lifecycle.failed(envelope, letter, self._store.settings, now=self._store.stamps.next(), delay=0)
            try:
                self._store.settle(f"{self._store.layout.cur}/{name}", step)
            except FileNotFoundError:
                continue  # its holder settled it, or another reaper came first
            returned, died = returned + (step.state != "dead"), died + (step.state == "dead")
        self._sweep(now)
        return Reaped(returned, died, due)

    def _verdict(self, name: str, envelope: Envelope, now: int, alive: dict[str, bool]) -> str:
        """The letter that a lease has come to, or nothing if it holds."""
        token = envelope.owner
        if token:
            if token not in alive:
                alive[token] = not owners.is_dead(self._store.layout, self._store.disk, token)
            if not alive[token]:
                return names.KILLED
        if envelope.until is not None and now < envelope.until:
            return ""
        end = deadline(self._store, name, envelope)
        return names.TIMEOUT if end is not None and now >= end else ""

    def _sweep(self, now: int) -> None:
        """Remove the files of dead owners and what dead producers left half written."""
        layout, disk = self._store.layout, self._store.disk
        for entry in layouts.entries(layout.owners):
            if owners.is_dead(layout, disk, entry.name):
                with suppress(OSError):
                    disk.unlink(entry.path)
        horizon = now / names.NS - _LITTER_AGE
        with os.scandir(layout.tmp) as scan:
            for entry in scan:
                ours = names.parse(entry.name) or entry.name.startswith((".owner.", ".mailq.toml."))
                status = layouts.status_of(entry.path) if ours else None
                if status is not None and max(status.st_mtime, status.st_ctime) < horizon:
                    with suppress(OSError):
                        disk.unlink(entry.path)

    # Delayed messages

    def promote(self, *, force: bool = False) -> int:
        """Move delayed messages whose time has come to where they are ready. Returns how many."""
        now = self._store.clock()
        if not force and not self._later_changed() and (self.next_due is None or now < self.next_due):
            return 0
        later = self._store.layout.later
        self.next_due = None
        due = 0
        for name in [entry.name for entry in layouts.entries(later)]:
            envelope = layouts.envelope_of(later, name)
            if envelope is None:
                continue
            if envelope.place > now:
                self.next_due = min(self.next_due or envelope.place, envelope.place)
                continue
            try:
                self._store.settle(f"{later}/{name}", lifecycle.came_due(envelope, self._store.settings))
                due += 1
            except FileNotFoundError:
                continue
        return due

    def _later_changed(self) -> bool:
        """Whether ``later/`` may hold names that the last look did not see."""
        try:
            status = os.stat(self._store.layout.later)
        except OSError:
            return True
        seen = (status.st_mtime_ns, status.st_ino)
        if seen == self._later_seen:
            return False
        # A directory that changed just now may change again within the same tick of its mtime.
        settled = time.time() - status.st_mtime > _COARSE
        self._later_seen = seen if settled else None
        return True


def deadline(store: Store, name: str, envelope: Envelope) -> int | None:
    """When the lease on a file in ``cur/`` ends, in nanoseconds; None if the file is gone.

    The mtime extends what the name says. A file without an ``until`` (moved there
    by a shell script) has the queue's lease from its ctime, when it came.
    """
    status = layouts.status_of(f"{store.layout.cur}/{name}")
    if status is None:
        return None
    if envelope.until is not None:
        return max(envelope.until, status.st_mtime_ns)
    return max(lifecycle.lease_end(envelope, store.settings, now=status.st_ctime_ns, lease=None), status.st_mtime_ns)
