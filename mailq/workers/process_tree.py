"""A worker's tree of processes: which one dies with which, and which one reaps which.

Some of it exists on Linux alone (prctl(2)). Elsewhere each function does what the
system can do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


def die_with_parent(number: int | None = None) -> None:
    """Send this process a signal when its parent dies, by default SIGKILL. Only Linux can do that."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if number is None else number)


def become_subreaper() -> None:
    """Become the parent of the orphans of this process's children. Only Linux can do that."""
    if sys.platform == "linux":
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    import ctypes  # noqa: PLC0415 - slow to load, and only here

    ctypes.CDLL(None).prctl(option, value)


def can_fork() -> bool:
    """Whether this system can fork processes, and pass sockets to them. Windows cannot."""
    return hasattr(os, "fork")


def kill_group(leader: int, number: int) -> None:
    """Send a signal to a process group, which may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def reap(leaders: Container[int]) -> tuple[int, int] | None:
    """Reap a dead child. Returns its id and exit code, or None. Kills what a leader left behind in its group."""
    try:
        if hasattr(os, "waitid"):
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                return None
            if found.si_pid in leaders:  # before it is reaped: its id is still its own
                kill_group(found.si_pid, signal.SIGKILL)
            pid, status = os.waitpid(found.si_pid, 0)
        else:  # macOS before Python 3.13
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return None
            if pid in leaders:  # as long as its group has a process, no other process gets its id
                kill_group(pid, signal.SIGKILL)
    except ChildProcessError:
        return None
    return pid, os.waitstatus_to_exitcode(status)


def reap_orphans(ours: int) -> None:
    """Reap what other programs left behind, if this is the first process of a container; except its own child."""
    if os.getpid() != 1 or not hasattr(os, "waitid"):
        return
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and found.si_pid != ours:
            os.waitpid(found.si_pid, 0)
