"""A message to look at, and a delivery: a message in your hands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from mailq import codecs, reply
from mailq.engines.base import Record
from mailq.errors import CodecError, LeaseLost, MailqError, UsageError, shown
from mailq.ids import NS
from mailq.message import CONTENT_TYPE, FILENAME, REPLY, split_headers
from mailq.settings import seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from mailq.engines.base import Claim, Opened
    from mailq.message import Attempt, Envelope, State
    from mailq.queue import Queue


class Retry(Exception):
    """Returned or raised by a handler: the attempt failed, is counted, and is to be made again.

    After ``delay`` seconds, by default the queue's back-off. ``error`` is kept for
    the message's history; if it is None, what the Retry was raised from. A message
    past its retries dies all the same.
    """

    def __init__(self, delay: float | None = None, error: str | None = None) -> None:
        super().__init__(delay, error)
        self.delay = None if delay is None else seconds(delay, "delay")
        self.error = _text(error, "error")

    def __repr__(self) -> str:
        """Show the arguments."""
        return f"Retry(delay={self.delay!r}, error={self.error!r})"

    def __str__(self) -> str:
        """Say why."""
        return self.error or ""


class Reject(Exception):
    """Returned or raised by a handler: give up on the message at once; it goes to the dead with the reason.

    If ``reason`` is None, it is what the Reject was raised from.
    """

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = _text(reason, "reason")

    def __repr__(self) -> str:
        """Show the argument."""
        return f"Reject({self.reason!r})"

    def __str__(self) -> str:
        """Say why."""
        return self.reason or ""


def _text(value: object, what: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise UsageError(f"{what} is {shown(value)}; it must be text")


def reason_of(outcome: Retry | Reject) -> str | None:
    """The text to keep of an outcome: its own, else one on the error that it was raised from."""
    text = outcome.error if isinstance(outcome, Retry) else outcome.reason
    if text is not None or outcome.__cause__ is None:
        return text
    import traceback  # noqa: PLC0415 - slow to load, and only wanted here

    return "".join(traceback.format_exception_only(outcome.__cause__)).rstrip()


class Message:
    """A message as somebody sees it who does not hold it.

    ``at`` times are seconds since 1970. The body is read when it is first asked
    for, wherever the message is by then; MessageNotFound if it is gone.
    """

    def __init__(self, queue: Opened, record: Record) -> None:
        self._queue = queue
        self._record = record
        self._data: bytes | None = None
        self._split: tuple[dict[str, str] | None, bytes] | None = None

    def __repr__(self) -> str:
        """Name the message and where it stands."""
        return f"<{type(self).__name__} {self.id} {self.state}>"

    @property
    def _envelope(self) -> Envelope:
        return self._record.envelope

    def _read(self) -> bytes:
        if self._data is None:
            self._data = self._queue.engine.read(self._record)
        return self._data

    def _parts(self) -> tuple[dict[str, str] | None, bytes]:
        """Headers and body. Where the headers are damaged: None, and all the bytes there are."""
        if self._split is None:
            data = self._read()
            try:
                self._split = split_headers(data, self._envelope.header_bytes)
            except CodecError:
                self._split = None, data
        return self._split

    @property
    def id(self) -> str:
        """The id, 32 hex digits, the same for the message's whole life."""
        return self._envelope.id

    @property
    def state(self) -> State:
        """Where the message was when it was looked at: ready, delayed, leased or dead."""
        return self._record.state

    @property
    def location(self) -> str:
        """Where the engine has it: the path of its file, if it is in one."""
        return self._record.location

    @property
    def raw(self) -> bytes:
        """The body as it was stored; everything, where damaged headers leave no telling where it begins."""
        return self._parts()[1]

    @property
    def body(self) -> Any:  # noqa: ANN401 - any JSON value is a body
        """The body decoded as the content type says: a JSON value, str or bytes. Raises CodecError."""
        headers, raw = self._parts()
        if headers is None:
            raise CodecError("the headers in front of the body are damaged", content_type=self.content_type, raw=raw)
        return codecs.decode(raw, self.content_type)

    @property
    def headers(self) -> dict[str, str]:
        """The headers; ``filename`` is the name of a file that was pushed or dropped in by hand."""
        headers = {key: value for key, value in (self._parts()[0] or {}).items() if key != CONTENT_TYPE}
        if self._envelope.file_name:
            headers.setdefault(FILENAME, self._envelope.file_name)
        return headers

    @property
    def content_type(self) -> str:
        """The content type: as it was pushed, else what the file's extension stands for."""
        stored = self._parts()[0] if self._envelope.header_bytes else None
        return (stored or {}).get(CONTENT_TYPE) or codecs.type_of(self._envelope.ext)

    @property
    def size(self) -> int:
        """The size in bytes, with the headers."""
        return self._record.size

    @property
    def priority(self) -> int:
        """0 to 9; higher is delivered first."""
        return self._envelope.priority

    @property
    def attempt(self) -> int:
        """The number of the attempt: of this one for a delivery, of the next one else; from 1."""
        return self._envelope.attempts + 1

    @property
    def history(self) -> list[Attempt]:
        """The finished attempts of the whole life, first to last, with their error texts."""
        return self._queue.engine.history(self._record).attempts

    @property
    def reason(self) -> str:
        """Why it was last given up on: retries, rejected, expired, torn, unreadable, too-large; else empty."""
        return self._envelope.reason

    @property
    def origin(self) -> str:
        """The queue it was pushed to; another one than this for a dead letter in a shared queue."""
        return self._queue.engine.history(self._record).source_queue

    @property
    def pushed_at(self) -> float:
        """When it was pushed."""
        return self._envelope.pushed_at / NS

    @property
    def due_at(self) -> float | None:
        """When a delayed message will be ready; None in other states."""
        return self._at("delayed")

    @property
    def deadline_at(self) -> float | None:
        """When the lease of a leased message ends; None in other states."""
        return self._at("leased")

    @property
    def died_at(self) -> float | None:
        """When a dead message was given up on; None in other states."""
        return self._at("dead")

    def _at(self, state: State) -> float | None:
        at = self._record.at if self._record.state == state else None
        return None if at is None else at / NS


