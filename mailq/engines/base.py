"""The waist: what the queue asks of every engine, in neutral words.

Above it are bodies, options and policy; below it are files, rows or keys. An engine
exists when it passes the contract suite in :mod:`mailq.testing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from mailq.message import Attempt, Envelope, FailedOutcome, NewMessage, State
    from mailq.policy import Step
    from mailq.settings import Settings


class Capabilities(NamedTuple):
    """What an engine can do besides the verbs of :class:`Engine`. The queue refuses the others with Unsupported.

    ``shared``: other processes can open the queue. ``presence``: it is :class:`Presence`.
    ``replies``: it is :class:`Replies`. ``edit``: it is :class:`Editable`.
    """

    shared: bool = True
    presence: bool = True
    replies: bool = True
    edit: bool = True


class Claim(NamedTuple):
    """A message that was handed to a consumer. ``deadline`` is the end of the lease, in nanoseconds since 1970."""

    receipt: str
    envelope: Envelope
    data: bytes
    deadline: int


class Settlement(NamedTuple):
    """What a consumer says of a message that it holds.

    ``ack``: it is done. ``nack``: the attempt failed, with this ``outcome``; None for ``delay``
    is the queue's back-off. ``release``: it is given back, and no attempt is counted.
    ``reject``: it is given up on. ``text`` is the error, or the reason, kept in the history.
    """

    verb: Literal["ack", "nack", "release", "reject"]
    delay: float | None = 0.0
    outcome: FailedOutcome = "nack"
    text: str | None = None


class Settled(NamedTuple):
    """What became of a message: as it was before, and the step that it took; None if it is done and gone."""

    envelope: Envelope
    step: Step | None


class Claimed(NamedTuple):
    """What a claim has found: the messages to deliver, and what became of others on the way.

    ``more`` says that nothing may have been found only because a claim takes a bounded time:
    the next one goes on.
    """

    claims: Sequence[Claim]
    settled: Sequence[Settled] = ()
    more: bool = False


class Extended(NamedTuple):
    """A lease that was extended: the message, and the new deadline in nanoseconds since 1970."""

    envelope: Envelope
    deadline: int


class Record(NamedTuple):
    """A message as a look finds it.

    ``at`` is, in nanoseconds since 1970: the due time of a delayed message, the deadline of
    a leased one, the time of death of a dead one. ``size`` is in bytes, with the headers.
    ``location`` tells the engine where it was seen, and people where to look: a path, if
    it is in a file.
    """

    state: State
    envelope: Envelope
    size: int
    at: int | None
    location: str


class History(NamedTuple):
    """The past of a message: its finished attempts with their error texts, and the queue that it was pushed to."""

    attempts: list[Attempt]
    source_queue: str


class Stats(NamedTuple):
    """A count of the queue at one look; others may change it meanwhile.

    ``bytes`` covers every state. Ages and delays are seconds, None when there is
    nothing to measure. ``overdue`` leases have run out and wait for the reaper.
    Nothing is delivered while the queue is ``paused``.
    """

    ready: int = 0
    delayed: int = 0
    leased: int = 0
    dead: int = 0
    bytes: int = 0
    oldest_ready_age: float | None = None
    next_due_in: float | None = None
    overdue: int = 0
    paused: bool = False


class Reaped(NamedTuple):
    """What one reaping did, in messages.

    ``returned`` are to be tried again, or were put back where an editor that died had taken
    them from; ``died`` had used up their retries; ``due`` were delayed and are ready now.
    ``settled`` lists those whose leases have ended.
    """

    returned: int = 0
    died: int = 0
    due: int = 0
    settled: Sequence[Settled] = ()


class LeaseHolder(NamedTuple):
    """A process that holds leases, or may. ``since`` is in seconds since 1970.

    ``status`` is what it says of itself; a worker says what it does
    (docs/disk-format.md). ``alive`` is False when it is known to be dead.
    """

    token: str
    host: str
    pid: int
    since: float
    alive: bool
    status: Mapping[str, Any]


class Engine(Protocol):
    """Stores the messages of one queue. Receipts and locations are opaque text above this line.

    Every verb on a receipt raises LeaseLost, and changes nothing, when another holds the
    message, or nobody does; InvalidReceipt when the text cannot be a receipt. Every verb
    raises StorageError when the disk or the server refuses, and QueueNotFound when the queue
    is gone. All are safe to call from several threads.
    """

    capabilities: ClassVar[Capabilities]

    @property
    def settings(self) -> Settings:
        """The queue's settings, as last read."""

    @property
    def location(self) -> str:
        """Where the queue is, as its users would name it."""

    def push(self, messages: Sequence[NewMessage]) -> list[str]:
        """Store messages in order, durable as a whole on return. Returns their ids.

        Raises QueueFull. A StorageError names the ids that may be there all the same.
        """

    def claim(self, limit: int, *, lease: float | None, detached: bool) -> Claimed:
        """Lease up to ``limit`` ready messages, first in line first. Never blocks, and takes a bounded time.

        ``lease`` in seconds comes before the message's and the queue's own. A
        ``detached`` lease outlives this process, any other ends with it. What cannot
        be delivered dies on the way.
        """

    def claimed(self, receipt: str) -> Claim:
        """Return what the claim returned for this receipt. LeaseLost as soon as the deadline has passed."""

    def settle(self, receipt: str, settlement: Settlement) -> Settled:
        """Ack, nack, release or reject a message. A lease that has run out is good until another has the message."""

    def extend(self, receipt: str, seconds: float) -> Extended:
        """Hold a message until at least ``seconds`` from now; a lease is never shortened.

        LeaseLost as soon as the deadline has passed, even if nobody else has the message yet.
        """

    def wait(self, timeout: float) -> None:
        """Block until a claim may find something new, for at most ``timeout`` seconds.

        It may return early for no reason: claim again. It ends also at a close.
        """

    def subscribe(self, callback: Callable[[], None]) -> float:
        """Call ``callback()``, from any thread, whenever a claim may find something new.

        Returns the poll interval in seconds: claim again after that time in any case. A
        close calls it once more, and ends the subscription.
        """

    def unsubscribe(self, callback: Callable[[], None]) -> None:
        """Call it no more."""

    def reap(self) -> Reaped:
        """End the leases that have run out and those of dead processes, and ready what is due, now."""

    def look(
        self, state: State | None, *, ids: Collection[str] | None = None, limit: int | None = None
    ) -> list[Record]:
        """List messages in a state, first in line first; None for all states, one after the other.

        Only those with the given ``ids``, and at most ``limit``, if those are given.
        """

    def read(self, record: Record) -> bytes:
        """Return the bytes of a message, wherever it is by now. Raises MessageNotFound."""

    def history(self, record: Record) -> History:
        """Return the past of a message. Apart from read, for a message whose bytes cannot be read."""

    def redrive(self, ids: Sequence[str] | None, *, limit: int | None) -> list[str]:
        """Put dead messages back in line, first in line first, to be tried afresh. Returns the ids of those moved."""

    def remove(self, state: State, *, ids: Collection[str] | None = None) -> int:
        """Delete messages in a state, all of them or those with the given ids. Returns the number."""

    def stats(self) -> Stats:
        """Count the queue."""

    def configure(self, changes: Mapping[str, object]) -> Settings:
        """Change settings for every process, durably; None resets one. Returns them all.

        While ``paused`` is true, claims find nothing, in all processes, at once.
        """

    def close(self) -> None:
        """Release files, locks and threads, and call every subscriber once more. Leases bound to this process end.

        A verb that is called after that acquires again what it needs.
        """


class Editable(Protocol):
    """An engine whose messages can be edited."""

    def replace(self, record: Record, message: NewMessage) -> None:
        """Put other content into a ready, delayed or dead message: ``data``, ``ext`` and ``header_bytes``.

        Raises MessageNotFound if it is not in that state any more.
        """


class Presence(Protocol):
    """An engine that shows which processes work on the queue."""

    def publish(self, status: Mapping[str, Any]) -> None:
        """Publish what this process is doing. Never raises: jobs are worth more than a look at them."""

    def holders(self) -> list[LeaseHolder]:
        """List the processes that hold leases or have published a status; a dead one is listed once more."""


class Replies(Protocol):
    """An engine that keeps replies."""

    def put_reply(self, id: str, data: bytes) -> None:
        """Keep the reply to a message, durably, for ``reply_ttl``."""

    def get_reply(self, id: str) -> bytes | None:
        """Return the reply to a message; None if there is none, or none any more."""


class Opened(Protocol):
    """What has an engine until it is closed: the queue, as its messages and replies see it."""

    @property
    def engine(self) -> Engine:
        """The engine. Raises QueueClosed."""

    @property
    def replies(self) -> Replies:
        """The engine as the store of replies. Raises QueueClosed and Unsupported."""
