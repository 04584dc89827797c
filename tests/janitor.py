"""Wait until a run of the tests is gone, and clear up after it: ``janitor.py PID MARK DIRECTORY...``

However the run ended, also by SIGKILL: what it started and left behind is killed, and its directories are removed. A
process is one of the run's if MARK stands in the environment that it was started with, if it is a fork of the run
itself, or if one of those is among its ancestors.

What the run has mounted is unmounted before that. It is in a mount namespace of the run's own, which ends with its last
process: that is this one. If that were a process that serves a file system (FUSE), its end would wait for the kernel to
unmount what only it can still write. Loop devices need no janitor: each lets go of its file when nothing uses it any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

_MNT_DETACH: Final = 2  # of sys/mount.h
MEMORY: Final = "TESTS_MEMORY"
"""The variable that names the run's directory in memory. The one on disk is TMPDIR, so that every program puts its files there."""
_PATIENCE: Final = 60
"""Seconds until a process that does not die is given up: it hangs in the kernel."""

_SHARED: Final = ("/dev/shm/faketime_shm_{}", "/dev/shm/sem.faketime_sem_{}")
"""What libfaketime leaves of a process that is killed."""

# Fields of /proc/PID/stat, counted from the one behind the command's name.
_STATE: Final = 0
_PARENT: Final = 1
_START_STACK: Final = 25
_ARGUMENTS: Final = slice(45, 49)

Image = tuple[str, ...]
"""Where a program's stack, arguments and environment begin. The kernel chooses that by chance, and a fork keeps it."""


class _Dismissed(Exception):
    """The run has ended in good order, and waits until its janitor has cleared up."""


class Process(NamedTuple):
    """What tells whose a process is."""

    parent: int
    image: Image
    environment: bytes


def employ() -> subprocess.Popen[bytes]:
    """Start the janitor of this process, and tell by the environment where it and its children put what they make."""
    kept = tempfile.gettempdir()  # by this process, as the place of pytest's own directory
    on_disk = tempfile.mkdtemp(prefix="mailq-tests-", dir=kept)
    in_memory = tempfile.mkdtemp(prefix="mailq-tests-", dir=memory())
    for directory in (on_disk, in_memory):
        os.chmod(directory, 0o1777)  # some tests become other users
    mark = f"TESTS_RUN_{secrets.token_hex(8)}"
    os.environ.update({mark: "1", "TMPDIR": on_disk, MEMORY: in_memory})
    janitor = subprocess.Popen(
        [sys.executable, "-ISs", __file__, str(os.getpid()), mark, on_disk, in_memory],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert janitor.stdout is not None
    janitor.stdout.read()  # it is ready when it closes that
    janitor.stdout.close()
    return janitor


def dismiss(janitor: subprocess.Popen[bytes]) -> None:
    """Have it clear up now; all is gone when this returns."""
    janitor.terminate()
    janitor.wait()


def memory() -> str | None:
    """Where directories in memory are made; None if there is no such place."""
    return os.environ.get(MEMORY) or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


def main(run: int, mark: str, directories: list[str]) -> None:
    os.setsid()  # what is sent to all processes of the run, by a terminal for one, is not meant for this
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _be_dismissed)
    itself = _processes().get(run)
    image = itself.image if itself is not None else ()
    with contextlib.suppress(_Dismissed):
        _wait_for_the_end(run)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = time.monotonic() + _PATIENCE
    while (left := _left_by(run, image, mark.encode())) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            for name in _SHARED:
                Path(name.format(pid)).unlink(missing_ok=True)
        time.sleep(0.01)
    for directory in directories:
        _unmount_below(directory)
        shutil.rmtree(directory, ignore_errors=True)


def _unmount_below(directory: str) -> None:
    """Unmount what is mounted there, the latest first; where nothing can be mounted there is nothing to do."""
    with contextlib.suppress(OSError):
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for point in reversed(points):
            if point.startswith(f"{directory}/"):
                ctypes.CDLL(None).umount2(os.fsencode(point), _MNT_DETACH)


def _be_dismissed(*_: object) -> None:
    raise _Dismissed


def _wait_for_the_end(run: int) -> None:
    ready = sys.stdout.fileno()
    if not hasattr(os, "pidfd_open"):
        os.close(ready)
        while os.getppid() == run:
            time.sleep(1)
        return
    with contextlib.suppress(ProcessLookupError):  # it is over already
        watched = os.pidfd_open(run)
        os.close(ready)
        if os.getppid() == run:  # else the number may be another's by now
            select.select([watched], [], [])


def _left_by(run: int, image: Image, mark: bytes) -> set[int]:
    """The processes of the run, except itself and its janitor."""
    processes = _processes()
    ours = {pid for pid, process in processes.items() if mark in process.environment or process.image == image}
    ours -= {run, os.getpid()}
    while more := {pid for pid, process in processes.items() if process.parent in ours} - ours - {os.getpid()}:
        ours |= more
    return ours


def _processes() -> dict[int, Process]:
    """Those that are not dead, as far as this user may look. None where there is no /proc: there the run's own clearing up is all."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[_STATE] not in "ZX":
                image = (fields[_START_STACK], *fields[_ARGUMENTS])
                found[int(entry.name)] = Process(int(fields[_PARENT]), image, (entry / "environ").read_bytes())
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
