"""The messages themselves: torn, too large, foreign, shut, from the future."""

from __future__ import annotations

import heapq
import os
import stat
from typing import TYPE_CHECKING, Final

from mailq import policy
from mailq.engines.maildir import names
from mailq.engines.maildir.doctor.finding import Finding, Sample, plural
from mailq.engines.maildir.doctor.integrity import condition_of, fits
from mailq.engines.maildir.doctor.listing import everything
from mailq.engines.maildir.doctor.permissions import OWN_AGAIN
from mailq.engines.maildir.replies import is_reply
from mailq.errors import MailqError
from mailq.ids import NS
from mailq.settings import LONGEST

if TYPE_CHECKING:
    from mailq.engines.maildir.doctor.context import Patient
    from mailq.engines.maildir.doctor.finding import Findings
    from mailq.engines.maildir.doctor.walk import Seen, Walk

_BUDGET_FILES: Final = 2000
_BUDGET_BYTES: Final = 64 << 20
_SOON: Final = 60 * NS
"""So far ahead, in nanoseconds, is not called the future: clocks differ a little."""


class Torn:
    """Files that are not what their names say.

    The length is compared for each. The checksum takes reading: by default that of
    the newest, since a power cut tears what was written last, up to a budget.
    """

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._torn, self._kept, self._unreadable = Sample(), Sample(), Sample()
        self._buried = self._read = self._files = 0
        self._newest: list[tuple[int, str, Seen]] = []

    def see(self, seen: Seen) -> None:
        """Look at one."""
        if seen.foreign:
            return
        self._files += 1
        if not fits(seen.envelope, seen.status.st_size):
            self._judge(seen, "torn")
        elif self._patient.full:
            self._look_into(seen)
        elif seen.envelope.crc is not None:
            entry = (seen.status.st_ctime_ns, seen.path, seen)
            if len(self._newest) < _BUDGET_FILES:
                heapq.heappush(self._newest, entry)
            elif entry > self._newest[0]:
                heapq.heapreplace(self._newest, entry)

    def _look_into(self, seen: Seen) -> None:
        self._read += 1
        self._judge(seen, condition_of(self._patient.store.disk, seen.path, seen.envelope))

    def _judge(self, seen: Seen, condition: str) -> None:
        short = self._patient.short(seen.path)
        if condition == "unreadable":
            self._unreadable.add(short)
        if condition != "torn" or (seen.state == "dead" and seen.envelope.reason == "torn"):
            return  # among the dead as torn: that is where it belongs
        if seen.state == "dead" or (seen.state == "leased" and self._patient.holds(seen.name, seen.envelope)):
            self._kept.add(short)
        elif not self._patient.fix or not self._patient.torn_for_good:
            self._torn.add(short)
        else:
            self._bury(seen, short)

    def _bury(self, seen: Seen, short: str) -> None:
        """As a claim would that meets it."""
        step = policy.undeliverable(seen.envelope, "torn")
        text = f"the file has {seen.status.st_size} bytes and is not what its name says; 'mailq edit' re-seals it"
        try:
            self._patient.store.settle(seen.path, seen.envelope, step, text=text)
        except FileNotFoundError:
            return  # a consumer met it first
        except (MailqError, OSError):
            self._torn.add(short)
            return
        self._torn.add(short)
        self._buried += 1

    def _read_the_newest(self) -> None:
        left = _BUDGET_BYTES
        for _, _, seen in sorted(self._newest, reverse=True):
            if seen.status.st_size <= left:
                left -= seen.status.st_size
                self._look_into(seen)
        self._newest = []

    def findings(self) -> Findings:
        """What there was."""
        self._read_the_newest()
        if self._torn.count:
            yield self._torn.finding(
                "torn",
                "error",
                f"{plural(self._torn.count, 'message is', 'messages are')} not what the name says, as a power cut leaves it: "
                "it will not be delivered",
                "mailq doctor QUEUE --fix moves them to dead/; there, mailq edit QUEUE ID re-seals what can be mended",
                fixed=f"{self._buried} moved to dead/, with the reason" if self._buried == self._torn.count else None,
            )
        if self._kept.count:
            yield self._kept.finding(
                "torn",
                "warning",
                f"{plural(self._kept.count, 'message')} in somebody's hands, or dead for another reason, torn too",
                "mailq edit QUEUE ID re-seals a dead one; a leased one is looked at again when it comes back",
            )
        if not self._torn.count and not self._kept.count:
            more = "" if self._read >= self._files else "; --full reads all"
            yield Finding(
                "torn", "ok", f"{plural(self._files, 'message')} of the right length; {self._read} of them read{more}"
            )
        if self._unreadable.count:
            yield self._unreadable.finding(
                "unreadable",
                "error",
                f"{plural(self._unreadable.count, 'message')} cannot be read: claims move such a message to dead/",
                "give their owner back the permission to read: chmod u+rw; if it is the disk, see dmesg",
            )
        else:
            yield Finding("unreadable", "ok", "all that were tried can be read")


