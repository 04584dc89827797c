"""bench: what this disk gives."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from mailq.cli import output
from mailq.cli.options import DURATION, queue_argument

if TYPE_CHECKING:
    from mailq.measuring import Measured

_TITLES: Final = {
    "push": "push",
    "pop-ack": "pop, ack",
    "push-pop-ack": "push, pop, ack",
    "batch": "push, pop, ack, by 64",
}


@click.command()
@queue_argument
@click.option("--seconds", type=DURATION, default=10.0, help="How long to measure, about [default: 10s].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def bench(queue: str, *, seconds: float, as_json: bool) -> None:
    """Measure what the disk under QUEUE gives, and say what that means.

    QUEUE is a queue, whose messages are not touched, or a directory where one could
    be. It measures pushes, pops, acks and batches of 1 KiB in both durability
    classes, a sync, and a worker, in a queue of its own in that directory, which is
    removed at the end, also after Ctrl-C. It keeps the disk and the processor busy.

    \b
        mailq bench jobs
        mailq bench /mnt/other-disk --seconds 3s
        mailq bench jobs --json | jq '.rates["power-loss"].push'
    """
    from mailq.measuring import measure  # noqa: PLC0415 - help measures nothing
    from mailq.workers.signals import ENDING, handled  # noqa: PLC0415

    numbers = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]  # as by nohup

    def end(number: int) -> NoReturn:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)  # what was made is removed without a further interruption
        sys.exit(128 + number)

    if not as_json:
        output.note(f"mailq: measuring for about {seconds:g} s")
    with handled(end, numbers):
        measured = measure(queue, seconds=seconds)
    if as_json:
        click.echo(json.dumps(_report(measured)))
    else:
        _print(measured, queue)


def _report(measured: Measured) -> dict[str, Any]:
    from mailq.measuring import meaning  # noqa: PLC0415 - as above

    return {
        "directory": output.plain(measured.directory),
        "file_system": {"type": measured.type, "mount": measured.mount, "journal": measured.journal},
        "fsync_seconds": measured.fsync._asdict(),
        "rates": measured.rates,
        "worker_jobs": measured.worker,
        "warnings": [finding._asdict() for finding in measured.findings],
        "meaning": meaning(measured),
    }


def _print(measured: Measured, queue: str) -> None:
    from mailq.measuring import DURABILITIES, meaning  # noqa: PLC0415 - as above

    journal = {True: ", journaled", False: ", without a journal", None: ""}[measured.journal]
    syncs = measured.fsync
    output.fields(
        [
            ("directory", measured.directory),
            ("file system", f"{measured.type or 'unknown'} on {measured.mount or 'unknown'}{journal}"),
            ("a sync", f"{_time(syncs.median)}, at worst {_time(syncs.worst)}"),
            ("a worker", f"{measured.worker:,.0f} jobs/s"),
        ]
    )
    click.echo()
    rows = [
        (title, *(f"{measured.rates[durability][operation]:,.0f}/s" for durability in DURABILITIES))
        for operation, title in _TITLES.items()
    ]
    output.table(("messages a second", *DURABILITIES), rows, headed=True)
    click.echo()
    for sentence in meaning(measured):
        click.echo(f"- {sentence}")
    for finding in measured.findings:
        remedy = finding.remedy.replace("QUEUE", shlex.quote(queue))
        click.echo(output.plain(f"{finding.level}: {finding.what}; {remedy}"))


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-4 else f"{seconds * 1e3:.2f} ms"  # noqa: PLR2004 - where it is short to read
