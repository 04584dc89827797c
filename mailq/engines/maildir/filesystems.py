"""What a directory is mounted on, and what that promises of the order in which names come to disk."""

from __future__ import annotations

import contextlib
import os
import re
from typing import Final, NamedTuple

_ORDERED: Final = frozenset(("xfs", "btrfs"))
_HAS_BEEN_FAST: Final = re.compile(rb"^[1-9][0-9]* commits$", re.MULTILINE)
_BEGINNING: Final = 4096
_SHARED: Final = frozenset(
    (
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "drvfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "prl_fs",
        "pvfs2",
        "smb3",
        "smbfs",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
    )
)


class Mount(NamedTuple):
    """One mounted file system. ``options`` are those of the mount and of the file system."""

    point: str
    type: str
    source: str
    device: str
    options: frozenset[str]


def mount_of(path: str, *, proc: str = "/proc") -> Mount | None:
    """The file system that a path is on; None where the system does not say."""
    path = os.path.realpath(path)
    found: Mount | None = None
    with (
        contextlib.suppress(OSError),
        open(f"{proc}/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file,
    ):
        for line in file.read().splitlines():
            mount = _parse_mount(line)
            if mount is None or not _is_under(path, mount.point):
                continue
            if found is None or len(mount.point) >= len(found.point):  # the last of one place lies on top
                found = mount
    return found


def name_of_device(device: str, *, sys: str = "/sys") -> str:
    """The kernel's name for a device, of its two numbers: of ``8:1`` it is ``sda1``."""
    try:
        return os.path.basename(os.readlink(f"{sys}/dev/block/{device}"))
    except OSError:  # no disk of this machine
        return device


def has_journal(mount: Mount, *, proc: str = "/proc", sys: str = "/sys") -> bool | None:
    """Whether an ext4 file system has a journal; None where the kernel does not say."""
    device = name_of_device(mount.device, sys=sys)
    if not os.path.isdir(f"{proc}/fs/ext4/{device}"):
        return None
    with contextlib.suppress(OSError):
        return any(name.startswith(f"{device}-") for name in os.listdir(f"{proc}/fs/jbd2"))
    return False  # no file system at all has one


def makes_fast_commits(device: str, *, proc: str = "/proc", sys: str = "/sys") -> bool | None:
    """Whether the ext4 on a device (``8:1``) has made fast commits since it was mounted; None if it is none, or never says.

    With its feature ``fast_commit`` an fsync writes notes of what has changed in place of a commit. The kernel
    flushes the disk's cache for the last block of the notes alone ("ext4: Remove expensive flush on fast commit",
    linux-ext4, 6 January 2021), and does not wait for the others before it does. A disk that is cut off may then have the last
    and lack another: it cannot be mounted until e2fsck has dropped what the file system's journal had, also
    what was synced. docs/guarantees.md has the measurement.
    """
    try:
        fd = os.open(f"{proc}/fs/ext4/{name_of_device(device, sys=sys)}/fc_info", os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # not for now
        return False
    try:
        # No text: a process that has become another user may not be able to import a codec any more.
        return _HAS_BEEN_FAST.search(os.read(fd, _BEGINNING)) is not None
    except OSError:
        return False
    finally:
        os.close(fd)


def is_shared(mount: Mount) -> bool:
    """Whether others than this kernel may change what is on it: a network disk, a host's directory, a program behind FUSE."""
    return mount.type in _SHARED or mount.type.startswith("fuse")


def is_all_here(path: str, *, proc: str = "/proc") -> bool:
    """Whether this kernel sees everything that comes to a directory. False where that is not known."""
    mount = mount_of(path, proc=proc)
    return mount is not None and not is_shared(mount)


def keeps_order(path: str, *, proc: str = "/proc", sys: str = "/sys") -> bool:
    """Whether names and times come to disk in the order in which they were changed, files apart.

    So it is where they go through one journal, or into one tree that is written as a
    whole: what is there after a power cut is what was there at some moment before.
    False where it is not known.
    """
    mount = mount_of(path, proc=proc)
    if mount is None:
        return False
    if mount.type == "ext4":
        is_fast = makes_fast_commits(mount.device, proc=proc, sys=sys)
        return not is_fast and has_journal(mount, proc=proc, sys=sys) is True
    return mount.type in _ORDERED


def _parse_mount(line: str) -> Mount | None:
    """Read a line of mountinfo, see proc_pid_mountinfo(5)."""
    before, separator, after = line.partition(" - ")
    left, right = before.split(" "), after.split(" ")
    if not separator or len(left) < 6 or len(right) < 3:  # noqa: PLR2004 - the fixed fields on either side
        return None
    options = frozenset(left[5].split(",")) | frozenset(right[2].split(","))
    if "ro" in options:  # of the mount or of the file system: either is enough
        options -= {"rw"}
    return Mount(_unescape(left[4]), right[0], _unescape(right[1]), left[2], options)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _is_under(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")
