"""Runs of a few messages, one for each verb, on a disk that records them; the book says what each was promised."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable
from typing import Any, Final

from crash_books import Book
from recorder import RecordingDisk
from recovery import content

import mailq
from mailq import transfer
from mailq.engines.maildir.engine import MaildirEngine

ROOT: Final = "jobs"
HOME: Final = "failed"
"""No old directory is kept for those who have it open."""


class Run:
    """A queue in use: each verb is written down with the calls at which it began and returned."""

    def __init__(self, base: str, kind: type[RecordingDisk], queue: mailq.Queue | None) -> None:
        self.base = base
        self.kind = kind
        self.queue = queue
        self.book = Book()
        self.roots: tuple[str, ...] = (ROOT,)
        self.create = False
        self.ahead = 0
        self.disk = RecordingDisk(base)

    def clock(self) -> int:
        return time.time_ns() + self.ahead

    def record(self) -> None:
        """Take what there is for synced, and log from here on."""
        if self.queue is not None:
            self.queue.close()
        self.disk = self.kind(self.base)
        self.queue = mailq.Queue(MaildirEngine(f"{self.base}/{ROOT}", disk=self.disk, clock=self.clock))

    @property
    def q(self) -> mailq.Queue:
        assert self.queue is not None
        return self.queue

    @property
    def now(self) -> int:
        return self.disk.now

    def push(self, *bodies: bytes, **options: Any) -> list[str]:
        begun = self.now
        ids = self.q.push_many(bodies, **options)
        headers = options.get("headers") or {}
        self.book.pushed(ids, [content(body, headers) for body in bodies], begun, self.now)
        return ids

    def pop(self, **options: Any) -> mailq.Delivery:
        """Pop one. With no retries left its holder's death is its own."""
        begun = self.now
        delivery = self.q.pop(**options)
        assert delivery is not None
        if delivery.is_last_attempt:
            self.book.may(delivery.id, begun, "dead")
        return delivery

    def ack(self, delivery: mailq.Delivery) -> None:
        self.book.may(delivery.id, self.now, "gone")
        delivery.ack()

    def bury(self, delivery: mailq.Delivery, settle: Callable[[], None]) -> None:
        """Reject it, or fail its last attempt."""
        self.book.may(delivery.id, self.now, "dead")
        settle()
        self.book.must(delivery.id, self.now, "dead")

    def redrive(self, *ids: str) -> None:
        for id in ids:
            self.book.may(id, self.now, "live")
        assert self.q.redrive(ids) == len(ids)
        for id in ids:
            self.book.must(id, self.now, "live")

    def purge(self, state: Any, *ids: str) -> None:
        for id in ids:
            self.book.may(id, self.now, "gone")
        assert self.q.purge(state) == len(ids)

    def edit(self, id: str, body: bytes) -> None:
        message = self.q.get(id)
        new = content(body, message.headers)
        places = self.book.places(id)
        self.book.may(id, self.now, contents=[new])
        self.q.edit(message, body)
        self.book.must(id, self.now, *places, contents=[new])


Scenario = Callable[[Run], None]


def push(run: Run) -> None:
    run.record()
    run.push(b"first message")
    run.push(b"second message, somewhat longer than the first")
    run.push(b"third message")


def push_with_headers(run: Run) -> None:
    run.record()
    run.push(b"with headers", headers={"trace": "abc", "to": "somebody"})
    run.push(b"later", delay=60)
    run.push(b"both", delay=30, priority=3, headers={"a": "b"})
    run.push(b"")


def push_some(run: Run) -> None:
    run.record()
    run.push(*(b"message %d of a few" % number for number in range(4)))
    run.push(b"one more")


def push_many(run: Run) -> None:
    """So many that they are synced together."""
    run.record()
    run.push(*(b"message %d of many" % number for number in range(17)))
    run.push(b"one more")


def pop(run: Run) -> None:
    run.push(b"a", b"b", b"c", b"d")
    run.record()
    for lease in (None, 10, 100):
        run.pop(lease=lease)
    run.pop(detached=True)


def ack(run: Run) -> None:
    run.push(b"a", b"b", b"c")
    run.record()
    run.push(b"pushed by this process")
    for _ in range(4):
        run.ack(run.pop())


def nack(run: Run) -> None:
    run.push(b"a", b"b", b"c")
    run.record()
    for number in range(3):
        run.pop().nack(delay=number, error=f"failure number {number}")
    run.push(b"d")
    delivery = run.pop()
    delivery.nack(delay=0)
    run.ack(run.pop())


