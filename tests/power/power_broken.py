"""A disk that fails for good while it is worked on: each write and flush from then on is an I/O error.

What the processes hear of it is what counts here: nothing may be called done that the disk refused.
"""

from __future__ import annotations

import random
from pathlib import Path

from power_books import Audit, audit, read_report
from power_disks import FileSystem, mounted, with_queue
from power_logged import logged_device
from power_programs import Work, recovered, running


def cut(system: FileSystem, work: Work, place: Path, seed: int) -> Audit:
    """Work until the disk breaks, and as long as the processes take it; then look at what is on it."""
    image = with_queue(system, place, work.durability)
    report, broken = place / "report", place / "broken"
    report.unlink(missing_ok=True)
    with (
        logged_device(image, place) as device,
        mounted(system, device, place) as at,
        running(work.command(at / "jobs", report, seed), place / "output") as program,
    ):
        program.wait_for(report, random.Random(seed).randrange(2000, 40_000))
        broken.touch()
        program.end()
    broken.unlink()
    with mounted(system, image, place) as at:
        return audit(read_report(report), recovered(at / "jobs"))
