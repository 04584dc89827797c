"""The jobs of a storm of workers, as their processes and threads run them.

Each writes down what it was given, and what is to become of it before that can come: how it ends is often not in its
own hands.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

from actors import write_down
from history import Log
from job_kinds import KEPT, KINDS, SOFT, announce, confirm, key_of_kind, kind_in
from stage import Stage, claimed_at, key_of

import mailq
from mailq.workers.outcomes import Interrupted

_LAST = 0.05
"""Seconds before its soft limit at which a job begins what the limit is to break into."""

_DEAF_THREAD = 3.0
"""Seconds after which a deaf job in a thread ends by itself: a thread cannot be killed."""


@functools.cache
def log_of(pid: int) -> Log:
    """One log for each process: each descriptor counts."""
    return Stage(os.environ["STORM"]).log(f"job.{pid}")


def handle(delivery: mailq.Delivery) -> Any:
    """The handler."""
    job = _Job(delivery)
    try:
        job.begin()
        result = _ACTS[job.kind](job)
    except mailq.TimeLimit:
        job.back("timeout")
        raise
    except Interrupted:
        job.interrupted()
        raise
    if inspect.isawaitable(result):
        job.back("timeout")  # what it may run into from here on is not ours to see
    return result


class _Job:
    def __init__(self, delivery: mailq.Delivery) -> None:
        self.delivery = delivery
        self.stage = Stage(os.environ["STORM"])
        self.log = log_of(os.getpid())
        self.worker = int(os.environ["STORM_WORKER"])
        self.in_thread = os.environ["STORM_CREW"] == "threads"
        self.key = key_of(delivery.body)
        self.kind = kind_in(self.key)
        self.dice = random.Random(f"{self.key} {delivery.attempt}")

    # What it writes down

    def begin(self) -> None:
        since = claimed_at(self.delivery.receipt, self.delivery.queue.settings.lease)
        words = [attempt.outcome for attempt in self.delivery.history]
        write_down(
            self.log,
            self.delivery,
            since=since,
            detached=False,
            group=self.worker,
            words=words,
            deadline=KEPT,
            limit=SOFT * 1e9,
        )

    def done(self) -> None:
        self.stage.effect(self.key)
        self.log.write("ack?", receipt=self.delivery.receipt)

    def back(self, *words: str) -> None:
        self.log.write("back?", receipt=self.delivery.receipt, words=words)

    def interrupted(self) -> None:
        """Its worker stops; or it has run for its hard limit, to which no soft limit may have let it come."""
        self.back(*() if self.kind.startswith("soft") else ("timeout",))

    # What it does

    def ok(self) -> None:
        self.done()

    def chain(self) -> None:
        for _ in range(2):
            self.push_another()
        self.done()

    def push_another(self) -> None:
        key = key_of_kind(f"{os.getpid()}-{time.time_ns()}", "ok", self.delivery.attempt)
        [body] = announce(self.log, "ok", [key])
        confirm(self.stage, self.log, [key], [self.delivery.queue.push(body)])

    def soft_push(self) -> NoReturn:
        self.at_the_limit(self.push_another)

    def soft_pop(self) -> NoReturn:
        self.at_the_limit(self.pop_another)

    def soft_read(self) -> NoReturn:
        self.at_the_limit(self.read_something)

    def soft_once(self) -> None:
        if self.delivery.attempt == 1:
            self.at_the_limit(self.dice.choice((self.push_another, self.pop_another, self.read_something)))
        self.done()

    def at_the_limit(self, what: Callable[[], None]) -> NoReturn:
        time.sleep(SOFT - _LAST)
        while True:
            what()

    def pop_another(self) -> None:
        since = time.time_ns()
        for other in self.delivery.queue.pop_many(2, lease=1, wait=0.01):
            try:
                write_down(self.log, other, since=since, detached=False, group=self.worker)
                self.log.write("back?", receipt=other.receipt)
                other.release()
            except BaseException:  # cut off: the lease ends by time, or with this process, which a reload replaces
                self.log.write("back?", receipt=other.receipt, words=("timeout", "killed"))
                raise

    def read_something(self) -> None:
        for path in Path(__file__).parent.iterdir():
            if path.suffix == ".py":
                path.read_bytes()

    def soft_coroutine(self) -> Awaitable[None]:
        return asyncio.sleep(3600)

    def hard(self) -> None:
        try:
            self.at_the_limit(lambda: time.sleep(0.002))
        except mailq.TimeLimit:
            self.at_the_limit(lambda: time.sleep(0.002))

    def deaf(self) -> None:
        self.back("timeout")
        until = time.monotonic() + _DEAF_THREAD
        while time.monotonic() < until or not self.in_thread:
            try:
                time.sleep(0.01)
            except BaseException:  # noqa: BLE001 - that is what it is about
                continue

    def fail(self) -> NoReturn:
        self.back("error")
        raise ValueError("this one always fails")

    def crash(self) -> None:
        if self.in_thread:
            self.log.write("kill?", group=self.worker)  # all of them
        self.back("killed")
        number = self.dice.choice((signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, None))
        if number is None:
            os._exit(3)
        os.kill(os.getpid(), number)
        time.sleep(60)  # another thread of the process may get the signal

    def crash_once(self) -> None:
        if self.delivery.attempt == 1:
            self.crash()
        self.done()

    def retry(self) -> mailq.Retry | None:
        if self.delivery.attempt == 1:
            self.back("nack")
            return mailq.Retry(delay=0.05)
        self.done()
        return None

    def retry_raised(self) -> None:
        if self.delivery.attempt == 1:
            self.back("error")
            raise mailq.Retry(delay=0.05, error="again")
        self.done()

    def reject(self) -> mailq.Reject:
        self.back("rejected")
        return mailq.Reject("not for us")

    def reject_raised(self) -> NoReturn:
        self.back("rejected")
        raise mailq.Reject("not for us")

    async def coroutine(self) -> None:
        await asyncio.sleep(0.01)
        self.done()

    def long(self) -> None:
        until = time.monotonic() + float(os.environ["STORM_LONG"])
        while time.monotonic() < until:
            time.sleep(0.05)
        self.done()


_ACTS: dict[str, Callable[[_Job], Any]] = {
    kind: getattr(_Job, {"raise": "fail", "brief": "ok"}.get(kind, kind.replace("-", "_"))) for kind in KINDS
}
