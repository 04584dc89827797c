"""What lies around the messages: litter, texts, replies, the dead and where they go, a pause, strangers."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import dead_letters, names, reaper
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.compaction import Remaking, holds_any, spares_of
from mailq.engines.maildir.doctor.finding import Finding, Sample, plural
from mailq.engines.maildir.doctor.listing import everything
from mailq.engines.maildir.recovery import replay
from mailq.engines.maildir.remains import left_behind, strangers
from mailq.engines.maildir.replies import is_reply
from mailq.errors import MailqError
from mailq.ids import NS, is_id

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from mailq.engines.maildir.doctor.context import Patient
    from mailq.engines.maildir.doctor.duplicates import Ids
    from mailq.engines.maildir.doctor.finding import Findings
    from mailq.engines.maildir.doctor.walk import Seen

BENCH: Final = ".mailq-bench-"
"""So begins the name of the directory that ``mailq bench`` works in."""

_DAY: Final = 86_400.0
_HOUR: Final = 3600.0
_SWEEP_SHARE: Final = 1.2
_MOST_MARKS: Final = 10_000
_MINUTE: Final = 60.0


class Dead:
    """The dead letters, and the queues that dead letters came from."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._found, self._unknown = Sample(), Sample()
        self._oldest: int | None = None
        self._origins: dict[str, bool] = {}

    def see(self, seen: Seen) -> None:
        """Look at one."""
        if seen.state == "dead":
            self._found.add(self._patient.short(seen.path))
            self._oldest = min(self._oldest or seen.status.st_mtime_ns, seen.status.st_mtime_ns)
        mark = seen.envelope.source_queue
        if mark:
            if len(self._origins) >= _MOST_MARKS:
                self._origins.clear()
            if mark not in self._origins:
                self._origins[mark] = os.path.isfile(f"{self._patient.layout.origins}/{mark}")
            if not self._origins[mark]:
                self._unknown.add(self._patient.short(seen.path))

    def findings(self) -> Findings:
        """What there was."""
        if self._found.count and self._oldest is not None:
            age = max(0, self._patient.now - self._oldest) / NS
            yield self._found.finding(
                "dead-letters",
                "warning",
                f"{plural(self._found.count, 'message is', 'messages are')} dead, the oldest for {_age(age)}: nobody delivers",
                "mailq ls QUEUE --state dead; then mailq redrive QUEUE --all, or mailq purge QUEUE --state dead",
            )
        else:
            yield Finding("dead-letters", "ok", "no message is dead")
        if self._unknown.count:
            yield self._unknown.finding(
                "origins",
                "warning",
                f"{plural(self._unknown.count, 'message')} of other queues, of which it is not known where they are",
                "each queue says so by itself when one of its consumers runs",
            )
        else:
            yield Finding("origins", "ok", "every message is this queue's, or it is known whose")


def examine_home(patient: Patient) -> Findings:
    """Look whether the dead can go where the settings send them."""
    home = dead_letters.home_of(patient.layout, patient.settings)
    if home is None:
        yield Finding("dead-letter-queue", "ok", "the dead stay in dead/")
        return
    todo = f"mailq init {shlex.quote(home.root)}, or mailq config QUEUE dead_letters none"
    try:
        layouts.load(home, patient.store.disk)
        apart = os.stat(home.new).st_dev != os.stat(patient.layout.root).st_dev
    except (MailqError, OSError) as error:
        what = f"the dead stay here: {home.root} cannot be used: {error}"
        yield Finding("dead-letter-queue", "warning", what, todo)
        return
    if apart:
        what = f"the dead stay here: {home.root} is on another file system"
        yield Finding(
            "dead-letter-queue", "warning", what, "choose a queue on the same one: mailq config QUEUE dead_letters PATH"
        )
    elif not os.access(home.new, os.W_OK | os.X_OK):
        yield Finding("dead-letter-queue", "warning", f"the dead stay here: {home.root} may not be written", todo)
    else:
        yield Finding("dead-letter-queue", "ok", f"the dead go to {home.root}")


