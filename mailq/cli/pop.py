"""pop: messages out, as JSON lines or as bytes."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from mailq.cli.main import NOTHING
from mailq.cli.options import DURATION, open_queue, queue_argument
from mailq.errors import CodecError, MailqError

if TYPE_CHECKING:
    from mailq.delivery import Delivery


@click.command()
@queue_argument
@click.option("-n", "--number", type=click.IntRange(1, 1_000_000), default=1, help="Up to so many messages.")
@click.option("--lease", type=DURATION, help="Hold them this long [default: the message's, or the queue's].")
@click.option("--wait", type=DURATION, default=0.0, help="Wait this long for the first.")
@click.option("--body", "body_only", is_flag=True, help="Print the bytes of the body alone, and the receipt on stderr.")
def pop(queue: str, *, number: int, lease: float | None, wait: float, body_only: bool) -> int:
    """Lease messages; print one JSON object a line.

    Each has id, receipt, attempt, pushed_at, deadline_at, content_type, headers,
    and body (or body_base64 for bytes). The lease outlives this command: settle it
    with the receipt before the deadline, or the message is given to another. Exit
    code 3: nothing to pop.

    \b
        mailq pop jobs | jq .body
        receipt=$(mailq pop jobs --body 2>&1 >work.json) && mailq ack jobs "$receipt"
    """
    if body_only and number > 1:
        raise click.UsageError("--body prints one message: leave out -n, or pop JSON lines")
    with open_queue(queue) as source:
        deliveries = source.pop_many(number, lease=lease, wait=wait, detached=True)
        printed = 0
        try:
            for delivery in deliveries:
                _print(delivery, body_only=body_only)
                printed += 1
        except BaseException as error:
            # Their receipts were not printed: release them now, and not at the end of the lease.
            for delivery in deliveries[printed:]:
                with contextlib.suppress(MailqError):
                    delivery.release()
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                text = f"cannot print what was popped: {error.strerror}; it is given back"
                raise click.ClickException(text) from error
            raise
    return 0 if deliveries else NOTHING


def _print(delivery: Delivery, *, body_only: bool) -> None:
    if body_only:
        sys.stdout.buffer.write(delivery.raw)
        sys.stdout.buffer.flush()
        click.echo(delivery.receipt, err=True)
    else:
        # ASCII: a body that this terminal cannot spell must not block the queue.
        sys.stdout.write(json.dumps(as_object(delivery)) + "\n")
        sys.stdout.flush()


def as_object(delivery: Delivery) -> dict[str, Any]:
    """What a script wants to know of a delivery."""
    return {
        "id": delivery.id,
        "receipt": delivery.receipt,
        "attempt": delivery.attempt,
        "pushed_at": delivery.pushed_at,
        "deadline_at": delivery.deadline_at,
        "content_type": delivery.content_type,
        "headers": delivery.headers,
        **body_fields(delivery),
    }


def body_fields(message: Any) -> dict[str, Any]:  # noqa: ANN401 - a message or a delivery
    """The body as JSON can carry it: a value or a string, else base64."""
    try:
        body = message.body
        if not isinstance(body, str | bytes):
            json.dumps({"body": body})  # what can just be read may be nested too deeply to be written
    except (CodecError, RecursionError):
        body = message.raw
    if isinstance(body, bytes):
        return {"body_base64": base64.b64encode(body).decode()}
    return {"body": body}
