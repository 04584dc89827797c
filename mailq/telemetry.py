"""Events: what happens in this process's queues, passed to each handler that is attached.

One seam for metrics, traces and audits::

    detach = mailq.telemetry.attach(lambda event: print(event.name, event.queue, event.id, event.facts))

Handlers are called in the thread where it happens, right after it has happened,
and must be quick. One that raises is logged and stops nothing. While none is
attached, an event costs one comparison.

========================  ==========================================================
event                     facts (durations in seconds)
========================  ==========================================================
``push``                  ``size`` in bytes, ``delay``, ``priority``
``full``                  ``length``, ``limit``, ``asked``: a push was refused; no id
``pop``                   ``attempt``, ``waited`` since its place in line or due time
``ack``                   ``attempt``
``nack``                  ``attempt``, ``outcome``, ``delay``
``release``               ``attempt``, ``delay``
``reject``                ``attempt``, ``reason``
``extend``                ``attempt``, ``seconds``
``dead``                  ``attempts``, ``reason``
``expire``                ``ttl``: past its time to live; emitted after its ``dead``
``requeue``               ``attempt``, ``outcome``: a reaper took it back
``redrive``               nothing
``job.start``             ``attempt``, ``waited``
``job.stop``              ``attempt``, ``ran``, ``outcome``
``job.exception``         ``attempt``, ``ran``, ``outcome``, ``error``
========================  ==========================================================

``job.*`` come from a :class:`mailq.Worker`, in the process that supervises. A
job that ends well emits ``job.stop``, any other ``job.exception``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mailq.ids import NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mailq.engines.base import Claim, Settled, Settlement
    from mailq.errors import QueueFull
    from mailq.message import Envelope, NewMessage
    from mailq.policy import Step


class Event(NamedTuple):
    """Something that happened. ``at`` is in seconds since 1970; ``id`` is empty where no single message is meant."""

    name: str
    queue: str
    id: str
    at: float
    facts: Mapping[str, Any]


Handler = Callable[[Event], object]


class _Seam:
    """The handlers of this process. Replaced as a whole, so that emitting needs no lock."""

    __slots__ = ("handlers",)

    def __init__(self) -> None:
        self.handlers: tuple[Handler, ...] = ()


_SEAM: Final = _Seam()


def attach(handler: Handler) -> Callable[[], None]:
    """Have ``handler(event)`` called for every event of this process. Returns a function that detaches it.

    A child process does not inherit handlers, except by a plain fork.
    """
    _SEAM.handlers = (*_SEAM.handlers, handler)
    return lambda: detach(handler)


def detach(handler: Handler) -> None:
    """Detach a handler. Does nothing if it is not attached."""
    _SEAM.handlers = tuple(known for known in _SEAM.handlers if known != handler)


def attached() -> bool:
    """Whether a handler is attached: ask before collecting facts that cost something."""
    return bool(_SEAM.handlers)


def emit(name: str, queue: str, id: str = "", **facts: Any) -> None:  # noqa: ANN401 - facts are what they are
    """Pass an event to every handler."""
    if not _SEAM.handlers:
        return
    event = Event(name, queue, id, time.time(), facts)
    for handler in _SEAM.handlers:
        try:
            handler(event)
        except Exception:
            import logging  # noqa: PLC0415 - slow to load, and seldom wanted

            logging.getLogger("mailq").exception("the telemetry handler %r failed at %s", handler, name)


class QueueEvents:
    """The events of one queue: made here, and nowhere else, of what the verbs of its engine return."""

    def __init__(self, location: str) -> None:
        self._location = location

    def _emit(self, name: str, envelope: Envelope, **facts: Any) -> None:  # noqa: ANN401 - as above
        emit(name, self._location, envelope.id, attempt=envelope.attempts + 1, **facts)

    def pushed(self, ids: Sequence[str], messages: Sequence[NewMessage]) -> None:
        """Messages were stored."""
        for id, new in zip(ids, messages, strict=True) if attached() else ():
            emit("push", self._location, id, size=len(new.data), delay=new.delay, priority=new.priority)

    def full(self, error: QueueFull) -> None:
        """A push was refused."""
        emit("full", self._location, length=error.length, limit=error.limit, asked=error.asked)

    def popped(self, claims: Sequence[Claim]) -> None:
        """Messages were handed out."""
        if attached():
            now = time.time()
            for _, envelope, _, _ in claims:
                self._emit("pop", envelope, waited=max(0.0, now - envelope.visible_at / NS))

    def verb(self, settlement: Settlement, settled: Settled) -> None:
        """A consumer has settled a message."""
        if not attached():
            return
        envelope, step = settled
        facts: dict[str, Any] = {}
        if step is not None:
            self._died(envelope, step)
            if settlement.verb == "reject":
                facts = {"reason": settlement.text}
            else:
                facts = {"outcome": step.outcome, "delay": step.delay} if step.outcome else {"delay": step.delay}
        self._emit(settlement.verb, envelope, **facts)

    def extended(self, envelope: Envelope, seconds: float) -> None:
        """A lease was extended."""
        if attached():
            self._emit("extend", envelope, seconds=seconds)

    def settled(self, settled: Iterable[Settled], ttl: float | None) -> None:
        """Leases have ended by themselves, and messages could not be delivered; ``ttl`` is the queue's."""
        for envelope, step in settled if attached() else ():
            if step is None:
                continue
            self._died(envelope, step)
            if step.reason == "expired":
                emit("expire", self._location, envelope.id, ttl=envelope.ttl or ttl)
            if step.outcome:
                self._emit("requeue", envelope, outcome=step.outcome)

    def _died(self, envelope: Envelope, step: Step) -> None:
        if step.state == "dead":
            attempts = envelope.total_attempts + bool(step.outcome)
            emit("dead", self._location, envelope.id, attempts=attempts, reason=step.reason)

    def redriven(self, ids: Iterable[str]) -> None:
        """Dead messages are to be tried again."""
        for id in ids if attached() else ():
            emit("redrive", self._location, id)
