"""What lies around the messages: journals, litter, texts, replies, the dead-letter queue, a pause, and what is not mailq's."""

from __future__ import annotations

import contextlib
import os
import shlex
from functools import partial
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import dead_letters, names, reaper
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.compaction import Compaction, holds_any, retired_directories
from mailq.engines.maildir.doctor.context import Context, message_files, old_files
from mailq.engines.maildir.doctor.report import Check, Finding, Findings, Trouble, reap
from mailq.engines.maildir.remains import orphaned_journals, unknown_entries
from mailq.engines.maildir.replies import is_reply
from mailq.errors import MailqError
from mailq.ids import NS, is_id

if TYPE_CHECKING:
    from collections.abc import Iterator


BENCH: Final = ".mailq-bench-"
"""So begins the name of the directory that ``mailq bench`` works in."""

_DAY: Final = 86_400.0
_HOUR: Final = 3600.0
_SWEEP_SHARE: Final = 1.2
_MINUTE: Final = 60.0


def _spares(context: Context) -> Iterator[str]:
    """The directories that hold messages and are half remade; the consumers remove an empty one when it is old."""
    return (os.path.basename(path) for path in retired_directories(context.layout) if holds_any(path))


def _litter(context: Context, *, is_ours: bool) -> Iterator[str]:
    horizon = context.now / NS - reaper.LITTER_AGE
    for name, status in old_files(context.layout.tmp, horizon):
        if status.st_ctime < horizon and reaper.is_litter(name) == is_ours:
            yield f"tmp/{name}"


def _benches(context: Context) -> Iterator[str]:
    for entry in os.scandir(context.layout.root):
        if entry.name.startswith(BENCH):
            with contextlib.suppress(FileNotFoundError):  # it goes just now: it is not old
                if entry.stat(follow_symlinks=False).st_mtime < context.now / NS - _HOUR:
                    yield entry.name


def _texts(context: Context) -> Iterator[str]:
    for name, _ in old_files(context.layout.errors, context.now / NS - _DAY):
        if is_id(id := name.partition(".")[0]) and id not in context.ids:
            yield f"errors/{name}"


def _dead_letter_queue(context: Context) -> Findings:
    """Whether the dead can go where the settings send them."""
    home = dead_letters.shared_queue(context.layout, context.settings)
    if home is None:
        return
    try:
        layouts.load(home, context.disk)
        is_apart = os.stat(home.new).st_dev != os.stat(context.layout.root).st_dev
        is_shut = not os.access(home.new, os.W_OK | os.X_OK)
        why = "is on another file system" if is_apart else "may not be written" if is_shut else ""
    except (MailqError, OSError) as error:
        why = f"cannot be used: {error}"
    if why:
        remedy = f"mailq init {shlex.quote(home.root)}, or another one on this file system: mailq config QUEUE dead_letters PATH"
        yield Finding("dead-letter-queue", "warning", f"the dead stay here: {home.root} {why}", remedy)


def _replies(context: Context) -> Iterator[str]:
    horizon = context.now / NS - context.settings.reply_ttl * _SWEEP_SHARE - 2 * _MINUTE
    return (f"replies/{name}" for name, _ in old_files(context.layout.replies, horizon) if is_reply(name))


def _remove_replies(context: Context) -> None:
    for name in _replies(context):
        with contextlib.suppress(OSError):
            context.disk.unlink(f"{context.layout.root}/{name}")


def _reap_lock(context: Context) -> Iterator[str]:
    status = layouts.status_of(context.layout.reap_lock)
    if status is not None and status.st_mtime_ns > context.now + NS:
        yield context.short(context.layout.reap_lock)


def _pause(context: Context) -> Findings:
    with contextlib.suppress(OSError):
        since = names.format_time(max(0, os.lstat(context.layout.paused).st_mtime_ns))[:15]
        what = f"nothing is delivered, since {since}Z: the queue is paused"
        yield Finding("paused", "warning", what, "mailq resume QUEUE", paths=("paused",))


