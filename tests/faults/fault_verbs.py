"""Every verb of the queue, each as one act on a stage."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from fault_books import standing
from fault_journals import JOURNALED
from fault_stage import Stage

import mailq
from mailq.ids import NS

# Making and opening


def create(stage: Stage, **settings: Any) -> None:
    stage.act(lambda: stage.open(**settings))
    stage.book.is_made = stage.book.is_made or stage.returned


def create_below(stage: Stage) -> None:
    """In directories that are not there yet."""
    stage.book.roots = ("srv/queues/jobs", "failed")
    create(stage)


def create_for_a_group(stage: Stage) -> None:
    create(stage, file_mode="0660")


def create_with_dead_letters(stage: Stage) -> None:
    create(stage, dead_letters=stage.home)


def open_a_copy(stage: Stage) -> None:
    """A copy without the empty directories, which opening makes again."""
    for name in ("new", "later", "dead"):
        if os.path.isdir(f"{stage.path}/{name}") and not os.listdir(f"{stage.path}/{name}"):
            os.rmdir(f"{stage.path}/{name}")
    stage.act(stage.open)


# Pushing


def _push(stage: Stage, count: int, **options: Any) -> None:
    bodies = stage.bodies(count)
    ids = stage.act(lambda: stage.q.push_many(bodies, **options), pushing=bodies)
    stage.expect(ids and len(set(ids)) == count, "an id for each")


def push(stage: Stage) -> None:
    _push(stage, 1, headers={"a": "b"})


def push_delayed(stage: Stage) -> None:
    _push(stage, 1, delay=60)


def push_5(stage: Stage) -> None:
    _push(stage, 5)


def push_64(stage: Stage) -> None:
    _push(stage, 64)


def push_unsynced(stage: Stage) -> None:
    _push(stage, 2)


def push_for_a_group(stage: Stage) -> None:
    _push(stage, 2)


# Popping


def _pop(stage: Stage, limit: int, **options: Any) -> list[mailq.Delivery]:
    # What cannot be read goes to the dead.
    may = dict.fromkeys(stage.book.alive(), "dead")
    deliveries = stage.act(lambda: stage.q.pop_many(limit, **options), may=may) or []
    for delivery in deliveries:
        torn = delivery.id in stage.book.torn or delivery.raw not in stage.book.bodies[delivery.id]
        stage.expect(not torn, f"{delivery.id} is delivered whole")
    return list(deliveries)


def _pop_exactly(stage: Stage, limit: int, **options: Any) -> None:
    """What a pop that failed had claimed it has given back."""
    before = stage.q.stats().leased
    deliveries = _pop(stage, limit, **options)
    leased = stage.q.stats().leased - before
    stage.expect(leased == len(deliveries) or stage.misled, "only what is delivered is leased")


def pop(stage: Stage) -> None:
    stage.pushed(2)
    _pop_exactly(stage, 1)


def pop_detached(stage: Stage) -> None:
    stage.pushed(2)
    _pop_exactly(stage, 1, detached=True)


def pop_many(stage: Stage) -> None:
    stage.pushed(4)
    _pop_exactly(stage, 3)


def pop_due(stage: Stage) -> None:
    """What was delayed is readied on the way."""
    stage.pushed(2, delay=10)
    stage.clock.advance(20)
    _pop_exactly(stage, 2)


def pop_overdue(stage: Stage) -> None:
    """What others hold too long, and what the dead held, is reaped on the way."""
    stage.pushed(2)
    stage.taken(lease=1, detached=True)
    _die_holding(stage)
    stage.clock.advance(100)
    _pop(stage, 2)


def pop_torn(stage: Stage) -> None:
    stage.pushed(2)
    first = stage.q.peek()[0]
    os.truncate(first.location, 3)
    stage.book.torn.add(first.id)
    _pop(stage, 2)


def pop_torn_shared(stage: Stage) -> None:
    pop_torn(stage)


def pop_expired(stage: Stage) -> None:
    stage.book.expiring.update(stage.pushed(2, ttl=5))
    stage.clock.advance(10)
    stage.pushed(1)
    _pop(stage, 1)


def _die_holding(stage: Stage) -> None:
    """Another process takes one, and dies with it."""
    other = stage.another()
    delivery = other.pop(lease=1000)
    assert delivery is not None
    stage.allow({delivery.id: "dead"} if delivery.is_last_attempt else {})
    other._engine._holder.close()  # type: ignore[attr-defined]


def held(stage: Stage) -> None:
    stage.pushed()
    delivery = stage.taken()
    again = stage.act(lambda: stage.q.delivery(delivery.receipt))
    stage.expect(again and again.raw == delivery.raw, "the same message")


# Settling


def ack(stage: Stage) -> None:
    stage.pushed(2)
    delivery = stage.taken()
    stage.act(delivery.ack, goes={delivery.id: "gone"})


def ack_with_texts(stage: Stage) -> None:
    stage.pushed()
    stage.taken().nack(delay=0, error="the first time")
    delivery = stage.taken()
    stage.act(delivery.ack, goes={delivery.id: "gone"})


def nack(stage: Stage) -> None:
    stage.pushed(2)
    delivery = stage.taken()
    stage.act(lambda: delivery.nack(delay=0, error="text"))
    if stage.returned:
        message = stage.q.get(delivery.id)
        stage.expect((message.state, message.attempt) == ("ready", delivery.attempt + 1), "counted, and ready")


def nack_for_later(stage: Stage) -> None:
    stage.pushed(2)
    delivery = stage.taken()
    stage.act(lambda: delivery.nack(delay=30))
    if stage.returned:
        message = stage.q.get(delivery.id)
        stage.expect((message.state, message.attempt) == ("delayed", delivery.attempt + 1), "counted, and delayed")
    stage.clock.advance(60)


def nack_to_dead(stage: Stage) -> None:
    stage.pushed(2, max_retries=0)
    delivery = stage.taken()
    stage.act(lambda: delivery.nack(error="the last"), goes={delivery.id: "dead"})


def nack_to_dead_shared(stage: Stage) -> None:
    nack_to_dead(stage)


def release(stage: Stage) -> None:
    stage.pushed(2)
    delivery = stage.taken()
    delivery.extend(3600)
    stage.act(delivery.release)
    if stage.returned:
        message = stage.q.get(delivery.id)
        stage.expect((message.state, message.attempt) == ("ready", delivery.attempt), "uncounted, and ready")


def reject(stage: Stage) -> None:
    stage.pushed(2)
    delivery = stage.taken()
    stage.act(lambda: delivery.reject("no good"), goes={delivery.id: "dead"})


def reject_shared(stage: Stage) -> None:
    stage.pushed(2)
    stage.taken().nack(delay=0, error="the first time")
    delivery = stage.taken()
    stage.act(lambda: delivery.reject("no good"), goes={delivery.id: "dead"})


def extend(stage: Stage) -> None:
    stage.pushed()
    _extend(stage, stage.taken())


def extend_of_another(stage: Stage) -> None:
    """Another user's file, of which only a copy can be extended."""
    stage.pushed()
    delivery = stage.taken()
    stage.disk.foreign.add(os.stat(f"{stage.path}/cur/{delivery.receipt}").st_ino)
    _extend(stage, delivery)


