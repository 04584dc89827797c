"""request: push a message, and wait for the reply."""

from __future__ import annotations

from typing import Any

import click

from mailq.cli.main import FAILED, NOTHING, complain
from mailq.cli.options import DURATION, message_options, open_queue, parse_headers, queue_argument
from mailq.cli.output import as_json, note, plain
from mailq.cli.push import given, kind_of
from mailq.errors import JobFailed, ReplyTimeout


@click.command()
@queue_argument
@click.argument("body", required=False)
@click.option("--text", is_flag=True, help="Text, even if it would parse as JSON.")
@click.option("--timeout", type=DURATION, help="Wait no longer than this [default: for ever].")
@message_options
def request(
    queue: str,
    body: str | None,
    *,
    text: bool,
    timeout: float | None,
    headers: tuple[str, ...],
    **options: Any,  # noqa: ANN401 - the message options, checked by push
) -> int:
    """Push a message, wait for a worker's reply, and print it as JSON.

    Without BODY, or with -, standard input is the message; without BODY it must not be
    empty. Exit code 1: the job failed, and its error is on stderr; 3: there was no reply in
    time, but the job goes on.

    \b
        mailq request jobs '{"fibonacci": 100}' --timeout 30s
    """
    with open_queue(queue) as target:
        raw = given(target, body)
        content_type = kind_of(raw, text=text)
        reply = target.request(raw, content_type=content_type, headers=parse_headers(headers), **options)
        try:
            result = reply.result(timeout)
        except JobFailed as error:
            for line in error.error.rstrip().splitlines():
                note(plain(line))
            complain(str(error))
            return FAILED
        except ReplyTimeout as error:
            complain(str(error))
            return NOTHING
        try:
            click.echo(as_json(result))
        except OSError as error:
            why = f"there is a reply to {reply.id}, but it cannot be printed: {error.strerror}"
            raise click.ClickException(why) from error
    return 0