class TooLarge:
    """Files above ``max_message_bytes``."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._found = Sample()

    def see(self, seen: Seen) -> None:
        """Look at one."""
        if seen.state != "dead" and seen.status.st_size > self._patient.settings.max_message_bytes:
            self._found.add(self._patient.short(seen.path))

    def findings(self) -> Findings:
        """What there was."""
        if not self._found.count:
            yield Finding("too-large", "ok", "no message is above max_message_bytes")
            return
        yield self._found.finding(
            "too-large",
            "warning",
            f"{plural(self._found.count, 'message is', 'messages are')} larger than the queue delivers "
            f"({self._patient.settings.max_message_bytes} bytes): claims move such a message to dead/",
            "mailq config QUEUE max_message_bytes BYTES",
        )


class Foreign:
    """Files whose names are not of the format: they are messages all the same."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._dropped, self._misspelled = Sample(), Sample()

    def see(self, seen: Seen) -> None:
        """Look at one."""
        if seen.foreign:
            found = self._misspelled if names.looks_ours(seen.name) else self._dropped
            found.add(self._patient.short(seen.path))

    def findings(self) -> Findings:
        """What there was."""
        if self._misspelled.count:
            yield self._misspelled.finding(
                "foreign",
                "warning",
                f"{plural(self._misspelled.count, 'name')} misspelled, or of another version of the format: each is "
                "delivered as a new message, with another id and no story",
                "mend the names (docs/disk-format.md), or leave them",
            )
        if self._dropped.count:
            yield self._dropped.finding(
                "foreign", "ok", f"{plural(self._dropped.count, 'file')} dropped in by hand: each is a message"
            )
        if not self._misspelled.count and not self._dropped.count:
            yield Finding("foreign", "ok", "every name is of the format")