def extend_of_another_queues_file(stage: Stage) -> None:
    """By a hard link it is another queue's too, so only a copy can be extended."""
    stage.pushed()
    delivery = stage.taken()
    _share(stage, delivery)
    _extend(stage, delivery)


def reject_of_another_queues_file(stage: Stage) -> None:
    """The time of its death, too, can only be that of a copy."""
    stage.pushed(2)
    delivery = stage.taken()
    _share(stage, delivery)
    stage.act(lambda: delivery.reject("no good"), goes={delivery.id: "dead"})


def _share(stage: Stage, delivery: mailq.Delivery) -> None:
    os.link(f"{stage.path}/cur/{delivery.receipt}", f"{stage.base}/{delivery.id}")


def _extend(stage: Stage, delivery: mailq.Delivery) -> None:
    stage.act(lambda: delivery.extend(600))
    if stage.returned:
        until = stage.engine.claimed(delivery.receipt).deadline
        stage.expect(until >= stage.clock() + 600 * NS, "the deadline has moved")


# Maintenance


def reap_overdue(stage: Stage) -> None:
    last = stage.pushed(1, max_retries=0)[0]
    stage.pushed(2)
    stage.taken(lease=1, detached=True)
    stage.taken(lease=1, detached=True).extend(5)
    stage.clock.advance(100)
    stage.act(stage.q.reap, may={last: "dead"})


def reap_killed(stage: Stage) -> None:
    stage.pushed(2)
    _die_holding(stage)
    stage.act(stage.q.reap)


def reap_due(stage: Stage) -> None:
    stage.pushed(2, delay=10)
    stage.clock.advance(20)
    stage.act(stage.q.reap)


def reap_litter(stage: Stage) -> None:
    """What a producer, an owner and a change of settings left half done when they were killed."""
    for name in ("20201121T013205.123456789Z,01a1fbbbd8c37d158d1a2b3c4d5e6f70.bin", ".owner.1", ".copy.2"):
        Path(stage.path, "tmp", name).write_bytes(b"half")
    stage.clock.advance(2 * 86_400)
    stage.act(stage.q.reap)


def redrive(stage: Stage) -> None:
    ids = stage.died(3)
    stage.act(lambda: stage.q.redrive(ids), goes=dict.fromkeys(ids, "live"))


def redrive_shared(stage: Stage) -> None:
    redrive(stage)


def purge_ready(stage: Stage) -> None:
    ids = stage.pushed(3)
    stage.act(lambda: stage.q.purge("ready"), goes=dict.fromkeys(ids, "gone"))


def purge_dead(stage: Stage) -> None:
    ids = stage.died(3)
    stage.act(lambda: stage.q.purge("dead"), goes=dict.fromkeys(ids, "gone"))


# Looking and mending


