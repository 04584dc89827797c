"""Who holds what: owners that are dead or stuck, leases that are overdue or have no end."""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING, Final, NamedTuple

from mailq import policy
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import leases, names, reaper
from mailq.engines.maildir.doctor.finding import Finding, Sample, plural
from mailq.engines.maildir.doctor.listing import messages
from mailq.ids import NS

if TYPE_CHECKING:
    from mailq.engines.base import Reaped
    from mailq.engines.maildir.doctor.context import Patient
    from mailq.engines.maildir.doctor.finding import Findings
    from mailq.engines.maildir.doctor.walk import Seen

_GRACE: Final = 5.0
"""So many seconds, and two reapings more, a lease may be overdue before it is said that nobody reaps."""

_LONG: Final = 86_400.0
_LONG_TIMES: Final = 10
_MOST_OWNERS: Final = 10_000
_DAY: Final = 86_400.0
_STORY: Final = 65_536


class _Holder:
    """What one owner holds."""

    def __init__(self) -> None:
        self.leases = 0
        self.overdue = 0


class Leases:
    """The leased messages."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._overdue, self._bare, self._long, self._orphans = Sample(), Sample(), Sample(), Sample()
        self._holders: dict[str, _Holder] = {}
        self._dead: dict[str, bool] = {}

    def holder(self, token: str) -> _Holder:
        """What an owner holds, as far as it was seen."""
        return self._holders.get(token) or _Holder()

    def see(self, seen: Seen) -> None:
        """Look at one."""
        if seen.state != "leased":
            return
        end = reaper.deadline(self._patient.store, seen.name, seen.envelope)
        if end is None:
            return  # settled meanwhile
        now, settings = self._patient.now, self._patient.settings
        short = self._patient.short(seen.path)
        late = now >= end + policy.ns(2 * settings.reap_interval + _GRACE)
        if late:
            self._overdue.add(short)
        usual = settings.lease if seen.envelope.lease is None else seen.envelope.lease
        if end - now > policy.ns(max(_LONG, _LONG_TIMES * usual)):
            self._long.add(short)
        if seen.envelope.until is None:
            self._bare.add(short)
        if seen.envelope.owner:
            self._of_an_owner(seen.envelope.owner, short, late=late)

    def _of_an_owner(self, token: str, short: str, *, late: bool) -> None:
        if len(self._holders) < _MOST_OWNERS:
            holder = self._holders.setdefault(token, _Holder())
            holder.leases += 1
            holder.overdue += late
        if token not in self._dead:
            if len(self._dead) >= _MOST_OWNERS:
                self._dead.clear()
            self._dead[token] = self._patient.is_dead(token)
        if self._dead[token]:
            self._orphans.add(short)

    @property
    def to_reap(self) -> bool:
        """Whether there is something that a reaping would give back."""
        return bool(self._overdue.count or self._orphans.count)

    def findings(self, reaped: Reaped | None) -> Findings:
        """What there was; ``reaped`` is what was done about it."""
        fixed = told(reaped)
        if self._orphans.count:
            yield self._orphans.finding(
                "orphans",
                "warning",
                f"{plural(self._orphans.count, 'lease is', 'leases are')} of dead or unknown processes: each message is tried again",
                "any consumer gives them back within seconds; with none: mailq reap QUEUE",
                fixed=fixed,
            )
        else:
            yield Finding("orphans", "ok", "no lease is a dead owner's")
        if self._overdue.count:
            yield self._overdue.finding(
                "overdue",
                "warning",
                f"{plural(self._overdue.count, 'lease')} ran out and nothing was given back: no consumer runs",
                "start one, or: mailq reap QUEUE",
                fixed=fixed,
            )
        else:
            yield Finding("overdue", "ok", "no lease is overdue")
        if self._long.count:
            yield self._long.finding(
                "long-leases",
                "warning",
                f"{plural(self._long.count, 'lease ends', 'leases end')} only in more than a day, far beyond what the settings say",
                "if nobody works on them: mailq release QUEUE RECEIPT (the file's name)",
            )
        else:
            yield Finding("long-leases", "ok", "every lease ends in time")
        text = "none"
        if self._bare.count:
            text = f"{plural(self._bare.count, 'message')} without an end: moved there by a script or by hand: back when the queue's lease is over"
        yield self._bare.finding("bare-claims", "ok", text)


class _Known(NamedTuple):
    """An owner's file. ``here`` says that it runs, or ran, where its lock can be seen from here.

    ``stopped`` is what this machine says of its process, if it can say so.
    """

    token: str
    pid: object
    here: bool
    dead: bool
    stopped: bool
    age: float


class Owners:
    """The processes that have a file in ``owners/``, as they are when this is made."""

    def __init__(self, patient: Patient, leases: Leases) -> None:
        self._dead, self._stuck, self._elsewhere, self._left = Sample(), Sample(), Sample(), Sample()
        self._ended, self._stopped = Sample(), Sample()
        self._to_sweep: list[str] = []
        self._alive = 0
        for entry in messages(patient.layout.owners):
            owner = _read(patient, entry) if names.is_token(entry.name) else None
            if owner is None:
                continue
            if owner.dead:
                self._to_sweep.append(entry.path)
            self._sort(owner, patient.short(entry.path), leases.holder(owner.token))

    def _sort(self, owner: _Known, short: str, holds: _Holder) -> None:
        if owner.dead:
            (self._dead if holds.leases else self._ended).add(short)
        elif not owner.here:
            (self._left if owner.age > _DAY and not holds.leases else self._elsewhere).add(short)
        elif owner.stopped:
            self._stopped.add(f"{short} (pid {owner.pid})")
        elif holds.overdue:
            self._stuck.add(f"{short} (pid {owner.pid})")
        else:
            self._alive += 1

    @property
    def to_reap(self) -> bool:
        """Whether there is something that a reaping would remove."""
        return bool(self._to_sweep)

    def _owners(self, reaped: Reaped | None) -> Finding:
        """Who is dead. A process that ended without a close, holding nothing, is as ordinary as one that runs."""
        fixed = None if reaped is None or any(map(os.path.lexists, self._to_sweep)) else "removed"
        if self._dead.count:
            what = f"{plural(self._dead.count, 'process', 'processes')} died with leases that nobody gave back"
            todo = "any consumer does; with none: mailq reap QUEUE"
            return self._dead.finding("owners", "warning", what, todo, fixed=fixed)
        what = f"{plural(self._alive, 'process uses', 'processes use')} the queue from here"
        if not self._ended.count:
            return Finding("owners", "ok", f"{what}, none is dead")
        what += f"; {self._ended.count} ended without a close: the next consumer removes what is left of it"
        return self._ended.finding("owners", "ok", what, fixed=fixed)

    def findings(self, reaped: Reaped | None) -> Findings:
        """What there was; ``reaped`` is what was done about it."""
        yield self._owners(reaped)
        yield from self._stuck_ones()
        yield from self._others()

    def _stuck_ones(self) -> Findings:
        if self._stopped.count:
            yield self._stopped.finding(
                "stuck-owners",
                "warning",
                f"{plural(self._stopped.count, 'process is', 'processes are')} stopped, and so is the work on what "
                "they hold, until the leases run out",
                "kill -CONT PID, if a signal or Ctrl-Z has stopped it; or kill -KILL PID: then it is given back at once",
            )
        if self._stuck.count:
            yield self._stuck.finding(
                "stuck-owners",
                "warning",
                f"{plural(self._stuck.count, 'process lives and lets', 'processes live and let')} leases run out: hung, stopped, or too slow",
                "look at them (mailq workers QUEUE; py-spy dump --pid PID), kill them, or raise the lease",
            )
        if not self._stuck.count and not self._stopped.count:
            yield Finding("stuck-owners", "ok", "no live owner lets its leases run out")

    def _others(self) -> Findings:
        if self._left.count:
            yield self._left.finding(
                "other-hosts",
                "warning",
                f"{plural(self._left.count, 'owner')} of other hosts, older than a day and without leases: left behind, "
                "copied along, or of before a restart, on a network disk",
                "if they do not run any more: remove these files",
            )
            return
        text = "none"
        if self._elsewhere.count:
            text = f"{plural(self._elsewhere.count, 'owner')} on other hosts: their leases end by time alone"
        yield self._elsewhere.finding("other-hosts", "ok", text)


def _read(patient: Patient, entry: os.DirEntry[str]) -> _Known | None:
    data = layouts.read_small(patient.store.disk, entry.path, _STORY)
    status = layouts.status_of(entry.path)
    if data is None or status is None:
        return None
    try:
        story = json.loads(data)
    except (ValueError, RecursionError):
        story = None
    story = story if isinstance(story, dict) else {}
    here, pid = leases.runs_here(patient.layout, data), story.get("pid", "?")
    # Another container under this kernel counts its processes by other numbers.
    is_counted_here = here and story.get("host") == platform.node()
    stopped = is_counted_here and isinstance(pid, int) and patient.machine.is_stopped(pid)
    age = (patient.now - status.st_mtime_ns) / NS
    return _Known(entry.name, pid, here, patient.is_dead(entry.name), stopped, age)


def told(reaped: Reaped | None) -> str | None:
    """What a reaping did, for a person."""
    if reaped is None:
        return None
    return f"reaped: {reaped.returned} to be tried again, {reaped.died} dead, {reaped.due} due"


class Waiting:
    """Delayed messages whose time came long ago, and ready ones whose time is over."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._due, self._expired = Sample(), Sample()

    def see(self, seen: Seen) -> None:
        """Look at one."""
        now, settings = self._patient.now, self._patient.settings
        if seen.state == "delayed":
            place = 0 if seen.foreign else seen.envelope.visible_at
            since = max(place, seen.status.st_ctime_ns)
            if now > since + policy.ns(60.0 + 2 * settings.reap_interval):
                self._due.add(self._patient.short(seen.path))
        elif seen.state == "ready" and policy.has_expired(seen.envelope, settings, now):
            self._expired.add(self._patient.short(seen.path))

    @property
    def to_reap(self) -> bool:
        """Whether there is something that a reaping would ready."""
        return bool(self._due.count)

    def findings(self, reaped: Reaped | None) -> Findings:
        """What there was."""
        if self._due.count:
            yield self._due.finding(
                "overdue-delays",
                "warning",
                f"{plural(self._due.count, 'delayed message')} came due and still wait: no consumer runs",
                "start one, or: mailq reap QUEUE",
                fixed=told(reaped),
            )
        else:
            yield Finding("overdue-delays", "ok", "no delayed message is late")
        if self._expired.count:
            yield self._expired.finding(
                "expired",
                "warning",
                f"{plural(self._expired.count, 'ready message')} outlived the ttl: the next claim moves such a message to dead/",
                "start one; or raise the ttl",
            )
        else:
            yield Finding("expired", "ok", "no ready message outlived its ttl")
