"""What a queue stands on: the directory, the marker, the settings, the directories within, and who may do what there.

The marker is looked at without a context, since there is none without a marker.
"""

from __future__ import annotations

import contextlib
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import names
from mailq.engines.maildir.doctor.context import Context, message_files
from mailq.engines.maildir.doctor.report import Check, Examples, Finding, Findings, Trouble, spelled
from mailq.errors import MailqError, SettingsError
from mailq.message import STATES
from mailq.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from mailq.engines.maildir.disk import Disk
    from mailq.engines.maildir.layout import Layout
    from mailq.settings import Marker

OWN_AGAIN: Final = "as root: chown -R --reference=QUEUE QUEUE"
"""What gives a queue back to the user that its directory belongs to."""

_MOST: Final = 65_536
_BOX: Final = 0o711
"""The queue's own directory, where others may push and not look."""

_NEW_MARKER: Final = (
    "put mailq.toml back from a backup, or have one made with a new identity and the default settings: "
    "mv QUEUE/mailq.toml QUEUE/.mailq.toml.old && mailq init QUEUE"
)


def examine_marker(layout: Layout, disk: Disk, *, fix: bool) -> Generator[Finding, None, Marker | None]:
    """Find and read the marker. What is returned is None when this is not a queue that can be examined further."""
    finding = Finding("marker", "ok", "mailq.toml is there") if os.path.lexists(layout.marker) else _lost(layout)
    if fix and finding.affected:
        try:
            layouts.create(layout, Settings(), disk)
            made = "made, with a new identity and the default settings: 'mailq config' shows them"
            finding = finding._replace(fixed=made)
        except MailqError as error:
            finding = finding._replace(remedy=f"{finding.remedy}; this failed: {error}")
    yield finding
    if finding.open:
        return None
    try:
        marker = layouts.load(layout, disk)
    except (MailqError, OSError) as error:
        yield Finding("settings", "error", str(error), _remedy(layout, disk, error), paths=(layouts.MARKER,))
        return None
    yield Finding("settings", "ok", f"they can be read; the queue is {marker.queue[:8]}")
    return marker


def _lost(layout: Layout) -> Finding:
    """A place without a marker: a queue that lost it, if there are messages; else an unmounted disk, or nothing."""
    directories = [path for path in map(layout.directory, STATES) if not os.path.islink(path)]
    files = (entry for path in directories for entry in message_files(path))
    found = Examples(os.path.relpath(entry.path, layout.root) for entry in files if names.parse(entry.name))
    what = spelled("mailq.toml is missing, but {n} message[ is|s are] here; nothing delivers [it|them]", found.count)
    remedy = "put mailq.toml back from a backup, or have a new one made: mailq doctor QUEUE --fix"
    if not found.count:
        what = "mailq.toml is missing and there are no messages: this is not a queue, or its disk is not mounted"
        remedy = "mount its disk, or create the queue: mailq init QUEUE"
        try:
            os.listdir(layout.root)
        except OSError as error:  # another user's, a file, or nothing at all
            what = f"this is not a directory that can be read: {error.strerror}"
    return Finding("marker", "error", what, remedy, None, found.count, found.paths)


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
    """Directories that are symbolic links: a mending there would move and delete what is not the queue's."""
    found = tuple(map(os.path.basename, layout.links()))
    if not found:
        return None
    what = f"symbolic links where directories belong: {', '.join(found)}. Nothing further was looked at or mended: "
    remedy = "put directories in their place: remove each link (rm QUEUE/NAME) and move there what it led to, if that is the queue's"
    return Finding("directories", "error", f"{what}it would be done where they lead", remedy, None, len(found), found)


# Permissions


def is_root_elsewhere(disk: Disk, root: str) -> bool:
    """Whether this is root in a queue of a user to whom it cannot give files: that user could not read what it makes."""
    try:
        return disk.leaves_its_own_in(root)
    except OSError:  # there is nothing there
        return False


def _wrong(context: Context, *, is_narrow: bool) -> Iterator[str]:
    """The directories that lack permissions, or are open to others."""
    for path, mode, want in _wrong_modes(context):
        if bool(want & ~mode) == is_narrow:
            yield context.short(path)


