"""The queue in memory: for tests, and to be read as the reference of what the verbs mean.

It keeps the same names in the same states as the directories of a maildir
queue, as keys of dictionaries under one lock. Nothing survives the process.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import os
import platform
import threading
import time
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from mailq import policy, telemetry
from mailq.alarm import Alarm
from mailq.engines.base import Claim, Owner, Reaped, Record, Stats
from mailq.engines.budget import Budget
from mailq.engines.maildir import names
from mailq.errors import InvalidReceipt, LeaseLost, MailqError, MessageNotFound, QueueFull
from mailq.message import OUTCOMES, STATES, Attempt, Stamps, checksum, is_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mailq.engines.maildir.names import Envelope
    from mailq.message import Draft, State
    from mailq.policy import Step
    from mailq.settings import Settings


_P = ParamSpec("_P")
_T = TypeVar("_T")

_OWNER: Final = "1"
"""The only owner there is."""


def _locked(method: Callable[Concatenate[MemoryEngine, _P], _T]) -> Callable[Concatenate[MemoryEngine, _P], _T]:
    """A method that holds the engine's lock.

    That is taken in a function without a loop: CPython 3.12 and 3.13 may raise an exception from outside
    where a loop turns as if that were not within the block.
    """

    @functools.wraps(method)
    def locked(engine: MemoryEngine, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with engine._lock:  # noqa: SLF001 - its own
            return method(engine, *args, **kwargs)

    return locked


class MemoryEngine:
    """A queue in this process. ``clock`` tells the time in nanoseconds."""

    def __init__(self, settings: Settings, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._settings = settings
        self._clock = clock
        self._stamps = Stamps(clock)
        self._claims = itertools.count(1)
        self._files: dict[State, dict[str, bytes]] = {state: {} for state in STATES}
        self._deadlines: dict[str, int] = {}
        self._died: dict[str, int] = {}
        self._texts: dict[str, dict[int, tuple[str, float]]] = {}
        self._replies: dict[str, tuple[int, bytes]] = {}
        self._since = clock() / names.NS
        self._story: dict[str, Any] = {}
        self._paused = False
        self._bells: tuple[Callable[[], None], ...] = ()
        self._waiting: set[Alarm] = set()
        # Reentrant: a signal handler may use the queue in the midst of its own thread's use.
        self._lock = threading.RLock()

    @property
    def settings(self) -> Settings:
        """The queue's settings."""
        return self._settings

    @property
    def location(self) -> str:
        """There is only one place in memory."""
        return "memory://"

    # Producing

    @_locked
    def push(self, drafts: Sequence[Draft]) -> list[str]:
        """Add them all under the lock."""
        length = len(self._files["ready"]) + len(self._files["delayed"])
        limit = self._settings.max_length
        if limit is not None and length + len(drafts) > limit:
            telemetry.emit("full", self.location, length=length, limit=limit, asked=len(drafts))
            raise QueueFull(length, limit, len(drafts))
        added: list[tuple[State, str, str]] = []
        try:
            self._add_all(drafts, added)
            self._ring()
        except BaseException:  # interrupted: all or nothing
            for state, name, _ in added:
                self._files[state].pop(name, None)
            raise
        return [id for _, _, id in added]

    def _add_all(self, drafts: Sequence[Draft], added: list[tuple[State, str, str]]) -> None:
        for draft in drafts:
            self._add(draft, added)

    def _ring(self) -> None:
        for alarm in tuple(self._waiting):
            alarm.ring()
        for bell in self._bells:
            try:
                bell()
            except Exception:
                logging.getLogger("mailq").exception("a bell that listens to the queue failed")

    def _add(self, draft: Draft, added: list[tuple[State, str, str]]) -> None:
        now = self._stamps.next()
        envelope = names.Envelope(
            now, names.new_id(now), draft.ext, len(draft.data), checksum(draft.data), draft.head, draft.file
        )._replace(priority=draft.priority, lease=draft.lease, max_retries=draft.max_retries, ttl=draft.ttl)
        state, envelope = policy.pushed(envelope, now=self._clock(), delay=draft.delay)
        name = names.format_name(envelope)
        added.append((state, name, envelope.id))
        self._files[state][name] = draft.data

    # Consuming

    def claim(self, limit: int, *, lease: float | None, detached: bool) -> list[Claim] | None:
        """Take the first names in line."""
        claims: list[Claim] = []
        budget = Budget()
        try:
            self._claim(claims, limit, lease, "" if detached else _OWNER, budget)
        except BaseException:  # interrupted: nobody will have the receipts
            self._give_back(claims)
            raise
        return None if budget.left_some and not claims else claims

    @_locked
    def _claim(self, claims: list[Claim], limit: int, lease: float | None, owner: str, budget: Budget) -> None:
        self._reap(budget)
        may_bury = True
        for name in [] if self._paused else sorted(self._files["ready"], key=names.sort_key):
            if len(claims) >= limit:
                break
            if (unfit := self._unfit(name)) is None:
                claims.append(self._take(name, lease, owner))
            elif may_bury:
                self._bury(name, *unfit)
                may_bury = budget.allows_more()

    def _give_back(self, claims: list[Claim]) -> None:
        for claim in claims:
            with contextlib.suppress(MailqError):
                self.release(claim.receipt, delay=0)

    def _unfit(self, name: str) -> tuple[str, str | None] | None:
        """Why a message is not delivered: the word for it, and an error text; None if it is."""
        envelope, data = _envelope(name), self._files["ready"][name]
        if policy.has_expired(envelope, self._settings, self._clock()):
            return "expired", None
        if len(data) > self._settings.max_message_bytes:
            limit = self._settings.max_message_bytes
            return "too-large", f"the message has {len(data)} bytes, the queue delivers {limit}"
        return None if is_whole(envelope, data) else ("torn", "torn")

    def _bury(self, name: str, why: str, text: str | None) -> None:
        envelope = _envelope(name)
        self._settle("ready", name, policy.Step("dead", envelope.buried(why)), text, attempt=0)
        if why == "expired":
            telemetry.emit("expire", self.location, envelope.id, ttl=envelope.ttl or self._settings.ttl)

    def _take(self, name: str, lease: float | None, owner: str) -> Claim:
        envelope = _envelope(name)
        until = policy.lease_end(envelope, self._settings, now=self._clock(), lease=lease)
        claimed = envelope.claimed(until=until, owner=owner, claim=f"{next(self._claims):06x}")
        claim = Claim(names.format_name(claimed), claimed, self._files["ready"][name], until)
        self._move("ready", name, "leased", claim.receipt, until)
        return claim

    def wait(self, timeout: float) -> None:
        """Wait for something ready, or for the next due time or deadline."""
        alarm = Alarm()
        try:
            self._waiting.add(alarm)
            with self._lock:
                patience = 0.0 if self._files["ready"] and not self._paused else self._patience()
            alarm.wait(min(timeout, patience))
        finally:
            self._waiting.discard(alarm)

    def _patience(self) -> float:
        times = [_envelope(name).place for name in self._files["delayed"]] + list(self._deadlines.values())
        return max(0.0, (min(times) - self._clock()) / names.NS) if times else threading.TIMEOUT_MAX

    @_locked
    def listen(self, bell: Callable[[], None]) -> float:
        """Ring it at every change."""
        if bell not in self._bells:
            self._bells = (*self._bells, bell)
        return 0.0 if self._files["ready"] and not self._paused else self._patience()

    def silence(self, bell: Callable[[], None]) -> None:
        """Ring it no more."""
        self._bells = tuple(known for known in self._bells if known != bell)

    @_locked
    def held(self, receipt: str) -> Claim:
        """The claim once more."""
        envelope = self._held(receipt, "read")
        if (until := self.deadline(receipt)) is None:
            raise LeaseLost(receipt, "read")
        return Claim(receipt, envelope, self._files["leased"][receipt], until)

    def deadline(self, receipt: str) -> int | None:
        """When the lease ends."""
        end = self._deadlines.get(receipt)
        return end if end is not None and self._clock() < end else None

    # Settling

    @_locked
    def ack(self, receipt: str) -> None:
        """Forget the message."""
        envelope = self._held(receipt, "ack")
        self._drop("leased", receipt)
        self._texts.pop(envelope.id, None)

    @_locked
    def nack(self, receipt: str, *, letter: str, delay: float, error: str | None) -> None:
        """Count the attempt and put it back."""
        self._held(receipt, "nack")
        self._settle("leased", receipt, self._failed(receipt, letter, delay), error)

    @_locked
    def release(self, receipt: str, *, delay: float) -> None:
        """Put it back as it was."""
        envelope = self._held(receipt, "release")
        self._settle("leased", receipt, policy.released(envelope, now=self._clock(), delay=delay))

    @_locked
    def reject(self, receipt: str, *, reason: str | None) -> None:
        """Put it to the dead."""
        envelope = self._held(receipt, "reject")
        step = policy.Step("dead", envelope.buried("rejected", letter=names.REJECT))
        self._settle("leased", receipt, step, reason)

    @_locked
    def extend(self, receipt: str, seconds: float) -> int:
        """Move the deadline."""
        self._held(receipt, "extend")
        now = self._clock()
        if now >= self._deadlines[receipt]:
            raise LeaseLost(receipt, "extend")
        self._deadlines[receipt] = max(now + policy.ns(seconds), self._deadlines[receipt])
        return self._deadlines[receipt]

    def _held(self, receipt: str, verb: str) -> Envelope:
        envelope = names.parse(receipt) if isinstance(receipt, str) else None
        if envelope is None or not envelope.claim:
            raise InvalidReceipt(receipt)
        if receipt not in self._files["leased"]:
            raise LeaseLost(receipt, verb)
        return envelope

    def _failed(self, name: str, letter: str, delay: float = 0.0) -> Step:
        return policy.failed(
            _envelope(name), letter, self._settings, now=self._clock(), end=self._stamps.next(), delay=delay
        )

    def _settle(
        self, state: State, name: str, step: Step, error: str | None = None, attempt: int | None = None
    ) -> None:
        now = self._clock()
        if error is not None:
            number = step.envelope.attempts_ever if attempt is None else attempt
            self._texts.setdefault(step.envelope.id, {})[number] = (error, now / names.NS)
        self._move(state, name, step.state, names.format_name(step.envelope), now)
        if step.state == "dead":
            envelope = step.envelope
            telemetry.emit("dead", self.location, envelope.id, attempts=envelope.attempts_ever, reason=envelope.why)
        self._ring()

    # These two call nothing, for an exception from outside may arrive after any call: they are done whole, or not at all.

    def _move(
        self, state: State, name: str, target_state: State, target: str, at: int, data: bytes | None = None
    ) -> None:
        if data is None:
            data = self._files[state][name]
        del self._files[state][name]
        if state == "leased":
            del self._deadlines[name]
        elif state == "dead":
            del self._died[name]
        self._files[target_state][target] = data
        if target_state == "leased":
            self._deadlines[target] = at
        elif target_state == "dead":
            self._died[target] = at

    def _drop(self, state: State, name: str) -> None:
        del self._files[state][name]
        if state == "leased":
            del self._deadlines[name]
        elif state == "dead":
            del self._died[name]

    # Maintenance

    def reap(self) -> Reaped:
        """Give back what is overdue and ready what is due."""
        return self._reap(Budget(math.inf))

    @_locked
    def _reap(self, budget: Budget) -> Reaped:
        now = self._clock()
        returned = died = due = 0
        for name in [name for name in self._files["delayed"] if _envelope(name).place <= now]:
            self._settle("delayed", name, policy.came_due(_envelope(name), self._settings))
            due += 1
            if not budget.allows_more():
                break
        for name in [name for name, deadline in self._deadlines.items() if now >= deadline]:
            step = self._failed(name, names.TIMEOUT)
            self._settle("leased", name, step)
            attempt = _envelope(name).attempts + 1
            telemetry.emit("requeue", self.location, step.envelope.id, attempt=attempt, outcome="timeout")
            returned, died = returned + (step.state != "dead"), died + (step.state == "dead")
            if not budget.allows_more():
                break
        return Reaped(returned, died, due)

    @_locked
    def redrive(self, ids: Sequence[str] | None, *, limit: int | None) -> int:
        """Put the dead back in line."""
        records = [r for r in self.look("dead", limit=None) if ids is None or r.envelope.id in ids][:limit]
        for record in records:
            again = record.envelope.redriven(place=self._stamps.next())
            self._settle("dead", record.name, policy.Step("ready", again))
            telemetry.emit("redrive", self.location, again.id)
        return len(records)

    @_locked
    def purge(self, state: State) -> int:
        """Forget every message in a state."""
        doomed = list(self._files[state])
        for name in doomed:
            self._drop(state, name)
            self._texts.pop(_envelope(name).id, None)
        return len(doomed)

    @_locked
    def configure(self, changes: Mapping[str, object]) -> Settings:
        """Change the settings."""
        self._settings = self._settings.changed(changes)
        return self._settings

    # Looking and mending

    @_locked
    def look(self, state: State, *, limit: int | None) -> list[Record]:
        """List a state."""
        listed = sorted(self._files[state], key=names.sort_key)[:limit]
        return [self._record(state, name) for name in listed]

    def _record(self, state: State, name: str) -> Record:
        envelope = _envelope(name)
        at = {
            "ready": None,
            "delayed": envelope.place,
            "leased": self._deadlines.get(name),
            "dead": self._died.get(name),
        }[state]
        return Record(state, name, envelope, len(self._files[state][name]), at)

    @_locked
    def find(self, id: str) -> Record:
        """Look for an id."""
        for state in STATES:
            for name in self._files[state]:
                if _envelope(name).id == id:
                    return self._record(state, name)
        raise MessageNotFound(id)

    @_locked
    def read(self, record: Record) -> bytes:
        """The bytes of a message, wherever it is by now."""
        if record.name not in self._files[record.state]:
            record = self.find(record.envelope.id)
        return self._files[record.state][record.name]

    @_locked
    def replace(self, record: Record, draft: Draft) -> None:
        """Put other content in its place."""
        if record.name not in self._files[record.state]:
            raise MessageNotFound(record.envelope.id, "memory:// any more in that place")
        died = self._died.get(record.name, 0)
        sealed = record.envelope._replace(
            size=len(draft.data), crc=checksum(draft.data), head=draft.head, ext=draft.ext
        )
        self._move(record.state, record.name, record.state, names.format_name(sealed), died, draft.data)

    def history(self, envelope: Envelope) -> list[Attempt]:
        """The finished attempts, with their texts."""
        texts = self._texts.get(envelope.id, {})
        attempts = [Attempt(0, envelope.why, *texts[0])] if 0 in texts else []
        for number, letter in names.story(envelope.tries):
            attempts.append(Attempt(number, OUTCOMES[letter], *texts.get(number, (None, None))))
        return attempts

    def origin(self, envelope: Envelope) -> str:
        """A queue in memory keeps its own dead."""
        return envelope.origin or self.location

    @_locked
    def stats(self) -> Stats:
        """Count."""
        now = self._clock()
        ready, delayed = ([_envelope(name).place for name in self._files[s]] for s in ("ready", "delayed"))
        return Stats(
            **{state: len(files) for state, files in self._files.items()},
            bytes=sum(len(data) for files in self._files.values() for data in files.values()),
            oldest_ready_age=max(0.0, (now - min(ready)) / names.NS) if ready else None,
            next_due_in=max(0.0, (min(delayed) - now) / names.NS) if delayed else None,
            overdue=sum(now >= deadline for deadline in self._deadlines.values()),
            paused=self._paused,
        )

    def pause(self) -> None:
        """Claims find nothing."""
        self._paused = True

    @_locked
    def resume(self) -> None:
        """Claims find messages."""
        self._paused = False
        self._ring()

    def tell(self, story: Mapping[str, Any]) -> None:
        """Keep it."""
        self._story = dict(story)

    def owners(self) -> list[Owner]:
        """This process is the only one there is."""
        return [Owner(_OWNER, platform.node(), os.getpid(), self._since, alive=True, story=self._story)]

    @_locked
    def put_reply(self, id: str, data: bytes) -> None:
        """Keep it, and let go of those that are too old."""
        now = self._clock()
        oldest = now - policy.ns(self._settings.reply_ttl)
        self._replies.pop(id, None)
        self._replies[id] = now, data  # put last: a dictionary keeps the order, so the oldest come first
        for old in list(itertools.takewhile(lambda known: self._replies[known][0] < oldest, self._replies)):
            del self._replies[old]

    def get_reply(self, id: str) -> bytes | None:
        """The reply, if there is one."""
        return self._replies.get(id, (0, None))[1]

    @_locked
    def close(self) -> None:
        """End the leases that are bound to this process."""
        for name in [name for name in self._files["leased"] if _envelope(name).owner]:
            step = self._failed(name, names.KILLED)
            self._settle("leased", name, step)
        self._ring()  # who listens must listen anew
        self._bells = ()


def _envelope(name: str) -> Envelope:
    """The envelope in a name that this engine wrote."""
    envelope = names.parse(name)
    if envelope is None:
        raise AssertionError(name)
    return envelope
