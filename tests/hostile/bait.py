"""What no queue may touch: files and directories next to it, watched to the last bit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

NAMES: Final = frozenset(
    ("letter.txt", "cafe", "0" * 32 + ".json", ".owner.cafe", f"{'0' * 32}.1.txt", "0badcafe", "0badcafe.mark")
)
"""Such names as a sweep of owners/, replies/ and tmp/ looks for, and a replay of journal/."""


class State(NamedTuple):
    """All of a file that somebody could have changed, but for when it was read."""

    inode: int
    mode: int
    owner: tuple[int, int]
    links: int
    mtime: int
    ctime: int
    content: bytes | tuple[str, ...]


def state_of(path: Path) -> State:
    status = path.lstat()
    content = path.read_bytes() if path.is_file() else tuple(sorted(os.listdir(path)))
    owner = (status.st_uid, status.st_gid)
    return State(status.st_ino, status.st_mode, owner, status.st_nlink, status.st_mtime_ns, status.st_ctime_ns, content)


class Bait:
    """A directory outside the queue with files that a link may lead to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.file = root / "secret"
        self.file.write_bytes(b"root:x:0:0\n")
        self.directory = root / "documents"
        self.directory.mkdir()
        for name in NAMES:
            (self.directory / name).write_bytes(f"redo {name} ".encode())  # as a journal begins
            os.utime(self.directory / name, (1, 1))
        self._before = self._look()

    def _look(self) -> dict[Path, State]:
        return {path: state_of(path) for path in [self.root, *sorted(self.root.rglob("*"))]}

    def check(self) -> None:
        """Fails if anything is not as it was."""
        assert self._look() == self._before
