"""Compaction: directories that a huge backlog has swollen are replaced when they are empty.

ext4 never shrinks a directory: after a million messages an empty ``new/`` takes
as long to list as a full one. A fresh directory is exchanged for it, at once, so
a producer finds ``new/`` at every moment. What came to the old one meanwhile is
moved over, and so is what somebody left there who died on the way.

The old one stays for a while: ``mv`` opens the directory that it moves files to,
and goes on moving them there, whatever it is called by then. If it were gone, all
the rest of them would fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.layout import GONE
from mailq.ids import NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mailq.engines.maildir.disk import Disk
    from mailq.engines.maildir.files import Store
    from mailq.engines.maildir.layout import Layout
    from mailq.message import State

_SWOLLEN: Final = 1 << 20
"""A directory of this many bytes takes about a millisecond to list."""

_QUIET: Final = 60 * NS
"""Nanoseconds without an arrival after which a retired directory is removed.

By then nobody has it open to move files there, or is in the midst of a rename that found it under its old name.
"""

# Not cur/ and tmp/: their files have users who know the path, and must find them at every moment.
REMADE: Final = ("new", "later", "dead")
_SPARE: Final = re.compile(rf"\.({'|'.join(REMADE)})\.[0-9a-f]{{8}}")
"""``.new.1a2b3c4d``: made to become ``new/``, or what was ``new/``."""


class Compaction:
    """The re-making of one queue's directories."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_possible = True
        self._quiet: dict[str, int] = {}
        """The spare directories that were found empty, and when they had last been changed: listing them is slow."""

    def run(self) -> None:
        """Take over what was left in old directories, and exchange those that are swollen and empty."""
        self.recover()
        self.swap()

    def recover(self) -> None:
        """Take over what somebody left who died on the way."""
        for path in retired_directories(self._store.layout):
            self._take_over(path, replaced_by(path))

    def swap(self) -> None:
        """Exchange the directories that are swollen and empty."""
        if not self._is_possible:
            return
        try:
            for path in (f"{self._store.layout.root}/{name}" for name in REMADE):
                if os.lstat(path).st_size > _SWOLLEN and _is_empty(path):
                    self._remake(path)
        except OSError as error:
            if error.errno in GONE:
                return  # somebody else exchanged it at the same time, or took our spare one for a dead maker's
            self._is_possible = False  # not by this user, or not on this file system: it is only slow
            layouts.log().info("a swollen directory was not replaced: %s", error)

    def _remake(self, path: str) -> None:
        disk, root = self._store.disk, self._store.layout.root
        spare = f"{root}/.{os.path.basename(path)}.{os.urandom(4).hex()}"
        try:
            _make_alike(disk, spare, path)
            if self._store.durable:
                disk.sync_directory(
                    root
                )  # or a producer that pushes into it would sync a directory that has no name on disk
            disk.exchange(spare, path)
        except BaseException:
            with contextlib.suppress(OSError):
                disk.rmdir(spare)
            raise
        self._take_over(spare, path)

    def _take_over(self, spare: str, path: str) -> None:
        """Move what is in a spare directory to where it belongs; remove the directory when nothing comes any more."""
        disk = self._store.disk
        try:
            # Until nothing more comes, or nothing can be moved: it may be the target that is missing.
            while sum(self._is_moved(f"{spare}/{name}", path, name) for name in self._come_to(spare)):
                if self._store.durable:
                    disk.sync_directory(path)
            # From the future: the clock has stepped back.
            if abs(self._store.clock() - os.lstat(spare).st_ctime_ns) > _QUIET:
                disk.rmdir(spare)
                self._quiet.pop(spare, None)
        except OSError as error:
            self._quiet.pop(spare, None)
            # Gone: somebody else did it. Not empty: somebody stored a message just now; the next turn takes it.
            if error.errno not in GONE:
                layouts.log().info("%s was not taken over yet: %s", spare, error)

    def _come_to(self, spare: str) -> list[str]:
        """The names in a spare directory. An empty one is as slow to list as ever: not again before it has changed."""
        changed = layouts.last_change(spare)
        if changed is not None and self._quiet.get(spare) == changed:
            return []
        found = os.listdir(spare)
        if changed is not None and not found:
            self._quiet[spare] = changed
        return found

    def _is_moved(self, source: str, directory: str, name: str) -> bool:
        """Move a file; whether it was there to be moved."""
        disk = self._store.disk
        try:
            try:
                _rename_new(disk, source, f"{directory}/{name}")
            except FileExistsError:  # two files of one name, dropped in by hand
                _rename_new(disk, source, f"{directory}/{os.urandom(4).hex()}-{name}")
        except FileNotFoundError:
            return False
        return True


def _rename_new(disk: Disk, source: str, target: str) -> None:
    """Rename to a name that nobody has; by a link where that cannot be asked for (a copy that was brought to NFS)."""
    try:
        disk.rename_new(source, target)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        disk.link(source, target)
        disk.unlink(source)


def retired_directories(layout: Layout) -> Iterator[str]:
    """The directories that are on their way in or out."""
    with contextlib.suppress(OSError), os.scandir(layout.root) as scan:  # no queue there: others say so
        for entry in scan:
            if _SPARE.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield entry.path


def replaced_by(spare: str) -> str:
    """The directory that a spare one is to become, or was."""
    root, name = os.path.split(spare)
    return f"{root}/{name.split('.')[1]}"


def with_retired(layout: Layout, path: str) -> list[str]:
    """A directory, and those on their way in or out that belong to it: messages may be in each."""
    return [path, *(spare for spare in retired_directories(layout) if replaced_by(spare) == path)]


def all_directories_of(layout: Layout, states: Iterable[State]) -> dict[str, State]:
    """The directories that are there and hold messages in some states: also those on their way in or out."""
    found = {path: state for state in states if os.path.isdir(path := layout.directory(state))}
    return {each: state for path, state in found.items() for each in with_retired(layout, path)}


def holds_any(spare: str) -> bool:
    """Whether there is anything in a spare directory that is to be taken over."""
    try:
        return not _is_empty(spare)
    except FileNotFoundError:
        return False


def _is_empty(path: str) -> bool:
    """Of everything: what is no message would be left behind."""
    with os.scandir(path) as scan:
        return next(scan, None) is None


def _make_alike(disk: Disk, spare: str, path: str) -> None:
    """Make a directory with the permissions of the one that it is to replace. Raises PermissionError if that cannot be."""
    status = os.stat(path)
    disk.make_directory(spare, stat.S_IMODE(status.st_mode))
    alike = os.stat(spare)
    if (alike.st_uid, alike.st_gid) != (status.st_uid, status.st_gid) or _has_acl(path):
        raise PermissionError(f"{path} has another owner, or an access list")


def _has_acl(path: str) -> bool:
    return hasattr(os, "listxattr") and any(name.startswith("system.posix_acl") for name in os.listxattr(path))
