"""ls, show, cat: look at messages without touching them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from mailq.cli import output
from mailq.cli.main import FAILED, complain
from mailq.cli.options import STATE, open_queue, queue_argument
from mailq.cli.pop import body_fields
from mailq.errors import StorageError
from mailq.message import STATES

if TYPE_CHECKING:
    from mailq.delivery import Message

_id = click.argument("id", metavar="ID")
_json = click.option("--json", "as_json", is_flag=True, help="JSON, one object a line.")


@click.command()
@queue_argument
@click.option("--state", "states", type=STATE, multiple=True, help="Only these states; repeatable.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many a state.")
@_json
def ls(queue: str, *, states: tuple[Any, ...], limit: int, as_json: bool) -> None:
    """List messages, first in line first.

    \b
        mailq ls jobs --state dead
        mailq ls jobs --json | jq -r .id
    """
    with open_queue(queue) as source:
        messages = [m for state in states or STATES for m in source.peek(state, limit)]
        if as_json:
            for message in messages:
                click.echo(json.dumps(_summary(message)))
        else:
            columns = ("id", "state", "pushed", "attempt", "size", "priority", "note")
            output.table(columns, [_row(message) for message in messages])


def _row(message: Message) -> tuple[str, ...]:
    note = {
        "ready": "",
        "delayed": f"due {output.since(message.due_at)}",
        "leased": f"until {output.moment(message.deadline_at)}",
        "dead": message.reason,
    }[message.state]
    return (
        message.id,
        message.state,
        output.moment(message.pushed_at),
        str(message.attempt),
        output.size(message.size) if sys.stdout.isatty() else str(message.size),
        str(message.priority),
        note,
    )


def _summary(message: Message) -> dict[str, Any]:
    """What the name tells: no file is opened for it."""
    return {
        "id": message.id,
        "state": message.state,
        "pushed_at": message.pushed_at,
        "attempt": message.attempt,
        "size": message.size,
        "priority": message.priority,
        "due_at": message.due_at,
        "deadline_at": message.deadline_at,
        "died_at": message.died_at,
        "reason": message.reason or None,
        "name": message.location.encode(errors="surrogateescape").decode(errors="backslashreplace"),
    }


@click.command()
@queue_argument
@_id
@_json
def show(queue: str, id: str, *, as_json: bool) -> int:
    """Show all that is known of a message.

    Its fields, its failed attempts, and their errors; also of one whose file cannot be read, with
    exit code 1.

    \b
        mailq show jobs 01936f0c2b7d7a3e9c41b6d07f52e811
    """
    with open_queue(queue) as source:
        message = source.get(id)
        error = None
        try:
            content_type, headers = message.content_type, message.headers
        except StorageError as refusal:
            error, content_type, headers = refusal, "", {}
        if as_json:
            history = [attempt._asdict() for attempt in message.history]
            inside = {} if error else {"content_type": content_type, "headers": headers, **body_fields(message)}
            click.echo(json.dumps({**_summary(message), "origin": message.origin, **inside, "history": history}))
        else:
            _print(message, content_type, headers)
        if error:
            complain(str(error))
        return FAILED if error else 0


def _print(message: Message, content_type: str, headers: dict[str, str]) -> None:
    output.fields(
        [
            ("id", message.id),
            ("state", message.state),
            ("reason", message.reason),
            ("pushed", f"{output.moment(message.pushed_at)} ({output.since(message.pushed_at)})"),
            ("due", output.moment(message.due_at)),
            ("lease until", output.moment(message.deadline_at)),
            ("died", output.moment(message.died_at)),
            ("next attempt" if message.state != "leased" else "attempt", message.attempt),
            ("priority", message.priority),
            ("content type", content_type),
            ("size", f"{message.size} bytes"),
            ("headers", json.dumps(headers, ensure_ascii=False) if headers else ""),
            ("origin", message.origin),
            ("file", message.location),
        ]
    )
    for attempt in message.history:
        title = f"attempt {attempt.number}: {attempt.outcome}" if attempt.number else f"{attempt.outcome}"
        when = f" at {output.moment(attempt.at)}" if attempt.at else ""
        click.echo(click.style(f"\n{title}{when}", bold=True))
        for line in (attempt.error or "").splitlines():
            click.echo(f"    {output.plain(line)}")


@click.command()
@queue_argument
@_id
def cat(queue: str, id: str) -> None:
    """Print the bytes of a message's body.

    \b
        mailq cat jobs 01936f0c2b7d7a3e9c41b6d07f52e811 | jq .
    """
    with open_queue(queue) as source:
        sys.stdout.buffer.write(source.get(id).raw)
        sys.stdout.buffer.flush()
