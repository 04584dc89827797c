"""A queue's directories and its marker: made, checked, listed."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import names
from mailq.errors import QueueNotFound, SettingsError, StorageError
from mailq.settings import Marker, Settings, decode, edit, new_marker, parse, render

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from filelock import FileLock

    from mailq.engines.maildir.disk import Disk
    from mailq.message import State

    Sieve = Callable[[Iterable[os.DirEntry[str]]], Iterable[os.DirEntry[str]]]

GONE: Final = (errno.ENOENT, errno.ESTALE)
"""What says that a file is not there any more; NFS says ESTALE."""

MARKER: Final = "mailq.toml"
_MARKER_BYTES: Final = 65_536
_ELSEWHERE: Final = "name the directory of a queue, or one that is empty or not there yet"
_TICK: Final = 2_000_000_000
"""No file system's stamps are coarser, in nanoseconds."""
DIRECTORIES: Final = ("tmp", "new", "later", "cur", "dead", "errors", "owners", "replies")
OWN: Final = frozenset({MARKER, *DIRECTORIES, "origins", "aside", "journal", "paused", "lost+found"})
"""What may stand in a queue's directory, beside dot-names."""


class Layout:
    """The paths of one queue."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.marker = f"{self.root}/{MARKER}"
        self.reap_lock = f"{self.root}/.reap.lock"
        self.tmp, self.new, self.later, self.cur, self.dead, self.errors, self.owners, self.replies = (
            f"{self.root}/{name}" for name in DIRECTORIES
        )
        self.paused = f"{self.root}/paused"
        self.origins = f"{self.root}/origins"
        self.aside = f"{self.root}/aside"
        self.journal = f"{self.root}/journal"
        self._by_state = {"ready": self.new, "delayed": self.later, "leased": self.cur, "dead": self.dead}

    def directory(self, state: State) -> str:
        """The directory that holds the messages in a state."""
        return self._by_state[state]

    def directories(self) -> tuple[str, ...]:
        """Every directory that a queue needs."""
        return tuple(f"{self.root}/{name}" for name in DIRECTORIES)

    def links(self) -> list[str]:
        """What is a symbolic link in the place of a directory, also of one that is made only when it is needed."""
        possible = (*self.directories(), self.journal, self.origins, self.aside)
        return [path for path in possible if os.path.islink(path)]


def create(layout: Layout, settings: Settings, disk: Disk) -> None:
    """Make a queue, durably. Another process may be making the same one: the first marker holds.

    The marker comes last: where it stands, the queue is complete.
    """
    _refuse_other_directories(layout)
    mode = directory_mode(settings)
    for path in (layout.root, *layout.directories()):
        _make_directory(disk, path, mode, also_in_roots=True)
    text = render(new_marker(settings))
    temporary = f"{layout.tmp}/.{MARKER}.{os.urandom(8).hex()}"
    try:
        disk.write_file(temporary, text.encode(), mode=int(settings.file_mode, 8), sync=True)
        _sync_with_ancestors(layout.root, disk)  # before the marker: a process that sees it may push
        try:
            # link, not rename: a rename would replace the marker of the process that was first.
            disk.link(temporary, layout.marker)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            if not os.path.exists(layout.marker):  # a file system without hard links
                disk.rename(temporary, layout.marker)
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(temporary)
        disk.sync_directory(layout.root)
    except OSError as error:
        with contextlib.suppress(OSError):
            disk.unlink(temporary)
        raise StorageError("create the queue", error) from error


def _refuse_other_directories(layout: Layout) -> None:
    try:
        found = set(os.listdir(layout.root))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise QueueNotFound(layout.root, "this is a file, and a queue a directory", _ELSEWHERE) from None
    except OSError as error:
        raise StorageError("create the queue", error) from error
    _refuse_links(layout)
    if MARKER in found:
        return  # somebody else was first: it is a queue by now
    # What a queue whose creation was interrupted may have left.
    strange = sorted(name for name in found - OWN if name[0] != ".")
    if strange:
        raise QueueNotFound(
            layout.root, f"this directory is no queue and holds other things ({strange[0]!a})", _ELSEWHERE
        )


def _refuse_links(layout: Layout) -> None:
    """No directory of a queue is a symbolic link: what is moved, swept and deleted there would be elsewhere."""
    links = layout.links()
    if links:
        raise QueueNotFound(layout.root, f"{links[0]} is a symbolic link", "put a directory in its place")


def directory_mode(settings: Settings) -> int:
    """The permissions of directories: users that may read files there may also search them."""
    mode = int(settings.file_mode, 8)
    return mode | (mode & 0o444) >> 2


def _make_directory(disk: Disk, path: str, mode: int, *, also_in_roots: bool = False) -> None:
    """Make a directory and its parents, where they are missing."""
    if not _is_directory(path):
        _make_directory(disk, os.path.dirname(path), mode, also_in_roots=also_in_roots)
        try:
            disk.make_directory(path, mode, also_in_roots=also_in_roots)
        except FileExistsError:
            if not _is_directory(path):
                raise QueueNotFound(path, "a file is in the way", "a queue needs a directory here") from None
        except OSError as error:
            raise StorageError("create the queue", error) from error


def _is_directory(path: str) -> bool:
    """Whether one is there; os.path.isdir says of a disk that does not answer that it is not."""
    try:
        return (os.stat(path).st_mode & 0o170000) == 0o040000  # noqa: PLR2004 - S_ISDIR, without importing stat
    except OSError as error:
        if error.errno in (*GONE, errno.ENOTDIR):
            return False
        raise StorageError("find the queue", error) from error


def _sync_with_ancestors(path: str, disk: Disk) -> None:
    """Make a directory's name durable, and those on the way to it.

    Also where another process has made them: it may have been killed before it synced them.
    """
    while True:
        with contextlib.suppress(PermissionError):  # then it is not a directory that we or our like could have made
            disk.sync_directory(path)
        if path == os.path.dirname(path):
            return
        path = os.path.dirname(path)


def load(layout: Layout, disk: Disk) -> Marker:
    """Read the marker. Raises QueueNotFound if there is none, SettingsError if it is damaged."""
    return parse(read_marker(layout, disk), layout.marker)


def read_marker(layout: Layout, disk: Disk) -> str:
    """The text of the marker. Raises QueueNotFound if there is none."""
    try:
        fd = disk.open_to_read(layout.marker)
    except FileNotFoundError:
        raise QueueNotFound(layout.root) from None
    except NotADirectoryError:
        raise QueueNotFound(layout.root, "this is a file, and a queue a directory", _ELSEWHERE) from None
    except OSError as error:
        raise StorageError("read the settings", error) from error
    try:
        status = os.fstat(fd)
        if not is_regular(status):
            raise SettingsError("this is not a regular file; put back the file that was there", path=layout.marker)
        if status.st_size > _MARKER_BYTES:
            text = (
                f"the file has {status.st_size} bytes, settings have {_MARKER_BYTES} at most; put back what was there"
            )
            raise SettingsError(text, path=layout.marker)
        data = disk.read_all(fd, status.st_size)
    except OSError as error:
        raise StorageError("read the settings", error) from error
    finally:
        disk.drop(fd)
    return decode(data, layout.marker)


def require_marker(layout: Layout) -> None:
    """Refuse to go on without the marker: an unmounted disk must not look like an empty queue."""
    try:
        os.stat(layout.marker)
    except OSError as error:
        if error.errno not in (*GONE, errno.ENOTDIR):  # a disk that does not answer has not lost it
            raise StorageError("find the queue", error) from error
        raise QueueNotFound(layout.root, "the queue is gone (mailq.toml is missing)") from None


def check(layout: Layout, disk: Disk, settings: Settings) -> None:
    """Mend missing directories (copies drop empty ones); refuse a queue that spans file systems.

    Between two file systems a rename is not atomic, and everything rests on it.
    """
    _refuse_links(layout)
    missing = [path for path in layout.directories() if not _is_directory(path)]
    for path in missing:
        _make_directory(disk, path, directory_mode(settings))
    try:
        if missing:
            disk.sync_directory(layout.root)
        devices = {os.stat(path).st_dev: path for path in layout.directories()}
    except OSError as error:
        raise StorageError("open the queue", error) from error
    if len(devices) > 1:
        apart = " and ".join(sorted(devices.values()))
        raise QueueNotFound(layout.root, f"{apart} are on different file systems", "a queue must be on one")


def change(layout: Layout, disk: Disk, changes: Mapping[str, object]) -> Marker:
    """Change settings in the marker, one change at a time: two that read the same file would lose one of them."""
    from filelock import Timeout  # noqa: PLC0415 - slow to load, and seldom wanted

    lock = file_lock(disk, f"{layout.root}/.settings.lock", 0o600, fallback_to_soft=True)
    try:
        try:
            lock.acquire(timeout=10)
        except Timeout as error:
            busy = OSError(errno.EBUSY, "another process is changing them")
            raise StorageError("change the settings", busy) from error
        except OSError as error:  # a directory or a link is in the place of the lock, or it is another user's
            raise StorageError("change the settings", error) from error
        return _save(layout, disk, changes)
    finally:
        lock.release()  # does nothing if we have not got it


def _save(layout: Layout, disk: Disk, changes: Mapping[str, object]) -> Marker:
    """Change settings in the marker, durably, leaving a person's comments as they are."""
    before = read_marker(layout, disk)
    text = edit(before, parse(before, layout.marker), changes)
    changed = parse(text, layout.marker)
    temporary = f"{layout.tmp}/.{MARKER}.{os.urandom(8).hex()}"
    try:
        # Users that may read the old one may read the new one: in a drop-box, all of them.
        mode = int(changed.settings.file_mode, 8) | os.stat(layout.marker).st_mode & 0o444
        disk.write_file(temporary, text.encode(), mode=mode, sync=True)
        disk.rename(temporary, layout.marker)
        disk.sync_directory(layout.root)
    except OSError as error:
        with contextlib.suppress(OSError):
            disk.unlink(temporary)
        raise StorageError("change the settings", error) from error
    return changed


