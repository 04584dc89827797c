"""Gives back what dead and late consumers hold, and readies what is due.

Every consumer reaps, any number at once, none is needed: a reaping is only
renames, and a lost race is nothing. The lock merely spares the disk the same
listing twice.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Final

from mailq import policy
from mailq.engines.base import Reaped, Settled
from mailq.engines.budget import Budget
from mailq.engines.maildir import dead_letters, leases, names
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.compaction import Compaction
from mailq.engines.maildir.recovery import replay
from mailq.errors import StorageError
from mailq.ids import NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from filelock import BaseFileLock

    from mailq.engines.maildir.files import Store
    from mailq.engines.maildir.layout import Layout
    from mailq.engines.maildir.names import MessageName
    from mailq.engines.maildir.ready import ReadyQueue
    from mailq.message import RestingState

LITTER_AGE: Final = 86_400.0
"""Seconds after which a file of mailq's in tmp/ is what a dead producer left."""

_SHARE: Final = 10.0
"""Looking through very many leases takes at most a tenth of a consumer's time."""

_STUCK: Final = 10
"""The number of intervals after which a reaping that has not ended no longer keeps other processes from reaping."""


class Reaper:
    """The maintenance of one queue. What comes back is added to ``line``, the ready queue."""

    def __init__(self, store: Store, line: ReadyQueue) -> None:
        self._store = store
        self._ready = line
        self._next_turn = 0
        self._rests_until = 0.0
        self._remaking = Compaction(store)
        self._suspects: list[str] = []

    # Leases

    def reap_if_due(self, budget: Budget, settled: list[Settled]) -> int:
        """Reap within the budget, unless another process did within the interval, or is doing it.

        Returns when to ask again, in nanoseconds: at once, if something is left.
        """
        if self._suspects:
            self._give_back(budget, settled)
        else:
            self._make_good()
            self._next_turn = self._store.clock() + policy.ns(self._store.settings.reap_interval)
            if time.monotonic() < self._rests_until or self._is_idle():
                return self._next_turn
            self._reap_in_turn(budget, settled)
        return self._store.clock() if self._suspects else self._next_turn

    def _reap_in_turn(self, budget: Budget, settled: list[Settled]) -> None:
        """Reap if no other process does: one reaping at a time a queue, and one an interval."""
        path = self._store.layout.reap_lock
        status = layouts.status_of(path)
        if status is not None and status.st_nlink > 1:  # a copy's too (cp -al): so are its lock and its stamp
            with suppress(OSError):
                self._store.disk.unlink(path)
        first = not os.path.exists(path)  # a lock file that is only just made is no stamp
        lock = layouts.file_lock(self._store.disk, path, int(self._store.settings.file_mode, 8))
        try:
            if self._is_our_turn(lock, first=first):
                self._reap_and_rest(budget, settled)
        finally:
            lock.release()  # does nothing if we have not got it

    def _is_idle(self) -> bool:
        """Whether a reaping would find nothing, and need not take its lock: nothing is leased, nothing lies in ``tmp/``."""
        layout = self._store.layout
        return next(chain(layouts.entries(layout.cur), _unfinished(layout)), None) is None

    def _reap_and_rest(self, budget: Budget, settled: list[Settled]) -> None:
        """Reap; then leave it to other processes for a while, if it has cost more than its share."""
        begun = time.thread_time()  # not by the clock on the wall: a disk that is slow once is no reason to rest
        self._reap(budget, settled)
        rest = (time.thread_time() - begun) * _SHARE
        if rest > self._store.settings.reap_interval:
            self._rests_until = time.monotonic() + rest

    def _is_our_turn(self, lock: BaseFileLock, *, first: bool) -> bool:
        from filelock import Timeout  # noqa: PLC0415 - slow to load, and a producer never needs it

        path = self._store.layout.reap_lock
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return self._is_stuck(path)
        except OSError:  # no locks on this file system: several may reap at once, which is harmless
            return True
        now = self._store.clock()
        interval = policy.ns(self._store.settings.reap_interval)
        status = layouts.status_of(path)  # None: a disk that does not answer; the reaping itself says so
        # A stamp from the future is one from before the clock stepped back.
        if not first and status is not None and 0 <= now - status.st_mtime_ns < interval:
            # Not a whole interval from now, or what a consumer held could wait for two.
            self._next_turn = status.st_mtime_ns + interval
            return False
        with suppress(OSError):  # another user's file, in a shared queue: then it is reaped more often
            self._store.disk.utime(path, now)
        return True

    def _is_stuck(self, path: str) -> bool:
        """Whether the process that reaps has had the lock for so long that it may be stopped, and others must reap."""
        now = self._store.clock()
        status = layouts.status_of(path)
        if status is None or 0 <= now - status.st_mtime_ns < _STUCK * policy.ns(self._store.settings.reap_interval):
            return False
        with suppress(OSError):  # so that not all of them do at once
            self._store.disk.utime(path, now)
        return True

    def reap(self) -> Reaped:
        """Give back overdue and orphaned messages, ready what is due, sweep what the dead left."""
        self._make_good()
        return self._reap(Budget(math.inf), [])

    def _make_good(self) -> None:
        """Do what needs no reap lock: it has locks of its own, or may be done by several processes at once."""
        self._remaking.run()
        replay(self._store, waits=False)  # what another is at, is not ours

    def _reap(self, budget: Budget, settled: list[Settled]) -> Reaped:
        due = self._ready.promote(budget)
        now = self._store.clock()
        alive: dict[str, bool] = {}
        listed = (entry.name for entry in layouts.entries(self._store.layout.cur))
        # All of them before the first is moved: a rename hides others from a listing.
        self._suspects = [name for name in listed if not self._plainly_holds(name, now, alive)]
        returned, died = self._give_back(budget, settled)
        self._sweep(now)
        return Reaped(returned, died, due, settled)

    def _give_back(self, budget: Budget, settled: list[Settled]) -> tuple[int, int]:
        """Look at suspects, and give back those whose leases have ended. Returns how many came back, and how many died."""
        layout = self._store.layout
        # Read before any file is looked at: an extension that comes after the look then finds its
        # old deadline passed, and its holder gets LeaseLost.
        now = self._store.clock()
        returned = died = 0
        buried: list[str] = []
        alive: dict[str, bool] = {}
        suspects, self._suspects = self._suspects, []
        for number, name in enumerate(suspects, 1):
            if number > 1 and not budget.allows_more():
                self._suspects = suspects[number - 1 :]
                break
            envelope = layouts.envelope_of(layout.cur, name)
            if envelope is None:
                continue
            outcome = self._verdict(name, envelope, now, alive)
            if not outcome:
                continue
            step = policy.failed(envelope, outcome, self._store.settings, now=now, end=self._store.ids.next())
            try:
                if envelope.edit:
                    path = self._end_edit(name, envelope, envelope.edit)
                else:
                    path = self._store.settle(f"{layout.cur}/{name}", envelope, step, buried=buried)
            except FileNotFoundError:
                continue  # its holder settled it, or another reaper came first
            except StorageError as error:  # one bad message must not keep the others
                layouts.log().warning("a lease could not be given back: %s", error)
                continue
            self._ready.add(*os.path.split(path))
            if envelope.edit:
                returned += 1
                continue
            settled.append(Settled(envelope, step))
            returned, died = returned + (step.state != "dead"), died + (step.state == "dead")
        self._store.sync_dead(buried)
        return returned, died

    def _end_edit(self, name: str, envelope: MessageName, state: RestingState) -> str:
        """Put back a message whose editor died: uncounted, with the content that it has. Returns its new path."""
        layout = self._store.layout
        home = (
            dead_letters.shared_queue(layout, self._store.settings)
            if envelope.source_queue == self._store.queue_tag
            else None
        )
        # An edit of a dead letter of ours in the shared queue; if that is not there any more, it stays at home.
        there = layout.directory(state) if home is None or not os.path.isdir(home.new) else home.new
        back = f"{there}/{names.format_name(envelope.at_rest(state))}"
        self._store.move(f"{layout.cur}/{name}", back)
        return back

    def _plainly_holds(self, name: str, now: int, alive: dict[str, bool]) -> bool:
        """Whether a lease holds, of those whose names tell it at a glance: there may be very many."""
        held = names.plainly_held(name)
        return held is not None and now < held[0] and (not held[1] or self._lives(held[1], alive))

    def _lives(self, token: str, alive: dict[str, bool]) -> bool:
        if token not in alive:
            alive[token] = not leases.is_dead(self._store.layout, self._store.disk, token)
        return alive[token]

    def _verdict(self, name: str, envelope: MessageName, now: int, alive: dict[str, bool]) -> str:
        """How the attempt of a lease has ended, or nothing if the lease holds."""
        if envelope.owner and not self._lives(envelope.owner, alive):
            return "killed"
        if envelope.until is not None and now < envelope.until:
            return ""
        end = deadline(self._store, name, envelope)
        return "timeout" if end is not None and now >= end else ""

    def _sweep(self, now: int) -> None:
        """Remove the files of dead owners and what dead producers left half written."""
        layout, disk = self._store.layout, self._store.disk
        leases.sweep(layout, disk)
        horizon = now / NS - LITTER_AGE
        for entry in _unfinished(layout):
            status = layouts.status_of(entry.path) if is_litter(entry.name) else None
            if status is not None and max(status.st_mtime, status.st_ctime) < horizon:
                with suppress(OSError):
                    disk.unlink(entry.path)


def _unfinished(layout: Layout) -> Iterator[os.DirEntry[str]]:
    """What lies in ``tmp/``, as far as this process may look."""
    if os.path.islink(layout.tmp):  # put there since the queue was opened: what it leads to is not ours
        return
    with suppress(OSError), os.scandir(layout.tmp) as scan:
        yield from scan


def is_litter(name: str) -> bool:
    """Whether a name in ``tmp/`` is one that mailq writes under."""
    return names.parse(name) is not None or name.startswith(
        (".owner.", ".origin.", ".reply.", ".copy.", ".journal.", ".mailq.toml.")
    )


def deadline(store: Store, name: str, envelope: MessageName) -> int | None:
    """When the lease on a file in ``cur/`` ends, in nanoseconds; None if the file is gone.

    The mtime extends what the name says. A file without an ``until`` (moved there
    by a shell script) has the queue's lease from its ctime, when it came.
    """
    status = layouts.status_of(f"{store.layout.cur}/{name}")
    if status is None:
        return None
    if envelope.until is not None:
        return max(envelope.until, status.st_mtime_ns)
    return max(policy.lease_end(envelope, store.settings, now=status.st_ctime_ns, lease=None), status.st_mtime_ns)
