"""The supervisor: claims messages, hands them to children, keeps the leases, settles what comes back.

It is one thread with one loop, and its process loads no handler: no job can delay a
heartbeat. It waits in one select over the children's sockets and the wake-up;
everything that depends on time is in :meth:`Supervisor._tick`.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import selectors
import time
from typing import TYPE_CHECKING, Any, Final

from mailq import reply, telemetry
from mailq.connect import open as open_queue
from mailq.errors import LeaseLost, MailqError, QueueClosed, StorageError, UsageError
from mailq.workers.job import Job, Options, Source, new_job
from mailq.workers.outcomes import Result
from mailq.workers.systemd import Systemd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mailq.delivery import Delivery
    from mailq.queue import Queue
    from mailq.workers.pool import Pool
    from mailq.workers.signals import Wakeup

log: Final = logging.getLogger("mailq.worker")

_RETRY: Final = 1.0
"""Seconds after which a queue that cannot be read, or a heartbeat that failed, is tried again."""

_MOMENT: Final = 0.5
"""Seconds after which a handler that has settled its message has certainly reported it."""

_PUBLISH_EVERY: Final = 1.0
"""Seconds between two publications of the status, at least."""

_LAST_WORDS: Final = 1.0
"""Seconds in which jobs that are interrupted at the end of the grace can clean up."""

_GIVE_UP: Final = 5.0
"""Seconds after which the worker ends with jobs still there: the fork server may be stopped."""


class Stage(enum.IntEnum):
    """The stages of stopping."""

    RUNNING = 0
    FINISHING = 1
    INTERRUPTING = 2
    KILLING = 3


class Supervisor:
    """One worker's loop. ``run`` is called once, in one thread; ``stop`` and ``reload`` from anywhere."""

    def __init__(
        self,
        queues: Sequence[tuple[Queue, int]],
        pool: Pool,
        options: Options,
        wake: Wakeup,
        on_change: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._wake = wake
        self._pool = pool
        self._options = options
        self._on_change = on_change
        self._sources = [Source(queue, handler, wake) for queue, handler in queues]
        self._next_source = 0
        self._jobs: dict[int, Job] = {}
        self._numbers = 0
        self._stops = 0
        self._reload_wanted = self._reloading = False
        self._stage = Stage.RUNNING
        self._finish_by = self._give_up_at = math.inf
        self._is_ready = False
        self._opened: list[Queue] = []
        self._failure: MailqError | None = None
        self._changed = True
        self._publish_at = 0.0
        self._systemd = Systemd()
        self._watchdog_at = 0.0 if self._systemd.watchdog else math.inf

    # From outside

    def stop(self) -> None:
        """Stop. The first call lets jobs finish within the grace, the second one kills them; neither counts an attempt."""
        self._stops += 1
        self._wake()

    def reload(self) -> None:
        """Load the handlers again."""
        self._reload_wanted = True
        self._wake()

    # The loop

    def run(self, on_ready: Callable[[], None] | None = None) -> None:
        """Work until stopped, or, when draining, until nothing is ready. Raises UsageError and WorkerFailed."""
        self._on_ready = on_ready
        with selectors.DefaultSelector() as selector:
            self._wake.register(selector)
            try:
                self._pool.start(self, selector)
                while not self._is_over():
                    for key, _ in selector.select(self._next_timeout(time.monotonic())):
                        key.data()
                    self._tick(time.monotonic())
            finally:
                self._end()
        if self._failure is not None:
            raise self._failure

    def _end(self) -> None:
        self._pool.close()
        for job in self._jobs.values():  # only after an error: no job runs any more
            with contextlib.suppress(MailqError):
                job.delivery.release()
        for source in self._sources:
            source.close()
        for queue in self._opened:
            queue.close()
        self._systemd.tell("STOPPING=1")

    def _is_over(self) -> bool:
        if self._jobs:
            return time.monotonic() >= self._give_up_at
        if self._stage is not Stage.RUNNING or (self._stops and not self._is_ready):
            return True
        return self._options.drain and self._is_ready and all(source.dry for source in self._sources)

    def _next_timeout(self, now: float) -> float | None:
        """Seconds until something is due; None if nothing is."""
        times = [self._finish_by, self._give_up_at, self._watchdog_at, self._pool.next_at]
        times += [job.next_at for job in self._jobs.values()]
        if self._stage is Stage.RUNNING and self._is_ready and self._pool.idle():
            times += [source.next_poll for source in self._sources]
        if self._changed and self._is_ready:
            times.append(self._publish_at)
        at = min(times)
        return None if at == math.inf else max(0.0, at - now)

    def _tick(self, now: float) -> None:
        """Do everything that is due."""
        self._pool.tick(now)
        if self._reload_wanted:
            self._reload_wanted, self._reloading = False, True
            self._systemd.reloading()
            log.info("loading the handlers again", extra={"event": "reload"})
            self._pool.reload()
        if self._stops:
            self._go_on_stopping(now)
        for job in list(self._jobs.values()):
            if now >= job.next_at:
                self._check(job, now)
        if self._stage is Stage.RUNNING and self._is_ready:
            self._claim(now)
        if self._changed and self._is_ready and now >= self._publish_at:
            self._changed, self._publish_at = False, now + _PUBLISH_EVERY
            self._publish()
        if now >= self._watchdog_at:
            self._watchdog_at = now + (self._systemd.watchdog or math.inf)
            self._systemd.tell("WATCHDOG=1")

    def _go_on_stopping(self, now: float) -> None:
        wanted = Stage.KILLING if self._stops > 1 else Stage.FINISHING
        if self._stage is Stage.FINISHING and now >= self._finish_by:
            wanted = max(wanted, Stage.INTERRUPTING)
        if wanted <= self._stage:
            return
        if self._stage is Stage.RUNNING:
            self._finish_by = now + self._options.grace
            self._systemd.tell("STOPPING=1")
            text = "stopping: %d running jobs may take %g s more"
            log.info(text, len(self._jobs), self._options.grace, extra={"event": "stop"})
        if wanted is not Stage.FINISHING:
            self._finish_by, self._give_up_at = math.inf, now + _GIVE_UP
            for job in self._jobs.values():
                job.ending = job.ending or "stop"
                job.kill_at = now
                if wanted is Stage.INTERRUPTING:
                    job.kill_at += _LAST_WORDS
                    self._pool.interrupt(job)
        self._stage, self._changed = wanted, True

    # Claiming

    def _claim(self, now: float) -> None:
        """Fill the idle children, from each queue in turn."""
        for _ in range(len(self._sources)):
            room = self._pool.idle()
            if not room:
                return
            source = self._sources[self._next_source]
            self._next_source = (self._next_source + 1) % len(self._sources)
            if not source.is_due(now):
                continue
            try:
                deliveries = source.pop(room, self._options.lease)
            except QueueClosed:  # by this program, and for good: its jobs cannot be settled either
                raise
            except MailqError as error:  # one queue must not stop the others
                if self._options.drain:
                    source.dry, self._failure = True, self._failure or error
                if source.back_off(_RETRY):
                    log.error("%s; trying again every %g s", error, _RETRY, extra={"event": "error"})  # noqa: TRY400
                continue
            for delivery in deliveries:
                self._begin(source, delivery)
            if not deliveries and not source.dry:
                return  # the claim took its time: jobs are checked before the next one

    def _begin(self, source: Source, delivery: Delivery) -> None:
        self._numbers += 1
        job = new_job(self._numbers, source, delivery, self._options)
        self._jobs[job.number] = job
        self._changed = True
        if telemetry.attached():
            waited = max(0.0, time.time() - delivery.pushed_at)
            telemetry.emit("job.start", source.queue.location, delivery.id, attempt=delivery.attempt, waited=waited)
        self._pool.give(job)

    # Running jobs

    def _check(self, job: Job, now: float) -> None:
        """Do what is due for a job: a heartbeat, an interruption at its limit, a kill."""
        if now >= job.kill_at:
            job.kill_at = math.inf
            self._pool.kill(job)
            return
        if now >= job.end_at:
            job.end_at, job.kill_at = math.inf, min(job.kill_at, now + self._options.kill_after)
            job.ending = job.ending or "timeout"
            self._log(logging.WARNING, f"has run for its limit of {job.limit:g} s: terminating it", job)
            self._pool.interrupt(job)
        if now >= job.next_beat:
            self._beat(job, now)

    def _beat(self, job: Job, now: float) -> None:
        job.next_beat = now + job.beat_every
        try:
            job.delivery.extend(job.lease)
        except LeaseLost:
            self.lost(job)
        except MailqError as error:
            job.next_beat = now + min(_RETRY, job.beat_every)
            self._log(logging.ERROR, f"has a failed heartbeat, trying again: {error}", job)

    # What the pool reports

    def ready(self, queues: list[list[str]]) -> None:
        """A runner is ready; with the first one the worker is. Queues that a handler brings are added."""
        for handler, locations in enumerate(queues):
            for location in locations:
                self._add(location, handler)
        if not self._sources:
            raise UsageError("the handler is no App, so it brings no queues; name the queues to work for")
        if not self._is_ready:
            self._is_ready = self._reloading = True
            names = ", ".join(source.queue.location for source in self._sources)
            log.info("ready: %s", names, extra={"event": "ready"})
            if self._on_ready is not None:
                self._on_ready()
        self._end_reload()

    def _end_reload(self) -> None:
        """Notify systemd that the start or the reload is over, well or not."""
        if self._reloading:
            self._reloading = False
            self._systemd.tell("READY=1")

    def _add(self, location: str, handler: int) -> None:
        """Add a queue. If it does not exist, that is an error at the start, and a complaint after a reload."""
        if any(source.queue.location == location for source in self._sources):
            return
        try:
            queue = open_queue(location, create=False)
        except MailqError as error:
            if not self._is_ready:
                raise
            self.complain(str(error))
            return
        self._opened.append(queue)
        self._sources.append(Source(queue, handler, self._wake))

    def settled(self, job: Job) -> None:
        """The handler has settled the message, and still runs: there is no lease to extend."""
        job.next_beat = math.inf

    def lost(self, job: Job) -> None:
        """The lease is lost: the job sees that in ``delivery.lost``, and with ``kill_on_lost_lease`` it is ended.

        It counts as lost only after a moment: the handler may have settled the message just now.
        """
        if not job.in_doubt:
            job.in_doubt, job.next_beat = True, time.monotonic() + _MOMENT
            return
        job.lost, job.next_beat = True, math.inf
        self._log(logging.WARNING, "has lost its lease: its result will not count", job)
        if self._options.kill_on_lost_lease:
            job.ending = job.ending or "lost"
            job.kill_at = min(job.kill_at, time.monotonic() + self._options.kill_after)
            self._pool.interrupt(job)

    def limited(self, job: Job, seconds: float) -> None:
        """The handler has a time limit of its own for this job."""
        job.limit_to(seconds)

    def complain(self, text: str) -> None:
        """Log an error; the worker goes on. During a reload the old code goes on."""
        log.error("%s", text, extra={"event": "error"})
        if self._is_ready:
            self._end_reload()

    def died(self, job: Job, how: str) -> None:
        """The runner died with its job. If it died by itself, that counts as an attempt."""
        if job.ending:
            self.finished(job, Result("interrupted", error=f"{job.output}{how}"))
        else:
            self.finished(job, Result("nack", error=f"the worker process died: {how}", outcome="killed"))

    def finished(self, job: Job, result: Result) -> None:
        """A job has ended: settle its message."""
        del self._jobs[job.number]
        self._changed = True
        ran = time.monotonic() - job.started
        job.source.run_times.append(ran)
        if result.verb == "interrupted" or (job.ending and result.verb == "nack"):
            result = _verdict(job, result, stopping=self._stops > 0)
        if self._options.drain:
            for source in self._sources:
                source.poll_again()
        if job.lost:
            result = Result("lost")
        job.source.done += result.verb in ("ack", "settled")
        job.source.failed += result.verb in ("nack", "reject")
        try:
            _settle(job.delivery, result)
        except LeaseLost:
            self._log(logging.WARNING, f"lost its lease before its end: no {result.verb}", job)
        except MailqError as error:  # the message stays leased, and comes back when the lease ends
            self._log(logging.ERROR, f"stays leased, {result.verb} failed: {error}", job)
        else:
            self._record(job, result, ran)

    def _record(self, job: Job, result: Result, ran: float) -> None:
        level = logging.INFO if result.verb in ("ack", "settled") else logging.WARNING
        if log.isEnabledFor(level):
            why = (result.error or "").strip().rpartition("\n")[2]
            self._log(level, f"{result.outcome or result.verb} after {ran:.3f} s{': ' if why else ''}{why}", job)
        if telemetry.attached():
            facts: dict[str, Any] = {
                "attempt": job.delivery.attempt,
                "ran": ran,
                "outcome": result.outcome or result.verb,
            }
            name = "job.stop"
            if result.verb in ("nack", "reject"):
                name, facts["error"] = "job.exception", result.error
            telemetry.emit(name, job.source.queue.location, job.delivery.id, **facts)

    # Status and logs

    def _log(self, level: int, text: str, job: Job) -> None:
        extra = {
            "event": text.split(maxsplit=1)[0],
            "queue": job.source.queue.location,
            "id": job.delivery.id,
            "attempt": job.delivery.attempt,
        }
        log.log(level, "job %s attempt %d: %s", job.delivery.id, job.delivery.attempt, text, extra=extra)

    def _publish(self) -> None:
        """Publish the status: to the queues, to systemd, to ``on_change``."""
        about = {"role": "worker", "stage": self._stage.name.lower(), "slots": self._options.concurrency}
        for source in self._sources:
            source.queue.publish({**about, "told": time.time(), **source.status(self._jobs.values())})
        done, failed = (sum(getattr(source, what) for source in self._sources) for what in ("done", "failed"))
        self._systemd.tell(f"STATUS={done} done, {failed} failed, {len(self._jobs)} running")
        if self._on_change is not None:
            try:
                self._on_change({**about, "done": done, "failed": failed, "running": len(self._jobs)})
            except Exception:
                log.exception("on_change failed", extra={"event": "error"})


def _verdict(job: Job, result: Result, *, stopping: bool) -> Result:
    """The result of a job that was interrupted, whatever it returned or raised after that."""
    if job.ending == "timeout":
        text = f"ran longer than its limit of {job.limit:g} s"
        return Result("nack", error=_joined(result.error, text), outcome="timeout")
    if job.ending or stopping:
        return Result("release")
    return Result("nack", error=_joined(result.error, "interrupted, but not by its worker"), outcome="killed")


def _joined(error: str | None, verdict: str) -> str:
    return f"{error.rstrip()}\n{verdict}" if error else verdict


def _settle(delivery: Delivery, result: Result) -> None:
    """Settle the message. A reply is stored first: no process could store it after the ack."""
    match result.verb:
        case "ack":
            if result.reply is not None:
                delivery.put_reply(result.reply.encode())
            delivery.ack()
        case "nack":
            is_last = delivery.is_last_attempt
            delivery.nack(delay=result.delay, error=result.error, outcome=result.outcome)
            if is_last:
                _refuse(delivery, result)
        case "reject":
            delivery.reject(result.error)
            _refuse(delivery, result)
        case "release":
            delivery.release(delay=result.delay or 0.0)


def _refuse(delivery: Delivery, result: Result) -> None:
    """Store a failure as the reply. Without it, a caller that waits would notice a little later."""
    with contextlib.suppress(StorageError):
        if delivery.wants_reply:
            delivery.put_reply(reply.encode_failure(result.error or "rejected"))
