"""Servers: started for a measurement, on the disk that is measured, and stopped after it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATIENCE: Final = 10.0
"""Seconds that a server has to begin."""


def address(directory: str) -> str:
    """The socket by which the server of a directory is reached; not in it, since the path of a socket must be short."""
    return os.path.join(tempfile.gettempdir(), f"{os.path.basename(directory)}.socket")


def said_by(program: str, option: str) -> str:
    """The version that a server tells: a name and a number."""
    done = subprocess.run([program, option], capture_output=True, text=True, check=True)
    found = re.search(r"\d+(\.\d+)+", done.stdout)
    return f"{program} {found[0] if found else '?'}"


@contextlib.contextmanager
def serving(directory: str, command: Sequence[str]) -> Iterator[None]:
    """Have a server run that listens on the address. Raises RuntimeError if it does not come up."""
    log = os.path.join(directory, "log")
    with open(log, "wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            until = time.monotonic() + PATIENCE
            while not _answers(address(directory)):
                if process.poll() is not None or time.monotonic() > until:
                    with open(log, encoding="utf-8", errors="replace") as said:
                        raise RuntimeError(f"{command[0]} does not come up: {said.read()[-500:]}")
                time.sleep(0.005)
            yield
        finally:
            process.terminate()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address(directory))


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0
