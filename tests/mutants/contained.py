"""Run a command, and let nothing that came of it live on: ``contained.py SECONDS COMMAND...``

Its exit code is the command's, or TIME_IS_UP. Workers have process groups of their
own, and a broken one leaves some behind: so on Linux the orphans come here, and are killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

TIME_IS_UP: Final = 124
# Of linux/prctl.h.
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


class _Over(Exception):
    """The time is up, or nobody waits for the result any more."""


def run(seconds: int, command: list[str]) -> int:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, _end)
    process = subprocess.Popen(command, start_new_session=True)
    signal.alarm(seconds)
    try:
        while True:
            pid, status = os.wait()  # orphans too: a test may wait until one is gone
            if pid == process.pid:
                return os.waitstatus_to_exitcode(status)
    except _Over:
        return TIME_IS_UP
    finally:
        signal.alarm(0)
        _kill_all(process.pid)


def _end(*_: object) -> None:
    raise _Over


def _kill_all(leader: int) -> None:
    """Kill what is left, generation by generation: the children of the killed come here."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _children() -> list[int]:
    """Linux alone says; elsewhere the group is all that is killed."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), sys.argv[2:]))
