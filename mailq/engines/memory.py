"""The queue in memory: for tests, and to be read as the reference of what the verbs mean.

A message is one entry of a dictionary, and each change of it one assignment, under one
lock: an exception that arrives from outside finds it made or not made. Nothing survives the process.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import os
import platform
import re
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

from mailq import policy
from mailq.alarm import Alarm
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
from mailq.errors import InvalidReceipt, LeaseLost, MailqError, MessageNotFound, QueueFull
from mailq.ids import NS, MonotonicIds
from mailq.message import STATES, Attempt, NewMessage, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from mailq.policy import Step
    from mailq.settings import Settings


_P = ParamSpec("_P")
_T = TypeVar("_T")

_RECEIPT: Final = re.compile(r"([0-9a-f]{32})\.[0-9]+")


class _Envelope(NamedTuple):
    """See :class:`mailq.message.Envelope`."""

    id: str
    pushed_at: int
    visible_at: int
    ext: str
    header_bytes: int
    priority: int
    lease: float | None
    max_retries: int | None
    ttl: float | None
    file_name: str = ""
    attempts: int = 0
    total_attempts: int = 0
    reason: str = ""

    def after(self, step: Step) -> _Envelope:
        """The envelope of the message when it has gone where a step says."""
        counted = bool(step.outcome)
        return self._replace(
            visible_at=step.visible_at,
            attempts=0 if step.reason else self.attempts + counted,
            total_attempts=self.total_attempts + counted,
            reason=step.reason or self.reason,
            ttl=None if step.reason else self.ttl,
        )


class _Message(NamedTuple):
    """A stored message. ``at`` is its deadline or its time of death. ``bound``: its lease ends at a close."""

    state: State
    envelope: _Envelope
    data: bytes
    history: tuple[Attempt, ...] = ()
    at: int | None = None
    receipt: str = ""
    bound: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands among those in its state."""
        return -self.envelope.priority, self.envelope.visible_at


