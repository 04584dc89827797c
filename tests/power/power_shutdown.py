"""A mounted file system that is shut down in mid-flight: what it had not written yet is gone."""

from __future__ import annotations

import fcntl
import os
import random
import struct
from pathlib import Path
from typing import Final

from power_books import Audit, audit, read_report
from power_disks import FileSystem, make_image, make_queue, mounted
from power_programs import Work, recovered, running

# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number, _IOR('X', 125, __u32).
_SHUTDOWN: Final = 0x8004_587D
_NOT_EVEN_THE_LOG: Final = 2


def shut_down(at: Path) -> None:
    """No more writes from now on, and none of what the log has in memory."""
    fd = os.open(at, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NOT_EVEN_THE_LOG))
    finally:
        os.close(fd)


def cut(system: FileSystem, work: Work, place: Path, seed: int) -> Audit:
    """Work for a while, lose the file system under it, mount it again, and look."""
    image = make_image(system, place)
    report = place / "report"
    report.unlink(missing_ok=True)
    with mounted(system, image, place) as at:
        queue = make_queue(at, work.durability)
        with running(work.command(queue, report, seed), place / "output") as program:
            program.wait_for(report, random.Random(seed).randrange(2000, 40_000))
            shut_down(at)
            program.end()
    with mounted(system, image, place) as at:
        return audit(read_report(report), recovered(at / "jobs"))
