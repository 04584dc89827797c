"""What becomes of a message: the rules that every engine follows.

Each function takes what an engine knows of a message and says where it goes next. None of
them reads a clock or a disk. Times are nanoseconds since 1970, ``now`` is one of them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from mailq.ids import NS

if TYPE_CHECKING:
    from mailq.message import Envelope, RestingState
    from mailq.settings import Settings


class Step(NamedTuple):
    """Where a message goes: its next state, and its place or due time there.

    ``outcome`` is how an attempt ended that is counted, and empty if none is. ``reason`` is why
    the message dies, and empty if it does not. ``delay`` is how long it waits, in seconds.
    """

    state: RestingState
    visible_at: int
    outcome: str = ""
    reason: str = ""
    delay: float = 0.0


def pushed(place: int, *, now: int, delay: float) -> Step:
    """A new message stands at the end of the line (``place``), or waits for its time.

    The due time is reckoned by the clock: places never go backwards, even if the clock does.
    """
    if delay > 0:
        return Step("delayed", now + ns(delay), delay=delay)
    return Step("ready", place)


def failed(
    envelope: Envelope, outcome: str, settings: Settings, *, now: int, end: int, delay: float | None = 0.0
) -> Step:
    """An attempt has failed and is counted: it is made again after ``delay`` seconds, or never again.

    None is the back-off of the queue. ``end`` is the end of the line.
    """
    most = settings.max_retries if envelope.max_retries is None else envelope.max_retries
    if envelope.attempts >= most:
        return Step("dead", envelope.visible_at, outcome, "retries")
    if delay is None:
        chance = int.from_bytes(os.urandom(4)) / 2**32
        delay = settings.backoff.delay(envelope.attempts + 1, chance)
    if delay > 0:
        return Step("delayed", now + ns(delay), outcome, delay=delay)
    return Step("ready", envelope.pushed_at if settings.retry_order == "front" else end, outcome)


def rejected(envelope: Envelope) -> Step:
    """A consumer gives up on a message; the attempt is counted."""
    return Step("dead", envelope.visible_at, "rejected", "rejected")


def undeliverable(envelope: Envelope, reason: str) -> Step:
    """A message cannot be delivered; no attempt is counted."""
    return Step("dead", envelope.visible_at, reason=reason)


def released(envelope: Envelope, *, now: int, delay: float = 0.0) -> Step:
    """A claim is taken back: the message stands where it stood, or waits; no attempt is counted."""
    if delay > 0:
        return Step("delayed", now + ns(delay), delay=delay)
    return Step("ready", envelope.visible_at)


def came_due(envelope: Envelope, settings: Settings) -> Step:
    """A delayed message is ready: a retry in its first place if so set, any other by its due time."""
    is_first = envelope.attempts and settings.retry_order == "front"
    return Step("ready", envelope.pushed_at if is_first else envelope.visible_at)


def has_expired(envelope: Envelope, settings: Settings, now: int) -> bool:
    """Whether a message is past its time to live. The queue's own does not hold for one that died before."""
    ttl = envelope.ttl
    if ttl is None:
        if settings.ttl is None or envelope.reason:
            return False
        ttl = settings.ttl
    return now >= envelope.pushed_at + ns(ttl)


def lease_end(envelope: Envelope, settings: Settings, *, now: int, lease: float | None) -> int:
    """When a lease that begins now ends, in whole milliseconds: the call's word, the message's, the queue's."""
    if lease is None:
        lease = settings.lease if envelope.lease is None else envelope.lease
    return -(-(now + ns(lease)) // 1_000_000) * 1_000_000


def ns(seconds: float) -> int:
    """Seconds as nanoseconds."""
    return round(seconds * NS)
