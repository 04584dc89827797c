"""The verbs of the queue on a directory: the reason mailq exists.

The file is the payload, the name is the record, a rename is the transaction.
docs/disk-format.md says what the directories and names mean.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from mailq import policy
from mailq.engines.base import (
    Capabilities,
    Claim,
    Claimed,
    Extended,
    History,
    LeaseHolder,
    Reaped,
    Record,
    Settled,
    Settlement,
    Stats,
)
from mailq.engines.budget import Budget
from mailq.engines.maildir import admin, at_fork, dead_letters, error_texts, layout, leases
from mailq.engines.maildir.claim import Claimer
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.files import Store, Undeliverable
from mailq.engines.maildir.leases import Holder
from mailq.engines.maildir.length_limit import LengthLimit
from mailq.engines.maildir.push import Writer
from mailq.engines.maildir.ready import ReadyQueue
from mailq.engines.maildir.reaper import Reaper, deadline
from mailq.engines.maildir.receipts import Receipts
from mailq.engines.maildir.recovery import TornMessageRecovery, replay
from mailq.engines.maildir.replies import ReplyFiles
from mailq.errors import LeaseLost, MailqError, SettingsError, StorageError
from mailq.ids import NS, MonotonicIds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from mailq.engines.maildir.names import MessageName
    from mailq.message import NewMessage, State
    from mailq.settings import Settings


class MaildirEngine:
    """A queue on a file system.

    ``clock`` tells the time in nanoseconds; ``disk`` makes the durable system
    calls. Both are for tests. The queue must exist: see
    :func:`mailq.engines.maildir.layout.create`.
    """

    capabilities: ClassVar = Capabilities()

    def __init__(self, root: str, *, disk: Disk | None = None, clock: Callable[[], int] = time.time_ns) -> None:
        self._disk = disk or Disk()
        self._clock = clock
        self._layout = layout.Layout(root)
        self._disk.give_to_owner_of(self._layout.root)
        self._ids = MonotonicIds(clock)
        self._store = Store(self._layout, self._disk, clock, self._ids, layout.load(self._layout, self._disk))
        layout.check(self._layout, self._disk, self._store.settings)
        replay(self._store, waits=True)
        self._holder = Holder(self._layout, self._disk, mode=int(self.settings.file_mode, 8))
        self._writer = Writer(self._store)
        self._ready = ReadyQueue(self._store)
        self._reaper = Reaper(self._store, self._ready)
        self._notifier = self._ready.notifier
        self._length_limit = LengthLimit(self._store)
        self._replies = ReplyFiles(self._store)
        self._receipts = Receipts()
        self._claimer = Claimer(
            self._store, self._ready, self._holder, self._receipts, TornMessageRecovery(self._store)
        )
        self._tended = self._next_tending = 0
        self._looked = self._next_look = 0
        self._left_some = False
        self._marker_seen = layout.stamp_of(self._layout.marker)
        # Reentrant: a signal handler may use the queue in the midst of its own thread's use.
        self._lock = threading.RLock()
        self._origin_told = False
        at_fork.register(self)

    @property
    def settings(self) -> Settings:
        """The queue's settings, as last read."""
        return self._store.settings

    @property
    def location(self) -> str:
        """The queue's directory."""
        return self._layout.root

    # Producing

    def push(self, messages: Sequence[NewMessage]) -> list[str]:
        """Write, sync, rename, sync: see Writer.push."""
        now = self._clock()
        if not self._looked <= now < self._next_look:  # a process that only pushes does not tend
            self._reload()
            self._looked, self._next_look = now, now + policy.ns(self.settings.reap_interval)
        self._length_limit.reserve(len(messages))
        try:
            placed = self._writer.push(messages)
        except StorageError as error:
            if not error.maybe_pushed:  # the caller must get those ids, whatever became of the queue
                layout.require_marker(self._layout)
            raise
        for message in placed:
            self._ready.add(message.directory, message.name)
        if placed:
            self._notifier.notify()
        return [message.id for message in placed]

    # Consuming

    def claim(self, limit: int, *, lease: float | None, detached: bool) -> Claimed:
        """Maintain the queue, if it is time; then see Claimer.claim."""
        budget = Budget()
        settled: list[Settled] = []
        self._tend(budget, settled)
        self._left_some = False
        if self._is_paused():
            self._ready.start_claim()
            return Claimed([], settled)
        claimed = self._claimer.claim(limit, lease, budget, settled, detached=detached)
        self._left_some = claimed.more
        return claimed

    def _is_paused(self) -> bool:
        is_paused = layout.is_there(self._layout.paused)
        if is_paused != self.settings.paused:
            self._store.set_paused(is_paused)
        return is_paused

    def wait(self, timeout: float) -> None:
        """Wait for an arrival, the next due time, the next reaping, or the next look."""
        if not self._notifier.watch():
            self._notifier.wait(min(timeout, self._patience()))

    def subscribe(self, callback: Callable[[], None]) -> float:
        """See Notifier.add."""
        is_new = self._notifier.add(callback)
        return 0.0 if self._notifier.watch() or is_new else self._patience()

    def unsubscribe(self, callback: Callable[[], None]) -> None:
        """See Waking.remove."""
        self._notifier.remove(callback)

    def _patience(self) -> float:
        """Seconds in which a claim would find nothing that is not announced."""
        if self._left_some:
            return 0.0
        now, patience = self._clock(), self._notifier.poll_interval
        for at in (self._ready.delayed.next_due, self._next_tending):
            if at is not None:
                patience = min(patience, (at - now) / NS)
        return max(0.0, patience)

    # Settling

    def settle(self, receipt: str, settlement: Settlement) -> Settled:
        """Unlink the claimed file, or rename it to where the policy says."""
        verb, delay, outcome, text = settlement
        held = self._receipts.take(receipt)
        if verb == "ack":
            return self._ack(receipt, held)
        now = self._clock()
        if verb == "nack":
            end = self._ids.next()
            step = policy.failed(held, outcome, self.settings, now=now, end=end, delay=delay)
        elif verb == "release":
            step = policy.released(held, now=now, delay=delay or 0.0)
        else:
            step = policy.rejected(held)
        try:
            path = self._store.settle(f"{self._layout.cur}/{receipt}", held, step, text=text)
        except OSError as failure:
            self._lost(receipt, verb, failure)
        self._ready.add(*os.path.split(path))
        self._notifier.notify()
        return Settled(held, step)

    def _ack(self, receipt: str, held: MessageName) -> Settled:
        try:
            self._disk.unlink(f"{self._layout.cur}/{receipt}")
        except OSError as error:
            self._lost(receipt, "ack", error)
        if held.tries:
            error_texts.remove(self._disk, self._layout.errors, held)
        return Settled(held, None)

    def extend(self, receipt: str, seconds: float) -> Extended:
        """Set the mtime of the claimed file to the new deadline.

        Not a rename: that would hide other files from a process that lists ``cur/`` at the time.
        """
        held = self._receipts.read(receipt)
        with self._lock:  # two threads that extend one lease: the later deadline must hold
            return Extended(held, self._extend(receipt, held, seconds))

    def _extend(self, receipt: str, held: MessageName, seconds: float) -> int:
        path = f"{self._layout.cur}/{receipt}"
        old = deadline(self._store, receipt, held)
        now = self._clock()
        if old is None or now >= old:
            layout.require_marker(self._layout)
            raise LeaseLost(receipt, "extend")
        new = max(now + policy.ns(seconds), old)
        if new == old:
            return old
        try:
            self._store.set_mtime(path, new, before=old)
            if self._clock() >= old:
                # A reaper may have looked before the utime and be about to rename: there is no lock
                # between its look and its rename. The lease is gone; let it be reaped without delay.
                self._disk.utime(path, old)
                raise LeaseLost(receipt, "extend")
        except OSError as error:
            self._lost(receipt, "extend", error)
        return new

    def claimed(self, receipt: str) -> Claim:
        """Read the claimed file once more."""
        held = self._receipts.read(receipt)
        try:
            until = deadline(self._store, receipt, held)
            data = self._store.read(f"{self._layout.cur}/{receipt}", held)
        except OSError as error:
            self._lost(receipt, "read", error)
        except Undeliverable as verdict:
            raise StorageError("read the message", OSError(errno.EIO, verdict.text)) from None
        if until is None or self._clock() >= until:
            raise LeaseLost(receipt, "read")
        return Claim(receipt, held, data, until)

    def _lost(self, receipt: str, verb: str, error: OSError) -> NoReturn:
        """Raise what a failed move of a claimed file means."""
        if isinstance(error, MailqError):
            layout.require_marker(self._layout)
            raise error
        if isinstance(error, FileNotFoundError) or error.errno in layout.GONE:
            layout.require_marker(self._layout)
            raise LeaseLost(receipt, verb) from None
        raise StorageError(verb, error) from error

    # Maintenance

    def reap(self) -> Reaped:
        """See Reaper.reap."""
        layout.require_marker(self._layout)
        reaped = self._reaper.reap()
        self._notifier.notify()
        return reaped

    def _tend(self, budget: Budget, settled: list[Settled]) -> None:
        """What every consumer does from time to time: read changed settings, reap, ready what is due."""
        now = self._clock()
        due = self._ready.delayed.next_due
        if due is not None and now >= due:
            self._ready.promote(budget)
        if self._tended <= now < self._next_tending:  # a clock that stepped back keeps no appointment
            return
        self._tended = now
        self._reload()
        self._holder.check()
        if not self._origin_told:
            dead_letters.record_origin(self._layout, self.settings, self._disk, queue_tag=self._store.queue_tag)
            self._origin_told = True
        try:
            self._next_tending = self._reaper.reap_if_due(budget, settled)
        except StorageError as error:  # reaping must not keep a consumer from its own work
            self._next_tending = now + policy.ns(self.settings.reap_interval)
            layout.log().warning("reaping failed: %s", error)

    def _reload(self) -> None:
        """Read the settings again when the file has changed; a damaged file keeps the old ones."""
        seen = layout.stamp_of(self._layout.marker)
        if seen == self._marker_seen:
            return
        try:
            self._store.apply(layout.load(self._layout, self._disk))
        except SettingsError as error:
            layout.log().warning("the settings were not read again: %s", error)
        except StorageError as error:
            layout.log().warning("the settings could not be read again yet: %s", error)
            return
        self._marker_seen = seen
        self._origin_told = False

    def configure(self, changes: Mapping[str, object]) -> Settings:
        """Change ``mailq.toml``; other processes notice within their reap interval."""
        changes = dict(changes)
        self.settings.changed(changes)  # refuses what cannot be, before anything is changed
        if "paused" in changes:
            is_paused = bool(changes.pop("paused"))
            layout.require_marker(self._layout)
            # Also where it is so already: a process that was killed may not have synced it.
            (admin.pause if is_paused else admin.resume)(self._store)
            self._store.set_paused(is_paused)
            self._notifier.notify()
        if not changes:
            return self.settings
        if isinstance(target := changes.get("dead_letters"), str | os.PathLike):
            changes["dead_letters"] = dead_letters.relative_path(self._layout.root, target)
            dead_letters.require_shared(self._layout, self.settings.changed(changes), self._disk)
        self._store.apply(layout.change(self._layout, self._disk, changes))
        self._marker_seen = layout.stamp_of(self._layout.marker)
        self._origin_told = False
        self._next_tending = self._next_look = 0  # the interval may be shorter now
        return self.settings

    # Looking and mending

    def look(
        self, state: State | None, *, ids: Collection[str] | None = None, limit: int | None = None
    ) -> list[Record]:
        """See admin.look."""
        return admin.look(self._store, state, ids, limit)

    def read(self, record: Record) -> bytes:
        """See admin.read."""
        return admin.read(self._store, record)

    def history(self, record: Record) -> History:
        """See admin.history."""
        return admin.history(self._store, record)

    def replace(self, record: Record, message: NewMessage) -> None:
        """See admin.replace."""
        admin.replace(self._store, record, message, owner=self._holder.token())
        self._ready.clear()

    def stats(self) -> Stats:
        """See admin.stats."""
        return admin.stats(self._store)

    def holders(self) -> list[LeaseHolder]:
        """See leases.list_holders."""
        return leases.list_holders(self._layout, self._disk)

    def publish(self, status: Mapping[str, Any]) -> None:
        """See Holder.tell."""
        self._holder.publish(status)

    def put_reply(self, id: str, data: bytes) -> None:
        """See ReplyFiles.put."""
        self._replies.put(id, data)

    def get_reply(self, id: str) -> bytes | None:
        """See ReplyFiles.get."""
        return self._replies.get(id)

    def redrive(self, ids: Sequence[str] | None, *, limit: int | None) -> list[str]:
        """See admin.redrive."""
        redriven = admin.redrive(self._store, ids, limit)
        if redriven:
            self._ready.clear()
            self._notifier.notify()
        return redriven

    def remove(self, state: State, *, ids: Collection[str] | None = None) -> int:
        """See admin.remove."""
        return admin.remove(self._store, state, ids)

    # Life

    def close(self) -> None:
        """Stop watching and release the holder's lock. The engine can be used again: it acquires both again."""
        self._notifier.notify()  # waiting threads and subscribers look again, and find the queue closed
        self._notifier.close()
        self._ready.clear()  # it does not get what arrives from now on
        self._holder.unregister()
        self._store.journal.close()

    def after_fork(self) -> None:
        """Begin a forked child's life: its own lock and claim tokens (no random one twice)."""
        self._lock = threading.RLock()
        self._ids.after_fork()
        self._claimer.after_fork()
