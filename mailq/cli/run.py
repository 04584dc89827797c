"""run: a command for one message."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO, TYPE_CHECKING, Final

import click

from mailq.cli.main import FAILED, LOST, NOTHING, complain
from mailq.cli.options import DURATION, open_queue, queue_argument
from mailq.errors import LeaseLost, MailqError
from mailq.workers.command import Tail, describe, environment

if TYPE_CHECKING:
    from types import FrameType

    from mailq.delivery import Delivery

_BEATS: Final = 3
"""Heartbeats in a lease: one may be late without losing it."""


@click.command(context_settings={"ignore_unknown_options": True})
@queue_argument
@click.option("--wait", type=DURATION, default=0.0, help="Wait this long for a message.")
@click.option("--lease", type=DURATION, help="Lease; it is extended while the command runs [default: the queue's].")
@click.argument("command", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def run(queue: str, *, wait: float, lease: float | None, command: tuple[str, ...]) -> int:
    """Pop one message and run a command for it.

    The command has the body on its standard input. Exit 0 acks the message;
    anything else nacks it, with the end of the command's stderr as the error. The
    environment has MAILQ_QUEUE, MAILQ_ID, MAILQ_ATTEMPT, MAILQ_RECEIPT,
    MAILQ_CONTENT_TYPE, MAILQ_PUSHED_AT and MAILQ_HEADER_<NAME> for each header.
    Interrupting releases the message uncounted.

    \b
        mailq run jobs --wait 1h -- ./resize.sh --width 200
    """
    if shutil.which(command[0]) is None:
        raise click.UsageError(f"there is no command {command[0]!r}; nothing was popped")
    with open_queue(queue) as source:
        delivery = source.pop(lease=lease, wait=wait)
        if delivery is None:
            return NOTHING
        return _Job(delivery, command, source.location).run()


class _Job:
    """One run of the command: started, kept alive, settled."""

    def __init__(self, delivery: Delivery, command: tuple[str, ...], location: str) -> None:
        self._delivery = delivery
        self._command = command
        self._location = location
        self._lease = max(0.0, (delivery.deadline_at or 0.0) - time.time())
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped_by = 0
        self._lost = False
        self._tail = b""

    def run(self) -> int:
        """Run it to its end. Returns the exit code of ``mailq run``."""
        with tempfile.TemporaryFile() as body:
            body.write(self._delivery.raw)
            body.seek(0)
            stopping = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
            previous = {number: signal.signal(number, self._stop) for number in stopping}
            try:
                try:
                    self._start(body)
                except (OSError, ValueError) as error:
                    self._delivery.release()
                    complain(f"cannot start {self._command[0]!r}: {error}; the message is released")
                    return FAILED
                code = self._wait()
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)
        return self._settle(code)

    def _start(self, body: IO[bytes]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - running the user's command is what this is for
            self._command, stdin=body, stderr=subprocess.PIPE, env={**os.environ, **environment(self._delivery)}
        )
        if self._stopped_by:  # the signal came before there was a process to pass it on to
            self._process.send_signal(self._stopped_by)

    def _wait(self) -> int:
        process = self._process
        if process is None or process.stderr is None:
            raise AssertionError
        output = Tail(process.stderr, echo=sys.stderr.buffer)
        while True:
            try:
                code = process.wait(None if self._lost else self._lease / _BEATS)
                break
            except subprocess.TimeoutExpired:
                self._beat()
        output.finish()
        self._tail = output.data
        return code

    def _beat(self) -> None:
        try:
            self._delivery.extend(self._lease)
        except LeaseLost as error:
            self._lost = True
            complain(f"{error}; the command goes on, its result will not count")
        except MailqError as error:  # the command is at work: try again at the next beat
            complain(str(error))

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._stopped_by = number
        if self._process is not None:
            self._process.send_signal(number)

    def _settle(self, code: int) -> int:
        if self._lost:
            return LOST
        if code == 0:  # also when it was told to stop, and finished its work first
            self._delivery.ack()
            return 0
        if self._stopped_by:
            self._delivery.release()
            return 128 + self._stopped_by
        self._delivery.nack(error=describe(code, b"", self._tail), outcome="killed" if code < 0 else "error")
        return FAILED
