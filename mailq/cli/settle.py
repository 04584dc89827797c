"""ack, nack, release, reject, extend: what becomes of a popped message, by its receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mailq.cli.main import complain, exit_code
from mailq.cli.options import DURATION, open_queue, queue_argument
from mailq.errors import MailqError

if TYPE_CHECKING:
    from collections.abc import Callable

_receipts = click.argument("receipts", metavar="RECEIPT...", nargs=-1, required=True)


def _each(receipts: tuple[str, ...], settle: Callable[[str], object]) -> int:
    """Settle each, whatever becomes of the others; the exit code is that of the first failure."""
    code = 0
    for receipt in receipts:
        try:
            settle(receipt)
        except MailqError as error:
            complain(str(error))
            code = code or exit_code(error)
    return code


@click.command()
@queue_argument
@_receipts
def ack(queue: str, receipts: tuple[str, ...]) -> int:
    """Remove popped messages for good: they are done.

    Exit code 4: a lease is lost, and another may have the message.

    \b
        mailq ack jobs "$receipt"
    """
    with open_queue(queue) as target:
        return _each(receipts, target.ack)


@click.command()
@queue_argument
@_receipts
@click.option("--delay", type=DURATION, help="Ready again after this long [default: the queue's back-off].")
@click.option("--error", metavar="TEXT", help="What went wrong; kept for 'mailq show'.")
def nack(queue: str, receipts: tuple[str, ...], *, delay: float | None, error: str | None) -> int:
    """Give popped messages back after a failure, which is counted.

    \b
        mailq nack jobs "$receipt" --delay 5m --error "disk quota exceeded"
    """
    with open_queue(queue) as target:
        return _each(receipts, lambda receipt: target.nack(receipt, delay=delay, error=error))


@click.command()
@queue_argument
@_receipts
@click.option("--delay", type=DURATION, default=0.0, help="Ready again after this long.")
def release(queue: str, receipts: tuple[str, ...], *, delay: float) -> int:
    """Give popped messages back, uncounted.

    As if they had never been popped.

    \b
        mailq release jobs "$receipt"
    """
    with open_queue(queue) as target:
        return _each(receipts, lambda receipt: target.release(receipt, delay=delay))


@click.command()
@queue_argument
@_receipts
@click.option("--reason", metavar="TEXT", help="Why; kept for 'mailq show'.")
def reject(queue: str, receipts: tuple[str, ...], *, reason: str | None) -> int:
    """Give up on popped messages at once: they go to the dead.

    \b
        mailq reject jobs "$receipt" --reason "no such customer"
    """
    with open_queue(queue) as target:
        return _each(receipts, lambda receipt: target.reject(receipt, reason))


@click.command()
@queue_argument
@_receipts
@click.option("--for", "seconds", type=DURATION, required=True, help="Hold them at least this long from now.")
def extend(queue: str, receipts: tuple[str, ...], *, seconds: float) -> int:
    """Hold popped messages longer.

    \b
        mailq extend jobs "$receipt" --for 10m
    """
    with open_queue(queue) as target:
        return _each(receipts, lambda receipt: target.extend(receipt, seconds))
