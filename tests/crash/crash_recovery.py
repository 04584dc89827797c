"""Put a state on a disk, start the queue on it as after a reboot, and write down all that comes out."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Sequence

from crash_books import Found, Observation, content
from crash_states import State

import mailq
from mailq.engines.disk import Disk
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.engine import MaildirEngine
from mailq.message import is_whole
from mailq.settings import Settings

LATER = 30 * 86_400 * 1_000_000_000
"""Every lease has run out by then, every delayed message is due, and what lies in tmp/ is litter."""


def clock_after() -> int:
    return time.time_ns() + LATER


def materialise(state: State, base: str) -> None:
    """Make the tree, out of what the last recovery left of the one before."""
    for directory in ("", *state.directories):
        _clear(f"{base}/{directory}".rstrip("/"), directory, state)
    for path, data, ns in state.files:
        fd = os.open(f"{base}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, data)
        os.close(fd)
        if ns:
            os.utime(f"{base}/{path}", ns=(ns, ns))


def _clear(path: str, name: str, state: State) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    with os.scandir(path) as scan:
        for entry in scan:
            if not entry.is_dir():
                os.unlink(entry.path)
            elif f"{name}/{entry.name}".lstrip("/") not in state.directories:
                shutil.rmtree(entry.path)


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
                facts += [(id, queue._engine.get_reply(id)) for id in replies]
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
        where = "dead" if is_whole(message._envelope, message._read()) else "torn"
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
