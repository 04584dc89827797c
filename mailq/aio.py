"""The queue as asyncio programs use it: the verbs of :class:`mailq.Queue`, awaited.

Each verb runs in a thread of the queue's own, for the disk blocks; a pop that waits
holds none. A verb that has begun goes on to its end, also when its task is cancelled
meanwhile: CancelledError comes after that, and what a pop had claimed is given back
uncounted before. So a cancelled push has stored its messages, a cancelled ack is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict, TypeVar

from mailq import connect
from mailq.errors import CodecError, MailqError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Unpack

    from mailq.delivery import Delivery, Message
    from mailq.engines.base import LeaseHolder, Reaped, Stats
    from mailq.message import Attempt, State
    from mailq.queue import Queue
    from mailq.reply import Reply
    from mailq.settings import Settings

_T = TypeVar("_T")

_THREADS: Final = 8
"""The number of verbs of one queue that use the disk at once; the others wait."""


class FileOptions(TypedDict, total=False):
    """The options of push_file; see :meth:`mailq.Queue.push`."""

    delay: float
    priority: int
    lease: float | None
    max_retries: int | None
    ttl: float | None
    timeout: float | None
    headers: Mapping[str, str] | None


class PushOptions(FileOptions, total=False):
    """The options of push, push_many and request; see :meth:`mailq.Queue.push`."""

    content_type: str | None


async def open(  # noqa: A001 - the verb of files, on purpose: mailq.aio.open("jobs")
    target: str | os.PathLike[str],
    *,
    create: bool = True,
    **settings: Any,  # noqa: ANN401 - checked by name
) -> AsyncQueue:
    """Open a queue as :func:`mailq.open` does: ``async with await mailq.aio.open("jobs") as q``.

    Cancelled, it may have created the queue.
    """
    return AsyncQueue(await asyncio.to_thread(connect.open, target, create=create, **settings))


class AsyncQueue:
    """A queue whose verbs are awaited; ``queue`` is the one beneath.

    Verbs, options and errors are those of :class:`mailq.Queue`, and are described there. May be shared between
    tasks, and between loops in several threads. A body must not be changed until its
    push returns: another thread encodes it.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._threads = _Threads()
        self._run = self._threads.run
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._callback = self._ring  # kept, for the queue knows a bell again by its identity

    def __repr__(self) -> str:
        """Name the queue."""
        return f"<mailq.aio.AsyncQueue {self.location}>"

    def __reduce__(self) -> tuple[type[AsyncQueue], tuple[Queue]]:
        """Pickle the queue beneath; see Queue."""
        return AsyncQueue, (self.queue,)

    @property
    def location(self) -> str:
        return self.queue.location

    @property
    def settings(self) -> Settings:
        return self.queue.settings

    async def configure(self, **changes: object) -> Settings:
        return await self._run(lambda: self.queue.configure(**changes))

    # Push

    async def push(self, body: Any, **options: Unpack[PushOptions]) -> str:  # noqa: ANN401 - any JSON value is a body
        """Store a message, durable on return, and return its id; see Queue.push.

        Cancelled, it is stored all the same, unless that fails.
        """
        return await self._run(lambda: self.queue.push(body, **options))

    async def push_many(self, bodies: Iterable[Any], **options: Unpack[PushOptions]) -> list[str]:
        """Store messages in order, durable as a whole on return; see Queue.push_many.

        ``bodies`` is iterated over in another thread.
        """
        return await self._run(lambda: self.queue.push_many(bodies, **options))

    async def push_file(self, path: str | os.PathLike[str], **options: Unpack[FileOptions]) -> str:
        return await self._run(lambda: self.queue.push_file(path, **options))

    async def request(self, body: Any, **options: Unpack[PushOptions]) -> AsyncReply:  # noqa: ANN401 - as push
        """Push a message and return its reply to come: ``await (await q.request(7)).result(timeout=30)``."""
        return AsyncReply(await self._run(lambda: self.queue.request(body, **options)), self._threads)

    def reply_to(self, id: str) -> AsyncReply:
        return AsyncReply(self.queue.reply_to(id), self._threads)

    # Pop

    async def pop(
        self, *, lease: float | None = None, wait: float = 0.0, detached: bool = False
    ) -> AsyncDelivery | None:
        """Lease the next ready message, or None after ``wait`` seconds; see Queue.pop.

        Cancelled at whatever moment, it leaves nothing leased.
        """
        deliveries = await self.pop_many(1, lease=lease, wait=wait, detached=detached)
        return deliveries[0] if deliveries else None

    async def pop_many(
        self, limit: int, *, lease: float | None = None, wait: float = 0.0, detached: bool = False
    ) -> list[AsyncDelivery]:
        """Lease up to ``limit`` messages: those that are ready as soon as one is. See pop."""

        def claim() -> list[Delivery] | None:
            return self.queue.poll(limit, lease=lease, detached=detached)

        if isinstance(wait, bool) or not isinstance(wait, int | float) or not wait >= 0:
            deliveries = await self._run(lambda: self.queue.pop_many(limit, wait=wait))  # which raises what is wrong
        elif wait > 0:
            deliveries = await self._wait_for(claim, time.monotonic() + wait)
        else:
            while (found := await self._run(claim, _give_back)) is None:
                pass
            deliveries = found
        return [AsyncDelivery(delivery, self._threads) for delivery in deliveries]

    async def _wait_for(self, claim: Callable[[], list[Delivery] | None], until: float) -> list[Delivery]:
        """Claim until there is something; no thread is held in between."""

        def look() -> tuple[list[Delivery] | None, float]:
            self.queue.subscribe(self._callback)  # before the claim: what comes during it must ring
            deliveries = claim()
            return deliveries, self.queue.subscribe(self._callback) if deliveries == [] else 0.0

        with self._waiter() as rung:
            while True:
                rung.clear()
                deliveries, patience = await self._run(look, lambda found: _give_back(found[0]))
                if deliveries is None:
                    continue
                left = until - time.monotonic()
                if deliveries or left <= 0:
                    return deliveries
                timer = asyncio.get_running_loop().call_later(min(left, patience), rung.set)
                try:
                    await rung.wait()
                finally:
                    timer.cancel()

    @contextlib.contextmanager
    def _waiter(self) -> Iterator[asyncio.Event]:
        """An event that the bell sets."""
        rung = asyncio.Event()
        self._waiting[rung] = asyncio.get_running_loop()
        try:
            yield rung
        finally:
            self._waiting.pop(rung, None)

    def _ring(self) -> None:
        """Wake every waiting pop. Called from any thread, under the engine's lock: neither blocks nor raises."""
        for rung, loop in self._waiting.copy().items():
            try:
                loop.call_soon_threadsafe(rung.set)
            except RuntimeError:  # closed before its pop had ended: nobody waits there any more
                self._waiting.pop(rung, None)

    def __aiter__(self) -> Self:
        """Deliver messages for ever, waiting when there are none."""
        return self

    async def __anext__(self) -> AsyncDelivery:
        """The next message, whenever it comes."""
        while (delivery := await self.pop(wait=math.inf)) is None:
            pass
        return delivery

    async def drain(self, *, lease: float | None = None) -> AsyncIterator[AsyncDelivery]:
        """Deliver messages until none is ready. Delayed and leased ones are not waited for."""
        while (delivery := await self.pop(lease=lease)) is not None:
            yield delivery

    async def delivery(self, receipt: str) -> AsyncDelivery:
        return AsyncDelivery(await self._run(lambda: self.queue.delivery(receipt)), self._threads)

    async def pause(self) -> None:
        await self._run(self.queue.pause)

    async def resume(self) -> None:
        await self._run(self.queue.resume)

    # Settle

    async def ack(self, receipt: str) -> None:
        await self._run(lambda: self.queue.ack(receipt))

    async def nack(
        self, receipt: str, *, delay: float | None = None, error: str | None = None, outcome: str | None = None
    ) -> None:
        await self._run(lambda: self.queue.nack(receipt, delay=delay, error=error, outcome=outcome))

    async def release(self, receipt: str, *, delay: float = 0.0) -> None:
        await self._run(lambda: self.queue.release(receipt, delay=delay))

    async def reject(self, receipt: str, reason: str | None = None) -> None:
        await self._run(lambda: self.queue.reject(receipt, reason))

    async def extend(self, receipt: str, seconds: float) -> float:
        return await self._run(lambda: self.queue.extend(receipt, seconds))

    # Look and mend

    async def stats(self) -> Stats:
        return await self._run(self.queue.stats)

    async def peek(self, state: State = "ready", limit: int | None = 10) -> list[Message]:
        """Look at the first messages in a state without leasing them; None lists all.

        Each reads its body, history and origin from the disk when asked for them, and
        blocks so long: ``await asyncio.to_thread(lambda: message.body)``.
        """
        return await self._run(lambda: self.queue.peek(state, limit))

    async def get(self, id: str) -> Message:
        """Look at a message by its id, in whatever state; as for peek. Raises MessageNotFound."""
        return await self._run(lambda: self.queue.get(id))

    async def edit(self, message: Message, body: bytes) -> None:
        await self._run(lambda: self.queue.edit(message, body))

    async def redrive(self, ids: Iterable[str] | None = None, limit: int | None = None) -> int:
        return await self._run(lambda: self.queue.redrive(ids, limit))

    async def purge(self, state: State) -> int:
        return await self._run(lambda: self.queue.purge(state))

    async def workers(self) -> list[LeaseHolder]:
        return await self._run(self.queue.workers)

    async def reap(self) -> Reaped:
        return await self._run(self.queue.reap)

    # Life

    async def close(self) -> None:
        """Close the queue beneath: leases still held and not detached end at once, as ``killed``.

        After that every verb raises QueueClosed, also a pop that waits in another task.
        """
        try:
            await self._run(self.queue.close)
        finally:
            self._threads.leave()
            self._ring()  # pops that wait look again, and find the queue closed

    async def __aenter__(self) -> Self:
        """Close on leaving."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()


class AsyncDelivery:
    """A message in your hands, until its deadline: the :class:`mailq.Delivery` ``delivery``.

    Its properties and verbs mean the same here; what asks the disk is awaited.
    Settle it once: ack, nack, release or reject. ``async with`` hands out the body
    and acks on leaving; an exception nacks it with the traceback and goes on;
    cancellation and interrupts release it uncounted. Every verb raises LeaseLost when
    the message is not yours any more, and is done in full also when cancelled.
    """

    def __init__(self, delivery: Delivery, threads: _Threads) -> None:
        self.delivery = delivery
        self._run = threads.run

    def __repr__(self) -> str:
        """Name the message."""
        return f"<AsyncDelivery {self.id}>"

    @property
    def id(self) -> str:
        return self.delivery.id

    @property
    def receipt(self) -> str:
        return self.delivery.receipt

    @property
    def body(self) -> Any:  # noqa: ANN401 - any JSON value is a body
        return self.delivery.body

    @property
    def raw(self) -> bytes:
        return self.delivery.raw

    @property
    def headers(self) -> dict[str, str]:
        return self.delivery.headers

    @property
    def content_type(self) -> str:
        return self.delivery.content_type

    @property
    def size(self) -> int:
        return self.delivery.size

    @property
    def priority(self) -> int:
        return self.delivery.priority

    @property
    def attempt(self) -> int:
        return self.delivery.attempt

    @property
    def pushed_at(self) -> float:
        return self.delivery.pushed_at

    @property
    def deadline_at(self) -> float | None:
        return self.delivery.deadline_at

    @property
    def settled(self) -> bool:
        return self.delivery.settled

    @property
    def wants_reply(self) -> bool:
        return self.delivery.wants_reply

    async def lost(self) -> bool:
        return await self._run(lambda: self.delivery.lost)

    async def history(self) -> list[Attempt]:
        return await self._run(lambda: self.delivery.history)

    async def reply(self, result: Any) -> None:  # noqa: ANN401 - any JSON value is a result
        await self._run(lambda: self.delivery.reply(result))

    async def ack(self) -> None:
        await self._run(self.delivery.ack)

    async def nack(self, delay: float | None = None, error: str | None = None, outcome: str | None = None) -> None:
        await self._run(lambda: self.delivery.nack(delay, error, outcome))

    async def release(self, delay: float = 0.0) -> None:
        await self._run(lambda: self.delivery.release(delay))

    async def reject(self, reason: str | None = None) -> None:
        await self._run(lambda: self.delivery.reject(reason))

    async def extend(self, seconds: float) -> None:
        await self._run(lambda: self.delivery.extend(seconds))

    async def __aenter__(self) -> Any:  # noqa: ANN401 - any JSON value is a body
        """Hand out the body. A body that will not decode is nacked, and CodecError raised."""
        try:
            return self.body  # not in a thread: cancelled in here, there would be no leaving, and no release
        except CodecError:
            return await self._run(self.delivery.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Settle it, unless that was done inside the block."""
        if isinstance(error, GeneratorExit):  # a coroutine that is being closed cannot wait for a thread
            self.delivery.__exit__(kind, error, trace)
        elif not self.settled:
            await self._run(partial(self.delivery.__exit__, kind, error, trace))


