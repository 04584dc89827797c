"""A block device that logs its writes and flushes, and the states that a cut of it may leave.

nbdkit keeps the log (power_plugin.py), nbdfuse shows the disk as a file, and a loop device makes a
block device of it. What was written before the last flush is on the disk. Of what came after it,
each write may be there or not, or each of its blocks: that is every order in which a disk may
write its cache back, as far as it can be seen in the end.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple, Self

from power_books import Audit, audit, read_report
from power_disks import FileSystem, looped, mounted, run, with_queue
from power_programs import Work, recovered, running
from together import wait_until

RECORD: Final = struct.Struct("<QI?")
_BLOCK: Final = 4096
_PLUGIN: Final = Path(__file__).parent / "power_plugin.py"
_PR_SET_IO_FLUSHER: Final = 57  # of linux/prctl.h


class Write(NamedTuple):
    """A write, and where its bytes stand in the log's data."""

    offset: int
    length: int
    at: int


class Log:
    """What was done to a disk, in order; None is a flush."""

    def __init__(self, place: Path) -> None:
        self.ops: list[Write | None] = []
        at = 0
        for offset, length, is_flush in RECORD.iter_unpack((place / "log").read_bytes()):
            self.ops.append(None if is_flush else Write(offset, length, at))
            at += length
        self._data = os.open(place / "data", os.O_RDONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *of: object) -> None:
        os.close(self._data)

    def last_flush(self, cut: int) -> int:
        """How many operations a flush that was done before the cut has made safe."""
        return max((n + 1 for n in range(cut) if self.ops[n] is None), default=0)

    def apply(self, image: Path, writes: list[Write]) -> None:
        fd = os.open(image, os.O_WRONLY)
        try:
            for offset, length, at in writes:
                os.pwrite(fd, os.pread(self._data, length, at), offset)
        finally:
            os.close(fd)

    def writes(self, begin: int, end: int) -> list[Write]:
        return [op for op in self.ops[begin:end] if op is not None]


@contextmanager
def logged_device(image: Path, place: Path) -> Iterator[Path]:
    """A block device over the image, whose log and data are kept beside it."""
    directory = place / "fuse"
    directory.mkdir(exist_ok=True)
    for name in ("log", "data"):
        (place / name).unlink(missing_ok=True)
    paths = {"image": image, "log": place / "log", "data": place / "data", "broken": place / "broken"}
    settings = [f"record={RECORD.format}", *(f"{name}={path}" for name, path in paths.items())]
    server = subprocess.Popen(
        ["nbdfuse", directory / "disk", "[", "nbdkit", "python", _PLUGIN, *settings, "]"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=_serve_disks,  # noqa: PLW1509 - one call of C, and the tests have one thread
    )
    try:
        wait_until(lambda: (directory / "disk").exists() or server.poll() is not None, "nbdfuse shows the disk")
        with looped(directory / "disk") as device:
            yield device
    finally:
        _end(server, directory)


def _serve_disks() -> None:
    """Have the kernel give this process memory without writing to a disk first: it may be the one that is served from here."""
    ctypes.CDLL(None).prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)


def _end(server: subprocess.Popen[bytes], directory: Path) -> None:
    """Unmounted, nbdfuse ends, and nbdkit with it; the kernel may need a moment to let go of the loop device."""

    def gone() -> bool:
        subprocess.run(["fusermount3", "-u", directory], check=False, capture_output=True)
        return server.poll() is not None

    try:
        wait_until(gone, "nbdfuse has ended")
    finally:
        server.kill()
        server.wait()


def work_on(system: FileSystem, work: Work, place: Path, seed: int) -> Path:
    """Work on a logged disk for a while; returns an image of what was on it before."""
    image = with_queue(system, place, work.durability)
    before, report = copied(image, place / "before.img"), place / "report"
    report.unlink(missing_ok=True)
    with logged_device(image, place) as device, mounted(system, device, place) as at:
        command = work.command(at / "jobs", report, seed, place / "log")
        with running(command, place / "output") as program:
            program.wait_for(report, 30_000)
    return before


def copied(image: Path, target: Path) -> Path:
    """A copy without the zeros."""
    run("cp", "--sparse=always", image, target)
    return target


class Disk:
    """A logged disk that gets older: what it holds for certain at one moment after the other."""

    def __init__(self, log: Log, before: Path) -> None:
        self._log = log
        self._image = before
        self._done = 0

    def left(self, cut: int, chance: random.Random | None) -> Path:
        """An image of what a cut after so many operations leaves; without a chance no more than it must."""
        flushed = self._log.last_flush(cut)
        self._log.apply(self._image, self._log.writes(self._done, flushed))
        self._done = flushed
        image = copied(self._image, self._image.with_name("left.img"))
        if chance is not None:
            self._log.apply(image, survivors(self._log.writes(flushed, cut), chance))
        return image


def cuts(system: FileSystem, work: Work, place: Path, seed: int, count: int) -> Audit:
    """Work once; then cut it at so many moments of the log, each with another fate of the writes not flushed."""
    before = work_on(system, work, place, seed)
    report = read_report(place / "report")
    chance = random.Random(seed)
    result = Audit()
    with Log(place) as log:
        disk = Disk(log, before)
        last = max(entry.mark for entry in report) // RECORD.size
        for cut in sorted(chance.randrange(1, last + 1) for _ in range(count)):
            with mounted(system, disk.left(cut, chance), place) as at:
                result.add(audit(report, recovered(at / "jobs"), cut * RECORD.size))
    return result


def survivors(writes: list[Write], chance: random.Random) -> list[Write]:
    """What of the disk's cache had been written back: whole writes, or single blocks; few, or many."""
    pieces = [piece for write in writes for piece in _blocks(write)] if chance.random() < 0.5 else writes
    share = chance.random()
    return [piece for piece in pieces if chance.random() < share]


def _blocks(write: Write) -> Iterator[Write]:
    for start in range(0, write.length, _BLOCK):
        yield Write(write.offset + start, min(_BLOCK, write.length - start), write.at + start)


@cache
def missing() -> str:
    """Why no disk can be logged here; nothing if it can."""
    for tool, package in (("nbdkit", "nbdkit"), ("nbdfuse", "libnbd-bin"), ("fusermount3", "fuse3")):
        if not shutil.which(tool):
            return f"{tool} is not installed (Debian: {package})"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    try:
        run("nbdkit", "python", "--version")
    except OSError as error:
        return f"nbdkit has no Python plugin (Debian: nbdkit-plugin-python): {error}"
    return ""
