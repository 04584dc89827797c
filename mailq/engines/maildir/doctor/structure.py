"""What a queue stands on: the directory, the marker, the settings, the directories within.

All of this works on what cannot be opened as a queue.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import names
from mailq.engines.maildir.doctor.finding import Finding, Sample, plural
from mailq.engines.maildir.doctor.listing import messages
from mailq.engines.maildir.doctor.permissions import OWN_AGAIN
from mailq.errors import MailqError, QueueNotFound, SettingsError
from mailq.message import STATES
from mailq.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Generator

    from mailq.engines.maildir.disk import Disk
    from mailq.engines.maildir.doctor.finding import Findings
    from mailq.engines.maildir.doctor.machine import Machine
    from mailq.engines.maildir.layout import Layout
    from mailq.settings import Marker


_MOST: Final = 65_536
_NEW_MARKER: Final = (
    "put mailq.toml back from a backup, or have one made with a new identity and the default settings: "
    "mv QUEUE/mailq.toml QUEUE/.mailq.toml.old && mailq init QUEUE"
)


def examine_marker(layout: Layout, disk: Disk, *, fix: bool) -> Generator[Finding, None, Marker | None]:
    """Find and read the marker. What is returned is None when this is no queue that can be examined further."""
    refusal = _refusal(layout)
    if refusal is not None:
        yield refusal
        return None
    made = None
    if not os.path.lexists(layout.marker):
        lost = _lost_marker(layout)
        if fix and lost.affected:
            try:
                layouts.create(layout, Settings(), disk)
            except MailqError as error:
                yield lost._replace(todo=f"{lost.todo}; it was not made anew: {error}")
                return None
            made = "made anew, with a new identity and the default settings: 'mailq config' shows them"
        yield lost._replace(fixed=made)
        if made is None:
            return None
    else:
        yield Finding("marker", "ok", "mailq.toml is there")
    return (yield from _examine_settings(layout, disk))


def _refusal(layout: Layout) -> Finding | None:
    """Why there is nothing to look into at all."""
    try:
        status = os.stat(layout.root)
        if not stat.S_ISDIR(status.st_mode):
            return Finding("marker", "error", "this is no directory; a queue is one", "name the queue's directory")
        os.listdir(layout.root)
    except FileNotFoundError:
        return Finding(
            "marker",
            "error",
            "there is nothing at this place",
            "mount its disk, or create the queue: mailq init QUEUE",
        )
    except OSError as error:
        return Finding(
            "marker",
            "error",
            f"the directory cannot be read: {error.strerror}",
            "become the user that the queue belongs to, or have that user share it",
        )
    return None


def _lost_marker(layout: Layout) -> Finding:
    """A directory without a marker: a queue that lost it, if there are messages; else an unmounted disk, or nothing."""
    found = Sample()
    for directory in map(layout.directory, STATES):
        if os.path.islink(directory):  # what is there is not the queue's
            continue
        for entry in messages(directory):
            if names.parse(entry.name) is not None:
                found.add(os.path.relpath(entry.path, layout.root))
    if found.count:
        return found.finding(
            "marker",
            "error",
            f"mailq.toml is missing, but {plural(found.count, 'message is', 'messages are')} here: nobody delivers",
            "put mailq.toml back from a backup, or have a new one made: mailq doctor QUEUE --fix",
        )
    return Finding(
        "marker",
        "error",
        "mailq.toml is missing and there are no messages: this is no queue, or its disk is not mounted",
        "mount its disk, or create the queue: mailq init QUEUE",
    )


def _examine_settings(layout: Layout, disk: Disk) -> Generator[Finding, None, Marker | None]:
    try:
        marker = layouts.load(layout, disk)
    except (MailqError, OSError) as error:
        yield Finding("settings", "error", str(error), _remedy(layout, disk, error), paths=(layouts.MARKER,))
        return None
    yield Finding("settings", "ok", f"they can be read; the queue is {marker.queue[:8]}")
    return marker


def _remedy(layout: Layout, disk: Disk, error: Exception) -> str:
    """What to do about a marker that cannot be read."""
    status = os.lstat(layout.marker)
    if not stat.S_ISREG(status.st_mode):
        return f"put a file in its place: {_NEW_MARKER}"
    data = layouts.read_small(disk, layout.marker, _MOST)
    if data is None and status.st_uid != os.stat(layout.root).st_uid:  # as an editor leaves it that root has run
        return f"mailq.toml belongs to another user than the queue; {OWN_AGAIN}"
    if data is None or not isinstance(error, SettingsError):
        return "mailq.toml must be a file that you may read; see dmesg if it is the disk"
    if error.line is None or not data.strip(b"\0 \t\r\n"):  # zeros are what a power cut makes of it
        return _NEW_MARKER
    if error.key == "format":
        return "use the mailq that wrote it; nothing here was touched"
    return "mend that line: running consumers keep the old settings, new ones are refused"


def linked(layout: Layout) -> Finding | None:
    """Directories that are symbolic links: whoever mended there would move and delete what is not the queue's."""
    found = tuple(os.path.basename(path) for path in layout.links())
    if not found:
        return None
    return Finding(
        "directories",
        "error",
        f"symbolic links where directories belong: {', '.join(found)}. Nothing further was looked at or mended: "
        "it would be done where they lead",
        "put directories in their place: remove each link (rm QUEUE/NAME) and move there what it led to, if that is the queue's",
        affected=len(found),
        paths=found,
    )


def examine_directories(layout: Layout, disk: Disk, settings: Settings, machine: Machine, *, fix: bool) -> Findings:
    """Look whether they are all there, and on one file system."""
    missing = [os.path.basename(path) for path in layout.directories() if not os.path.isdir(path)]
    if not missing:
        yield Finding("directories", "ok", "all of them are there")
    else:
        finding = Finding(
            "directories",
            "error",
            f"these are missing or no directories: {', '.join(missing)}",
            "mailq doctor QUEUE --fix, or just open the queue; move away what is in their place",
            affected=len(missing),
            paths=tuple(missing),
        )
        if fix:
            try:
                layouts.check(layout, disk, settings)
                finding = finding._replace(fixed="made")
            except (QueueNotFound, OSError) as error:
                if all(map(os.path.isdir, layout.directories())):
                    finding = finding._replace(fixed="made")
                else:
                    finding = finding._replace(todo=f"they could not be made: {error}")
        yield finding
    yield _one_file_system(layout, machine)


def _one_file_system(layout: Layout, machine: Machine) -> Finding:
    """Between two file systems a rename is not atomic; between two mounts of one it is refused."""
    apart = Sample()
    device, mount = os.stat(layout.root).st_dev, machine.mount_of(layout.root)
    for path in filter(os.path.isdir, (*layout.directories(), layout.aside)):
        there = machine.mount_of(path)
        if os.stat(path).st_dev != device or (mount and there and there.point != mount.point):
            apart.add(os.path.basename(path))
    if apart.count:
        return apart.finding(
            "one-file-system",
            "error",
            f"{', '.join(apart.paths)} is mounted from elsewhere: between mounts nothing can be renamed",
            "unmount it; a queue must be on one file system",
        )
    return Finding("one-file-system", "ok", "a rename between any two directories is atomic")
