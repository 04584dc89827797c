"""The rules of a message's life, the same on every disk.

Each function takes an envelope and says what becomes of it; the engines only
carry it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mailq.engines.maildir.names import NS

if TYPE_CHECKING:
    from mailq.engines.maildir.names import Envelope
    from mailq.message import State
    from mailq.settings import Settings


class Step(NamedTuple):
    """Where a message goes, and under which envelope."""

    state: State
    envelope: Envelope


def pushed(envelope: Envelope, *, now: int, delay: float) -> Step:
    """A new message goes to the end of the line, or waits for its time.

    What waits does so by the clock (``now``). Places in line never go backwards
    even if the clock does: a time to wait for must not be reckoned from them.
    """
    if delay > 0:
        return Step("delayed", envelope._replace(place=now + ns(delay)))
    return Step("ready", envelope)


def failed(envelope: Envelope, letter: str, settings: Settings, *, now: int, end: int, delay: float) -> Step:
    """An attempt is over and counted: again after a delay, or never again. ``end`` is the end of the line."""
    most = settings.max_retries if envelope.max_retries is None else envelope.max_retries
    if envelope.attempts >= most:
        return Step("dead", envelope.buried("retries", letter=letter))
    if delay > 0:
        return Step("delayed", envelope.returned(place=now + ns(delay), letter=letter))
    place = envelope.pushed if settings.retry_order == "front" else end
    return Step("ready", envelope.returned(place=place, letter=letter))


def released(envelope: Envelope, *, now: int, delay: float) -> Step:
    """A claim is taken back: the message stands where it stood, or waits."""
    if delay > 0:
        return Step("delayed", envelope.returned(place=now + ns(delay)))
    return Step("ready", envelope.returned(place=envelope.place))


def came_due(envelope: Envelope, settings: Settings) -> Step:
    """A delayed message is ready: a retry in its first place if so set, any other by its due time."""
    if envelope.attempts and settings.retry_order == "front":
        return Step("ready", envelope.returned(place=envelope.pushed))
    return Step("ready", envelope.returned(place=envelope.place))


def has_expired(envelope: Envelope, settings: Settings, now: int) -> bool:
    """Whether a message is past its time to live. One that died before has none any more."""
    ttl = envelope.ttl
    if ttl is None:
        if settings.ttl is None or envelope.why:
            return False
        ttl = settings.ttl
    return now >= envelope.pushed + ns(ttl)


def lease_end(envelope: Envelope, settings: Settings, *, now: int, lease: float | None) -> int:
    """When a lease that begins now ends, in whole milliseconds: the call's word, the message's, the queue's."""
    if lease is None:
        lease = settings.lease if envelope.lease is None else envelope.lease
    return -(-(now + ns(lease)) // 1_000_000) * 1_000_000


def ns(seconds: float) -> int:
    """Seconds as nanoseconds."""
    return round(seconds * NS)
