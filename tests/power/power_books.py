"""What was reported before a cut, compared with what came out of the queue after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

DEFECTS: Final = ("lost", "torn", "changed", "unexpected", "denied", "twice", "stuck")
"""What must not be: a promised message that is gone, or not whole; one that is delivered with other content, that
nobody pushed, whose push said that it left nothing, or that is in two places; a queue that does not go on working."""

FIGURES: Final = ("cuts", "pushed", "acked", "found", "came back", *DEFECTS)


class Entry(NamedTuple):
    """A line of the report. ``mark`` is how long the disk's log was then."""

    word: str
    mark: int
    facts: list[str]


class Found(NamedTuple):
    """A message after the cut: where, and its number if it is exactly what was pushed."""

    place: str
    id: str
    number: str


class Aftermath(NamedTuple):
    """What a recovery saw."""

    found: list[Found]
    troubles: list[str]


class Audit:
    """The figures of some cuts, and the first few things that were wrong."""

    def __init__(self) -> None:
        self.figures: Counter[str] = Counter()
        self.examples: list[str] = []

    def add(self, other: Audit) -> None:
        self.figures.update(other.figures)
        self.examples = (self.examples + other.examples)[:10]

    def __str__(self) -> str:
        figures = ", ".join(f"{self.figures[word]} {word}" for word in FIGURES)
        return "\n  ".join([figures, *self.examples])


def read_report(path: Path) -> list[Entry]:
    """The lines that were written whole: the last one of each process may not be."""
    entries = []
    for line in path.read_text().splitlines(keepends=True):
        word, mark, *facts = line.split()
        entries.append(Entry(word, int(mark), facts))
    return entries


class _Promises:
    """What was promised up to a moment in the disk's log."""

    def __init__(self, report: list[Entry], cut: int) -> None:
        self.begun: set[str] = set()
        self.pushed: dict[str, str] = {}
        self.denied: dict[str, list[str]] = {}
        self.acking: set[str] = set()
        self.acked: set[str] = set()
        for word, _, facts in (entry for entry in report if entry.mark <= cut):
            if word == "pushing":
                self.begun.update(facts)
            elif word == "pushed":
                self.pushed.update({id: number for number, id in (fact.split("=") for fact in facts)})
            elif word == "failed":
                self.denied.update(dict.fromkeys(facts[1:], facts[0].split(",")))
            else:
                (self.acking if word == "acking" else self.acked).update(facts)


def audit(report: list[Entry], after: Aftermath, cut: int = 0) -> Audit:
    """Compare. ``cut`` is the moment of it in the disk's log; 0 if it kept none."""
    promises = _Promises(report, cut)
    result = Audit()
    ids = {found.id for found in after.found}
    result.figures.update(
        {
            "cuts": 1,
            "pushed": len(promises.pushed),
            "acked": len(promises.acked),
            "found": len(after.found),
            "came back": len(promises.acked & ids),
        }
    )
    for defect, text in _defects(promises, after, ids):
        result.figures[defect] += 1
        result.examples.append(f"{defect}: {text}")
    result.examples = result.examples[:3]
    return result


def _defects(promises: _Promises, after: Aftermath, ids: set[str]) -> Iterator[tuple[str, str]]:
    for id in promises.pushed.keys() - promises.acking - ids:
        yield "lost", f"{promises.pushed[id]} {id}"
    for id, count in Counter(found.id for found in after.found).items():
        if count > 1:
            yield "twice", id
    for number, count in Counter(found.number for found in after.found if found.number).items():
        if count > 1:
            yield "twice", number
    for found in after.found:
        yield from ((defect, str(found)) for defect in _misfits(promises, found))
    for trouble in after.troubles:
        yield "stuck", trouble


def _misfits(promises: _Promises, found: Found) -> Iterator[str]:
    promised = promises.pushed.get(found.id)
    if found.place == "torn":
        # Of a push that had not returned yet a torn file may be left, if nobody is given it.
        if promised is not None:
            yield "torn"
    elif not found.number or promised not in (None, found.number):
        yield "changed"
    elif found.number not in promises.begun:
        yield "unexpected"
    elif found.id not in promises.denied.get(found.number, [found.id]):
        yield "denied"
