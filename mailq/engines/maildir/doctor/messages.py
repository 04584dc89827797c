"""The messages: one walk shows each to every check.

A queue may hold a million files: they are listed once, and only counts and a few names are kept.
"""

from __future__ import annotations

import heapq
import os
import stat
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from mailq import policy
from mailq.engines.maildir import names, reaper
from mailq.engines.maildir.doctor.context import Condition, Context, everything, fits
from mailq.engines.maildir.doctor.report import Check, Examples, Finding, Findings, Trouble, reap, spelled
from mailq.engines.maildir.doctor.structure import OWN_AGAIN
from mailq.engines.maildir.replies import is_reply
from mailq.errors import MailqError
from mailq.ids import NS
from mailq.message import STATES
from mailq.settings import LONGEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mailq.engines.maildir.names import MessageName
    from mailq.message import State

_BUDGET_FILES: Final = 2000
_BUDGET_BYTES: Final = 64 << 20
_SOON: Final = 60 * NS
"""A stamp that is ahead of the clock by fewer nanoseconds is not called the future: clocks differ a little."""

_GRACE: Final = 5.0
"""By this many seconds, and two reapings more, a lease may be overdue before it is said that nothing reaps."""

_DAY: Final = 86_400.0
_LONG_TIMES: Final = 10


class Seen(NamedTuple):
    """A message. ``foreign`` says that its name is not of the format; the envelope is then a guess.

    ``end`` is when its lease ends, if it is leased. ``condition`` is what is known of its content.
    """

    state: State
    path: str
    name: str
    status: os.stat_result
    envelope: MessageName
    foreign: bool
    end: int | None = None
    condition: Condition = "whole"


class Walk:
    """One walk through the messages. A file that goes away meanwhile is left out.

    The length of each is compared with its name. The checksum takes reading: by default that of
    the newest, since a power cut tears what was written last, up to a budget.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._found: defaultdict[Trouble, Examples] = defaultdict(Examples)
        self._newest: list[tuple[int, str, Seen]] = []
        self._files = self._read = 0
        self._strays = Examples()
        for state in STATES:
            for name, status in everything(context.layout.directory(state)):
                self._enter(state, name, status)
        left = _BUDGET_BYTES
        for _, _, seen in sorted(self._newest, reverse=True):
            if seen.status.st_size <= left:
                left -= seen.status.st_size
                self._see(self._opened(seen), _CONTENT)

    def _enter(self, state: State, name: str, status: os.stat_result) -> None:
        path = f"{self._context.layout.directory(state)}/{name}"
        if name[0] == "." or not stat.S_ISREG(status.st_mode):
            self._strays.add(self._context.short(path))
            return
        envelope = names.parse(name)
        foreign = envelope is None
        if envelope is None:
            envelope = names.from_dropped_file(
                name, visible_at=status.st_ctime_ns, size=status.st_size, number=status.st_ino
            )
        end = reaper.deadline(self._context.store, name, envelope) if state == "leased" else None
        seen = Seen(state, path, name, status, envelope, foreign, end)
        if not foreign:
            self._files += 1
            seen = self._weighed(seen)
        if end is not None and envelope.owner:
            self._context.note_lease(envelope.owner, is_overdue=_is_overdue(self._context, seen))
        self._see(seen, CHECKS)

    def _weighed(self, seen: Seen) -> Seen:
        """Compare the length; the content now with ``full``, else at the end if it is among the newest by then."""
        if not fits(seen.envelope, seen.status.st_size):
            return seen._replace(condition="torn")
        if self._context.full:
            return self._opened(seen)
        if seen.envelope.crc is not None:
            put = heapq.heappush if len(self._newest) < _BUDGET_FILES else heapq.heappushpop
            put(self._newest, (seen.status.st_ctime_ns, seen.path, seen))
        return seen

    def _opened(self, seen: Seen) -> Seen:
        self._read += 1
        return seen._replace(condition=self._context.condition_of(seen.path, seen.envelope))

    def _see(self, seen: Seen, checks: Iterable[Check[Trouble]]) -> None:
        for check in checks:
            for trouble in check.troubles:
                if trouble.look(self._context, seen):
                    self._note(seen, trouble)

    def _note(self, seen: Seen, trouble: Trouble) -> None:
        is_mended = False
        if self._context.fix and trouble.mend not in {None, reap}:
            try:
                is_mended = trouble.mend(self._context, seen)
            except FileNotFoundError:  # a consumer took it
                return
            except (MailqError, OSError):
                pass
        self._found[trouble].add(self._context.short(seen.path), seen.status.st_mtime_ns, is_mended=is_mended)

    def findings(self) -> Findings:
        """What there was. What a reaping mends is mended now, by one reaping."""
        for check in CHECKS:
            found = [(trouble, self._found[trouble]) for trouble in check.troubles if trouble in self._found]
            for trouble, examples in found:
                finding = trouble.finding(self._context, check.name, examples)
                if self._context.fix and trouble.mend is reap:
                    finding = finding._replace(fixed=reap(self._context))
                yield finding
            if not found:
                more = "" if self._read >= self._files else "; --full reads all"
                read = f"{self._read} of them read{more}"
                yield Finding(check.name, "ok", spelled(check.well, self._files).replace("{read}", read))

    def among(self, context: Context) -> Findings:
        """What is among the messages and not a message."""
        if self._strays.count:
            yield _AMONG.finding(context, "strays", self._strays)


def _strays_beside(context: Context) -> Iterator[str]:
    """What is in ``replies/`` and ``owners/``, and not named as a reply or an owner is."""
    for directory, is_ours in ((context.layout.replies, is_reply), (context.layout.owners, names.is_token)):
        for name, status in everything(directory):
            if not (stat.S_ISREG(status.st_mode) and is_ours(name)):
                yield context.short(f"{directory}/{name}")


# fmt: off
BESIDE: Final = Trouble(
    "warning", "in replies/ and owners/: {n} entr[y|ies] not named as ours: nothing reads or removes [it|them]",
    "move [it|them] out of the queue, or into new/ if [it is a message|they are messages]", _strays_beside)
_AMONG: Final = Trouble(
    "warning", "among the messages: {n} entr[y that is|ies that are] not a message: a symbolic link, directory, FIFO, socket, device or dot-name; nothing delivers or follows [it|them]",
    "move [it|them] out of the queue, or remove [it|them]")
# fmt: on


# Content


def _is_torn(context: Context, seen: Seen, *, is_kept: bool) -> bool:
    is_dead = seen.state == "dead"
    if seen.condition != "torn" or (is_dead and seen.envelope.reason == "torn"):
        return False  # among the dead as torn: that is where it belongs
    return is_kept == (is_dead or context.holds(seen.envelope.owner, seen.end))


def _bury(context: Context, seen: Seen) -> bool:
    """As a claim would that meets it; not as long as a journal may make it whole."""
    if not context.journals_are_done:
        return False
    text = f"the file has {seen.status.st_size} bytes and is not what its name says; 'mailq edit' re-seals it"
    context.store.settle(seen.path, seen.envelope, policy.undeliverable(seen.envelope, "torn"), text=text)
    return True


# Permissions


def _is_narrow(_: Context, seen: Seen) -> bool:
    return bool(0o600 & ~seen.status.st_mode)


def _is_wide(context: Context, seen: Seen) -> bool:
    wide = seen.status.st_mode & 0o077 & ~context.store.mode
    return bool(wide) and _can_be_entered(context) and not _is_narrow(context, seen)


def _can_be_entered(context: Context) -> bool:
    """Otherwise it does not matter what others may do with a file."""
    return bool(context.root_status.st_mode & 0o011)


def _set_mode(context: Context, seen: Seen) -> bool:
    """Through a descriptor, where it can be had: the name may be another file's by now."""
    disk, want = context.disk, context.store.mode
    if not hasattr(os, "geteuid") or seen.status.st_uid != os.geteuid():
        return False
    try:
        fd = disk.open_to_read(seen.path)
    except PermissionError:
        if _can_be_entered(context):
            raise
        disk.chmod(seen.path, want)
        return True
    try:
        status = os.fstat(fd)
        is_same = status.st_ino == seen.status.st_ino and status.st_nlink == 1
        if is_same:
            disk.chmod(fd, want)
        return is_same
    finally:
        disk.drop(fd)


