"""What an examination says, and the tables of checks that it goes by."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from mailq.errors import MailqError
from mailq.ids import NS

if TYPE_CHECKING:
    from mailq.engines.maildir.doctor.context import Context

Level = Literal["ok", "warning", "error"]
T = TypeVar("T")
R = TypeVar("R")

_EXAMPLES: Final = 3
_BY_NUMBER: Final = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")
_VALUE: Final = re.compile(r"\{(paths|each|age|mode)\}")
_UNITS: Final = (("days", 86_400), ("hours", 3600), ("minutes", 60))


class Finding(NamedTuple):
    """What one check found.

    ``check`` is a word that stays the same from version to version. ``remedy`` is
    what a person can do, a command where there is one. ``fixed`` is what was done
    about it, None if nothing was. ``affected`` is how many things it is about, and
    ``paths`` names a few of them.
    """

    check: str
    level: Level
    what: str
    remedy: str = ""
    fixed: str | None = None
    affected: int = 0
    paths: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether this is an error that nothing was done about."""
        return self.level == "error" and self.fixed is None


Findings: TypeAlias = Iterator[Finding]


class Examples:
    """Counts paths and keeps the first few: there may be a million.

    ``mended`` is the number of those that were mended, ``oldest`` the lowest stamp.
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self.count = self.mended = 0
        self.oldest: int | None = None
        self.paths: tuple[str, ...] = ()
        for path in paths:
            self.add(path)

    def add(self, path: str, stamp: int = 0, *, is_mended: bool = False) -> None:
        """Count one more."""
        self.count += 1
        self.mended += is_mended
        self.oldest = stamp if self.oldest is None else min(self.oldest, stamp)
        if len(self.paths) < _EXAMPLES:
            self.paths += (path,)


class Trouble(NamedTuple):
    """One thing that can be wrong.

    ``look(context)`` yields what it is about, and ``mend(context)`` mends it. Of ``[one|many]`` the texts say what
    the number asks for.
    """

    level: Level
    what: str
    remedy: str
    look: Callable[..., Any] = tuple
    mend: Callable[..., Any] | None = None
    fixed: str = ""

    def finding(self, context: Context, check: str, found: Examples) -> Finding:
        """Say it of what was found; it is fixed if all of it was mended."""
        what, remedy, fixed = (_filled(text, context, found) for text in (self.what, self.remedy, self.fixed))
        is_fixed = found.mended == found.count
        return Finding(check, self.level, what, remedy, fixed if is_fixed else None, found.count, found.paths)

    def mended(self, context: Context, check: str, found: Examples) -> Finding:
        """Mend it, if that is wanted, and look again: what is not found any more was mended."""
        failed = ""
        if context.fix and self.mend is not None:
            try:
                self.mend(context)
                if not Examples(self.look(context)).count:
                    found.mended = found.count
            except (MailqError, OSError) as error:
                failed = f"; this failed: {error}"
        finding = self.finding(context, check, found)
        return finding._replace(remedy=finding.remedy + failed)


Look: TypeAlias = Callable[["Context"], Findings]
"""A look that has its own words: it yields findings."""

Kind = TypeVar("Kind", bound=Trouble | Look)


class Check(Generic[Kind]):
    """A check: its name, what it says if there is no trouble, and what can be wrong.

    Of a check of messages ``look(context, seen)`` says whether it is so with a message, and ``mend(context, seen)``
    whether it is mended; FileNotFoundError says that it is gone.
    """

    def __init__(self, name: str, well: str, *troubles: Kind) -> None:
        self.name, self.well, self.troubles = name, well, troubles


def run(context: Context, checks: Iterable[Check[Any]]) -> Findings:
    """Look at all of it first, then mend: one mending may be for several checks."""
    for check, found in [(check, list(carefully(check.name, _look(context, check)))) for check in checks]:
        for one in found:
            if isinstance(one, Finding):
                yield one
            else:
                yield one[0].mended(context, check.name, one[1])
        if not found:
            yield Finding(check.name, "ok", check.well)


def _look(context: Context, check: Check[Any]) -> Generator[Finding | tuple[Trouble, Examples], None, None]:
    for trouble in check.troubles:
        if not isinstance(trouble, Trouble):
            yield from trouble(context)
        elif (found := Examples(trouble.look(context))).count:
            yield trouble, found


def carefully(check: str, found: Generator[T, None, R]) -> Generator[T | Finding, None, R | None]:
    """What a check finds; that it could not look is a finding too."""
    try:
        return (yield from found)
    except (MailqError, OSError) as error:
        yield Finding(check, "error", f"this could not be examined: {error}", "see dmesg, and the permissions")
        return None


def spelled(text: str, count: int) -> str:
    """A text with its number: ``{n}``, and of ``[one|many]`` what the number asks for."""
    return _BY_NUMBER.sub(lambda match: match[1 if count == 1 else 2], text).replace("{n}", str(count))


def _filled(text: str, context: Context, found: Examples) -> str:
    """A text with what was found: also ``{paths}``, ``{each}`` for a shell, ``{age}`` and ``{mode}``."""
    values = {
        "{paths}": ", ".join(found.paths),
        "{each}": " ".join(found.paths),
        "{age}": _age((context.now - (found.oldest or 0)) / NS),
        "{mode}": f"{context.store.mode:04o}",
    }
    return _VALUE.sub(lambda match: values[match[0]], spelled(text, found.count))


def _age(seconds: float) -> str:
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def reap(context: Context) -> str | None:
    """What a reaping did, for a person. One reaping mends what all checks have found."""
    return context.reaped
