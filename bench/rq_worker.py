"""An RQ worker for bench/workers.py: pushes jobs that do nothing, and works them off."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

from bench.workers import BODY, nothing, noting


def main(socket: str, kind: str, count: int, notes: Path) -> None:
    """``kind`` is one of RQ's classes of workers. Only those who measure need RQ, so it is loaded by name.

    The first job and the last note in a file when they were done.
    """
    redis, rq = importlib.import_module("redis"), importlib.import_module("rq")
    connection = redis.Redis(unix_socket_path=socket)
    until = time.monotonic() + 10
    while True:
        try:
            connection.ping()
            break
        except redis.ConnectionError:  # it starts
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
    jobs = rq.Queue(connection=connection)
    note = noting(notes)
    for body in (note, *[BODY] * (count - 2), note):
        jobs.enqueue(nothing, body)
    worker = getattr(rq, kind)([jobs], connection=connection)
    worker.work(burst=True, logging_level="ERROR")
    if jobs.count or jobs.failed_job_registry.count:
        raise RuntimeError("RQ did not do its jobs")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
