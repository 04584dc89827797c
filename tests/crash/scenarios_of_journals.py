"""Runs about the journals of producers: filled, left behind by the dead, replayed."""

from __future__ import annotations

import os

from scenarios import ROOT, Run

import mailq
from mailq.engines.maildir.engine import MaildirEngine


def fill(run: Run) -> None:
    """So many pushes that the journal begins anew."""
    run.record()
    for number in range(10):
        run.push(b"%d" % number * 3000)
    run.ack(run.pop())
    run.push(b"after it was full")


def alternate(run: Run) -> None:
    """Push, pop, ack, and again: at no moment is there more than one message."""
    run.record()
    for number in range(5):
        run.push(b"number %d" % number)
        run.ack(run.pop())


def inherit(run: Run) -> None:
    """A producer is killed; the next process replays its journal, where nothing is missing."""
    run.record()
    run.push(b"a")
    run.push(b"b", b"c")
    run.ack(run.pop())
    die(run)
    run.push(b"d")


def restore(run: Run) -> None:
    """A power cut has left three messages lost or torn, one of them in its second attempt; the replay is cut too."""
    queue = _on_an_ordered_disk(run)
    run.queue = queue
    lost, torn, retried, _ = ids = [run.push(body)[0] for body in (b"lost", b"torn", b"torn while retried", b"acked")]
    deliveries = {delivery.id: delivery for delivery in queue.pop_many(4)}
    deliveries[retried].nack()
    run.ack(deliveries[ids[3]])
    for id in (lost, torn):
        deliveries[id].release()
    _forget_the_journal(run)
    _damage(f"{run.base}/{ROOT}", lost, torn, retried)
    run.record()
    run.push(b"after it")


def _on_an_ordered_disk(run: Run) -> mailq.Queue:
    disk = run.kind(run.base)
    assert disk.keeps_order(run.base)
    return mailq.Queue(MaildirEngine(f"{run.base}/{ROOT}", disk=disk, clock=run.clock))


def _damage(root: str, lost: str, *torn: str) -> None:
    """What a cut may leave of files that were not synced; the first name had not come to the disk."""
    (mark,) = (name for name in os.listdir(f"{root}/journal") if name.endswith(".mark"))
    os.utime(f"{root}/journal/{mark}", (0, 0))
    for state in ("new", "later"):
        for name in os.listdir(f"{root}/{state}"):
            path = f"{root}/{state}/{name}"
            if lost in name:
                os.unlink(path)
            elif any(id in name for id in torn):
                os.truncate(path, 0)


def die(run: Run) -> None:
    """The process is killed; its successor opens the queue."""
    _forget_the_journal(run)
    run.queue = mailq.Queue(MaildirEngine(run.q.location, disk=run.disk, clock=run.clock))


def _forget_the_journal(run: Run) -> None:
    engine = run.q._engine
    assert isinstance(engine, MaildirEngine)
    assert os.listdir(f"{run.q.location}/journal")
    engine._store.journal.after_fork()  # lets go of it without a trace
