"""A whole kernel that is killed: Linux as a process (user-mode Linux), with the queue's disk as its only disk.

Its page cache and its journals in memory die with it, and so do the processes on it. What it had
written is in the image, for there is no cache of a disk below: power_logged.py has that.
"""

from __future__ import annotations

import os
import random
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from power_books import Audit, audit, read_report
from power_disks import FileSystem, mounted, with_queue
from power_programs import Program, Work, environment, recovered, running

KERNEL: Final = "linux.uml"

# The root is the host's, and reports go there: a write to hostfs is made on the host before it returns.
_INIT: Final = """#!/bin/sh
export PATH={path} PYTHONPATH={python} PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc || exit
{work}
"""
_WORK: Final = "mount -t {kind} -o {options} /dev/ubda {at} && exec {command}"


@contextmanager
def booted(image: Path | None, place: Path, at: Path, work: str) -> Iterator[Program]:
    """A kernel whose first process does this work."""
    init = at / "init"
    init.write_text(_INIT.format(path=os.environ["PATH"], python=environment()["PYTHONPATH"], work=work))
    init.chmod(0o700)
    disk = [] if image is None else [f"ubd0={image}"]
    root = ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}"]
    console = ["con=null", "con0=null,fd:1", "quiet"]
    with running([KERNEL, "mem=192M", f"uml_dir={place}/uml", *root, *console, *disk], place / "output") as kernel:
        yield kernel


@contextmanager
def _guest_directory() -> Iterator[Path]:
    """A place that host and guest both see: the guest has a /dev of its own, so not there."""
    place = Path(tempfile.mkdtemp(prefix="mailq-power-"))
    try:
        yield place
    finally:
        shutil.rmtree(place)


def cut(system: FileSystem, work: Work, place: Path, seed: int) -> Audit:
    """Boot, work for a while, kill the kernel, mount its disk here, and look."""
    image = with_queue(system, place, work.durability)
    with _guest_directory() as shared:
        report, at = shared / "report", shared / "disk"
        at.mkdir()
        command = shlex.join(work.command(at / "jobs", report, seed))
        line = _WORK.format(kind=system.kind, options=system.options, at=at, command=command)
        with booted(image, place, shared, line) as kernel:
            kernel.wait_for(report, random.Random(seed).randrange(2000, 40_000))
        with mounted(system, image, place) as here:
            return audit(read_report(report), recovered(here / "jobs"))


@cache
def missing() -> str:
    """Why no kernel can be booted here; nothing if one can."""
    if not shutil.which(KERNEL):
        return f"{KERNEL} is not installed (Debian: user-mode-linux)"
    with _guest_directory() as shared:
        try:
            with booted(None, shared, shared, f"echo up > {shared}/up; sleep 60") as kernel:
                kernel.wait_for(shared / "up", 1)
        except AssertionError as error:
            return f"user-mode Linux does not boot here: {error}"
    return ""
