"""File systems in files: made, mounted, and always put away again."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from janitor import memory
from together import PATIENCE, wait_until

import mailq


class FileSystem(NamedTuple):
    """How one is made and mounted. Blocks of 4 KiB throughout: what a disk writes whole or not at all.

    ``repair`` is for one that a cut may leave in need of it before it can be mounted.
    """

    name: str
    kind: str
    make: tuple[str, ...]
    options: str
    megabytes: int
    package: str
    forgiven: frozenset[str] = frozenset()
    repair: tuple[str, ...] = ()


# Of linux/loop.h: the fields that are not 0 are file, block size and flags.
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CONFIG = struct.Struct("II52xI240x")
_LO_FLAGS_AUTOCLEAR = 4

_EXT4 = ("mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=8", "-E", "lazy_itable_init=1")
EXT4 = FileSystem("ext4", "ext4", _EXT4, "data=ordered", 256, "e2fsprogs")
EXT4_WRITEBACK = FileSystem("ext4 writeback", "ext4", _EXT4, "data=writeback", 256, "e2fsprogs")
EXT4_FAST = FileSystem(
    "ext4 fast",
    "ext4",
    (*_EXT4, "-O", "fast_commit"),
    "data=ordered",
    256,
    "e2fsprogs",
    repair=("e2fsck", "-f", "-y"),
)
XFS = FileSystem("xfs", "xfs", ("mkfs.xfs", "-q", "-f", "-s", "size=4096"), "defaults", 300, "xfsprogs")
# Its log brings a file that was renamed into another directory back under both names.
_BTRFS = ("mkfs.btrfs", "-q", "-f", "-m", "single")
BTRFS = FileSystem("btrfs", "btrfs", _BTRFS, "nodiscard", 256, "btrfs-progs", frozenset(("twice",)))


def run(*command: str | Path) -> str:
    """Run a tool; what it said, and it is an error if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


@contextmanager
def workshop(fallback: Path | None = None) -> Iterator[Path]:
    """A directory for images: in memory where there is room, for a cut takes no longer than its writes."""
    shared = memory()
    room = shared is not None and shutil.disk_usage(shared).free > 1 << 30
    place = Path(tempfile.mkdtemp(prefix="mailq-power-", dir=shared if room else fallback))
    try:
        yield place
    finally:
        shutil.rmtree(place)


def make_image(system: FileSystem, place: Path) -> Path:
    """A file system in a sparse file."""
    image = place / "disk.img"
    image.unlink(missing_ok=True)
    image.touch()
    os.truncate(image, system.megabytes << 20)
    run(*system.make, image)
    return image


@contextmanager
def mounted(system: FileSystem, source: Path, place: Path) -> Iterator[Path]:
    """A file system on a device, or in a file."""
    at = place / "mounted"
    at.mkdir(exist_ok=True)
    loop = [] if source.is_block_device() else ["loop"]
    command = ("mount", "-t", system.kind, "-o", ",".join([*loop, system.options]), source, at)
    try:
        try:
            run(*command)
        except OSError:
            if not system.repair:
                raise
            subprocess.run([*system.repair, source], check=False, capture_output=True)
            run(*command)
        yield at
    finally:
        _unmount(at)


def _unmount(at: Path) -> None:
    """Whoever was killed a moment ago may still be on it. It is no error if the mounting failed."""

    def gone() -> bool:
        done = subprocess.run(["umount", at], check=False, capture_output=True, text=True)
        assert done.returncode == 0 or "busy" in done.stderr or "not mounted" in done.stderr, done.stderr
        return done.returncode == 0 or "not mounted" in done.stderr

    try:
        wait_until(gone, f"{at} is unmounted")
    except BaseException:
        subprocess.run(["umount", "--lazy", at], check=False)
        raise


@contextmanager
def looped(file: Path) -> Iterator[Path]:
    """A block device over a file. The kernel frees it when nothing has it open or mounted any more, also after a SIGKILL."""
    device, path = _attached(file)
    try:
        yield path
    finally:
        os.close(device)


def _attached(file: Path) -> tuple[int, Path]:
    """A loop device over a file, open, and its path."""
    behind = os.open(file, os.O_RDWR)
    try:
        while True:
            with open("/dev/loop-control", "rb") as control:
                path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDWR)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, _LOOP_CONFIG.pack(behind, 4096, _LO_FLAGS_AUTOCLEAR))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # another process was faster: try the next one
                    raise
            else:
                return device, Path(path)
    finally:
        os.close(behind)


def with_queue(system: FileSystem, place: Path, durability: str) -> Path:
    """An image with an empty queue on it, unmounted in peace."""
    image = make_image(system, place)
    with mounted(system, image, place) as at:
        make_queue(at, durability)
    return image


def make_queue(at: Path, durability: str) -> Path:
    path = at / "jobs"
    mailq.open(path, durability=durability, max_retries=5).close()
    return path


@cache
def missing(system: FileSystem) -> str:
    """Why this file system cannot be tried here; nothing if it can."""
    if sys.platform != "linux":
        return "cuts are made on Linux"
    if os.geteuid() != 0:
        return "only root may mount"
    if not shutil.which(system.make[0]):
        return f"{system.make[0]} is not installed (Debian: {system.package})"
    try:
        with workshop() as place, mounted(system, make_image(system, place), place):
            return ""
    except OSError as error:
        return str(error)