class Delivery(Message):
    """A message in your hands, until its deadline.

    Settle it once: ack, nack, release or reject. As a context manager it hands
    out the body and acks on leaving; an exception nacks it with the traceback, or as
    a Retry or Reject says, and goes on; an interrupt (KeyboardInterrupt, SystemExit,
    TimeLimit) releases it uncounted, but in a worker's job (``in_worker``) is left to
    the worker. Every verb raises LeaseLost when the message is not yours any more.
    ``on_settled()``, if set, is called after it was settled through this object.
    """

    _queue: Queue

    def __init__(self, queue: Queue, claim: Claim) -> None:
        super().__init__(queue, Record("leased", claim.envelope, len(claim.data), claim.deadline, claim.receipt))
        self._data = claim.data
        self._receipt = claim.receipt
        self._settled = False
        self.on_settled: Callable[[], object] | None = None
        self.in_worker = False

    def __reduce__(self) -> NoReturn:
        """Refuse: two processes would each take it for theirs."""
        raise UsageError("a delivery cannot be pickled; pass its receipt, and take it up with q.delivery(receipt)")

    @property
    def receipt(self) -> str:
        """What proves that the message is yours: pass it to another process to settle it there."""
        return self._receipt

    @property
    def queue(self) -> Queue:
        """The queue that it was delivered from."""
        return self._queue

    @property
    def lost(self) -> bool:
        """Whether the lease is gone, looked up now: stop working, another may have the message."""
        if self._settled:
            return False
        try:
            self._queue.engine.extend(self.receipt, 0.0)  # never shortens a lease
        except LeaseLost:
            return True
        return False

    @property
    def settled(self) -> bool:
        """Whether it was acked, nacked, released or rejected through this object."""
        return self._settled

    @property
    def is_last_attempt(self) -> bool:
        """Whether the message is dead if this attempt fails."""
        own = self._envelope.max_retries
        return self._envelope.attempts >= (self._queue.settings.max_retries if own is None else own)

    @property
    def wants_reply(self) -> bool:
        """Whether somebody asked for a reply."""
        return REPLY in (self._parts()[0] or {})

    def reply(self, result: Any) -> None:  # noqa: ANN401 - any JSON value is a result
        """Keep a JSON value as the reply to this message, durably. A worker does so with what the handler returns."""
        self.put_reply(reply.encode(result))

    def put_reply(self, data: bytes) -> None:
        """Keep an encoded reply (docs/disk-format.md) to this message, durably."""
        self._queue.replies.put_reply(self.id, data)

    def ack(self) -> None:
        """Remove the message for good: it is done."""
        self._queue.ack(self.receipt)
        self._is_settled()

    def nack(self, delay: float | None = None, error: str | None = None, outcome: str | None = None) -> None:
        """Give it back after a failed attempt; see Queue.nack."""
        self._queue.nack(self.receipt, delay=delay, error=error, outcome=outcome)
        self._is_settled()

    def release(self, delay: float = 0.0) -> None:
        """Give it back uncounted, as if it had never been popped."""
        self._queue.release(self.receipt, delay=delay)
        self._is_settled()

    def reject(self, reason: str | None = None) -> None:
        """Give up on it at once: it goes to the dead with the reason."""
        self._queue.reject(self.receipt, reason)
        self._is_settled()

    def _is_settled(self) -> None:
        self._settled = True
        if self.on_settled is not None:
            self.on_settled()

    def extend(self, seconds: float) -> None:
        """Hold it for at least ``seconds`` from now; ``deadline_at`` moves."""
        deadline = self._queue.extend(self.receipt, seconds)
        self._record = self._record._replace(at=round(deadline * NS))

    def __enter__(self) -> Any:  # noqa: ANN401 - any JSON value is a body
        """Hand out the body. A body that will not decode is nacked, and CodecError raised."""
        try:
            return self.body
        except BaseException as error:  # an interrupt too: there would be no leaving
            self._fail(error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Settle it, unless that was done inside the block."""
        if self._settled:
            return
        try:
            if error is None:
                self.ack()
            else:
                self._fail(error)
        except MailqError:
            raise
        except BaseException as interrupt:  # nobody else would give it back
            self._fail(interrupt)
            raise

    def _fail(self, error: BaseException) -> None:
        try:
            if isinstance(error, Retry):
                self.nack(error.delay, reason_of(error))
            elif isinstance(error, Reject):
                self.reject(reason_of(error))
            elif isinstance(error, Exception):
                import traceback  # noqa: PLC0415 - slow to load, and only wanted here

                self.nack(error="".join(traceback.format_exception(error)))
            elif not self.in_worker:  # it knows why it interrupts; at a limit that counts, or would go on for ever
                self.release()
        except MailqError as failure:  # the caller's own exception is the one that goes on
            error.add_note(f"mailq: the message was not given back: {failure}")
