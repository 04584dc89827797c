"""``python -m bench``: measure mailq on a disk, beside the bare system calls and beside others."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, Final

from bench import charts, peers, places, report, workers
from bench.ratios import in_classes
from bench.results import Plan, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS: Final = {
    "bench.throughput": ("syncs", "calls", "push", "push-pop-ack", "4+4", "batch", "steady", "sizes"),
    "bench.workers": ("worker",),
    "bench.commands": ("command",),
    "bench.waking": ("wake-up",),
    "bench.backlog": ("backlog",),
    "bench.idle": ("idle",),
}
"""The modules, and the sections that each of them measures."""
PROOF: Final = "syncs"
ROOM: Final = 2 << 30
ROOM_QUICK: Final = 256 << 20
"""Bytes that must be free: some write a log of all bodies. A backlog looks for its own room."""
SECTIONS: Final = tuple(section for sections in PARTS.values() for section in sections)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. Returns 0, or 1 if nothing could be measured, or 2 if it cannot begin."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    unknown = options.only - set(SECTIONS)
    if unknown:
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    try:
        if options.out is not None:
            os.makedirs(options.out, exist_ok=True)
        before = [report.read(path) for path in options.show]
        together = merged(before) if before else None
        if together is None:
            _look_for_room(options.dir, ROOM_QUICK if options.quick else ROOM)
        place = tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir)
    except (OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    with place as directory:
        where, results = together or _measured(directory, options)
    if not results:
        print("bench: nothing was measured: no such side can do what is asked for", file=sys.stderr)
        return 1
    if options.out is not None:
        _write(options.out, where, results)
    print(_json(where, results) if options.json else report.markdown(where, results))
    return 0


def _look_for_room(directory: str, needed: int) -> None:
    """Raise OSError if a disk is too small or too full: whoever met that half way would look slow, or broken."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OSError(
            f"{directory} has {free >> 20} MiB free, {needed >> 20} are needed; choose another disk with --dir"
        )


def _measured(directory: str, options: argparse.Namespace) -> tuple[dict[str, Any], list[Result]]:
    rounds = 1 if options.quick else options.rounds
    where = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": places.machine(),
        "file_system": {**places.file_system(directory), "directory": options.dir},
        "rounds": rounds,
        "quick": options.quick,
    }
    plan = Plan(directory, rounds, options.quick, [], options.only, options.sides)
    results = gather(plan)
    names = {result.side for result in results}
    sides = {**peers.described(names), **workers.described(names)}
    return {**where, "sides": sides, "left_out": plan.left_out}, results


def merged(before: Sequence[tuple[dict[str, Any], list[Result]]]) -> tuple[dict[str, Any], list[Result]]:
    """Several runs in one: the sections of a later run stand for those of an earlier, which says where it was.

    Raises ValueError if a later one was somewhere else, where nothing could be compared.
    """
    first = before[0][0]
    for told, _ in before:
        if any(_place_of(told)[what] != place for what, place in _place_of(first).items()):
            raise ValueError(f"these runs were not made in one place: {_place_of(first)}, {_place_of(told)}")
    sections = {result.section: results for _, results in before for result in results}
    where = {
        **first,
        "quick": any(told["quick"] for told, _ in before),
        "left_out": list(dict.fromkeys(what for told, _ in before for what in told.get("left_out", ()))),
        "sides": {name: about for told, _ in before for name, about in told["sides"].items()},
    }
    return where, [result for name, results in sections.items() for result in results if result.section == name]


def _place_of(where: dict[str, Any]) -> dict[str, str]:
    return {**where["machine"], "file system": where["file_system"]["type"]}


def _json(where: dict[str, Any], results: Sequence[Result]) -> str:
    return json.dumps(report.document(where, results), indent=2)


def _write(directory: str, where: dict[str, Any], results: Sequence[Result]) -> None:
    """Leave JSON, tables and charts, with names that begin with the file system's."""
    kind = where["file_system"]["type"]
    files = {f"{kind}.json": _json(where, results) + "\n", f"{kind}.md": report.markdown(where, results)}
    files |= {f"{kind}-{name}.svg": svg for name, svg in charts.charts(where, results)}
    for name, text in files.items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure mailq on a disk, beside the bare system calls and beside others.",
        epilog="Example: python -m bench --dir /var/tmp --only push,4+4",
    )
    words = lambda text: frozenset(filter(None, text.split(",")))  # noqa: E731 - said at its two uses
    parser.add_argument(
        "--dir", default=tempfile.gettempdir(), help="a directory on the disk to measure (default: %(default)s)"
    )
    parser.add_argument("--only", type=words, default="", help=f"sections, with commas between: {', '.join(SECTIONS)}")
    parser.add_argument("--sides", type=words, default="", help="likewise sides: mailq, floor, redis ...")
    parser.add_argument("--rounds", type=int, default=3, help="each takes some four minutes (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="few messages, one round: does it run, not how fast")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--out", metavar="DIR", help="write JSON, tables and charts there")
    parser.add_argument(
        "--show",
        nargs="+",
        default=(),
        metavar="JSON",
        help="measure nothing: put together what was measured before; a later file's sections replace an earlier one's",
    )
    return parser


def gather(plan: Plan) -> list[Result]:
    """Have each part measure what is asked for. The proof of the classes comes along where it was made."""
    found: list[Result] = []
    for module, sections in PARTS.items():
        if any(map(plan.wants, sections)):
            found += importlib.import_module(module).measure(plan)
    return in_classes([result for result in found if _is_asked_for(result, plan)])


def _is_asked_for(result: Result, plan: Plan) -> bool:
    section = plan.wants(result.section) or result.section == PROOF
    return section and (not plan.sides or result.side in plan.sides)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