def _set_modes(context: Context) -> None:
    """Set the permissions of directories that are this user's own."""
    for path, mode, want in _wrong_modes(context):
        if hasattr(os, "geteuid") and os.stat(path).st_uid == os.geteuid():
            context.disk.chmod(path, mode & 0o7000 | want)


def _wrong_modes(context: Context) -> Iterator[tuple[str, int, int]]:
    """The directories with other permissions than they should have: which they have, and which they should."""
    layout, by_settings = context.layout, layouts.directory_mode(context.settings)
    is_box = os.path.isdir(layout.new) and os.stat(layout.new).st_mode & stat.S_ISVTX
    for path in (layout.root, *filter(os.path.isdir, layout.directories())):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        want = _BOX if path == layout.root and is_box else by_settings
        if mode & 0o777 in {want, by_settings}:
            continue
        # As docs/security.md makes a drop-box: what a producer adds to is sticky. On the way there others may
        # search, and see no more than the settings say.
        is_open = is_box and not mode & 0o066 & ~by_settings if path == layout.root else mode & stat.S_ISVTX
        if not (is_open and mode & stat.S_IRWXU == stat.S_IRWXU):
            yield path, mode, want


def _of_others(context: Context) -> Iterator[str]:
    """What belongs to another user than the queue's directory does, and is not shared with a group either."""
    root = os.stat(context.layout.root)
    shared = layouts.directory_mode(context.settings) & 0o020
    for path in (context.layout.marker, *context.layout.directories()):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(path)
            if status.st_uid != root.st_uid and not (shared and status.st_gid == root.st_gid):
                yield context.short(path)


def _ourselves(context: Context) -> Findings:
    """Whether this process may use the queue, and should."""
    if not context.writable:
        what = "this process may not write here: it can look at the queue, not use it"
        remedy = "become the user that the queue belongs to; if its disk went read-only after an error, see dmesg"
        yield Finding("permissions", "error", what, remedy)
    elif is_root_elsewhere(context.disk, context.layout.root):
        what = "you are root, the queue belongs to another user, and root cannot give files to that user here: it could not read them"
        yield Finding("permissions", "warning", what, "use the queue as that user; --fix does nothing for root here")


# Directories


def _missing(context: Context) -> Iterator[str]:
    return (os.path.basename(path) for path in context.layout.directories() if not os.path.isdir(path))


def _make(context: Context) -> None:
    layouts.check(context.layout, context.disk, context.settings)


def _apart(context: Context) -> Iterator[str]:
    """Between two file systems a rename is not atomic; between two mounts of one it is refused."""
    layout, mount_of = context.layout, context.machine.mount_of
    device, mount = os.stat(layout.root).st_dev, mount_of(layout.root)
    for path in filter(os.path.isdir, (*layout.directories(), layout.aside)):
        there = mount_of(path)
        if os.stat(path).st_dev != device or (mount and there and there.point != mount.point):
            yield os.path.basename(path)


# fmt: off
CHECKS: Final = (
    Check("permissions", "directories are as file_mode says, and writable",
          Trouble("error", "{n} director[y lacks|ies lack] permissions that file_mode gives",
                  "mailq doctor QUEUE --fix, or chmod", partial(_wrong, is_narrow=True), _set_modes, "permissions set"),
          Trouble("warning", "{n} director[y is|ies are] open to others, and mailq trusts what is written here",
                  "mailq doctor QUEUE --fix, or chmod; or share the queue: mailq config QUEUE file_mode 0660",
                  partial(_wrong, is_narrow=False), _set_modes, "permissions set"),
          Trouble("error", "{n} entr[y|ies] of another user than the queue's directory, as a command leaves that was run as another user: the queue's user cannot use [it|them]",
                  OWN_AGAIN, _of_others),
          _ourselves),
    Check("directories", "all of them are there",
          Trouble("error", "missing, or not [a directory|directories]: {paths}",
                  "mailq doctor QUEUE --fix, or just open the queue; move away what is in their place",
                  _missing, _make, "made")),
    Check("one-file-system", "a rename between any two directories is atomic",
          Trouble("error", "mounted from elsewhere: {paths}; between mounts nothing can be renamed",
                  "unmount it; a queue must be on one file system", _apart)),
)
# fmt: on
