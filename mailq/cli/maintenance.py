"""pause, resume, redrive, purge, reap: put a queue in order."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from mailq.cli.main import FAILED, complain
from mailq.cli.options import INTERVAL, STATE, open_queue, queue_argument

if TYPE_CHECKING:
    from mailq.message import State


@click.command()
@queue_argument
def pause(queue: str) -> None:
    """Stop all deliveries until resumed.

    It lasts until then, across processes and reboots: it is the file 'paused' in
    the queue. Running jobs go on and pushes are taken.

    \b
        mailq pause jobs
    """
    with open_queue(queue) as source:
        source.pause()


@click.command()
@queue_argument
def resume(queue: str) -> None:
    """Deliver again.

    \b
        mailq resume jobs
    """
    with open_queue(queue) as source:
        source.resume()


@click.command()
@queue_argument
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All dead messages.")
@click.option("--limit", type=click.IntRange(1), help="At most so many, oldest first.")
def redrive(queue: str, ids: tuple[str, ...], *, everything: bool, limit: int | None) -> int:
    """Put dead messages back in line; print how many.

    They are tried afresh, from attempt 1.

    \b
        mailq redrive jobs --all --limit 10
    """
    if bool(ids) == everything:
        raise click.UsageError("name the messages by ID, or pass --all")
    with open_queue(queue) as target:
        count = target.redrive(ids or None, limit)
        click.echo(count)
        if not everything and count < len(set(ids)) and limit is None:
            complain(
                f"{len(set(ids)) - count} of these are not dead; 'mailq ls {queue} --state dead' lists those that are"
            )
            return FAILED
        return 0


@click.command()
@queue_argument
@click.option("--state", type=STATE, required=True, help="Delete the messages in this state.")
@click.option("--yes", is_flag=True, help="Do not ask on a terminal.")
def purge(queue: str, *, state: State, yes: bool) -> None:
    """Delete every message in a state for good; print how many.

    \b
        mailq purge jobs --state dead
    """
    with open_queue(queue) as target:
        if sys.stdin.isatty() and not yes:
            click.confirm(f"Delete every {state} message in {target.location}?", abort=True, err=True)
        click.echo(target.purge(state))


@click.command()
@queue_argument
@click.option("--every", type=INTERVAL, help="Again and again, this far apart (at least 0.1s), until interrupted.")
def reap(queue: str, *, every: float | None) -> None:
    """Give back what late and dead consumers hold.

    Every consumer does so by itself: this is for a queue that has none running.

    \b
        mailq reap jobs
    """
    with open_queue(queue) as target:
        while True:
            done = target.reap()
            click.echo(f"returned {done.returned}, died {done.died}, due {done.due}")
            if every is None:
                return
            sys.stdout.flush()
            time.sleep(every)
