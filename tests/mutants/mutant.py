"""What a mutant is."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A change of one file that breaks one promise, and the tests, by their node ids, of which one must fail.

    ``stalls`` says that this shows by something that never comes: the tests wait less
    long for it, and one that runs into pytest's timeout counts only then.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    stalls: bool = False
