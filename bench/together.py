"""4+4: four producers and four consumers, each a process, from a common start until all is acked."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from bench.sides import POWER_LOSS, fresh

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableSequence
    from multiprocessing.connection import Connection
    from threading import Barrier

    from bench.sides import Budget, Side

EACH: Final = 4
SIZE: Final = 1 << 10
PATIENCE: Final = 60.0
"""Seconds to wait for the others, and for a message that does not come."""
_CONTEXT: Final = (
    multiprocessing.get_context("spawn") if sys.platform == "win32" else multiprocessing.get_context("forkserver")
)


class Books(NamedTuple):
    """What has been done so far, in memory that all share; each process writes its own line only."""

    pushed: MutableSequence[int]
    """-1 until it is known how many there will be."""
    acked: MutableSequence[int]

    def are_closed(self) -> bool:
        """Whether everything that will be pushed has been acked."""
        return min(self.pushed) >= 0 and sum(self.acked) >= sum(self.pushed)


class Report(NamedTuple):
    """What one process did, and when it began and ended."""

    begun_at: float
    ended_at: float
    ids: list[int]


class Job(NamedTuple):
    """What one process is told."""

    kind: type[Side]
    path: str
    durable: bool
    number: int
    books: Books
    gate: Barrier
    line: Connection

    def open(self) -> contextlib.closing[Side]:
        """The side, as this process has it."""
        return contextlib.closing(self.kind(self.path, durable=self.durable))


def prepare(kinds: Iterable[type[Side]]) -> None:
    """Have their modules loaded once, before the first process is forked."""
    if _CONTEXT.get_start_method() == "forkserver":
        _CONTEXT.set_forkserver_preload([__name__, *(kind.__module__ for kind in kinds)])


def rate(kind: type[Side], directory: str, durability: str, budget: Budget) -> float:
    """Messages a second, from the first push to the last ack. Raises RuntimeError if one is missing or came twice."""
    with fresh(kind, directory, durability) as (path, _):
        reports = _run(kind, path, budget, durable=durability == POWER_LOSS)
    produced, consumed = reports[:EACH], reports[EACH:]
    compare(kind, produced, consumed)
    ended_at = max(report.ended_at for report in consumed)
    return len(_ids(consumed)) / (ended_at - min(report.begun_at for report in produced))


def _run(kind: type[Side], path: str, budget: Budget, *, durable: bool) -> list[Report]:
    books = Books(_CONTEXT.RawArray("q", [-1] * EACH), _CONTEXT.RawArray("q", EACH))
    gate = _CONTEXT.Barrier(2 * EACH)
    lines = []
    with contextlib.ExitStack() as stack:
        for number in range(2 * EACH):
            ours, theirs = _CONTEXT.Pipe(duplex=False)
            job = Job(kind, path, durable, number % EACH, books, gate, theirs)
            target, arguments = (_produce, (job, budget)) if number < EACH else (_consume, (job,))
            process = _CONTEXT.Process(target=target, args=arguments)
            process.start()
            theirs.close()
            stack.callback(process.join)
            lines.append(stack.enter_context(ours))
        return [_hear(kind, line) for line in lines]


def _hear(kind: type[Side], line: Connection) -> Report:
    try:
        report: Report = line.recv()
    except EOFError:
        raise RuntimeError(f"a process that used {kind.name} died; what it said is above") from None
    return report


def _ids(reports: list[Report]) -> list[int]:
    return sorted(id for report in reports for id in report.ids)


def compare(kind: type[Side], produced: list[Report], consumed: list[Report]) -> None:
    """Raise RuntimeError unless each message that was pushed was popped, once."""
    pushed, popped = _ids(produced), _ids(consumed)
    if pushed != popped:
        missing, twice = len(set(pushed) - set(popped)), len(popped) - len(set(popped))
        raise RuntimeError(f"{kind.name}: of {len(pushed)} messages {missing} did not come, {twice} came twice")


# The processes


def _produce(job: Job, budget: Budget) -> None:
    ids: list[int] = []
    with job.open() as side:
        job.gate.wait(PATIENCE)
        begun = time.monotonic()
        while len(ids) < budget.messages // EACH and time.monotonic() < begun + budget.seconds:
            id = len(ids) * EACH + job.number
            side.push(id.to_bytes(8, "big").ljust(SIZE))
            ids.append(id)
        job.books.pushed[job.number] = len(ids)
        job.line.send(Report(begun, time.monotonic(), ids))


def _consume(job: Job) -> None:
    ids: list[int] = []
    with job.open() as side:
        job.gate.wait(PATIENCE)
        begun = ended = time.monotonic()
        while not job.books.are_closed():
            taken = side.pop_waiting(0.05)
            if taken is not None:
                body, receipt = taken
                side.ack(receipt)
                ids.append(int.from_bytes(body[:8], "big"))
                job.books.acked[job.number] = len(ids)
                ended = time.monotonic()
            elif time.monotonic() > ended + PATIENCE:
                break  # whoever compares the books says what is missing
        job.line.send(Report(begun, ended, ids))
