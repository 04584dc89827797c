"""What an examination says: one value for each thing that it looked at."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, Literal, NamedTuple, TypeAlias

Level = Literal["ok", "warning", "error"]

_SAMPLE: Final = 3


class Finding(NamedTuple):
    """What one check found.

    ``check`` is a word that stays the same from version to version. ``todo`` is
    what a person can do, a command where there is one. ``fixed`` is what was done
    about it, None if nothing was. ``affected`` is how many things it is about, and
    ``paths`` names a few of them.
    """

    check: str
    level: Level
    what: str
    todo: str = ""
    fixed: str | None = None
    affected: int = 0
    paths: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether this is an error that nothing was done about."""
        return self.level == "error" and self.fixed is None


Findings: TypeAlias = Generator[Finding, None, None]


class Sample:
    """Counts paths and keeps the first few: there may be a million."""

    def __init__(self) -> None:
        self.count = 0
        self.paths: tuple[str, ...] = ()

    def add(self, path: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.paths) < _SAMPLE:
            self.paths += (path,)

    def finding(self, check: str, level: Level, what: str, todo: str = "", *, fixed: str | None = None) -> Finding:
        """Say something about what was counted."""
        return Finding(check, level, what, todo, fixed, self.count, self.paths)


def plural(count: int, one: str, many: str = "") -> str:
    """A number and its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"
