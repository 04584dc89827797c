"""Soft limits that come in the midst of a push: the other threads of the worker push on."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from ordered import opened
from together import PATIENCE, Child

import mailq
from mailq.engines.maildir import journal


def work(pipe: Any, path: str) -> None:
    """Run jobs that push beyond their limit; tell whether they hang, and whether the queue that they push to can be used then."""
    journal.PUSHES_BEFORE_JOURNAL = 0  # type: ignore[misc]
    target = opened(Path(path) / "target")
    jobs = mailq.open(f"{path}/jobs", max_retries=0, durability="process-crash")
    jobs.push_many(range(60))

    def push_on(number: int) -> None:
        for _ in range(200):
            target.push(number)

    worker = threading.Thread(
        target=mailq.Worker(jobs, push_on, threads=4, soft_timeout=0.02).run, kwargs={"drain": True}, daemon=True
    )
    worker.start()
    worker.join(PATIENCE / 2)
    pipe.send(worker.is_alive())
    target.push("the last one")
    pipe.send(target.stats().ready > 1)


@pytest.mark.skipif(sys.platform != "linux", reason="there are journals on Linux only")
def test_a_soft_limit_in_the_midst_of_a_push_keeps_no_other_thread_from_pushing(place: str) -> None:
    with Child(work, place) as child:
        assert not child.hear(), "jobs hang"
        assert child.hear()
