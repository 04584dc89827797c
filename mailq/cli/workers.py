"""workers: the processes that are at work on a queue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from mailq.cli import output
from mailq.cli.options import open_queue, queue_argument
from mailq.message import is_instant

if TYPE_CHECKING:
    from mailq.engines.base import LeaseHolder


@click.command()
@queue_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object a process.")
def workers(queue: str, *, as_json: bool) -> None:
    """List the workers, and other processes that hold messages.

    One that was killed is shown once more, as dead; what it held is given back.

    \b
        mailq workers jobs
    """
    with open_queue(queue) as source:
        owners = source.workers()
    if as_json:
        for owner in owners:
            known = owner._asdict()  # last: a status may hold any names, also these
            click.echo(json.dumps({**known.pop("status"), **known}))
        return
    columns = ("state", "host", "pid", "since", "slots", "running", "done", "failed", "jobs")
    output.table(columns, (_row(owner) for owner in owners))


def _row(owner: LeaseHolder) -> tuple[str, ...]:
    status = owner.status
    told = status.get("jobs")
    # Any process may write anything into its status.
    jobs = [job for job in told if _is_job(job)] if isinstance(told, list) else []
    state = str(status.get("stage", "consumer")) if owner.alive else "dead"
    shown = ", ".join(f"{job['id']} ({output.since(job['since'])})" for job in jobs)
    counts = (str(status.get(name, "")) for name in ("slots", "done", "failed"))
    slots, done, failed = counts
    running = str(len(jobs)) if isinstance(told, list) else ""
    return state, owner.host, str(owner.pid), output.moment(owner.since), slots, running, done, failed, shown


def _is_job(job: Any) -> bool:  # noqa: ANN401 - whatever JSON can be
    return isinstance(job, dict) and isinstance(job.get("id"), str) and is_instant(job.get("since"))