def _locked(method: Callable[Concatenate[MemoryEngine, _P], _T]) -> Callable[Concatenate[MemoryEngine, _P], _T]:
    """Hold the engine's lock during a method.

    The lock is taken in a function without a loop: CPython 3.12 and 3.13 may raise an exception from outside
    where a loop turns as if that were not within the block.
    """

    @functools.wraps(method)
    def locked(engine: MemoryEngine, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with engine._lock:  # noqa: SLF001 - its own
            return method(engine, *args, **kwargs)

    return locked


class MemoryEngine:
    """A queue in this process. ``clock`` tells the time in nanoseconds."""

    capabilities: ClassVar = Capabilities(shared=False)

    def __init__(self, settings: Settings, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._settings = settings
        self._clock = clock
        self._ids = MonotonicIds(clock)
        self._claims = itertools.count(1)
        self._messages: dict[str, _Message] = {}
        self._replies: dict[str, tuple[int, bytes]] = {}
        self._since = clock() / NS
        self._status: dict[str, Any] = {}
        self._callbacks: tuple[Callable[[], None], ...] = ()
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

    def _in(self, *states: State) -> list[_Message]:
        return [message for message in self._messages.values() if message.state in states]

    # Producing

    @_locked
    def push(self, messages: Sequence[NewMessage]) -> list[str]:
        """Store them all, or none."""
        length, limit = len(self._in("ready", "delayed")), self._settings.max_length
        if limit is not None and length + len(messages) > limit:
            raise QueueFull(length, limit, len(messages))
        ids: list[str] = []
        try:
            self._store_all(messages, ids)
            self._notify()
        except BaseException:  # interrupted
            for id in ids:
                self._messages.pop(id, None)
            raise
        return ids

    def _store_all(self, messages: Sequence[NewMessage], ids: list[str]) -> None:
        for new in messages:
            now = self._ids.next()
            ids.append(self._ids.new_id(now))
            step = policy.pushed(now, now=self._clock(), delay=new.delay)
            options = new.priority, new.lease, new.max_retries, new.ttl
            envelope = _Envelope(ids[-1], now, step.visible_at, new.ext, new.header_bytes, *options)
            self._messages[ids[-1]] = _Message(step.state, envelope, new.data)

    def _notify(self) -> None:
        for alarm in tuple(self._waiting):
            alarm.ring()
        for callback in self._callbacks:
            try:
                callback()
            except Exception:
                logging.getLogger("mailq").exception("a subscriber of the queue failed")

    # Consuming

    def claim(self, limit: int, *, lease: float | None, detached: bool) -> Claimed:
        """Take the first in line."""
        claims: list[Claim] = []
        settled: list[Settled] = []
        budget = Budget()
        try:
            self._claim(claims, settled, limit, lease, budget, bound=not detached)
            return Claimed(claims, settled, more=budget.left_some)  # in here: it may be interrupted, too
        except BaseException:  # interrupted: nobody will have the receipts
            self._give_back(claims)
            raise

    @_locked
    def _claim(
        self,
        claims: list[Claim],
        settled: list[Settled],
        limit: int,
        lease: float | None,
        budget: Budget,
        *,
        bound: bool,
    ) -> None:
        settled += self._reap(budget).settled
        if self._settings.paused:
            return
        may_bury = True
        for message in sorted(self._in("ready"), key=lambda message: message.place):
            if len(claims) >= limit:
                break
            if (unfit := self._unfit(message)) is None:
                claims.append(self._lease(message, lease, bound=bound))
            elif may_bury:
                settled.append(self._bury(message, *unfit))
                may_bury = budget.allows_more()

    def _lease(self, message: _Message, lease: float | None, *, bound: bool) -> Claim:
        envelope = message.envelope
        until = policy.lease_end(envelope, self._settings, now=self._clock(), lease=lease)
        receipt = f"{envelope.id}.{next(self._claims)}"
        claim = Claim(receipt, envelope, message.data, until)
        leased = message._replace(state="leased", at=until, receipt=receipt, bound=bound)
        self._messages[envelope.id] = leased  # last: from here on no call may be interrupted before the claim is kept
        return claim

    def _unfit(self, message: _Message) -> tuple[str, str | None] | None:
        """Why a message is not delivered: the reason, and an error text; None if it is."""
        if policy.has_expired(message.envelope, self._settings, self._clock()):
            return "expired", None
        limit = self._settings.max_message_bytes
        if len(message.data) > limit:
            return "too-large", f"the message has {len(message.data)} bytes, the queue delivers {limit}"
        return None

    def _bury(self, message: _Message, reason: str, text: str | None) -> Settled:
        return self._move(message, policy.undeliverable(message.envelope, reason), text)

    def _give_back(self, claims: list[Claim]) -> None:
        for claim in claims:
            with contextlib.suppress(MailqError):
                self.settle(claim.receipt, Settlement("release"))

    def wait(self, timeout: float) -> None:
        """Wait for something ready, or for the next due time or deadline."""
        alarm = Alarm()
        try:
            self._waiting.add(alarm)
            alarm.wait(min(timeout, self._next_change_in()))
        finally:
            self._waiting.discard(alarm)

    @_locked
    def _next_change_in(self) -> float:
        if not self._settings.paused and self._in("ready"):
            return 0.0
        times = [message.envelope.visible_at for message in self._in("delayed")]
        times += [message.at for message in self._in("leased") if message.at is not None]
        return max(0.0, (min(times) - self._clock()) / NS) if times else threading.TIMEOUT_MAX

    @_locked
    def subscribe(self, callback: Callable[[], None]) -> float:
        """Call it at every change."""
        if callback not in self._callbacks:
            self._callbacks = (*self._callbacks, callback)
        return self._next_change_in()

    def unsubscribe(self, callback: Callable[[], None]) -> None:
        """Call it no more."""
        self._callbacks = tuple(known for known in self._callbacks if known != callback)

    @_locked
    def claimed(self, receipt: str) -> Claim:
        """Return the claim once more."""
        message = self._held(receipt, "read")
        deadline = message.at or 0
        if self._clock() >= deadline:
            raise LeaseLost(receipt, "read")
        return Claim(receipt, message.envelope, message.data, deadline)

    # Settling

    @_locked
    def settle(self, receipt: str, settlement: Settlement) -> Settled:
        """Remove it, or move it where the policy says."""
        verb, delay, outcome, text = settlement
        message = self._held(receipt, verb)
        envelope, now = message.envelope, self._clock()
        if verb == "ack":
            del self._messages[envelope.id]
            return Settled(envelope, None)
        if verb == "nack":
            end = self._ids.next()
            step = policy.failed(envelope, outcome, self._settings, now=now, end=end, delay=delay)
        elif verb == "release":
            step = policy.released(envelope, now=now, delay=delay or 0.0)
        else:
            step = policy.rejected(envelope)
        return self._move(message, step, text)

    @_locked
    def extend(self, receipt: str, seconds: float) -> Extended:
        """Move the deadline."""
        message = self._held(receipt, "extend")
        now, deadline = self._clock(), message.at or 0
        if now >= deadline:
            raise LeaseLost(receipt, "extend")
        deadline = max(now + policy.ns(seconds), deadline)
        self._messages[message.envelope.id] = message._replace(at=deadline)
        return Extended(message.envelope, deadline)

    def _held(self, receipt: str, verb: str) -> _Message:
        found = _RECEIPT.fullmatch(receipt) if isinstance(receipt, str) else None
        if found is None:
            raise InvalidReceipt(receipt)
        message = self._messages.get(found[1])
        if message is None or message.receipt != receipt:
            raise LeaseLost(receipt, verb)
        return message

    def _move(self, message: _Message, step: Step, text: str | None = None) -> Settled:
        """Make the step, and keep how the attempt ended."""
        envelope, now = message.envelope.after(step), self._clock()
        history = message.history
        if step.outcome or text is not None:
            number = envelope.total_attempts if step.outcome else 0
            at = None if text is None else now / NS
            history = (*history, Attempt(number, step.outcome or step.reason, text, at))
        died = now if step.state == "dead" else None
        self._messages[envelope.id] = _Message(step.state, envelope, message.data, history, died)
        self._notify()
        return Settled(message.envelope, step)

    # Maintenance

    def reap(self) -> Reaped:
        """Give back what is overdue and ready what is due."""
        return self._reap(Budget(math.inf))

    @_locked
    def _reap(self, budget: Budget) -> Reaped:
        now = self._clock()
        due = 0
        for message in self._in("delayed"):
            if message.envelope.visible_at <= now:
                self._move(message, policy.came_due(message.envelope, self._settings))
                due += 1
                if not budget.allows_more():
                    break
        settled = self._end_leases(lambda message: now >= (message.at or 0), "timeout", budget)
        died = sum(step is not None and step.state == "dead" for _, step in settled)
        return Reaped(len(settled) - died, died, due, settled)

    def _end_leases(self, is_over: Callable[[_Message], bool], outcome: str, budget: Budget) -> list[Settled]:
        settled = []
        for message in self._in("leased"):
            if is_over(message):
                now, end = self._clock(), self._ids.next()
                step = policy.failed(message.envelope, outcome, self._settings, now=now, end=end)
                settled.append(self._move(message, step))
                if not budget.allows_more():
                    break
        return settled

    @_locked
    def redrive(self, ids: Sequence[str] | None, *, limit: int | None) -> list[str]:
        """Put the dead back in line."""
        records = self.look("dead", ids=ids, limit=limit)
        for record in records:
            message = self._messages[record.envelope.id]
            self._move(message, policy.released(message.envelope._replace(visible_at=self._ids.next()), now=0))
        return [record.envelope.id for record in records]

    @_locked
    def remove(self, state: State, *, ids: Collection[str] | None = None) -> int:
        """Forget messages in a state."""
        doomed = [message.envelope.id for message in self._in(state) if ids is None or message.envelope.id in ids]
        for id in doomed:
            del self._messages[id]
        return len(doomed)

    @_locked
    def configure(self, changes: Mapping[str, object]) -> Settings:
        """Change the settings."""
        self._settings = self._settings.changed(changes)
        self._notify()
        return self._settings

    # Looking and mending

    @_locked
    def look(
        self, state: State | None, *, ids: Collection[str] | None = None, limit: int | None = None
    ) -> list[Record]:
        """List them."""
        wanted = None if ids is None else set(ids)
        listed = [
            _record(message)
            for each in (STATES if state is None else (state,))
            for message in sorted(self._in(each), key=lambda message: message.place)
            if wanted is None or message.envelope.id in wanted
        ]
        return listed[:limit]

    def read(self, record: Record) -> bytes:
        """Return the bytes of a message, wherever it is by now."""
        return self._find(record).data

    def _find(self, record: Record) -> _Message:
        message = self._messages.get(record.envelope.id)
        if message is None:
            raise MessageNotFound(record.envelope.id)
        return message

    @_locked
    def replace(self, record: Record, message: NewMessage) -> None:
        """Put other content in its place."""
        found = self._find(record)
        if found.state != record.state:
            raise MessageNotFound(record.envelope.id, "memory:// any more in that state")
        envelope = found.envelope._replace(ext=message.ext, header_bytes=message.header_bytes)
        self._messages[envelope.id] = found._replace(envelope=envelope, data=message.data)

    def history(self, record: Record) -> History:
        """Return the finished attempts. A queue in memory keeps its own dead."""
        return History(list(self._find(record).history), self.location)

    @_locked
    def stats(self) -> Stats:
        """Count."""
        now = self._clock()
        ready, delayed = ([message.envelope.visible_at for message in self._in(state)] for state in STATES[:2])
        return Stats(
            **{state: len(self._in(state)) for state in STATES},
            bytes=sum(len(message.data) for message in self._messages.values()),
            oldest_ready_age=max(0.0, (now - min(ready)) / NS) if ready else None,
            next_due_in=max(0.0, (min(delayed) - now) / NS) if delayed else None,
            overdue=sum(now >= (message.at or 0) for message in self._in("leased")),
            paused=self._settings.paused,
        )

    def publish(self, status: Mapping[str, Any]) -> None:
        """Keep it."""
        self._status = dict(status)

    def holders(self) -> list[LeaseHolder]:
        """This process is the only one there is."""
        return [LeaseHolder("1", platform.node(), os.getpid(), self._since, alive=True, status=self._status)]

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
        """Return the reply, if there is one."""
        return self._replies.get(id, (0, None))[1]

    @_locked
    def close(self) -> None:
        """End the leases that are bound to this process."""
        self._end_leases(lambda message: message.bound, "killed", Budget(math.inf))
        self._notify()  # those that wait look again, and find the queue closed
        self._callbacks = ()


def _record(message: _Message) -> Record:
    at = message.envelope.visible_at if message.state == "delayed" else message.at
    return Record(message.state, message.envelope, len(message.data), at, message.receipt or message.envelope.id)
