"""import: an archive to a live queue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from mailq.cli.main import FAILED, complain
from mailq.cli.options import queue_argument
from mailq.cli.output import note
from mailq.cli.streams import standard_input

if TYPE_CHECKING:
    from mailq.transfer import Imported


@click.command("import")
@queue_argument
@click.argument("file", default="-", metavar="[FILE]")
@click.option("--format", "form", type=click.Choice(["tar", "jsonl"]), help="[default: recognized]")
@click.option("--create", is_flag=True, help="Make the queue if there is none, with the archive's settings.")
@click.option("--json", "as_json", is_flag=True, help="The summary as a JSON object, on standard output.")
def import_(queue: str, file: str, *, form: Any, create: bool, as_json: bool) -> int:  # noqa: ANN401 - a choice
    """Store the messages of an archive in a queue, while it is in use.

    Without FILE, or with -, the archive is read from standard input; gzip and xz are
    recognized, and JSON lines unless there are none: then --format, or the name of FILE, says so. Messages keep id, place in line, options, attempts and state; one whose id is in
    the queue is left alone, so an import that was interrupted is run again. What was
    consumed in between comes again: pause the queue first where that matters. Exit
    code 1: messages were refused, each is reported.

    \b
        mailq import jobs jobs.tar.gz --create
        mailq export jobs | mailq import copy --create
        mailq export jobs --state dead --format jsonl | jq -c 'select(.reason == "retries")' |
            mailq import again --create --format jsonl
    """
    from mailq import transfer  # noqa: PLC0415 - help needs no engine

    done = transfer.Imported()
    try:
        if file == "-":
            stream = standard_input("pass a FILE, or redirect one to it")
            done = transfer.import_from(queue, stream, format=form, create=create, tell=complain)
        else:
            with open(file, "rb") as stream:
                done = transfer.import_from(queue, stream, format=form, create=create, tell=complain)
    except transfer.ImportStopped as error:
        complain(str(error))
        _summarize(error.done, as_json=as_json)
        return FAILED
    _summarize(done, as_json=as_json)
    return FAILED if done.refused else 0


def _summarize(done: Imported, *, as_json: bool) -> None:
    line = f"imported {done.imported}, already there {done.already_there}, refused {done.refused}"
    if as_json:
        click.echo(json.dumps(done._asdict()))
    else:
        note(line)