class AsyncReply:
    """The reply to come to a message; ``id`` is the message's."""

    def __init__(self, reply: Reply, threads: _Threads) -> None:
        self._reply = reply
        self._run = threads.run
        self.id = reply.id

    def __repr__(self) -> str:
        """Name the message."""
        return f"<AsyncReply to {self.id}>"

    async def ready(self) -> bool:
        """Whether result() would return, or raise JobFailed, at once."""
        return await self._run(lambda: self._reply.ready)

    async def result(self, timeout: float | None = None) -> Any:  # noqa: ANN401, ASYNC109 - a result; as Reply has it
        """Wait for what the handler returned; no thread is held meanwhile. Errors are those of Reply.result."""
        pauses = self._reply.pauses(timeout)
        while (pause := await self._run(lambda: next(pauses, None))) is not None:  # noqa: ASYNC110 - a reply is looked for
            await asyncio.sleep(pause)
        return await self._run(lambda: self._reply.result(0))


class _Threads:
    """The threads of one queue.

    Its own, because a program's jobs may fill those that it shares: an extend that
    stands in line behind them comes too late.
    """

    def __init__(self) -> None:
        self.leave()

    def leave(self) -> None:
        """Let the threads end when they have done what they were given; new ones begin when wanted."""
        self._pid = os.getpid()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="mailq")

    async def run(self, call: Callable[[], _T], undo: Callable[[_T], None] | None = None) -> _T:
        """Make a call in a thread, to its end; when cancelled meanwhile, undo then what it did."""
        future = self._begin(call)
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            await _end_of(future)
            if future.exception() is None and undo is not None:
                await _end_of(self._begin(partial(undo, future.result())))
            raise
        return future.result()

    def _begin(self, call: Callable[[], _T]) -> asyncio.Future[_T]:
        if self._pid != os.getpid():  # a forked child: the threads did not come along
            self.leave()
        # No task: those are cancelled when the program ends, and what the thread brings would be lost.
        context = contextvars.copy_context()
        return asyncio.get_running_loop().run_in_executor(self._pool, lambda: context.run(call))


async def _end_of(future: asyncio.Future[Any]) -> None:
    """Wait for it, however often cancelled: the caller raises CancelledError afterwards."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])


def _give_back(deliveries: Iterable[Delivery] | None) -> None:
    for delivery in deliveries or ():
        with contextlib.suppress(MailqError):  # what cannot be released ends with its lease
            delivery.release()
