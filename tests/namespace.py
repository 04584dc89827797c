"""A mount namespace for the tests: what they mount others do not see, and it is gone with their last process."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

# Of linux/sched.h and linux/mount.h.
_CLONE_NEWNS: Final = 0x20000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 1 << 18


def have_mounts_of_ones_own() -> None:
    """For this thread, and all that it starts from now on. Does nothing where that may not be done: nor may a disk be mounted there."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if (
        libc.unshare(_CLONE_NEWNS) == 0
        and libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) != 0
    ):
        raise OSError("the tests have a mount namespace, and cannot make its mounts private")