def _is_of_others(context: Context, seen: Seen) -> bool:
    return seen.status.st_uid != context.root_status.st_uid and not context.store.mode & 0o060


# Times


def _is_ahead(context: Context, seen: Seen) -> bool:
    soon = context.now + _SOON
    place = seen.envelope.visible_at - (policy.ns(LONGEST) if seen.state == "delayed" else 0)
    # What died before it was due is not due any more. The mtime of a leased one is its deadline.
    return (
        (place > soon and seen.state != "dead")
        or seen.status.st_ctime_ns > soon
        or (seen.status.st_mtime_ns > soon and seen.state != "leased")
    )


def _is_late(context: Context, seen: Seen) -> bool:
    since = max(0 if seen.foreign else seen.envelope.visible_at, seen.status.st_ctime_ns)
    return seen.state == "delayed" and context.now > since + _SOON + policy.ns(2 * context.settings.reap_interval)


def _is_overdue(context: Context, seen: Seen) -> bool:
    grace = policy.ns(2 * context.settings.reap_interval + _GRACE)
    return seen.end is not None and context.now >= seen.end + grace


def _is_long(context: Context, seen: Seen) -> bool:
    usual = context.settings.lease if seen.envelope.lease is None else seen.envelope.lease
    return seen.end is not None and seen.end - context.now > policy.ns(max(_DAY, _LONG_TIMES * usual))


def _has_dead_holder(context: Context, seen: Seen) -> bool:
    return seen.end is not None and bool(seen.envelope.owner) and context.is_dead(seen.envelope.owner)


def _has_unknown_origin(context: Context, seen: Seen) -> bool:
    mark = seen.envelope.source_queue
    return bool(mark) and not os.path.isfile(f"{context.layout.origins}/{mark}")


