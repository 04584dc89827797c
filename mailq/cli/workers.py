"""workers: the processes that are at work on a queue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from mailq.cli import output
from mailq.cli.options import open_queue, queue_argument

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailq.engines.base import LeaseHolder

_LONGEST: Final = 500  # characters of a text that another program wrote


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
        holders = source.workers()
    if as_json:
        for holder in holders:
            known = holder._asdict()  # last: a status may hold any names, also these
            click.echo(json.dumps({**known.pop("status"), **known}))
        return
    columns = ("state", "host", "pid", "since", "slots", "running", "done", "failed", "jobs")
    output.table(columns, (_row(holder) for holder in holders))


def _row(holder: LeaseHolder) -> tuple[str, ...]:
    worker = read_status(holder)
    counts = (worker.slots, worker.running, worker.done, worker.failed)
    jobs = ", ".join(f"{job.id} ({output.since(job.since)})" for job in worker.jobs)
    texts = ("" if count is None else str(count) for count in counts)
    return worker.state, worker.host, str(holder.pid), output.moment(holder.since), *texts, jobs


class RunningJob(NamedTuple):
    """What a worker runs, and since when."""

    id: str
    since: float


class WorkerStatus(NamedTuple):
    """A worker with the valid parts of its status; None is what is missing or not valid."""

    token: str
    state: str
    host: str
    pid: int | None
    slots: int | None
    done: int | None
    failed: int | None
    run_times: tuple[float, ...]
    running: int | None
    jobs: tuple[RunningJob, ...]


def read_status(holder: LeaseHolder) -> WorkerStatus:
    """Take the valid parts of a status; any process may write one."""
    status = holder.status
    stage, times, jobs = status.get("stage", "consumer"), status.get("run_times"), status.get("jobs")
    numbers = [_seconds(each) for each in times] if isinstance(times, list) and len(times) == 3 else [None]  # noqa: PLR2004 - p50, p95, p99
    return WorkerStatus(
        token=holder.token,
        state=(shown(stage)[:12] if isinstance(stage, str) else "?") if holder.alive else "dead",
        host=shown(holder.host),
        pid=_count(holder.pid),
        **{name: _count(status.get(name)) for name in ("slots", "done", "failed")},
        run_times=tuple(each for each in numbers if each is not None) if None not in numbers else (),
        running=len(jobs) if isinstance(jobs, list) else None,
        jobs=tuple(_jobs(jobs)) if isinstance(jobs, list) else (),
    )


def _jobs(jobs: Sequence[object]) -> Iterator[RunningJob]:
    for job in jobs:
        id, since = (job.get("id"), _seconds(job.get("since"))) if isinstance(job, dict) else (None, None)
        if isinstance(id, str) and since is not None:
            yield RunningJob(shown(id)[:40], since)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 10**12 else None


def _seconds(value: object) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value < 10**12 else None  # type: ignore[operator, arg-type]


def shown(text: str) -> str:
    """Text of another program, as it can be printed."""
    return output.plain(text[:_LONGEST])
