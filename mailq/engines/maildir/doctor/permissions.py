"""Who may do what in a queue's directories."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.doctor.finding import Finding, Sample, plural

if TYPE_CHECKING:
    from mailq.engines.maildir.disk import Disk
    from mailq.engines.maildir.doctor.finding import Findings
    from mailq.engines.maildir.layout import Layout
    from mailq.settings import Settings


OWN_AGAIN: Final = "as root: chown -R --reference=QUEUE QUEUE"
"""What gives a queue back to the user that its directory belongs to."""

_BOX: Final = 0o711
"""The queue's own directory, where others may push and not look."""


def may_write(layout: Layout) -> bool:
    """Whether this process may use the queue."""
    directories = (layout.root, *filter(os.path.isdir, layout.directories()))
    return all(os.access(path, os.R_OK | os.W_OK | os.X_OK) for path in directories)


def may_mend(layout: Layout, disk: Disk) -> bool:
    """Whether this process should: what root leaves in somebody else's queue, that user could not read."""
    return not _is_guest(layout, disk)


def _is_guest(layout: Layout, disk: Disk) -> bool:
    try:
        return disk.leaves_its_own_in(layout.root)
    except OSError:  # there is nothing to be a guest in
        return False


def examine(layout: Layout, disk: Disk, settings: Settings, *, fix: bool) -> Findings:
    """Compare the directories' permissions, and whose they are, with what the settings say."""
    troubles = [*_modes(layout, disk, settings, fix=fix), *_strangers(layout, settings), *_ourselves(layout, disk)]
    yield from troubles
    if not troubles:
        mode = layouts.directory_mode(settings)
        yield Finding("permissions", "ok", f"directories are {mode:04o}, as file_mode says, and writable")


def _modes(layout: Layout, disk: Disk, settings: Settings, *, fix: bool) -> Findings:
    """Who may enter, read and write the directories."""
    by_settings = layouts.directory_mode(settings)
    narrow, wide = Sample(), Sample()
    left = 0
    modes = set()
    for path in (layout.root, *filter(os.path.isdir, layout.directories())):
        status = os.stat(path)
        mode = stat.S_IMODE(status.st_mode)
        want = _BOX if path == layout.root and _is_sticky(layout.new) else by_settings
        if mode & 0o777 in {want, by_settings} or _is_of_a_drop_box(layout, path, mode, by_settings):
            continue
        modes.add(f"{want:04o}")
        (narrow if want & ~mode else wide).add(os.path.relpath(path, layout.root))
        left += not (fix and _is_mine(status) and _set(disk, path, mode & 0o7000 | want))
    spelled = " or ".join(sorted(modes))
    fixed = None if left else f"set to {spelled}"
    if narrow.count:
        yield narrow.finding(
            "permissions",
            "error",
            f"{plural(narrow.count, 'directory lacks', 'directories lack')} permissions that file_mode = {settings.file_mode!r} gives",
            f"chmod {spelled}, or mailq doctor QUEUE --fix",
            fixed=fixed,
        )
    if wide.count:
        yield wide.finding(
            "permissions",
            "warning",
            f"{plural(wide.count, 'directory is', 'directories are')} open to others; whoever may write here is trusted",
            f"chmod {spelled}, or mailq doctor QUEUE --fix; or share the queue: mailq config QUEUE file_mode 0660",
            fixed=fixed,
        )


def _strangers(layout: Layout, settings: Settings) -> Findings:
    """What belongs to another user than the queue's directory does, and is not shared with a group either."""
    root = os.stat(layout.root)
    shared = layouts.directory_mode(settings) & 0o020
    found = Sample()
    for path in (layout.marker, *layout.directories()):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(path)
            if status.st_uid != root.st_uid and not (shared and status.st_gid == root.st_gid):
                found.add(os.path.relpath(path, layout.root))
    if found.count:
        yield found.finding(
            "permissions",
            "error",
            f"{plural(found.count, 'entry', 'entries')} of another user than the queue's directory: left by a command "
            f"that was run as another user. User {root.st_uid} cannot use them",
            OWN_AGAIN,
        )


def _ourselves(layout: Layout, disk: Disk) -> Findings:
    """Whether this process may use the queue, and should."""
    if not may_write(layout):
        yield Finding(
            "permissions",
            "error",
            "this process may not write here: it can look at the queue, not use it",
            "become the user that the queue belongs to; if its disk went read-only after an error, see dmesg",
        )
    elif _is_guest(layout, disk):
        yield Finding(
            "permissions",
            "warning",
            f"you are root, the queue belongs to user {os.stat(layout.root).st_uid}, and root cannot give files to that user "
            "here: what it leaves that user cannot read",
            "use the queue as that user; so does --fix, which does nothing for root here",
        )


def _is_of_a_drop_box(layout: Layout, path: str, mode: int, want: int) -> bool:
    """Whether permissions are those of docs/security.md: others may add messages, and get as far as that needs.

    What a producer adds to is sticky. On the way there others may search, and see no more than the settings say.
    """
    if mode & 0o700 != 0o700:  # noqa: PLR2004 - its own user's, whoever else may come
        return False
    if path != layout.root:
        return bool(mode & stat.S_ISVTX)
    return _is_sticky(layout.new) and not mode & 0o066 & ~want


def _is_sticky(path: str) -> bool:
    return os.path.isdir(path) and bool(os.stat(path).st_mode & stat.S_ISVTX)


def _set(disk: Disk, path: str, mode: int) -> bool:
    try:
        disk.chmod(path, mode)
    except OSError:
        return False
    return True


def _is_mine(status: os.stat_result) -> bool:
    return hasattr(os, "geteuid") and status.st_uid == os.geteuid()
