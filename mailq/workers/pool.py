"""What a pool of processes or threads does for its supervisor, and what it reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import selectors

    from mailq.workers.job import Job
    from mailq.workers.outcomes import Result


class PoolEvents(Protocol):
    """What a pool reports to its supervisor, in the supervisor's thread."""

    def ready(self, queues: list[list[str]]) -> None:
        """A runner has loaded the handlers; each handler brings these queues."""

    def finished(self, job: Job, result: Result) -> None:
        """A job has ended."""

    def died(self, job: Job, how: str) -> None:
        """The runner of a job died with it."""

    def limited(self, job: Job, seconds: float) -> None:
        """The handler has a time limit of its own for this job."""

    def settled(self, job: Job) -> None:
        """The handler has settled the message itself, and still runs."""

    def lost(self, job: Job) -> None:
        """A heartbeat has found that the lease of the job is lost."""

    def complain(self, text: str) -> None:
        """Something is wrong; the worker goes on."""


class Pool(Protocol):
    """Runners, which are processes or threads: each runs one job at a time. Only the supervisor's thread calls these."""

    def start(self, events: PoolEvents, selector: selectors.BaseSelector) -> None:
        """Start the runners. The data of what is registered is a function without arguments."""

    def idle(self) -> int:
        """The number of jobs that could begin now."""

    def give(self, job: Job) -> None:
        """Have an idle runner run a job."""

    def interrupt(self, job: Job) -> None:
        """Have a job end now; it can clean up."""

    def kill(self, job: Job) -> None:
        """End a job and its runner at once."""

    def reload(self) -> None:
        """Load the handlers again, in new runners; running jobs end in the old ones."""

    def tick(self, now: float) -> None:
        """Do what is due."""

    @property
    def next_at(self) -> float:
        """The monotonic time when something will be due."""

    def close(self) -> None:
        """End every runner at once, and wait for that."""
