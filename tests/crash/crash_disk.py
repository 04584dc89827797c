"""Put a state on a disk."""

from __future__ import annotations

import contextlib
import os
import shutil

from crash_states import State


def materialise(state: State, base: str) -> None:
    """Make the tree, out of what the last recovery left of the one before."""
    for directory in ("", *state.directories):
        _clear(f"{base}/{directory}".rstrip("/"), directory, state)
    for path, data, ns in state.files:
        fd = os.open(f"{base}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, data)
        os.close(fd)
        if ns is not None:
            os.utime(f"{base}/{path}", ns=(ns, ns))


def _clear(path: str, name: str, state: State) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    with os.scandir(path) as scan:
        for entry in scan:
            if not entry.is_dir():
                os.unlink(entry.path)
            elif f"{name}/{entry.name}".lstrip("/") not in state.directories:
                shutil.rmtree(entry.path)
