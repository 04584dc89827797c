"""Whether a file is what its name says, without holding it in memory."""

from __future__ import annotations

import os
import stat
import zlib
from typing import TYPE_CHECKING, Final, Literal

from mailq.engines.maildir.layout import GONE

if TYPE_CHECKING:
    from mailq.engines.maildir.disk import Disk
    from mailq.engines.maildir.names import MessageName

Condition = Literal["whole", "torn", "unreadable", "gone"]

_PART: Final = 1 << 20


def condition_of(disk: Disk, path: str, envelope: MessageName) -> Condition:
    """Read a message and compare it with its name; follows no link, waits for no FIFO."""
    try:
        fd = disk.open_to_read(path)
    except OSError as error:
        return "gone" if error.errno in GONE else "unreadable"
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return "unreadable"
        if not fits(envelope, status.st_size):
            return "torn"
        if envelope.crc is None:
            return "whole"
        crc = 0
        while part := disk.read(fd, _PART):
            crc = zlib.crc32(part, crc)
    except OSError as error:
        return "gone" if error.errno in GONE else "unreadable"
    finally:
        disk.drop(fd)
    return "whole" if crc == envelope.crc else "torn"


def fits(envelope: MessageName, size: int) -> bool:
    """Whether a file's length is what its name says."""
    return (envelope.size is None or envelope.size == size) and envelope.header_bytes <= size


def is_whole(disk: Disk, path: str, envelope: MessageName) -> bool:
    """Whether a file is there, can be read, and is what its name says."""
    return condition_of(disk, path, envelope) == "whole"
