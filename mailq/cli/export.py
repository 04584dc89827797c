"""export: a live queue to an archive."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from mailq.cli.main import FAILED, complain
from mailq.cli.options import STATE, queue_argument
from mailq.cli.output import note
from mailq.message import STATES

if TYPE_CHECKING:
    from mailq.transfer import Exported


@click.command()
@queue_argument
@click.argument("file", default="-", metavar="[FILE]")
@click.option("--format", "form", type=click.Choice(["tar", "jsonl"]), help="[default: by the name of FILE, else tar]")
@click.option("--state", "states", type=STATE, multiple=True, help="Only these states; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="The summary as a JSON object.")
def export(queue: str, file: str, *, form: Any, states: tuple[Any, ...], as_json: bool) -> int:  # noqa: ANN401 - a choice
    """Write the messages of a queue to an archive, while it is in use.

    FILE is whole once it is there; it ends in .tar, .tgz, .txz, .jsonl or .ndjson, and .gz or .xz
    behind it compress it. Without FILE, or with
    -, the archive goes to standard output. Every message that stays in the queue meanwhile is in it
    exactly once; leased messages are in it as ready. Nothing is claimed or changed. Exit code
    1: messages were left out, each is reported.

    \b
        mailq export jobs jobs.tar.gz
        mailq export jobs --format jsonl --state dead | jq .body
        mailq export jobs | ssh there mailq import jobs --create
    """
    from mailq import transfer  # noqa: PLC0415 - help needs no engine

    states = states or STATES
    if file == "-":
        if form != "jsonl" and sys.stdout.isatty():
            raise click.UsageError("a tar is not for a terminal: name a FILE, or pass --format jsonl")
        done = transfer.export_to(queue, sys.stdout.buffer, states=states, format=form or "tar", tell=complain)
        sys.stdout.buffer.flush()
    else:
        with transfer.writing(file) as stream:
            form = form or transfer.format_of(file)
            done = transfer.export_to(queue, stream, states=states, format=form, tell=complain)
    _summarize(done, as_json=as_json, err=not as_json or file == "-")
    return 0 if done.certain and not done.left_out else FAILED


def _summarize(done: Exported, *, as_json: bool, err: bool) -> None:
    facts = [f"exported {done.exported}"]
    facts += [f"of them torn {done.torn}"] if done.torn else []
    facts += [f"left out {done.left_out}"] if done.left_out else []
    (note if err else click.echo)(json.dumps(done._asdict()) if as_json else ", ".join(facts))
