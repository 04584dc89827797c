"""Pushes that go through a journal, and what is done about one: verbs like those of fault_verbs.py."""

from __future__ import annotations

import contextlib
import os
from typing import Final

from fault_stage import Stage

from mailq.engines.maildir import journal as journals


def push_making_a_journal(stage: Stage) -> None:
    _begin(stage)
    _push(stage, 1)


def push_journaled(stage: Stage) -> None:
    _has_one(stage)
    _push(stage, 1)


def push_journaled_64(stage: Stage) -> None:
    _has_one(stage)
    _push(stage, 64)


def push_into_a_full_journal(stage: Stage) -> None:
    file = _has_one(stage)
    file._offset = journals.SIZE
    _push(stage, 2)


def push_after_the_mark_is_gone(stage: Stage) -> None:
    file = _has_one(stage)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file._mark)
    _push(stage, 1)


def open_replaying(stage: Stage) -> None:
    """Of five messages of a dead producer three are lost or torn."""
    _has_one(stage)
    ids = stage.pushed(4)
    stage.engine._store.journal.after_fork()  # lets go of it without a trace
    damaged = [name for name in sorted(os.listdir(f"{stage.path}/new")) if any(id in name for id in ids[:3])]
    os.unlink(f"{stage.path}/new/{damaged[0]}")
    for name in damaged[1:]:
        os.truncate(f"{stage.path}/new/{name}", 0)
    for name in os.listdir(f"{stage.path}/journal"):
        if name.endswith(journals.MARK):
            os.utime(f"{stage.path}/journal/{name}", (0, 0))
    stage.act(stage.open)
    # Not done, and logged: whoever reaps does it, and only then is anything promised.
    stage.another().close()


def close_with_a_journal(stage: Stage) -> None:
    _has_one(stage)
    stage.act(stage.engine.close)  # the queue itself would be of no use any more


def _push(stage: Stage, count: int) -> None:
    bodies = stage.bodies(count)
    ids = stage.act(lambda: stage.q.push_many(bodies), pushing=bodies)
    stage.expect(ids and len(set(ids)) == count, "an id for each")


def _begin(stage: Stage) -> None:
    """The next push is worth a journal."""
    stage.disk.ordered = True
    stage.engine._store.journal._pushes = journals.PUSHES_BEFORE_JOURNAL


def _has_one(stage: Stage) -> journals.File:
    _begin(stage)
    stage.pushed(1)
    file = stage.engine._store.journal._desk.file
    assert isinstance(file, journals.File)
    return file


JOURNALED: Final = (
    push_making_a_journal,
    push_journaled,
    push_journaled_64,
    push_into_a_full_journal,
    push_after_the_mark_is_gone,
    open_replaying,
    close_with_a_journal,
)