# fmt: off
_CONTENT: Final = (
    Check("torn", "{n} message[|s] of the right length; {read}",
          Trouble("error", "{n} message[ is|s are] not what the name says, as a power cut leaves [it|them]; mailq does not deliver [it|them]",
                  "mailq doctor QUEUE --fix moves [it|them] to dead/; there, mailq edit QUEUE ID re-seals what can be mended",
                  partial(_is_torn, is_kept=False), _bury, "{n} moved to dead/, with the reason"),
          Trouble("warning", "{n} torn message[|s], leased or dead for another reason",
                  "mailq edit QUEUE ID re-seals a dead one; a leased one is looked at again when it comes back",
                  partial(_is_torn, is_kept=True))),
    Check("unreadable", "all that were tried can be read",
          Trouble("error", "{n} message[|s] cannot be read: claims move [it|them] to dead/",
                  "give their user back the permission to read: chmod u+rw; if it is the disk, see dmesg",
                  lambda _, seen: seen.condition == "unreadable")),
)

CHECKS: Final = (
    Check("file-permissions", "every file is its user's, as file_mode says",
          Trouble("error", "{n} file[|s] that [its|their] own user cannot read and write",
                  "chmod {mode}, or mailq doctor QUEUE --fix", _is_narrow, _set_mode, "set to {mode}"),
          Trouble("warning", "{n} file[ is|s are] open to more users than file_mode says",
                  "chmod {mode}, or mailq doctor QUEUE --fix", _is_wide, _set_mode, "set to {mode}"),
          Trouble("warning", "{n} file[ belongs|s belong] to another user than the queue: its consumers cannot read [it|them]",
                  OWN_AGAIN, _is_of_others)),
    *_CONTENT,
    Check("too-large", "no message is above max_message_bytes",
          Trouble("warning", "{n} message[ is|s are] larger than max_message_bytes: claims move [it|them] to dead/",
                  "mailq config QUEUE max_message_bytes BYTES",
                  lambda context, seen: seen.state != "dead" and seen.status.st_size > context.settings.max_message_bytes)),
    Check("foreign", "every name is of the format",
          Trouble("warning", "{n} name[|s] misspelled, or of another version of the format: delivered as [a new message|new messages], with another id and no attempts",
                  "mend the name[|s] (docs/disk-format.md), or leave [it|them]",
                  lambda _, seen: seen.foreign and names.looks_ours(seen.name)),
          Trouble("ok", "{n} file[|s] dropped in by hand, each a message",
                  "", lambda _, seen: seen.foreign and not names.looks_ours(seen.name))),
    Check("future", "no name and no stamp is ahead of the clock",
          Trouble("warning", "{n} file[|s] with a name or a stamp from the future: a clock was wrong, there or here; delivered last",
                  "set the clocks (timedatectl); nothing is lost by it", _is_ahead)),
    Check("expired", "no ready message outlived its ttl",
          Trouble("warning", "{n} ready message[|s] outlived the ttl: the next claim moves [it|them] to dead/",
                  "start a consumer; or raise the ttl",
                  lambda context, seen: (seen.state == "ready" and policy.has_expired(seen.envelope, context.settings, context.now)))),
    Check("overdue-delays", "no delayed message is late",
          Trouble("warning", "{n} delayed message[|s] came due and still wait[s|]: no consumer runs",
                  "start one, or: mailq reap QUEUE", _is_late, reap)),
    Check("dead-letters", "no message is dead",
          Trouble("warning", "{n} dead letter[|s], [|the oldest ]{age} old; [it stays|they stay] until you redrive or remove [it|them]",
                  "mailq ls QUEUE --state dead; then mailq redrive QUEUE --all, or mailq purge QUEUE --state dead",
                  lambda _, seen: seen.state == "dead")),
    Check("origins", "every message is this queue's, or its queue is known",
          Trouble("warning", "{n} message[|s] of other queues, and where these are is not known",
                  "each queue says so by itself when one of its consumers runs", _has_unknown_origin)),
    Check("orphans", "no lease is of a dead process",
          Trouble("warning", "{n} lease[ is|s are] of dead or unknown processes: each message is tried again",
                  "any consumer gives [it|them] back within seconds; with none: mailq reap QUEUE",
                  _has_dead_holder, reap)),
    Check("overdue", "no lease is overdue",
          Trouble("warning", "{n} lease[|s] ran out and nothing was given back: no consumer runs",
                  "start one, or: mailq reap QUEUE", _is_overdue, reap)),
    Check("long-leases", "every lease ends in time",
          Trouble("warning", "{n} lease[ ends|s end] only in more than a day, far beyond what the settings say",
                  "if no process works on [it|them]: mailq release QUEUE RECEIPT (the file's name)", _is_long)),
    Check("bare-claims", "none",
          Trouble("ok", "{n} leased message[|s] without an end, moved there by a script or by hand: back when the queue's lease is over",
                  "", lambda _, seen: seen.end is not None and seen.envelope.until is None)),
)
# fmt: on
