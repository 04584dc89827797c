"""An RQ worker for bench/workers.py: pushes jobs that do nothing, works them off, prints how many a second."""

from __future__ import annotations

import importlib
import sys
import time

from bench.workers import nothing


def main(socket: str, kind: str, count: int) -> None:
    """``kind`` is one of RQ's classes of workers. Only those who measure need RQ, so it is loaded by name."""
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
    for _ in range(count):
        jobs.enqueue(nothing, "x" * 1024)
    worker = getattr(rq, kind)([jobs], connection=connection)
    begun = time.perf_counter()
    worker.work(burst=True, logging_level="ERROR")
    took = time.perf_counter() - begun
    if jobs.count or jobs.failed_job_registry.count:
        raise RuntimeError("RQ did not do its jobs")
    print(count / took)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
