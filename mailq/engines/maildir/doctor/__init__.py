"""What is wrong with a queue on disk, what it means, what to do; and doing it.

It works on what cannot be opened any more, and beside what is running. It never
deletes a message.
"""

from __future__ import annotations

import os
import shlex
import time
from typing import TYPE_CHECKING, Any

from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.doctor import duplicates, filesystem, leases, leftovers, messages, structure
from mailq.engines.maildir.doctor.context import Context
from mailq.engines.maildir.doctor.machine import Machine
from mailq.engines.maildir.doctor.report import Check, Finding, Findings, carefully, run
from mailq.engines.maildir.files import Store
from mailq.engines.maildir.layout import Layout
from mailq.ids import MonotonicIds

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["Finding", "examine"]


def examine(
    path: str | os.PathLike[str],
    *,
    fix: bool = False,
    full: bool = False,
    clock: Callable[[], int] = time.time_ns,
    disk: Disk | None = None,
    machine: Machine | None = None,
) -> Findings:
    """Look at everything that can be wrong with the queue in a directory; yield what there is, ok or not.

    With ``fix``, mend what can be mended without deleting a message. By default the
    checksums of the newest messages are compared, with ``full`` those of all. Safe
    beside running producers and consumers. Never raises for what is wrong with the
    queue: that is a finding.
    """
    layout, disk, machine = Layout(os.fspath(path)), disk or Disk(), machine or Machine()
    named = shlex.quote(layout.root)
    for finding in _examine(layout, disk, machine, clock, fix=fix, full=full):
        yield finding._replace(remedy=finding.remedy.replace("QUEUE", named))


def _examine(
    layout: Layout, disk: Disk, machine: Machine, clock: Callable[[], int], *, fix: bool, full: bool
) -> Findings:
    disk.give_to_owner_of(layout.root)
    fix = fix and not structure.is_root_elsewhere(disk, layout.root)
    marker = yield from carefully("marker", structure.examine_marker(layout, disk, fix=fix))
    if marker is None:
        return
    if (linked := structure.linked(layout)) is not None:
        yield linked
        return
    context = Context(Store(layout, disk, clock, MonotonicIds(clock), marker), machine, fix=fix, full=full)
    yield from run(context, structure.CHECKS)
    context.fix = fix = fix and context.writable
    yield from run(context, (*filesystem.CHECKS, *leftovers.BEFORE))
    yield from carefully("messages", _examine_messages(context))
    context.fix = fix
    yield from run(context, leftovers.CHECKS)


def _examine_messages(context: Context) -> Generator[Finding, None, None]:
    """All that takes looking at every message: the copies first, so that a torn one gives way to a whole one."""
    copies = list(duplicates.examine(context))
    yield from copies
    if any(finding.open for finding in copies):
        # Two files of one message would come to have one name, and a rename replaces in silence.
        context.fix = False
    walk = messages.Walk(context)
    strays = Check[Any]("strays", "nothing among the messages is anything else", messages.BESIDE, walk.among)
    # What a reaping mends is found first, and mended by one reaping.
    yield from run(context, (strays, filesystem.SWOLLEN, *leases.CHECKS, *leftovers.AMONG))
    yield from walk.findings()