class Shut:
    """Files that their owner may not read, that others may, or that belong to somebody else."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        status = os.stat(patient.layout.root)
        self._owner = status.st_uid
        # In a directory that nobody else may enter it does not matter what others may do with a file.
        self._entered = bool(stat.S_IMODE(status.st_mode) & 0o011)
        self._want = int(patient.settings.file_mode, 8)
        self._narrow, self._wide, self._others = Sample(), Sample(), Sample()
        self._left = 0

    def see(self, seen: Seen) -> None:
        """Look at one."""
        mode = stat.S_IMODE(seen.status.st_mode)
        short = self._patient.short(seen.path)
        if seen.status.st_uid != self._owner and not self._want & 0o060:
            self._others.add(short)
        narrow = 0o600 & ~mode
        wide = mode & 0o077 & ~self._want if self._entered else 0
        if not narrow and not wide:
            return
        (self._narrow if narrow else self._wide).add(short)
        self._left += not (self._patient.fix and self._mend(seen))

    def _mend(self, seen: Seen) -> bool:
        """Through a descriptor, where it can be had: the name may be another file's by now."""
        disk = self._patient.store.disk
        if not hasattr(os, "geteuid") or seen.status.st_uid != os.geteuid():
            return False
        try:
            try:
                fd = disk.open_to_read(seen.path)
            except PermissionError:
                if self._entered:
                    return False
                disk.chmod(seen.path, self._want)
            else:
                try:
                    status = os.fstat(fd)
                    if status.st_ino != seen.status.st_ino or status.st_nlink > 1:
                        return False
                    disk.chmod(fd, self._want)
                finally:
                    disk.drop(fd)
        except OSError:
            return False
        return True

    def findings(self) -> Findings:
        """What there was."""
        fixed = None if self._left else f"set to {self._want:04o}"
        if self._narrow.count:
            yield self._narrow.finding(
                "file-permissions",
                "error",
                f"{plural(self._narrow.count, 'file')} not to be read and written by its own user",
                f"chmod {self._want:o}, or mailq doctor QUEUE --fix",
                fixed=fixed,
            )
        if self._wide.count:
            yield self._wide.finding(
                "file-permissions",
                "warning",
                f"{plural(self._wide.count, 'file is', 'files are')} open to more users than file_mode says",
                f"chmod {self._want:o}, or mailq doctor QUEUE --fix",
                fixed=fixed,
            )
        if self._others.count:
            yield self._others.finding(
                "file-permissions",
                "warning",
                f"{plural(self._others.count, 'file belongs', 'files belong')} to another user than the queue: its consumers cannot read it",
                OWN_AGAIN,
            )
        if not self._narrow.count and not self._wide.count and not self._others.count:
            yield Finding("file-permissions", "ok", "every file is its user's, as file_mode says")


class Future:
    """Names and stamps from the future: somebody's clock was wrong."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._found = Sample()

    def see(self, seen: Seen) -> None:
        """Look at one."""
        soon = self._patient.now + _SOON
        if seen.state == "delayed":
            ahead = seen.envelope.visible_at > soon + policy.ns(LONGEST)
        else:  # what died before it was due is not due any more
            ahead = seen.envelope.visible_at > soon and seen.state != "dead"
        # The mtime of a leased one is its deadline.
        stamped = seen.status.st_ctime_ns > soon or (seen.state != "leased" and seen.status.st_mtime_ns > soon)
        if ahead or stamped:
            self._found.add(self._patient.short(seen.path))

    def findings(self) -> Findings:
        """What there was."""
        if not self._found.count:
            yield Finding("future", "ok", "no name and no stamp is ahead of the clock")
            return
        yield self._found.finding(
            "future",
            "warning",
            f"{plural(self._found.count, 'file')} with a name or a stamp from the future: a clock was wrong, there or here; "
            "such messages are delivered last",
            "set the clocks (timedatectl); nothing is lost by it",
        )


def examine_strays(patient: Patient, walked: Walk) -> Findings:
    """Entries that are no messages, and in ``replies/`` and ``owners/`` those that are no replies and no owners."""
    beside = Sample()
    for directory, is_ours in ((patient.layout.replies, is_reply), (patient.layout.owners, names.is_token)):
        for name, status in everything(directory):
            if not (stat.S_ISREG(status.st_mode) and is_ours(name)):
                beside.add(patient.short(f"{directory}/{name}"))
    if beside.count:
        yield beside.finding(
            "strays",
            "warning",
            f"in replies/ and owners/: {plural(beside.count, 'entry', 'entries')} not named as ours: nothing reads or removes them",
            "move them out of the queue, or into new/ if they are messages",
        )
    elif not walked.kinds:
        yield Finding("strays", "ok", "nothing among the messages is anything else")
    if walked.kinds:
        yield _among_the_messages(patient, walked)


def _among_the_messages(patient: Patient, walked: Walk) -> Finding:
    kinds = ", ".join(
        plural(count, kind, "directories" if kind == "directory" else "") for kind, count in walked.kinds.items()
    )
    return Finding(
        "strays",
        "warning",
        f"among the messages: {kinds}; nothing delivers or follows them",
        "move them out of the queue, or remove them",
        affected=sum(walked.kinds.values()),
        paths=tuple(patient.short(stray.path) for stray in walked.strays)[:3],
    )