def nack_to_dead(run: Run) -> None:
    run.push(b"a", b"b", max_retries=0)
    run.record()
    run.push(b"c", max_retries=0)
    for _ in range(3):
        delivery = run.pop()
        run.bury(delivery, lambda delivery=delivery: delivery.nack(error="the last"))  # type: ignore[misc]


def release(run: Run) -> None:
    run.push(b"a", b"b")
    run.record()
    run.push(b"c")
    run.pop().release()
    run.pop().release(delay=5)
    run.pop().release()
    run.pop(detached=True)


def reject(run: Run) -> None:
    run.push(b"a", b"b")
    run.record()
    run.push(b"c")
    for _ in range(3):
        delivery = run.pop()
        run.bury(delivery, lambda delivery=delivery: delivery.reject("no good"))  # type: ignore[misc]


def extend(run: Run) -> None:
    run.push(b"a", b"b", b"c")
    run.record()
    first, second, third = run.pop(), run.pop(), run.pop(detached=True)
    first.extend(600)
    second.extend(86_400)
    third.extend(3600)
    first.extend(1200)
    second.release()
    run.ack(first)
    third.nack(delay=1, error="text")


def extend_of_another(run: Run) -> None:
    """Another user's files, of which only copies can be extended."""
    run.push(b"a", b"b")
    run.record()
    first, second = run.pop(), run.pop(detached=True)
    for delivery in (first, second):
        run.disk.foreign = {os.stat(f"{run.base}/{ROOT}/cur/{delivery.receipt}").st_ino}
        delivery.extend(3600)
    run.ack(first)
    second.release()


def share(run: Run) -> None:
    """Files that by a hard link are another queue's too, of which only copies can be extended, and can have died."""
    run.push(b"a", b"b", b"c")
    run.record()
    extended, released, rejected = run.pop(), run.pop(detached=True), run.pop()
    for delivery in (extended, released, rejected):
        os.link(f"{run.base}/{ROOT}/cur/{delivery.receipt}", f"{run.base}-{delivery.id}")
    extended.extend(3600)
    released.extend(3600)
    released.release()
    run.bury(rejected, lambda: rejected.reject("no good"))
    run.ack(extended)


def reap(run: Run) -> None:
    run.push(b"a", b"b", b"c")
    last = run.push(b"d", max_retries=0)
    run.record()
    for _ in range(4):
        run.pop(lease=1, detached=True)
    run.ahead += 3600 * 1_000_000_000
    run.book.may(last[0], run.now, "dead")
    assert tuple(run.q.reap())[:2] == (3, 1)
    run.book.must(last[0], run.now, "dead")
    run.ack(run.pop())


def expire_many(run: Run) -> None:
    """So many in one pop that they are synced together."""
    expired = run.push(*(b"%d" % number for number in range(20)), ttl=1)
    run.push(b"well")
    run.record()
    run.ahead += 3600 * 1_000_000_000
    for id in expired:
        run.book.may(id, -1, "dead")  # whoever recovers may find them expired, too
    delivery = run.pop()
    for id in expired:
        run.book.must(id, run.now, "dead")
    run.ack(delivery)


def _dead(run: Run, *bodies: bytes) -> list[str]:
    ids = run.push(*bodies)
    for _ in bodies:
        delivery = run.pop()
        run.bury(delivery, lambda delivery=delivery: delivery.reject("for a start"))  # type: ignore[misc]
    return ids


def redrive(run: Run) -> None:
    ids = _dead(run, b"a", b"b", b"c")
    run.record()
    run.redrive(*ids[:2])
    run.ack(run.pop())
    run.redrive(ids[2])


def purge(run: Run) -> None:
    dead = _dead(run, b"a", b"b")
    ready = run.push(b"c", b"d")
    run.record()
    new = run.push(b"e")
    run.purge("dead", *dead)
    run.push(b"f", delay=50)
    run.purge("ready", *ready, *new)


def edit(run: Run) -> None:
    dead = _dead(run, b"a dead one")
    ready = run.push(b"c", headers={"x": "y"})
    run.record()
    delayed = run.push(b"d", delay=50)
    run.edit(ready[0], b"another body, longer than before")
    run.edit(delayed[0], b"another")
    run.edit(dead[0], b"still dead")


def dead_letters(run: Run) -> None:
    """Two queues: the one's dead letters go to the other."""
    run.roots = (ROOT, HOME)
    kept = _dead(run, b"died before")
    run.record()
    ids = run.push(b"a", b"b")
    for _ in ids:
        delivery = run.pop()
        run.bury(delivery, lambda delivery=delivery: delivery.reject("no good"))  # type: ignore[misc]
    run.redrive(ids[0], *kept)
    delivery = run.pop()
    delivery.nack(delay=0, error="again")


