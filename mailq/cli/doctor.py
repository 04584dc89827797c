"""doctor: what is wrong with a queue, and what to do."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from mailq.cli.main import FAILED, OK
from mailq.cli.options import queue_argument
from mailq.cli.output import note, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailq.engines.maildir.doctor import Finding

_ORDER: Final = ("ok", "warning", "error")
_COLOURS: Final = {"ok": "green", "warning": "yellow", "error": "bold red"}


@click.command()
@queue_argument
@click.option("--fix", is_flag=True, help="Mend what can be mended. Never deletes a message.")
@click.option("--full", is_flag=True, help="Compare the checksum of every message, not only of the newest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(queue: str, *, fix: bool, full: bool, as_json: bool) -> int:
    """Say what is wrong with a queue, what it means, and what to do.

    It may run beside producers and consumers, and looks also at what cannot be
    opened any more. docs/doctor.md explains each check. The worst comes last.
    Exit code 1 means that there are errors which were not mended; warnings alone
    are 0.

    \b
        mailq doctor jobs
        mailq doctor jobs --fix
        mailq doctor jobs --json | jq '.findings[] | select(.level != "ok")'
    """
    from mailq.connect import path_of  # noqa: PLC0415
    from mailq.engines.maildir.doctor import examine  # noqa: PLC0415 - help needs no doctor

    path = path_of(queue)
    findings = sorted(examine(path, fix=fix, full=full), key=_urgency)
    if as_json:
        click.echo(json.dumps(_report(path, findings)))
    else:
        _print(findings)
        (click.echo if sys.stdout.isatty() else note)(_verdict(plain(path), findings, fix=fix))
    return FAILED if any(finding.open for finding in findings) else OK


def _urgency(finding: Finding) -> int:
    """The order of the table: what is well, what was mended, what is not."""
    return 2 * _ORDER.index(finding.level) if finding.fixed is None else 1


def _report(path: str, findings: Sequence[Finding]) -> dict[str, Any]:
    counts = {level: sum(finding.level == level for finding in findings) for level in _ORDER}
    listed = [{key: _spell(value) for key, value in finding._asdict().items()} for finding in findings]
    healthy = not any(finding.open for finding in findings)
    return {"queue": _spell(path), "healthy": healthy, "counts": counts, "findings": listed}


def _spell(value: Any) -> Any:  # noqa: ANN401 - a field of a finding
    """A value as JSON can hold it: bytes of a path that are not UTF-8 are escaped."""
    if isinstance(value, tuple):
        return [_spell(part) for part in value]
    return value.encode(errors="surrogateescape").decode(errors="backslashreplace") if isinstance(value, str) else value


def _print(findings: Sequence[Finding]) -> None:
    """A table for a person; for a program one line each: level, check, what, remedy, what was done, what it is about."""
    if not sys.stdout.isatty():
        for finding in findings:
            about = finding.paths if finding.level != "ok" else ()
            cells = (finding.level, finding.check, finding.what, finding.remedy, finding.fixed or "", *about)
            click.echo("\t".join(map(plain, cells)))
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.table import Column, Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    grid = Table.grid(Column(no_wrap=True), Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))
    for finding in findings:
        notes = [(path, "dim") for path in finding.paths if finding.level != "ok"]
        if notes and len(notes) < finding.affected:
            notes.append((f"and {finding.affected - len(notes)} more", "dim"))
        if finding.fixed is not None:
            notes.append((f"fixed: {finding.fixed}", "green"))
        elif finding.remedy:
            notes.append((f"-> {finding.remedy}", "bold"))
        text = Text.assemble(plain(finding.what), *((f"\n{plain(note)}", style) for note, style in notes))
        grid.add_row(Text(finding.level, style=_COLOURS[finding.level]), finding.check, text)
    Console().print(grid)


def _verdict(path: str, findings: Sequence[Finding], *, fix: bool) -> str:
    """The last line: how it is, in one sentence."""
    open_ones = sum(finding.open for finding in findings)
    warnings = sum(finding.level == "warning" and finding.fixed is None for finding in findings)
    fixed = sum(finding.fixed is not None for finding in findings)
    parts = [_count(len(findings), "check"), _count(open_ones, "error"), _count(warnings, "warning")]
    verdict = "not well" if open_ones else "well enough" if warnings else "all is well"
    if open_ones and not fix:
        verdict += "; --fix mends what can be mended"
    return f"{path}: {', '.join(parts)}{f', {fixed} fixed' if fixed else ''}: {verdict}"


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun if number == 1 else noun + 's'}"
