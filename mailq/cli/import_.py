"""import: an archive to a live queue."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import click

from mailq.cli.main import FAILED, complain
from mailq.cli.options import queue_argument
from mailq.cli.output import note
from mailq.cli.streams import standard_input


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

    with contextlib.ExitStack() as stack:
        if file == "-":
            stream = standard_input("pass a FILE, or redirect one to it")
        else:
            stream = stack.enter_context(open(file, "rb"))
        try:
            done, stopped = transfer.import_(queue, stream, format=form, create=create, tell=complain), False
        except transfer.ImportStopped as error:
            done, stopped = error.done, True
            complain(str(error))
    if as_json:
        click.echo(json.dumps(done._asdict()))
    else:
        note(f"imported {done.imported}, already there {done.already_there}, refused {done.refused}")
    return FAILED if stopped or done.refused else 0