def file_lock(disk: Disk, path: str, mode: int, *, fallback_to_soft: bool = False) -> FileLock:
    """A lock on a file of the queue's, which is made if it is missing; to acquire it raises OSError if it cannot be."""
    from filelock import FileLock  # noqa: PLC0415 - slow to load, and a producer never needs it

    if disk.gives_to is not None:  # what the lock makes by itself belongs to this process
        with contextlib.suppress(OSError):  # it is there, or what is in its place is in the lock's way too
            disk.drop(disk.create(path, os.O_WRONLY, mode))
    return FileLock(path, mode=mode, thread_local=False, fallback_to_soft=fallback_to_soft)


def log() -> logging.Logger:
    """Where mailq says what it could not raise."""
    import logging  # noqa: PLC0415 - slow to load, and seldom wanted

    return logging.getLogger("mailq")


def read_small(disk: Disk, path: str, most: int) -> bytes | None:
    """Read the beginning of a regular file; None if there is none. Follows no symlink, waits for no FIFO."""
    try:
        fd = disk.open_to_read(path)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        return disk.read_all(fd, min(status.st_size, most))[:most] if is_regular(status) else None
    except OSError:
        return None
    finally:
        disk.drop(fd)


def entries(directory: str, near: Sieve | None = None) -> Iterator[os.DirEntry[str]]:
    """The files in a directory that can be messages: regular, no symlinks, no dot-names.

    ``near`` passes on what is wanted of the raw listing, before each of the others costs more.
    A listing is no snapshot: a file that is renamed meanwhile may be missing from
    it. Not listed never means gone.
    """
    try:
        if os.path.islink(directory):  # put there since the queue was opened
            raise OSError(errno.ELOOP, "a symbolic link is in the place of a directory", directory)
        scan = os.scandir(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError("list the messages", error) from error
    with scan:
        try:
            for entry in scan if near is None else near(scan):
                try:
                    is_message = entry.name[0] != "." and entry.is_file(follow_symlinks=False)
                except OSError:  # it went away, on a file system whose listing does not tell the type
                    continue
                if is_message:
                    yield entry
        except OSError as error:  # the disk went away after the listing had begun
            raise StorageError("list the messages", error) from error


def envelope_of(directory: str, name: str) -> names.MessageName | None:
    """The envelope of a file: read from its name, or made up for one dropped in by hand.

    None if it is gone or is no regular file. The place of a dropped file is when
    it came to where it is: a rename sets its ctime.
    """
    envelope = names.parse(name)
    if envelope is not None:
        return envelope
    status = status_of(f"{directory}/{name}")
    if status is None:
        return None
    return names.from_dropped_file(name, visible_at=status.st_ctime_ns, size=status.st_size, number=status.st_ino)


def is_there(path: str) -> bool:
    """Whether anything has this name, a link to nothing too. False costs no exception, as with os.path.lexists."""
    if os.access in os.supports_follow_symlinks:
        return os.access(path, os.F_OK, follow_symlinks=False)
    return os.path.lexists(path)


def status_of(path: str) -> os.stat_result | None:
    """lstat(2) of a regular file; None if it is gone or something else."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status if is_regular(status) else None


def is_regular(status: os.stat_result) -> bool:
    """Whether a status is that of a regular file."""
    return (status.st_mode & 0o170000) == 0o100000  # noqa: PLR2004 - S_ISREG, without importing stat


def sort_key(directory: str, name: str) -> str | None:
    """Where a file stands in line; None if it is no message. ``name_of`` takes it back."""
    if names.looks_ours(name):
        return names.sort_key(name)
    status = status_of(f"{directory}/{name}")
    return None if status is None else f"9{names.format_time(status.st_ctime_ns)}/{name}"


def time_of(key: str) -> str:
    """The time in a sort key, as names spell it."""
    return key[1:27]


def name_of(key: str) -> str:
    """The file name in a sort key."""
    _, slash, name = key.partition("/")
    return name if slash else key[1:]


def stamp_of(path: str) -> tuple[int, int, int] | None:
    """What distinguishes one version of a file from the next; None if it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def last_change(directory: str) -> int | None:
    """When names last came to a directory or went, which is the same as long as none does.

    None while that is too short ago to tell, or unknown: what comes within the
    same tick of the kernel's has the same stamp. Not by the queue's clock, which may be another.
    """
    try:
        changed = os.stat(directory).st_mtime_ns
    except OSError:
        return None
    return changed if abs(time.time_ns() - changed) > _TICK else None