class Litter:
    """What dead producers left in ``tmp/``, and a killed ``mailq bench`` beside it."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._ours, self._others = Sample(), Sample()
        horizon = patient.now / NS - reaper.LITTER_AGE
        for name, status in _files(patient.layout.tmp):
            if max(status.st_mtime, status.st_ctime) < horizon:
                (self._ours if reaper.is_litter(name) else self._others).add(f"tmp/{name}")
        self._benches = Sample()
        with os.scandir(patient.layout.root) as scan:
            for entry in scan:
                if entry.name.startswith(BENCH) and _mtime(entry) < patient.now / NS - _HOUR:
                    self._benches.add(entry.name)

    @property
    def to_reap(self) -> bool:
        """Whether there is something that a reaping would remove."""
        return bool(self._ours.count)

    def findings(self, *, swept: bool) -> Findings:
        """What there was."""
        if self._ours.count:
            yield self._ours.finding(
                "litter",
                "warning",
                f"{plural(self._ours.count, 'file')} in tmp/ older than a day: what killed producers were writing",
                "any consumer removes it; with none: mailq reap QUEUE",
                fixed="removed" if swept and not Litter(self._patient).to_reap else None,
            )
        if self._others.count:
            yield self._others.finding(
                "litter",
                "warning",
                f"{plural(self._others.count, 'file')} in tmp/ older than a day and not named as ours: left alone",
                "remove them, or move them into new/ if they are messages",
            )
        if self._benches.count:
            yield self._benches.finding(
                "litter",
                "warning",
                f"{plural(self._benches.count, 'directory', 'directories')} of a 'mailq bench' that was killed, or is still at it after an hour",
                f"if none runs: rm -r QUEUE/{BENCH}*",
            )
        if not self._ours.count and not self._others.count and not self._benches.count:
            yield Finding("litter", "ok", "nothing old is in tmp/")


def examine_texts(patient: Patient, ids: Ids) -> Findings:
    """Error texts whose messages are gone."""
    found = Sample()
    horizon = patient.now / NS - _DAY
    for name, status in _files(patient.layout.errors):
        id = name.partition(".")[0]
        if status.st_mtime < horizon and is_id(id) and id not in ids:
            found.add(f"errors/{name}")
    if not found.count:
        yield Finding("error-texts", "ok", "every old error text has its message")
        return
    yield found.finding(
        "error-texts",
        "warning",
        f"{plural(found.count, 'error text')} older than a day, of messages that are gone",
        "nothing reads them; remove them when you like",
    )


def examine_replies(patient: Patient) -> Findings:
    """Replies that nobody fetched and nobody swept."""
    found = Sample()
    ttl = patient.settings.reply_ttl
    horizon = patient.now / NS - ttl * _SWEEP_SHARE - 2 * _MINUTE
    removed = 0
    for name, status in _files(patient.layout.replies):
        if status.st_mtime < horizon and is_reply(name):
            found.add(f"replies/{name}")
            if patient.fix:
                with contextlib.suppress(OSError):
                    patient.store.disk.unlink(f"{patient.layout.replies}/{name}")
                    removed += 1
    if not found.count:
        yield Finding("replies", "ok", "no reply is older than reply_ttl")
        return
    yield found.finding(
        "replies",
        "warning",
        f"{plural(found.count, 'reply', 'replies')} older than reply_ttl: nobody asks for them any more",
        "they go when the next reply is written, or with mailq doctor QUEUE --fix",
        fixed=f"{removed} removed" if removed else None,
    )


def examine_turn(patient: Patient) -> Findings:
    """The stamp of the last reaping."""
    status = layouts.status_of(patient.layout.reap_lock)
    if status is None or status.st_mtime_ns <= patient.now + NS:
        yield Finding("reap-lock", "ok", "its stamp is not ahead of the clock")
        return
    fixed = None
    if patient.fix:
        with contextlib.suppress(OSError):
            patient.store.disk.utime(patient.layout.reap_lock, patient.now)
            fixed = "set to now"
    ahead = (status.st_mtime_ns - patient.now) / NS
    yield Finding(
        "reap-lock",
        "warning",
        f"the last reaping was {ahead:.0f} s in the future: a clock was wrong; consumers reap all the same",
        "set the clocks (timedatectl); mailq doctor QUEUE --fix sets the stamp",
        fixed,
        paths=(".reap.lock",),
    )


def examine_pause(patient: Patient) -> Findings:
    """Whether anything is delivered at all."""
    try:
        since = os.lstat(patient.layout.paused).st_mtime_ns
    except OSError:
        yield Finding("paused", "ok", "messages are delivered")
        return
    what = f"nothing is delivered, since {names.format_time(max(0, since))[:15]}Z: the queue is paused"
    yield Finding("paused", "warning", what, "mailq resume QUEUE", paths=("paused",))


def examine_spares(patient: Patient) -> Findings:
    """What somebody left who died while he made a swollen directory anew."""
    found = Sample()
    for path in filter(holds_any, spares_of(patient.layout)):  # an empty one the consumers remove when it is old
        found.add(os.path.basename(path))
    if not found.count:
        yield Finding("spares", "ok", "no directory is half made anew")
        return
    if patient.fix:
        Remaking(patient.store).recover()
    fixed = "taken over" if patient.fix and not any(map(holds_any, spares_of(patient.layout))) else None
    what = f"{plural(found.count, 'directory', 'directories')} half made anew: a message in there is not delivered yet"
    todo = "the next consumer takes it over, or mailq doctor QUEUE --fix"
    yield found.finding("spares", "warning", what, todo, fixed=fixed)


def examine_journals(patient: Patient) -> Generator[Finding, None, bool]:
    """What producers left behind who were killed, or whose machine lost its power; and what is no journal.

    Returns whether what is torn after that stays so.
    """
    disk, found, strange, is_done = patient.store.disk, Sample(), Sample(), True
    for path in left_behind(patient.layout, disk):
        found.add(patient.short(path))
    for path in strangers(patient.layout, disk):
        strange.add(patient.short(path))
    if found.count:
        if patient.fix:
            is_done = replay(patient.store, waits=True)
        fixed = "replayed" if patient.fix and not left_behind(patient.layout, disk) else None
        what = f"{plural(found.count, 'journal')} of dead producers: after a power cut messages may be in there alone"
        todo = "whoever opens the queue next replays them, or mailq doctor QUEUE --fix"
        yield found.finding("journals", "warning", what, todo, fixed=fixed)
    if strange.count:
        what = f"{plural(strange.count, 'entry', 'entries')} in journal/ not a journal: nobody replays or removes it"
        yield strange.finding("journals", "warning", what, "move it out of the queue, or remove it")
    if not found.count and not strange.count:
        yield Finding("journals", "ok", "no journal waits to be replayed")
    return is_done


def examine_strangers(patient: Patient) -> Findings:
    """What is in the queue's directory and not mailq's."""
    found = Sample()
    with os.scandir(patient.layout.root) as scan:
        for entry in scan:
            if entry.name not in layouts.OWN and entry.name[0] != ".":
                found.add(entry.name)
    if not found.count:
        yield Finding("strangers", "ok", "nothing else is in the queue's directory")
        return
    what = f"{plural(found.count, 'entry', 'entries')} in the queue's directory that mailq does not know"
    yield found.finding(
        "strangers", "warning", what, "keep your own files outside the queue: a later mailq may use the name"
    )


def _age(seconds: float) -> str:
    for unit, length in (("days", _DAY), ("hours", _HOUR), ("minutes", _MINUTE)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _mtime(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:  # it goes just now: it is not old
        return float("inf")


def _files(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    """The regular files in a directory, dot-names too."""
    return ((name, status) for name, status in everything(directory) if stat.S_ISREG(status.st_mode))
