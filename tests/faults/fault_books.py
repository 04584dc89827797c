"""What a queue must hold after a verb that failed, or whose process died; and what was found of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import mailq
from mailq.engines.maildir import names
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.names import is_intact
from mailq.ids import NS

MONTH: Final = 30 * 86_400 * NS
"""After so long every lease has run out, every delayed message is due, and what lies in tmp/ is litter."""

_STATES: Final = ("new", "later", "cur", "dead")
_KNOWN: Final = {*_STATES, "tmp", "errors", "owners", "replies", "origins", "journal", "mailq.toml", "paused"}


class Change(NamedTuple):
    """What a verb does, once it has returned: where messages go, what they hold, what else is so; and what it may do."""

    goes: Mapping[str, str] = {}
    may: Mapping[str, str] = {}
    becomes: Mapping[str, bytes] = {}
    facts: Mapping[str, object] = {}
    pushing: Sequence[bytes] = ()


class Standing(NamedTuple):
    """Where a message stands, as a person sees it."""

    state: str
    due_at: float | None
    died_at: float | None
    attempt: int
    reason: str


def standing(message: mailq.Message) -> Standing:
    return Standing(message.state, message.due_at, message.died_at, message.attempt, message.reason)


class Found(NamedTuple):
    """A message file after recovery."""

    directory: str
    place: str
    id: str
    body: bytes
    whole: bool


class Book:
    """Where each message may be (live, dead, gone), and what it may hold."""

    def __init__(self, root: str = "jobs") -> None:
        self.roots = (root, "failed")
        self.is_made = False
        self.places: dict[str, set[str]] = {}
        self.bodies: dict[str, set[bytes]] = {}
        self.torn: set[str] = set()
        self.expiring: set[str] = set()
        self.stays: dict[str, Standing] = {}
        """Where messages stand before, during and after a verb."""
        self.pushing: tuple[bytes, ...] = ()
        self.facts: dict[str, set[object]] = {"paused": {False}, "lease": {60.0}}

    def begin(self, change: Change) -> None:
        """From now on it may have happened, or a part of it."""
        for id, place in [*change.goes.items(), *change.may.items()]:
            self.places[id].add(place)
        for id, body in change.becomes.items():
            self.bodies[id].add(body)
        for fact, value in change.facts.items():
            self.facts.setdefault(fact, {None}).add(value)
        self.pushing = tuple(change.pushing)

    def done(self, change: Change, result: Any) -> None:
        """It has happened, all of it."""
        for id, place in change.goes.items():
            self.places[id] = {place, *([change.may[id]] if id in change.may else [])}
        for id, body in change.becomes.items():
            self.bodies[id] = {body}
        for fact, value in change.facts.items():
            self.facts[fact] = {value}
        if change.pushing:
            self.pushed(result, change.pushing)

    def pushed(self, ids: Sequence[str], bodies: Sequence[bytes]) -> None:
        """These were pushed."""
        for id, body in zip(ids, bodies, strict=True):
            self.places[id], self.bodies[id] = {"live"}, {body}
        self.pushing = ()

    def failed(self, error: BaseException) -> None:
        """A push that raised left nothing but what it names."""
        for id in getattr(error, "maybe_pushed", ()):
            self.places[id], self.bodies[id] = {"live", "gone"}, set(self.pushing)
        self.pushing = ()

    def alive(self) -> list[str]:
        """The messages that may be delivered."""
        return [id for id, places in self.places.items() if "live" in places]

    def violations(self, found: Sequence[Found]) -> Iterator[str]:
        """What is not as it must be. Of a push whose process died any part may be there, but none twice."""
        for id, count in Counter(one.id for one in found).items():
            if count > 1:
                yield f"twice: {id} is there {count} times"
        unknown = Counter(one.body for one in found if one.id not in self.places)
        for body, count in unknown.items():
            if count > self.pushing.count(body):
                yield f"unexpected: {body!r} is there {count} times"
        for one in found:
            yield from self._misfit(one)
        there = {one.id for one in found}
        for id, places in self.places.items():
            if "gone" not in places and id not in there:
                yield f"lost: {id}"

    def _misfit(self, one: Found) -> Iterator[str]:
        if one.id in self.places and one.place not in self.places[one.id]:
            yield f"misplaced: {one.id} is {one.place}, not {sorted(self.places[one.id])}"
        if one.id in self.torn:
            return
        if not one.whole:
            yield f"torn: {one.id} ({one.place})"
        elif one.body not in self.bodies.get(one.id, (one.body,)):
            yield f"changed: {one.id} holds {one.body!r}"


def wrongs(base: str, book: Book, now: int) -> list[str]:
    """Recover as a process that comes long afterwards, and compare with the book."""
    found: list[Found] = []
    wrong: list[str] = []
    queues: dict[str, mailq.Queue] = {}
    for root in book.roots:
        path = f"{base}/{root}"
        if not os.path.exists(f"{path}/mailq.toml"):
            if root != book.roots[0]:
                continue
            wrong += ["the queue is gone"] if book.is_made else []
            mailq.open(path).close()  # whoever comes next makes it
        queues[root] = queue = mailq.Queue(MaildirEngine(path, clock=lambda: now + MONTH))
        wrong += _facts(queue, book) if root == book.roots[0] else []
        queue.resume()
        queue.reap()
        here = list(_files(path, root, "live" if root == book.roots[0] else "dead"))
        wrong += _litter(Path(path), {*book.places, *(one.id for one in here)})
        found += here
    wrong += book.violations(found)
    for root, queue in queues.items():
        wrong += _use(queue, [one for one in found if one.directory == f"{root}/new"], book)
        queue.close()
    return wrong


def misplacements(base: str, book: Book, now: int) -> Iterator[str]:
    """Which messages do not stand where they stood, once somebody comes right after the death."""
    if not book.stays:
        return
    queue = mailq.Queue(MaildirEngine(f"{base}/{book.roots[0]}", clock=lambda: now))
    queue.reap()
    for id, before in book.stays.items():
        after = standing(queue.get(id))
        if after != before:
            yield f"misplaced: {after}, not {before}"
    queue.close()


def _files(path: str, root: str, place: str) -> Iterator[Found]:
    for directory in _STATES:
        for name in os.listdir(f"{path}/{directory}"):
            envelope = names.parse(name)
            assert envelope is not None, name
            data = Path(path, directory, name).read_bytes()
            where = "dead" if directory == "dead" else place
            body, whole = data[envelope.header_bytes :], is_intact(envelope, data)
            yield Found(f"{root}/{directory}", where, envelope.id, body, whole)


def _facts(queue: mailq.Queue, book: Book) -> Iterator[str]:
    seen = {"paused": queue.stats().paused, "lease": queue.settings.lease}
    for fact, allowed in book.facts.items():
        value = seen[fact] if fact in seen else queue.replies.get_reply(fact)
        if value not in allowed:
            yield f"fact: {fact} is {value!r}, not {allowed}"


def _litter(path: Path, known: set[str]) -> Iterator[str]:
    """What reaping leaves behind. An error text may outlive its message, not come from nowhere."""
    for directory in ("tmp", "cur", "later", "owners"):
        yield from (f"litter: {directory}/{entry}" for entry in os.listdir(path / directory))
    for directory in ("errors", "replies"):
        for entry in os.listdir(path / directory):
            if entry.partition(".")[0] not in known:
                yield f"litter: {directory}/{entry}"
    for entry in os.listdir(path):
        if entry not in _KNOWN and entry not in (".reap.lock", ".settings.lock"):
            yield f"litter: {entry}"


def _use(queue: mailq.Queue, ready: Sequence[Found], book: Book) -> Iterator[str]:
    """What is ready is delivered as it is, but for what is torn or has expired; and the queue goes on working."""
    after = queue.push(b"after")
    expected = {one.id: one.body for one in ready if one.whole} | {after: b"after"}
    for delivery in queue.drain():
        if expected.pop(delivery.id, None) != delivery.raw:
            yield f"delivered: {delivery.id} with {delivery.raw!r}"
        delivery.ack()
    yield from (f"stuck: {id} is not delivered" for id in expected if id not in book.expiring)
