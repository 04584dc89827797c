"""Start a queue as after a reboot, take everything out of it, and write down what came."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import NamedTuple

import mailq
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.names import is_intact, parse
from mailq.settings import Settings

Content = tuple[bytes, tuple[tuple[str, str], ...]]
"""A body and its headers."""

LATER = 30 * 86_400 * 1_000_000_000
"""Every lease has run out by then, every delayed message is due, and what lies in tmp/ is litter."""


class Found(NamedTuple):
    """A message as a recovery found it: delivered (live), given up on (dead), or torn."""

    place: str
    id: str
    content: Content


class Observation(NamedTuple):
    """What a recovery saw."""

    found: tuple[Found, ...]
    troubles: tuple[str, ...] = ()
    facts: tuple[tuple[str, object], ...] = ()


def content(body: bytes, headers: dict[str, str]) -> Content:
    return body, tuple(sorted(headers.items()))


def clock_after() -> int:
    return time.time_ns() + LATER


def recover(base: str, roots: Sequence[str], *, create: bool, replies: Sequence[str] = ()) -> Observation:
    """Open each queue (the first is the one that was used, others have its dead letters) and empty it."""
    found: list[Found] = []
    troubles: list[str] = []
    facts: list[tuple[str, object]] = []
    for number, root in enumerate(roots):
        path = f"{base}/{root}"
        facts.append((f"queue {root}", os.path.exists(f"{path}/mailq.toml")))
        try:
            queue = _open(path, create=create)
            if number == 0:
                facts += [("settings", queue.settings), ("paused", queue.stats().paused)]
                facts += [(id, queue.replies.get_reply(id)) for id in replies]
                queue.resume()
            found += _empty(queue, path, "live" if number == 0 else "dead")
            troubles += _use(queue, path)
            queue.close()
        except (mailq.MailqError, OSError, AssertionError) as error:
            troubles.append(f"stuck: {error!r}")
    return Observation(tuple(found), tuple(troubles), tuple(facts))


def _open(path: str, *, create: bool) -> mailq.Queue:
    try:
        return mailq.Queue(MaildirEngine(path, clock=clock_after))
    except mailq.QueueNotFound:
        if not create:
            raise
    layouts.create(layouts.Layout(path), Settings(), Disk())
    return mailq.Queue(MaildirEngine(path, clock=clock_after))


def _empty(queue: mailq.Queue, path: str, place: str) -> list[Found]:
    queue.reap()
    found = []
    while deliveries := queue.pop_many(100):
        for delivery in deliveries:
            assert len(delivery.history) < 100, "the texts must be readable, whatever is left of them"
            found.append(Found(place, delivery.id, content(delivery.raw, delivery.headers)))
            delivery.ack()
    # Not peek("dead"): that would also show what lies in the other queue, which has its turn.
    for name in os.listdir(f"{path}/dead"):
        message = queue.get(name.split(",")[1])
        known = parse(name)
        assert known is not None
        where = "dead" if is_intact(known, message._read()) else "torn"
        found.append(Found(where, message.id, content(message.raw, message.headers)))
    return found


def _use(queue: mailq.Queue, path: str) -> list[str]:
    """A queue that survived goes on working, and what was half written is swept."""
    id = queue.push(b"after")
    delivery = queue.pop()
    if delivery is None or delivery.id != id or delivery.raw != b"after":
        return [f"stuck: pushed {id}, popped {delivery!r}"]
    delivery.ack()
    left = [name for state in ("tmp", "new", "cur", "later") for name in os.listdir(f"{path}/{state}")]
    return [f"litter: {left}"] if left else []
