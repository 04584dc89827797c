"""All cuts, and a table of them: ``python tests/power/power_run.py [--json FILE]``, as root, for some minutes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from power_books import FIGURES
from power_disks import workshop
from power_trials import CONTROLS, FSYNC_ALONE, TRIALS, Trial


def measure(trial: Trial) -> dict[str, Any]:
    """A line of the table: what was cut, the figures, and whether all is as it must be."""
    line: dict[str, Any] = {"kind": trial.kind, "file system": trial.system.name, "control": trial.control}
    if trial.missing:
        return {**line, "verdict": f"not tried: {trial.missing}"}
    with workshop() as place:
        audit = trial.run(place, trial.many)
    figures = {word: audit.figures[word] for word in FIGURES}
    return {**line, **figures, "verdict": trial.complaint(audit) or "as it must be"}


def show(line: dict[str, Any]) -> str:
    name = f"{line['kind']:7}{line['file system']:15}{line['control']:17}"
    figures = "".join(f"{line.get(word, '-'):>11}" for word in FIGURES)
    return f"{name}{figures}  {line['verdict']}"


def total(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum over the cuts that are no controls."""
    sums = {word: sum(line.get(word, 0) for line in lines if not line["control"]) for word in FIGURES}
    return {"kind": "all", "file system": "", "control": "", **sums, "verdict": "controls left out"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    print(f"{'kind':7}{'file system':15}{'control':17}" + "".join(f"{word:>11}" for word in FIGURES))
    lines = []
    for trial in [*TRIALS, *CONTROLS, FSYNC_ALONE]:
        lines.append(measure(trial))
        print(show(lines[-1]), flush=True)
    print(show(total(lines)))
    if args.json:
        args.json.write_text(json.dumps({"trials": lines, "total": total(lines)}, indent=1) + "\n")
    if any(line["verdict"] != "as it must be" for line in lines):
        raise SystemExit("not all was tried, or not all is as it must be")


if __name__ == "__main__":
    main()