def _strangers(context: Context) -> Iterator[str]:
    return (name for name in os.listdir(context.layout.root) if name not in layouts.OWN and name[0] != ".")


def _aside(context: Context) -> Iterator[str]:
    aside = context.layout.aside
    with contextlib.suppress(OSError):
        for name in [] if os.path.islink(aside) else sorted(os.listdir(aside)):
            if not os.path.islink(f"{aside}/{name}"):
                yield from (context.short(entry.path) for entry in message_files(f"{aside}/{name}"))


# fmt: off
BEFORE: Final = (
    Check("spares", "no directory is half remade",
          Trouble("warning", "{n} director[y|ies] half remade: the messages in there are not delivered yet",
                  "the next consumer takes [it|them] over, or mailq doctor QUEUE --fix",
                  _spares, lambda context: Compaction(context.store).recover(), "taken over")),
    Check("journals", "no journal waits to be replayed",
          Trouble("warning", "{n} journal[|s] of dead producers: after a power cut messages may be in there alone",
                  "the process that opens the queue next replays [it|them], or mailq doctor QUEUE --fix",
                  lambda context: map(context.short, orphaned_journals(context.layout, context.disk)),
                  lambda context: context.journals_are_done, "replayed"),
          Trouble("warning", "{n} entr[y|ies] in journal/ not a journal: nothing replays or removes [it|them]",
                  "move [it|them] out of the queue, or remove [it|them]",
                  lambda context: map(context.short, unknown_entries(context.layout, context.disk)))),
)
"""What may hold messages, or make them whole."""

AMONG: Final = (
    Check("error-texts", "every old error text has its message",
          Trouble("warning", "{n} error text[|s] older than a day, of messages that are gone",
                  "nothing reads [it|them]; remove [it|them] when you like", _texts)),
    Check("litter", "nothing old is in tmp/",
          Trouble("warning", "{n} file[|s] in tmp/ older than a day: what killed producers were writing",
                  "any consumer removes [it|them]; with none: mailq reap QUEUE",
                  partial(_litter, is_ours=True), reap, "removed"),
          Trouble("warning", "{n} file[|s] in tmp/ older than a day and not named as ours: left alone",
                  "remove [it|them], or move [it|them] into new/ if [it is a message|they are messages]",
                  partial(_litter, is_ours=False)),
          Trouble("warning", "{n} director[y|ies] of a 'mailq bench' that was killed, or is still at it after an hour",
                  f"if none runs: rm -r QUEUE/{BENCH}*", _benches)),
)
"""What is looked at with the messages."""

CHECKS: Final = (
    Check("dead-letter-queue", "the dead can go where the settings send them", _dead_letter_queue),
    Check("replies", "no reply is older than reply_ttl",
          Trouble("warning", "{n} repl[y|ies] older than reply_ttl: no process asks for [it|them] any more",
                  "[it goes|they go] when the next reply is written, or with mailq doctor QUEUE --fix",
                  _replies, _remove_replies, "{n} removed")),
    Check("reap-lock", "its stamp is not ahead of the clock",
          Trouble("warning", "the last reaping is in the future: a clock was wrong; consumers reap all the same",
                  "set the clocks (timedatectl); mailq doctor QUEUE --fix sets the stamp",
                  _reap_lock, lambda context: context.disk.utime(context.layout.reap_lock, context.now), "set to now")),
    Check("paused", "messages are delivered", _pause),
    Check("strangers", "nothing else is in the queue's directory",
          Trouble("warning", "{n} entr[y|ies] in the queue's directory that mailq does not know",
                  "keep your own files outside the queue: a later mailq may use the name", _strangers)),
    Check("aside", "nothing was put aside",
          Trouble("warning", "{n} file[|s] put aside as older states of messages: nothing delivers or deletes [it|them]",
                  "look at [it|them]; bring one back with mv aside/new/NAME new/, or remove [it|them]: rm -r aside",
                  _aside)),
)
# fmt: on
