"""The queue as Python programs use it."""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import TYPE_CHECKING, Any, Final, Self, cast

from mailq import codecs, new_message, telemetry
from mailq.delivery import Delivery, Message
from mailq.engines.base import Claimed, Settlement
from mailq.errors import (
    MailqError,
    MessageNotFound,
    MessageTooLarge,
    QueueClosed,
    QueueFull,
    Unsupported,
    UsageError,
    shown,
)
from mailq.ids import NS
from mailq.message import FAILED_OUTCOMES, FILENAME, REPLY, NewMessage, State, check_state, read_body, safe_ext
from mailq.reply import Reply
from mailq.settings import LONGEST, MOMENT, whole
from mailq.settings import seconds as checked_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from mailq.engines.base import Claim, Editable, Engine, LeaseHolder, Presence, Reaped, Replies, Stats
    from mailq.settings import Settings

_ACK: Final = Settlement("ack")
_CLOSED_AFTER: Final = 1.0  # seconds until a pop notices that the queue was closed just as it began to wait


class Queue:
    """A durable queue. Open one with :func:`mailq.open`.

    Durations are seconds. Every verb may raise StorageError (the disk refused),
    QueueNotFound (the queue is gone, perhaps unmounted) and QueueClosed. Safe to share
    between threads, and to use in a forked child. Unpickled in another process it is
    what ``reopen()`` returns there.
    """

    def __init__(self, engine: Engine, reopen: Callable[[], Queue] | None = None) -> None:
        self._engine = engine
        self._reopen = reopen
        self._is_closed = False
        self._events = telemetry.QueueEvents(engine.location)

    def __repr__(self) -> str:
        """Name the queue."""
        return f"<mailq.Queue {self.location}>"

    def __reduce__(self) -> tuple[Callable[[], Queue], tuple[()]]:
        """Pickle how to open the queue, for a process that is not a fork of this one."""
        if self._reopen is None:
            text = f"the queue {self.location} cannot be pickled: no other process sees it; open one on disk"
            raise UsageError(text)
        return self._reopen, ()

    @property
    def location(self) -> str:
        """Where the queue is: its directory, or ``memory://``."""
        return self._engine.location

    @property
    def engine(self) -> Engine:
        """The engine beneath. Raises QueueClosed."""
        if self._is_closed:
            raise QueueClosed(self.location)
        return self._engine

    @property
    def replies(self) -> Replies:
        """The engine beneath, as the store of replies. Raises QueueClosed and Unsupported."""
        self._require("replies", "keep replies")
        return cast("Replies", self.engine)

    @property
    def settings(self) -> Settings:
        """The queue's settings."""
        return self._engine.settings

    def configure(self, **changes: object) -> Settings:
        """Change settings of the queue for everybody; None puts one back to its default.

        Durable on return; other processes notice within their reap interval.
        Raises SettingsError.
        """
        return self.engine.configure(changes)

    # Push

    def push(
        self,
        body: Any,  # noqa: ANN401 - any JSON value is a body
        *,
        delay: float = 0.0,
        priority: int = 0,
        lease: float | None = None,
        max_retries: int | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> str:
        """Store a message and return its id.

        When this returns, the message survives what the queue's ``durability``
        names; when it raises, nothing was stored, or StorageError.maybe_pushed says
        what may have been. Only an exception from outside, such as Ctrl-C, may come
        just after the message was stored. ``bytes`` are pushed raw, ``str`` as text,
        everything else as JSON, unless ``content_type`` says otherwise. ``delay``,
        ``lease``, ``ttl`` and ``timeout`` (how long a worker lets the job run) in
        seconds; ``priority`` 0 to 9, higher first. Raises CodecError, MessageTooLarge,
        QueueFull and UsageError.
        """
        options = new_message.check_options(delay, priority, lease, max_retries, ttl)
        headers, limit = new_message.with_timeout(headers, timeout), self.settings.max_message_bytes
        return self._push([new_message.encode(body, content_type, headers, options, limit=limit)])[0]

    def push_many(
        self,
        bodies: Iterable[Any],
        *,
        delay: float = 0.0,
        priority: int = 0,
        lease: float | None = None,
        max_retries: int | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> list[str]:
        """Store messages in order, durable as a whole on return; return their ids.

        One flush for all of them, so much faster than as many pushes. Consumers may
        see the first before the last is stored. The options are those of push, for
        each message.
        """
        options = new_message.check_options(delay, priority, lease, max_retries, ttl)
        headers, limit = new_message.with_timeout(headers, timeout), self.settings.max_message_bytes
        return self._push([new_message.encode(body, content_type, headers, options, limit=limit) for body in bodies])

    def _push(self, messages: list[NewMessage]) -> list[str]:
        try:
            ids = self.engine.push(messages)
        except QueueFull as full:
            self._events.full(full)
            raise
        self._end_if_closed()
        self._events.pushed(ids, messages)
        return ids

    def push_file(
        self,
        path: str | os.PathLike[str],
        *,
        delay: float = 0.0,
        priority: int = 0,
        lease: float | None = None,
        max_retries: int | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Store a copy of a file; its extension stays, and says the content type.

        Its name is in ``headers["filename"]`` on delivery. Raises OSError if the file
        cannot be read; the rest is as for push.
        """
        options = new_message.check_options(delay, priority, lease, max_retries, ttl)
        ext = safe_ext(os.path.basename(path))
        headers = {FILENAME: os.path.basename(path), **new_message.with_timeout(headers, timeout)}
        limit = self.settings.max_message_bytes
        with open(path, "rb") as file:
            body = read_body(file, limit)
        return self._push([new_message.from_bytes(body, codecs.type_of(ext), ext, headers, options, limit=limit)])[0]

    def request(
        self,
        body: Any,  # noqa: ANN401 - any JSON value is a body
        *,
        headers: Mapping[str, str] | None = None,
        **options: Any,  # noqa: ANN401 - those of push
    ) -> Reply:
        """Push a message and return its reply to come: ``q.request({"n": 10}).result(timeout=30)``.

        A worker keeps what the handler returns as the reply, durably, for ``reply_ttl``
        seconds; any other consumer can with Delivery.reply. The options are those of
        push.
        """
        self._require("replies", "keep replies")
        return self.reply_to(self.push(body, headers={**(headers or {}), REPLY: "1"}, **options))

    def reply_to(self, id: str) -> Reply:
        """The reply to a request, by the message's id: in another process, or asked for again."""
        return Reply(self, id)

    # Pop

    def pop(self, *, lease: float | None = None, wait: float = 0.0, detached: bool = False) -> Delivery | None:
        """Lease the next ready message, or None.

        ``wait`` is how many seconds to block until there is one; ``math.inf`` waits
        for ever. The lease lasts ``lease`` seconds (else the message's own, else the
        queue's) and ends at once if this process dies; a ``detached`` lease outlives
        the process and ends by time alone.
        """
        deliveries = self._pop(1, lease, wait, detached=detached)
        return deliveries[0] if deliveries else None

    def pop_many(
        self, limit: int, *, lease: float | None = None, wait: float = 0.0, detached: bool = False
    ) -> list[Delivery]:
        """Lease up to ``limit`` messages: those that are ready as soon as one is. See pop."""
        whole(limit, "limit", least=1, most=1_000_000)
        return self._pop(limit, lease, wait, detached=detached)

    def _pop(self, limit: int, lease: float | None, wait: float, *, detached: bool) -> list[Delivery]:
        if lease is not None:
            lease = checked_seconds(lease, "lease", least=MOMENT)
        if isinstance(wait, bool) or not isinstance(wait, int | float) or not wait >= 0:
            raise UsageError(f"wait is {shown(wait)}; it must be seconds from 0, or math.inf")
        until = time.monotonic() + (wait if wait < LONGEST else math.inf)
        claimed = Claimed(())
        try:
            while not self._is_closed:
                claimed = self.engine.claim(limit, lease=lease, detached=detached)
                if claimed.settled:
                    self._events.settled(claimed.settled, self.settings.ttl)
                if claimed.claims:
                    break
                left = until - time.monotonic()
                if not claimed.more:  # else something may be ready behind what it has moved
                    if left <= 0:
                        break
                    self._engine.wait(min(left, _CLOSED_AFTER))
            return self._delivered(claimed.claims)
        except BaseException:  # interrupted, or closed: nobody has them
            self._give_back(claimed.claims)
            raise

    def poll(self, limit: int, *, lease: float | None = None, detached: bool = False) -> list[Delivery] | None:
        """Lease up to ``limit`` messages without waiting, in a bounded time: for programs that have heartbeats to keep.

        pop and pop_many find nothing only when nothing is ready; where thousands of messages have
        expired, or are damaged, they first move all of those to the dead. This one moves some, and
        returns None if it found nothing to lease and there may be more: call it again soon. The
        rest is as for pop.
        """
        whole(limit, "limit", least=1, most=1_000_000)
        lease = None if lease is None else checked_seconds(lease, "lease", least=MOMENT)
        claimed = self.engine.claim(limit, lease=lease, detached=detached)
        try:
            self._events.settled(claimed.settled, self.settings.ttl)
            return None if claimed.more and not claimed.claims else self._delivered(claimed.claims)
        except BaseException:  # as above
            self._give_back(claimed.claims)
            raise

    def _give_back(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            with contextlib.suppress(MailqError):
                self._engine.settle(claim.receipt, Settlement("release"))
        self._end_if_closed()

    def _delivered(self, claims: Sequence[Claim]) -> list[Delivery]:
        if self._is_closed:  # meanwhile, by another thread
            raise QueueClosed(self.location)
        self._events.popped(claims)
        return [Delivery(self, claim) for claim in claims]

    def delivery(self, receipt: str) -> Delivery:
        """The delivery behind a receipt: to go on with it in another process.

        Raises LeaseLost as soon as its deadline has passed, even if nobody else has the
        message yet.
        """
        return Delivery(self, self.engine.claimed(receipt))

    def subscribe(self, callback: Callable[[], None]) -> float:
        """Call ``callback()``, from any thread, whenever a pop may find something new.

        For programs with an event loop of their own: pop until there is nothing, then
        subscribe. Returns the poll interval in seconds: pop again after that time in
        any case. A close ends the subscription.
        """
        interval = self.engine.subscribe(callback)
        self._end_if_closed()
        return interval

    def unsubscribe(self, callback: Callable[[], None]) -> None:
        """Call it no more."""
        self._engine.unsubscribe(callback)

    def pause(self) -> None:
        """Stop all deliveries until resumed; durable, across processes: the file ``paused`` in the queue.

        Deliveries that are out can be settled, and pushes go on. Consumers notice at once.
        """
        self.engine.configure({"paused": True})

    def resume(self) -> None:
        """Deliver again. Waiting consumers in other processes notice within a second."""
        self.engine.configure({"paused": False})

    def __iter__(self) -> Iterator[Delivery]:
        """Deliver messages for ever, waiting when there are none.

        ``list(q)``, ``set(q)`` and ``*q`` are loops over the queue, too, and never end:
        Python asks for an iterator in the same way. ``list(q.drain())`` ends.
        """
        while True:
            yield from self.pop_many(1, wait=math.inf)

    def drain(self, *, lease: float | None = None) -> Iterator[Delivery]:
        """Deliver messages until none is ready. Delayed and leased ones are not waited for."""
        while (delivery := self.pop(lease=lease)) is not None:
            yield delivery

    # Settle

    def ack(self, receipt: str) -> None:
        """Remove a message for good: it is done. Raises LeaseLost if it is not yours any more.

        Not synced: a power cut may bring an acked message back, never lose one.
        """
        self._settle(receipt, _ACK)

    def nack(
        self, receipt: str, *, delay: float | None = None, error: str | None = None, outcome: str | None = None
    ) -> None:
        """Give a message back after a failed attempt, which is counted.

        It is ready again after ``delay`` seconds, by default the queue's back-off;
        it dies when its retries are used up. ``error`` is kept for its history.
        ``outcome`` is how the attempt ended: ``error`` if there is one, else
        ``nack``; a worker also says ``timeout`` or ``killed``. Raises LeaseLost.
        """
        if not isinstance(error, str | None):
            raise UsageError(f"error is {shown(error)}; it must be text: str(error), or a formatted traceback")
        if outcome is None:
            outcome = "nack" if error is None else "error"
        if outcome not in FAILED_OUTCOMES:
            raise UsageError(f"outcome is {shown(outcome)}; it must be {', '.join(FAILED_OUTCOMES)}")
        delay = None if delay is None else checked_seconds(delay, "delay")
        self._settle(receipt, Settlement("nack", delay, outcome, error))

    def release(self, receipt: str, *, delay: float = 0.0) -> None:
        """Give a message back as if it had never been popped; no attempt is counted. Raises LeaseLost."""
        self._settle(receipt, Settlement("release", checked_seconds(delay, "delay")))

    def reject(self, receipt: str, reason: str | None = None) -> None:
        """Give up on a message at once: it goes to the dead, with the reason. Raises LeaseLost."""
        if not isinstance(reason, str | None):
            raise UsageError(f"reason is {shown(reason)}; it must be text")
        self._settle(receipt, Settlement("reject", text=reason))

    def _settle(self, receipt: str, settlement: Settlement) -> None:
        self._events.verb(settlement, self.engine.settle(receipt, settlement))

    def extend(self, receipt: str, seconds: float) -> float:
        """Hold a message until at least ``seconds`` from now; return the new deadline (seconds since 1970).

        Never shortens a lease. Raises LeaseLost as soon as the old deadline has
        passed, even if nobody else has the message yet.
        """
        envelope, deadline = self.engine.extend(receipt, checked_seconds(seconds, "seconds"))
        self._events.extended(envelope, seconds)
        return deadline / NS

    # Look and mend

    def stats(self) -> Stats:
        """Count the messages by state, with sizes and ages. Lists the whole queue."""
        return self.engine.stats()

    def __len__(self) -> int:
        """How many messages are not done: ready, delayed and leased."""
        stats = self.stats()
        return stats.ready + stats.delayed + stats.leased

    def __contains__(self, id: object) -> bool:
        """Whether a message of this id is in the queue, in whatever state; only looks, as get does."""
        if not isinstance(id, str):
            raise UsageError(f"{shown(id)} is not an id; ask for the text that push returned")
        return bool(self.engine.look(None, ids=[id], limit=1))

    def __bool__(self) -> bool:
        """A queue is true, also when it is empty: ``if queue:`` asks whether there is one."""
        return True

    def peek(self, state: State = "ready", limit: int | None = 10) -> list[Message]:
        """Look at the first messages in a state without leasing them; None lists all."""
        check_state(state)
        return [Message(self, record) for record in self.engine.look(state, limit=limit)]

    def get(self, id: str) -> Message:
        """Look at a message by its id, in whatever state. Raises MessageNotFound."""
        for record in self.engine.look(None, ids=[id], limit=1) if isinstance(id, str) else ():
            return Message(self, record)
        raise MessageNotFound(id, self.location)

    def edit(self, message: Message, body: bytes) -> None:
        """Replace the body of a ready, delayed or dead message; undamaged headers stay.

        Raises MessageNotFound if somebody took it since it was looked at, and
        MessageTooLarge.
        """
        self._require("edit", "edit messages")
        if message.state == "leased":
            raise UsageError(f"message {message.id} is leased; edit it when it is ready or dead")
        if not isinstance(body, bytes):
            raise UsageError(f"the body must be bytes, not {type(body).__name__}; encode it first")
        record, former = message._record, message._read()  # noqa: SLF001 - the queue made it
        # The headers stay to the letter. Damaged ones are part of what was edited.
        header_bytes = record.envelope.header_bytes if message._parts()[0] is not None else 0  # noqa: SLF001
        data = former[:header_bytes] + body
        if len(data) > self.settings.max_message_bytes:
            raise MessageTooLarge(len(data), self.settings.max_message_bytes)
        editor = cast("Editable", self.engine)
        editor.replace(record, NewMessage(data, record.envelope.ext, header_bytes))

    def redrive(self, ids: Iterable[str] | None = None, limit: int | None = None) -> int:
        """Put dead messages back in line, oldest first, to be tried afresh from attempt 1.

        All of them, or those with the given ids. Returns how many.
        """
        chosen: Sequence[str] | None = [ids] if isinstance(ids, str) else None if ids is None else list(ids)
        if not all(isinstance(id, str) for id in chosen or ()):
            raise UsageError("ids are text: pass those that push returned")
        if limit is not None:
            whole(limit, "limit", least=0, most=1 << 62)
        redriven = self.engine.redrive(chosen, limit=limit)
        self._events.redriven(redriven)
        return len(redriven)

    def purge(self, state: State) -> int:
        """Delete every message in a state for good. Returns how many.

        Purging ``leased`` takes messages out of their holders' hands.
        """
        check_state(state)
        return self.engine.remove(state)

    def workers(self) -> list[LeaseHolder]:
        """The processes that hold leases, and the workers, with what they publish of themselves.

        One that is known to be dead is listed once more, and forgotten.
        """
        self._require("presence", "list its workers")
        return cast("Presence", self.engine).holders()

    def publish(self, status: Mapping[str, Any]) -> None:
        """Publish what this process is doing, for those that list the workers: a small JSON object."""
        if self.engine.capabilities.presence:
            cast("Presence", self.engine).publish(status)
            self._end_if_closed()

    def reap(self) -> Reaped:
        """Give back what late and dead consumers hold, now; every consumer does so by itself."""
        reaped = self.engine.reap()
        self._events.settled(reaped.settled, self.settings.ttl)
        return reaped

    def _require(self, capability: str, what: str) -> None:
        if not getattr(self.engine.capabilities, capability):
            raise Unsupported(self.location, what)

    def close(self) -> None:
        """Let go of locks and threads; leases still held and not detached end at once, as ``killed``.

        After that every verb of the queue raises QueueClosed, and every verb of its
        deliveries, messages and replies; so does a pop that waits in another thread.
        Closing it twice does nothing.
        """
        self._is_closed = True  # first: the engine wakes those that wait, and they must see it
        self._engine.close()

    def _end_if_closed(self) -> None:
        """Close the engine again, if a verb that ran beside the close has taken something up there."""
        if self._is_closed:
            self._engine.close()

    def __enter__(self) -> Self:
        """Close on leaving."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