def configure(run: Run) -> None:
    run.push(b"a")
    run.record()
    for lease in (120.0, 30.0):
        before, begun = run.q.settings, run.now
        after = run.q.configure(lease=lease, max_retries=7)
        run.book.fact("settings", begun + 1, before, after)
        run.book.fact("settings", run.now, after)
    run.push(b"b")


def configure_dead_letters(run: Run) -> None:
    """The other queue is made on the way; until then, and if it is lost with the setting, there is none."""
    run.create = True
    run.roots = (ROOT, HOME)
    run.push(b"a", b"b")
    run.record()
    run.q.configure(dead_letters=f"{run.base}/{HOME}")
    run.book.fact(f"queue {HOME}", run.now, True)  # noqa: FBT003 - it is there
    for _ in range(2):
        delivery = run.pop()
        run.bury(delivery, lambda delivery=delivery: delivery.reject("no good"))  # type: ignore[misc]


def pause(run: Run) -> None:
    run.push(b"a")
    run.record()
    for verb, paused in ((run.q.pause, True), (run.q.resume, False), (run.q.pause, True)):
        run.book.fact("paused", run.now + 1, paused, not paused)
        verb()
        run.book.fact("paused", run.now, paused)
    run.push(b"b")


def reply(run: Run) -> None:
    run.push(b"a", b"b", headers={"mailq-reply": "1"})
    run.record()
    for text in (b'{"ok": true, "result": 1}', b'{"ok": true, "result": [1, 2, 3]}'):
        delivery = run.pop()
        run.book.fact(delivery.id, run.now, None)
        run.book.fact(delivery.id, run.now + 1, None, text)
        delivery.put_reply(text)
        run.book.fact(delivery.id, run.now, text)
        run.ack(delivery)


def import_(run: Run) -> None:
    """Another queue's archive, when a part of it is there already; and once more, which changes nothing."""
    source = mailq.open(f"{run.base}-source")
    headers = {"a": "b"}
    dead, there, ready = source.push_many([b"dead", b"there already", b"ready"], headers=headers)
    delayed = source.push(b"delayed", delay=50, headers=headers)
    delivery = source.pop()
    assert delivery is not None
    delivery.reject("no good")
    whole, part = io.BytesIO(), io.BytesIO()
    transfer.export(source.location, whole)
    assert source.purge("dead") + source.purge("delayed") == 2
    source.ack(source.pop_many(2)[1].receipt)
    transfer.export(source.location, part)
    source.close()
    shutil.rmtree(source.location)
    part.seek(0)
    assert transfer.import_(run.q.location, part).imported == 1
    run.book.pushed([there], [content(b"there already", headers)], -1, 0)
    run.record()
    run.push(b"pushed before")
    begun = run.now
    whole.seek(0)
    assert transfer.import_(run.q.location, whole, disk=run.disk, clock=run.clock).imported == 3
    for id, body, place in ((ready, b"ready", "live"), (delayed, b"delayed", "live"), (dead, b"dead", "dead")):
        run.book.pushed([id], [content(body, headers)], begun, run.now, place=place)
    whole.seek(0)
    assert transfer.import_(run.q.location, whole, disk=run.disk, clock=run.clock).already_there == 4
    run.push(b"pushed afterwards")


def come_due(run: Run) -> None:
    run.push(b"a", b"b", delay=10)
    run.record()
    run.push(b"c", delay=20)
    run.ahead += 3600 * 1_000_000_000
    run.pop().nack(delay=30)
    run.ack(run.pop())
    run.ahead += 3600 * 1_000_000_000
    run.q.reap()
    run.pop().release(delay=3)


def tell(run: Run) -> None:
    run.push(b"a", b"b")
    run.record()
    run.pop()
    run.q.publish({"role": "worker", "jobs": ["x"] * 10})
    run.q.publish({"role": "worker"})
    run.ack(run.pop())
    run.q.close()


def play(
    scenario: Scenario, base: str, kind: type[RecordingDisk] = RecordingDisk, *, bare: bool = False, **settings: Any
) -> Run:
    """Run it in a directory with an empty queue, or with none (``bare``)."""
    os.mkdir(base)
    if scenario is dead_letters:
        settings["dead_letters"] = f"{base}/{HOME}"
    queue = None if bare else mailq.open(f"{base}/{ROOT}", **settings)
    run = Run(base, kind, queue)
    scenario(run)
    run.q._engine.close()  # not the queue: what was to interrupt a call that was never made interrupts this
    return run
