"""stats: counts, ages, bytes."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from mailq.cli import output
from mailq.cli.options import open_queue, queue_argument

if TYPE_CHECKING:
    from mailq.engines.base import Stats

_EVERY: Final = 1.0
"""Seconds between two looks of --watch."""


@click.command()
@queue_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--watch", is_flag=True, help="Look again every second, until interrupted.")
def stats(queue: str, *, as_json: bool, watch: bool) -> None:
    """Count the messages by state, with their ages and bytes.

    \b
        mailq stats jobs --json | jq .ready
    """
    with open_queue(queue) as source:
        while True:
            if watch and sys.stdout.isatty() and not as_json:
                click.clear()
            _print(source.stats(), as_json=as_json)
            if not watch:
                return
            sys.stdout.flush()
            time.sleep(_EVERY)


def _print(counted: Stats, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(counted._asdict()))
        return
    output.fields(
        [
            ("paused", "yes: 'mailq resume' ends it" if counted.paused else None),
            ("ready", counted.ready),
            ("delayed", counted.delayed),
            ("leased", f"{counted.leased} ({counted.overdue} overdue)" if counted.overdue else counted.leased),
            ("dead", counted.dead),
            ("bytes", output.size(counted.bytes)),
            ("oldest ready", output.span(counted.oldest_ready_age)),
            ("next due in", output.span(counted.next_due_in)),
        ]
    )
