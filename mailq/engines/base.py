"""The waist: the verbs that every disk speaks and every door uses.

Above this line are values, codecs and policy; below it bytes and names. An
engine exists when it passes the contract suite in :mod:`mailq.testing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mailq.engines.maildir.names import Envelope
    from mailq.message import Attempt, Draft, State
    from mailq.settings import Settings


class Claim(NamedTuple):
    """A message handed to a consumer. ``deadline`` is the end of the lease, in nanoseconds."""

    receipt: str
    envelope: Envelope
    data: bytes
    deadline: int


class Record(NamedTuple):
    """A message as somebody finds it who only looks.

    ``at`` is, in nanoseconds: the due time of a delayed message, the deadline of
    a leased one, the time of death of a dead one. ``name`` tells the engine which
    file is meant.
    """

    state: State
    name: str
    envelope: Envelope
    size: int
    at: int | None = None


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


class Owner(NamedTuple):
    """A process that holds leases, or may. ``since`` is in seconds since 1970.

    ``story`` is what it says of itself; a worker tells what it does
    (docs/disk-format.md). ``alive`` is False when it is known to be dead.
    """

    token: str
    host: str
    pid: int
    since: float
    alive: bool
    story: Mapping[str, Any]


class Reaped(NamedTuple):
    """What one reaping did, in messages.

    ``returned`` went back to be tried again, or to where an editor that died had taken
    them from, ``died`` had used up their retries, ``due`` were delayed and are ready now.
    """

    returned: int = 0
    died: int = 0
    due: int = 0


class Engine(Protocol):
    """A disk. Receipts are opaque text above this line.

    Every verb on a receipt raises LeaseLost, and changes nothing, when the
    message is not in these hands any more; InvalidReceipt when the text cannot
    be a receipt. Every verb raises StorageError when the disk refuses and
    QueueNotFound when the queue is gone. All verbs are safe to call from several
    threads.
    """

    @property
    def settings(self) -> Settings:
        """The queue's settings, as last read."""

    @property
    def location(self) -> str:
        """Where the queue is, as its users would name it."""

    def push(self, drafts: Sequence[Draft]) -> list[str]:
        """Store messages, durable as a whole on return, in order. Returns their ids.

        Raises QueueFull. A StorageError names the ids that may be there all the same.
        """

    def claim(self, limit: int, *, lease: float | None, detached: bool) -> list[Claim] | None:
        """Lease up to ``limit`` ready messages, first in line first; never blocks, and takes a bounded time.

        ``lease`` in seconds overrides the message's and the queue's own. A
        ``detached`` lease outlives this process, any other ends with it. Whatever
        is not fit to be delivered goes to the dead on the way. Of many such messages one
        claim moves only some: None if it has found nothing to lease, and left some to the next
        claim. An empty list says that nothing is ready.
        """

    def wait(self, timeout: float) -> None:
        """Block until a claim may find something new, or for ``timeout`` seconds.

        May return early for no reason; the claim is the truth. Ends also at a close.
        """

    def listen(self, bell: Callable[[], None]) -> float:
        """Have ``bell()`` called, from any thread, whenever a claim may find something new.

        For who has other things to wait for as well. Returns for how many seconds that
        may be relied on: claim again then, even if it did not ring. The bells end with
        close.
        """

    def silence(self, bell: Callable[[], None]) -> None:
        """Ring it no more."""

    def held(self, receipt: str) -> Claim:
        """The message behind a receipt, as its claim handed it out. LeaseLost as soon as its deadline has passed."""

    def deadline(self, receipt: str) -> int | None:
        """When the lease behind a receipt ends, in nanoseconds; None when it is gone or has run out."""

    def ack(self, receipt: str) -> None:
        """Remove a message for good: it is done."""

    def nack(self, receipt: str, *, letter: str, delay: float, error: str | None) -> None:
        """Give a message back after a failed attempt, to be ready after ``delay`` seconds.

        ``letter`` says how the attempt ended (:mod:`mailq.engines.maildir.names`). The message dies
        if its retries are used up.
        """

    def release(self, receipt: str, *, delay: float) -> None:
        """Give a message back as if it had never been claimed: no attempt is counted."""

    def reject(self, receipt: str, *, reason: str | None) -> None:
        """Give up on a message at once."""

    def extend(self, receipt: str, seconds: float) -> int:
        """Hold a message until at least ``seconds`` from now. Returns the new deadline.

        LeaseLost as soon as the old deadline has passed, even if nobody has taken
        the message yet.
        """

    def reap(self) -> Reaped:
        """Give back what dead or late consumers hold, and ready what is due, now."""

    def redrive(self, ids: Sequence[str] | None, *, limit: int | None) -> int:
        """Put dead messages back in line, oldest first, to be tried afresh. Returns how many."""

    def purge(self, state: State) -> int:
        """Delete every message in a state. Returns how many."""

    def look(self, state: State, *, limit: int | None) -> list[Record]:
        """List messages in a state, first in line first."""

    def find(self, id: str) -> Record:
        """Look for a message by its id, in every state. Raises MessageNotFound."""

    def read(self, record: Record) -> bytes:
        """The sealed bytes of a message, wherever it is by now. Raises MessageNotFound."""

    def replace(self, record: Record, draft: Draft) -> None:
        """Put other content into a ready, delayed or dead message.

        Only ``data``, ``head`` and ``ext`` of the draft are used. Raises
        MessageNotFound if somebody took the message meanwhile.
        """

    def history(self, envelope: Envelope) -> list[Attempt]:
        """The finished attempts of a message, first to last, with their error texts."""

    def origin(self, envelope: Envelope) -> str:
        """The queue that a dead letter came from."""

    def stats(self) -> Stats:
        """Count the queue."""

    def pause(self) -> None:
        """Have every claim find nothing, in all processes, until resumed."""

    def resume(self) -> None:
        """Let claims find messages again."""

    def tell(self, story: Mapping[str, Any]) -> None:
        """Say, to whoever asks for the owners, what this process is doing. Never raises: it is a courtesy."""

    def owners(self) -> list[Owner]:
        """The processes that hold leases or have told a story; the dead among them go with this look."""

    def put_reply(self, id: str, data: bytes) -> None:
        """Keep the reply to a message, durably, for ``reply_ttl``."""

    def get_reply(self, id: str) -> bytes | None:
        """The reply to a message, or None if there is none (yet, or any more)."""

    def configure(self, changes: Mapping[str, object]) -> Settings:
        """Change settings for everybody, durably; None resets one. Returns them all."""

    def close(self) -> None:
        """Let go of files, locks and threads, and ring every bell once more. Leases bound to this process end.

        A verb that comes after that takes up again what it needs.
        """


class Opened(Protocol):
    """What has an engine until it is closed: the queue, as its messages and replies see it."""

    @property
    def engine(self) -> Engine:
        """The engine. Raises QueueClosed."""