def _edit(stage: Stage, id: str) -> None:
    (body,) = stage.bodies(1)
    stage.book.stays[id] = standing(stage.q.get(id))
    # An edit that fails half-way leaves a lease. Until that is reaped the message cannot be edited again.
    stage.act(lambda: _edit_free(stage, id, body), becomes={id: body})
    if (headers := stage.q.get(id).headers) != {"a": "b"}:
        stage.failures.append(f"the headers are {headers}")


def _edit_free(stage: Stage, id: str, body: bytes) -> None:
    message = stage.q.get(id)
    if message.state == "leased":
        stage.clock.advance(1000)
        stage.q.reap()
        message = stage.q.get(id)
    stage.q.edit(message, body)


def edit_ready(stage: Stage) -> None:
    _edit(stage, stage.pushed(1, headers={"a": "b"}, max_retries=0)[0])


def edit_delayed(stage: Stage) -> None:
    stage.pushed(1, headers={"a": "b"}, max_retries=1)
    delivery = stage.taken()
    delivery.nack(delay=30)
    _edit(stage, delivery.id)
    stage.clock.advance(60)


def edit_dead(stage: Stage) -> None:
    (id,) = stage.died(1, headers={"a": "b"})
    stage.clock.advance(5)
    _edit(stage, id)


def edit_dead_shared(stage: Stage) -> None:
    edit_dead(stage)


def look(stage: Stage) -> None:
    """Everything that only reads."""
    stage.died()
    id = stage.pushed(1)[0]
    message = stage.q.get(id)
    stage.act(lambda: (message.body, stage.q.peek("dead")[0].history, stage.q.stats(), stage.q.workers()))


def configure(stage: Stage) -> None:
    lease = 100.0 + stage.q.settings.lease
    stage.act(lambda: stage.q.configure(lease=lease), facts={"lease": lease})


def configure_dead_letters(stage: Stage) -> None:
    """The other queue is made on the way."""
    stage.act(lambda: stage.q.configure(dead_letters=stage.home))


def pause(stage: Stage) -> None:
    stage.act(stage.q.pause, facts={"paused": True})


def resume(stage: Stage) -> None:
    stage.q.pause()
    stage.book.facts["paused"] = {True}
    stage.act(stage.q.resume, facts={"paused": False})


# Replies, and what a process tells of itself


def put_reply(stage: Stage) -> None:
    stage.pushed(1, headers={"mailq-reply": "1"})
    delivery = stage.taken()
    data = b'{"ok": true, "result": "%s"}' % stage.bodies(1)[0]
    stage.act(lambda: delivery.put_reply(data), facts={delivery.id: data})


def get_reply(stage: Stage) -> None:
    id = stage.pushed()[0]
    stage.engine.put_reply(id, b"reply")
    stage.book.facts[id] = {b"reply"}
    data = stage.act(lambda: stage.engine.get_reply(id))
    stage.expect(data in (None, b"reply"), "the reply, or none yet")


def tell(stage: Stage) -> None:
    stage.act(lambda: stage.q.publish({"role": "worker"}))
    stage.expect(stage.raised is None, "telling never raises")
    stage.act(lambda: stage.q.publish({"role": "worker", "jobs": ["x"] * 10}))


def close(stage: Stage) -> None:
    stage.pushed()
    stage.taken()
    stage.act(stage.engine.close)  # the queue itself would be of no use any more
    stage.expect(stage.raised is None, "closing never raises")


class Verb(NamedTuple):
    """A verb, and the settings of the queue that it is tried on; None: there is no queue yet."""

    play: Callable[[Stage], None]
    settings: dict[str, Any] | None
    shared: bool = False

    def __str__(self) -> str:
        return self.play.__name__

    def prepare(self, stage: Stage) -> None:
        """Make the queue."""
        if self.settings is not None:
            stage.make(**self.settings, **({"dead_letters": stage.home} if self.shared else {}))


_BARE: Final = (create, create_below, create_for_a_group, create_with_dead_letters)
_SHARED: Final = (pop_torn_shared, nack_to_dead_shared, reject_shared, redrive_shared, edit_dead_shared)
_PLAIN: Final = (
    *(open_a_copy, push, push_delayed, push_5, push_64),
    *(pop, pop_detached, pop_many, pop_due, pop_overdue, pop_torn, pop_expired, held),
    *(ack, ack_with_texts, nack, nack_for_later, nack_to_dead, release, reject),
    *(extend, extend_of_another, extend_of_another_queues_file, reject_of_another_queues_file),
    *(reap_overdue, reap_killed, reap_due, reap_litter, redrive, purge_ready, purge_dead),
    *(edit_ready, edit_delayed, edit_dead, look, configure, configure_dead_letters, pause, resume),
    *(put_reply, get_reply, tell, close),
)
VERBS: Final = (
    *(Verb(play, None) for play in _BARE),
    *(Verb(play, {}) for play in _PLAIN),
    *(Verb(play, {}, shared=True) for play in _SHARED),
    *(Verb(play, {}) for play in JOURNALED),
    Verb(push_unsynced, {"durability": "process-crash"}),
    Verb(push_for_a_group, {"file_mode": "0660"}),
)
