"""run: a command for one message."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Final

import click

from mailq.cli.main import FAILED, LOST, NOTHING, complain
from mailq.cli.options import DURATION, open_queue, queue_argument
from mailq.errors import LeaseLost, MailqError
from mailq.workers.command import Command
from mailq.workers.signals import handled

if TYPE_CHECKING:
    from mailq.delivery import Delivery
    from mailq.workers.outcomes import Result

_BEATS: Final = 3
"""Heartbeats in a lease: one may be late without a loss."""


@click.command(context_settings={"ignore_unknown_options": True})
@queue_argument
@click.option("--wait", type=DURATION, default=0.0, help="Wait this long for a message.")
@click.option("--lease", type=DURATION, help="Lease; it is extended while the command runs [default: the queue's].")
@click.argument("command", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def run(queue: str, *, wait: float, lease: float | None, command: tuple[str, ...]) -> int:
    """Pop one message and run a command for it.

    The command has the body on its standard input. Exit 0 acks the message;
    anything else nacks it, with the end of the command's stderr as the error. The
    environment has MAILQ_QUEUE, MAILQ_ID, MAILQ_ATTEMPT, MAILQ_RECEIPT,
    MAILQ_CONTENT_TYPE, MAILQ_PUSHED_AT and MAILQ_HEADER_<NAME> for each header.
    An interruption releases the message uncounted.

    \b
        mailq run jobs --wait 1h -- ./resize.sh --width 200
    """
    if shutil.which(command[0]) is None:
        raise click.UsageError(f"there is no command {command[0]!r}; nothing was popped")
    with open_queue(queue) as source:
        delivery = source.pop(lease=lease, wait=wait)
        if delivery is None:
            return NOTHING
        job, lease_of = Command(command, supervised=False), _Lease(delivery)
        with handled(job.stop):
            result = job(delivery, lambda _: None, lease_of.beat)
        return LOST if lease_of.lost else _settle(delivery, result, job.stopped_by)


class _Lease:
    """The lease of the message, which is extended while the command runs."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._seconds = max(0.0, (delivery.deadline_at or 0.0) - time.time())
        self.lost = False

    def beat(self) -> float | None:
        """Extend it. Returns the seconds until the next heartbeat; None when it is lost."""
        try:
            self._delivery.extend(self._seconds)
        except LeaseLost as error:
            self.lost = True
            complain(f"{error}; the command goes on, its result will not count")
        except MailqError as error:  # the command runs: try again at the next heartbeat
            complain(str(error))
        return None if self.lost else self._seconds / _BEATS


def _settle(delivery: Delivery, result: Result, stopped_by: int) -> int:
    """Settle the message. Returns the exit code of ``mailq run``."""
    if result.verb == "ack":  # also when it was stopped, and finished its work first
        delivery.ack()
        return 0
    if stopped_by or result.verb == "release":
        delivery.release()
        if not stopped_by:
            complain(f"{result.error}; the message is released")
        return 128 + stopped_by if stopped_by else FAILED
    delivery.nack(error=result.error, outcome=result.outcome or "killed")
    return FAILED
