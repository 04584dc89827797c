"""``aside/``: where files go that must not be delivered and must not be lost."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.doctor.finding import Finding, Sample, plural
from mailq.engines.maildir.doctor.listing import messages

if TYPE_CHECKING:
    from mailq.engines.maildir.doctor.context import Patient
    from mailq.engines.maildir.doctor.finding import Findings


class Aside:
    """Moves files there: ``new/x`` to ``aside/new/x``."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._touched: set[str] = set()

    def put(self, path: str) -> None:
        """One rename. Raises FileNotFoundError if somebody else was faster, OSError if it failed."""
        directory, name = os.path.split(path)
        home = f"{self._patient.layout.aside}/{os.path.basename(directory)}"
        for made in (self._patient.layout.aside, home):
            if made not in self._touched:
                self._make(made)
        target = f"{home}/{name}"
        while os.path.lexists(target):  # a rename would replace what was put there before
            target = f"{home}/{name}~{os.urandom(2).hex()}"
        self._patient.store.disk.rename(path, target)
        self._touched |= {directory, home, self._patient.layout.aside}

    def _make(self, path: str) -> None:
        mode = layouts.directory_mode(self._patient.settings)
        with contextlib.suppress(FileExistsError):
            self._patient.store.disk.make_directory(path, mode)
        if not stat.S_ISDIR(os.lstat(path).st_mode):  # a link that somebody planted would lead out of the queue
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)

    def sync(self) -> None:
        """Make the moves durable."""
        if self._touched and self._patient.store.durable:
            for path in sorted({*self._touched, self._patient.layout.root}):
                # They have happened; what a power cut takes back, a second look finds again.
                with contextlib.suppress(OSError):
                    self._patient.store.disk.sync_directory(path)


def examine(patient: Patient) -> Findings:
    """Say what lies there."""
    found = Sample()
    for directory in _directories(patient):
        for entry in messages(directory):
            found.add(patient.short(entry.path))
    if not found.count:
        yield Finding("aside", "ok", "nothing was put aside")
        return
    yield found.finding(
        "aside",
        "warning",
        f"{plural(found.count, 'file')} put aside as older states of messages: nothing delivers or deletes them",
        "look at them; bring one back with mv aside/new/NAME new/, or remove them: rm -r aside",
    )


def _directories(patient: Patient) -> list[str]:
    if os.path.islink(patient.layout.aside):
        return []
    try:
        with os.scandir(patient.layout.aside) as scan:
            return sorted(entry.path for entry in scan if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
