"""Runs that make directories, or make them anew; and what those leave who are killed at it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final
from unittest import mock

from scenarios import HOME, ROOT, Run, Scenario

import mailq
from mailq.engines.maildir import compaction, dead_letters
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.engine import MaildirEngine
from mailq.settings import Settings

QUIET: Final = mock.patch.object(compaction, "_QUIET", 0)


def mend(run: Run) -> None:
    """A copy has dropped the empty directories: whoever opens the queue makes them again."""
    run.push(b"a", delay=5)
    for name in ("new", "dead", "tmp"):
        os.rmdir(f"{run.base}/{ROOT}/{name}")
    run.record()
    run.push(b"b")
    delivery = run.pop()
    run.bury(delivery, lambda: delivery.reject("no good"))
    run.push(b"c")


@QUIET
def remake(run: Run) -> None:
    """new/ is drained and swollen. Another process pushes after each of the calls that make it anew, and before."""
    run.push(b"an old one")
    run.record()
    run.ack(run.pop())
    for steps in range(9):
        run.disk.interrupted_after(steps, lambda steps=steps: run.push(b"after %d steps" % steps))  # type: ignore[misc]
        with swollen():
            run.q.reap()
        while delivery := run.q.pop():
            run.ack(delivery)


@QUIET
def remade_meanwhile(run: Run) -> None:
    """new/ is made anew after each of the calls of a push."""
    run.record()
    for steps in range(1, 8):
        run.disk.interrupted_after(steps, run.q.reap)
        with swollen():
            run.push(b"remade after %d steps" % steps)
        run.ack(run.pop())
    run.push(b"x", b"y")


@QUIET
def remade_by_halves(run: Run) -> None:
    """Whoever makes it anew is killed at a call, mostly when another has just pushed; a third one goes on."""
    run.record()
    for pushed, killed in [(0, 1), (0, 2), (0, 3), (1, 7), (1, 8), (3, 8), (3, 9), (3, 10), (3, 11), (4, 9)]:
        if pushed:
            run.disk.interrupted_after(pushed, lambda: run.push(b"meanwhile"))
        with swollen(), run.disk.killed_after(killed):
            run.q.reap()
        run.push(b"afterwards")
        run.q.reap()
        while delivery := run.q.pop():
            run.ack(delivery)


@contextlib.contextmanager
def swollen() -> Iterator[None]:
    """Every directory is taken for a swollen one."""
    with mock.patch.object(compaction, "_SWOLLEN", -1), mock.patch.object(compaction, "REMADE", ("new",)):
        yield


def init(run: Run) -> None:
    _create(run, Settings())


def init_in_directories_to_be_made(run: Run) -> None:
    run.roots = ("srv/queues/jobs",)
    _create(run, Settings())


def init_with_dead_letters(run: Run) -> None:
    run.roots = (ROOT, HOME)
    _create(run, Settings(dead_letters=f"../{HOME}"))


def killed_init(calls: int, root: str) -> Scenario:
    """Whoever creates the queue is killed at a call; somebody else creates it, and uses it."""

    def scenario(run: Run) -> None:
        run.roots = (root,)
        run.disk = run.kind(run.base)
        with run.disk.killed_after(calls):
            layouts.create(layouts.Layout(f"{run.base}/{root}"), Settings(), run.disk)
        create_and_push(run, Settings())

    return scenario


def killed_mend(calls: int) -> Scenario:
    """Whoever makes missing directories again is killed at a call; somebody else opens the queue, and uses it."""

    def scenario(run: Run) -> None:
        for name in ("new", "dead"):
            os.rmdir(f"{run.base}/{ROOT}/{name}")
        run.disk = run.kind(run.base)
        with run.disk.killed_after(calls):
            MaildirEngine(f"{run.base}/{ROOT}", disk=run.disk)
        run.queue = mailq.Queue(MaildirEngine(f"{run.base}/{ROOT}", disk=run.disk, clock=run.clock))
        run.push(b"the first message afterwards")

    return scenario


def killed_pause(run: Run) -> None:
    """Whoever pauses the queue is killed before the sync; somebody else pauses it, and is told that it is so."""
    run.push(b"a")
    run.record()
    with run.disk.killed_after(3):
        run.q.pause()
    run.q.pause()
    run.book.fact("paused", run.now, True)  # noqa: FBT003 - it is
    run.push(b"b")


def _create(run: Run, settings: Settings) -> None:
    run.disk = run.kind(run.base)
    create_and_push(run, settings)


def create_and_push(run: Run, settings: Settings) -> None:
    """As mailq.open does, on a disk that records; the directory above is there."""
    run.create = True
    layout = layouts.Layout(f"{run.base}/{run.roots[0]}")
    if not os.path.exists(layout.marker):
        dead_letters.require_shared(layout, settings, run.disk)
        layouts.create(layout, settings, run.disk)
        _promise(run, settings)
    run.queue = mailq.Queue(MaildirEngine(layout.root, disk=run.disk, clock=run.clock))
    run.push(b"the first message of its life")
    _promise(run, settings)  # also of a queue that was met: it has a message now


def _promise(run: Run, settings: Settings) -> None:
    run.book.fact("settings", run.now, settings)
    for root in run.roots:
        run.book.fact(f"queue {root}", run.now, True)  # noqa: FBT003 - it is there
