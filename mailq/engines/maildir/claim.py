"""A claim: the renames by which ready messages are handed to a consumer.

A message is claimed when its file has been renamed from ``new/`` into ``cur/``. The new name says who holds
it and until when, and is the receipt.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from typing import TYPE_CHECKING, cast

from mailq import policy
from mailq.engines.base import Claim, Claimed, Settled
from mailq.engines.maildir import layout, names
from mailq.engines.maildir.files import Undeliverable
from mailq.errors import MailqError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailq.engines.budget import Budget
    from mailq.engines.maildir.files import Store
    from mailq.engines.maildir.leases import Holder
    from mailq.engines.maildir.names import MessageName
    from mailq.engines.maildir.ready import ReadyQueue
    from mailq.engines.maildir.ready_index import ClaimAttempt
    from mailq.engines.maildir.receipts import Receipts
    from mailq.engines.maildir.recovery import TornMessageRecovery


class Claimer:
    """Claims the messages of one queue for this process."""

    def __init__(
        self, store: Store, ready: ReadyQueue, holder: Holder, receipts: Receipts, recovery: TornMessageRecovery
    ) -> None:
        self._store = store
        self._layout = store.layout
        self._ready = ready
        self._holder = holder
        self._receipts = receipts
        self._recovery = recovery
        self._numbers = _claim_numbers()

    def claim(
        self, limit: int, lease: float | None, budget: Budget, settled: list[Settled], *, detached: bool
    ) -> Claimed:
        """Rename up to ``limit`` ready messages into ``cur/``, one after the other, as they stand in line."""
        tried = self._ready.start_claim()
        claims: list[Claim] = []
        buried: list[str] = []  # synced together, which takes less time
        try:
            # In a function of its own: CPython 3.13 may raise an exception from outside where a loop turns as if that were
            # not within the try.
            self._claim(claims, limit, lease, tried, budget, buried, settled, detached=detached)
            failure = self._ready.expired.bury(budget, buried, settled)
            self._store.sync_dead(buried)
            if tried.for_good:
                self._ready.mark_incomplete()  # another claim must find them again
            # In here: an exception from outside may arrive as this is made.
            claimed = Claimed(claims, settled, more=budget.left_some or (failure is not None and not claims))
        except BaseException:
            self._ready.clear()  # the one that was about to be claimed will not be reported again
            for claim in claims:
                self._give_back(cast("MessageName", claim.envelope))
            self._ready.notifier.notify()
            self._store.sync_dead(buried)
            raise
        if not claims:
            self._check_nothing(tried, failure, budget, settled)
        return claimed

    def _give_back(self, claimed: MessageName) -> None:
        """Give back what was claimed for a consumer that will not have the receipt."""
        held = f"{self._layout.cur}/{names.format_name(claimed)}"
        with contextlib.suppress(OSError, MailqError):
            self._store.settle(held, claimed, policy.released(claimed, now=self._store.clock()))

    def _claim(
        self,
        claims: list[Claim],
        limit: int,
        lease: float | None,
        tried: ClaimAttempt,
        budget: Budget,
        buried: list[str],
        settled: list[Settled],
        *,
        detached: bool,
    ) -> None:
        while len(claims) < limit and (key := self._ready.next_name(tried, budget)) is not None:
            try:
                claim = self._take(layout.name_of(key), lease, buried, settled, detached=detached)
            except StorageError as error:  # one bad message must not block the others
                tried.refuse(key, error)
                claim = None
            if claim is not None:
                claims.append(claim)
                self._receipts.remember(claim.receipt, claim.envelope)  # type: ignore[arg-type] # a name, of its own
            elif not budget.allows_more():
                break

    def _check_nothing(
        self, tried: ClaimAttempt, failure: StorageError | None, budget: Budget, settled: list[Settled]
    ) -> None:
        """Raise why a claim has claimed nothing, if that is an error."""
        if failure is not None:
            if not settled:  # else the next claim meets it again, and this one says what it has done
                raise failure
        elif budget.left_some:
            self._ready.resume_later(tried)
        elif tried.failures:
            raise tried.failures[0]
        else:
            layout.require_marker(self._layout)

    def _take(
        self, name: str, lease: float | None, buried: list[str], settled: list[Settled], *, detached: bool
    ) -> Claim | None:
        """Claim one file; None if another was faster, or if it is not fit to be delivered."""
        path = f"{self._layout.new}/{name}"
        try:
            mtime = self._store.mtime(path)  # first of all: where there are many consumers, most names in line are gone
            envelope = layout.envelope_of(self._layout.new, name)
            if envelope is None:
                return None
            now, settings = self._store.clock(), self._store.settings
            if policy.has_expired(envelope, settings, now):
                self._ready.expired.add(name)
                return None
            until = policy.lease_end(envelope, settings, now=now, lease=lease)
            owner = "" if detached else self._holder.token()
            claimed = envelope.claimed(until=until, owner=owner, claim=f"{next(self._numbers) & 0xFFFFFF:06x}")
            # Before the claim: no process resets an mtime from the future if this one is killed right after it.
            if mtime > until:
                self._store.reset_mtime(path, until)
            return self._hold(path, claimed, until, buried, settled)
        except FileNotFoundError:
            return None

    def _hold(
        self, path: str, claimed: MessageName, until: int, buried: list[str], settled: list[Settled]
    ) -> Claim | None:
        receipt = names.format_name(claimed)
        held = f"{self._layout.cur}/{receipt}"
        is_unfit = False
        try:
            self._store.move(path, held, unique=True)
            try:
                return Claim(receipt, claimed, self._read(held, claimed, until), until)
            except Undeliverable as verdict:
                is_unfit = True
                step = policy.undeliverable(claimed, verdict.why)
                self._store.settle(held, claimed, step, text=verdict.text, buried=buried)
                settled.append(Settled(claimed, step))
                return None
        except FileNotFoundError:
            raise
        except BaseException as error:  # an interrupt too, also right after the rename: the receipt is lost
            if not (is_unfit and isinstance(error, StorageError)):  # what cannot be buried now, cannot be at once
                self._give_back(claimed)
            raise

    def _read(self, held: str, claimed: MessageName, until: int) -> bytes:
        try:
            return self._store.read(held, claimed, until=until)
        except Undeliverable as verdict:
            if verdict.why != "torn":
                raise
        is_done = self._recovery.is_done()  # it may be whole in a journal
        try:
            return self._store.read(held, claimed, until=until)
        except Undeliverable as verdict:
            if is_done or verdict.why != "torn":
                raise
            why = "it is torn, and may be whole in a journal that cannot be replayed yet"
            raise StorageError("read the message", OSError(errno.EBUSY, why, held)) from None

    def after_fork(self) -> None:
        """Begin with claim numbers of its own in a forked child."""
        self._numbers = _claim_numbers()


def _claim_numbers() -> Iterator[int]:
    """The numbers that make, with holder and deadline, each claim's name unlike any before: the fence."""
    return itertools.count(int.from_bytes(os.urandom(3)))
