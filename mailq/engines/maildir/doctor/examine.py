"""The whole examination, from the ground up."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from typing import TYPE_CHECKING, TypeVar

from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.doctor import (
    duplicates,
    filesystem,
    leases,
    leftovers,
    messages,
    permissions,
    quarantine,
    resources,
    structure,
    walk,
)
from mailq.engines.maildir.doctor.context import Patient
from mailq.engines.maildir.doctor.finding import Finding
from mailq.engines.maildir.doctor.machine import Machine
from mailq.engines.maildir.files import Store
from mailq.engines.maildir.layout import Layout
from mailq.engines.maildir.line import Line
from mailq.engines.maildir.reaper import Reaper
from mailq.errors import MailqError
from mailq.ids import MonotonicIds

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from mailq.engines.base import Reaped
    from mailq.engines.maildir.doctor.finding import Findings

T = TypeVar("T")


def examine(
    path: str | os.PathLike[str],
    *,
    fix: bool = False,
    full: bool = False,
    clock: Callable[[], int] = time.time_ns,
    disk: Disk | None = None,
    machine: Machine | None = None,
) -> Iterator[Finding]:
    """Look at everything that can be wrong with the queue in a directory; yield what there is, ok or not.

    With ``fix``, mend what can be mended without deleting a message. By default the
    checksums of the newest messages are compared, with ``full`` those of all. Safe
    beside running producers and consumers. Never raises for what is wrong with the
    queue: that is a finding.
    """
    layout, disk, machine = Layout(os.fspath(path)), disk or Disk(), machine or Machine()
    named = shlex.quote(layout.root)
    for finding in _examine(layout, disk, machine, clock, fix=fix, full=full):
        yield finding._replace(todo=finding.todo.replace("QUEUE", named))


def _examine(
    layout: Layout, disk: Disk, machine: Machine, clock: Callable[[], int], *, fix: bool, full: bool
) -> Iterator[Finding]:
    disk.give_to_owner_of(layout.root)
    mend = fix and permissions.may_mend(layout, disk)
    marker = yield from _carefully("marker", structure.examine_marker(layout, disk, fix=mend))
    if marker is None:
        return
    linked = structure.linked(layout)
    if linked is not None:
        yield linked
        return
    settings, mount = marker.settings, machine.mount_of(layout.root)
    yield from _carefully("permissions", permissions.examine(layout, disk, settings, fix=mend))
    yield from _carefully("directories", structure.examine_directories(layout, disk, settings, machine, fix=mend))
    store, writable = Store(layout, disk, clock, MonotonicIds(clock), marker), permissions.may_write(layout)
    patient = Patient(store, machine, mount, clock(), mend and writable, full, writable)
    yield from _carefully("fsync", resources.examine(patient))
    # After a sync: only then does ext4 say what it makes of one.
    yield from _carefully("file-system", filesystem.examine(layout, settings, machine, mount))
    yield from _carefully("spares", leftovers.examine_spares(patient))
    is_done = yield from _carefully("journals", leftovers.examine_journals(patient))
    patient = patient._replace(torn_for_good=bool(is_done))
    yield from _carefully("messages", _examine_messages(patient))
    for name, check in (
        ("dead-letter-queue", leftovers.examine_home),
        ("replies", leftovers.examine_replies),
        ("reap-lock", leftovers.examine_turn),
        ("paused", leftovers.examine_pause),
        ("strangers", leftovers.examine_strangers),
        ("aside", quarantine.examine),
    ):
        yield from _carefully(name, check(patient))


def _carefully(check: str, findings: Generator[Finding, None, T]) -> Generator[Finding, None, T | None]:
    """What a check finds; that it could not look is a finding too."""
    try:
        return (yield from findings)
    except (MailqError, OSError) as error:
        yield Finding(check, "error", f"this could not be examined: {error}", "see dmesg, and the permissions")
        return None


def _examine_messages(patient: Patient) -> Findings:
    """All that takes looking at every message: the copies first, so that a torn one gives way to a whole one."""
    ids = duplicates.list_ids(patient)
    copies = list(_carefully("duplicates", duplicates.examine(patient, ids)))
    yield from copies
    if any(finding.open for finding in copies):
        # Two files of one message would come to have one name, and a rename replaces in silence.
        patient = patient._replace(fix=False)
    held, waiting = leases.Leases(patient), leases.Waiting(patient)
    seen = (
        messages.Shut(patient),
        messages.Torn(patient),
        messages.TooLarge(patient),
        messages.Foreign(patient),
        messages.Future(patient),
    )
    dead = leftovers.Dead(patient)
    walked = walk.walk(patient, (*seen, held, waiting, dead))
    for collector in seen:
        yield from collector.findings()
    yield from messages.examine_strays(patient, walked)
    yield from resources.examine_swelling(patient)
    yield from leftovers.examine_texts(patient, ids)
    owners, litter = leases.Owners(patient, held), leftovers.Litter(patient)
    reaped = None
    if patient.fix and any(one.to_reap for one in (held, waiting, owners, litter)):
        reaped = _reap(patient)
    yield from held.findings(reaped)
    yield from owners.findings(reaped)
    yield from waiting.findings(reaped)
    yield from litter.findings(swept=reaped is not None)
    yield from dead.findings()


def _reap(patient: Patient) -> Reaped | None:
    with contextlib.suppress(MailqError, OSError):  # then nothing was fixed, and the findings say so
        return Reaper(patient.store, Line(patient.store)).reap()
    return None
