"""run: a command for one message."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, TYPE_CHECKING, Final

import click

from mailq.cli.main import FAILED, LOST, NOTHING, complain
from mailq.cli.options import DURATION, open_queue, queue_argument
from mailq.errors import LeaseLost, MailqError

if TYPE_CHECKING:
    from types import FrameType

    from mailq.delivery import Delivery

_TAIL: Final = 16_384
"""So many bytes of what the command wrote last on stderr are kept as its error."""


@click.command(context_settings={"ignore_unknown_options": True})
@queue_argument
@click.option("--wait", type=DURATION, default=0.0, help="Wait this long for a message.")
@click.option("--lease", type=DURATION, help="Lease; it is extended while the command runs [default: the queue's].")
@click.argument("command", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def run(queue: str, *, wait: float, lease: float | None, command: tuple[str, ...]) -> int:
    """Pop one message and run a command for it.

    The command has the body on its standard input. Exit 0 acks the message; anything else nacks it, with the end of the command's
    stderr as the error. The environment has MAILQ_QUEUE, MAILQ_ID, MAILQ_ATTEMPT,
    MAILQ_RECEIPT, MAILQ_CONTENT_TYPE, MAILQ_PUSHED_AT and MAILQ_HEADER_<NAME> for
    each header. Interrupting releases the message uncounted.

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
            self._command, stdin=body, stderr=subprocess.PIPE, env={**os.environ, **self._environment()}
        )
        if self._stopped_by:  # the signal came before there was a process to pass it on to
            self._process.send_signal(self._stopped_by)

    def _wait(self) -> int:
        process = self._process
        if process is None or process.stderr is None:
            raise AssertionError
        reader = threading.Thread(target=self._pass_on, args=(process.stderr,), daemon=True)
        reader.start()
        while True:
            try:
                # Three heartbeats a lease: one may be late without losing it.
                code = process.wait(self._lease / 3)
                break
            except subprocess.TimeoutExpired:
                self._beat()
        # A grandchild may hold stderr open for ever; what the command itself wrote is there already.
        reader.join(timeout=1)
        return code

    def _beat(self) -> None:
        if self._lost:
            return
        try:
            self._delivery.extend(self._lease)
        except LeaseLost as error:
            self._lost = True
            complain(f"{error}; the command goes on, its result will not count")
        except MailqError as error:  # the command is at work: try again at the next beat
            complain(str(error))

    def _pass_on(self, stream: IO[bytes]) -> None:
        """Let the command's stderr through, and keep the end of it."""
        echo = True
        while chunk := os.read(stream.fileno(), 65_536):
            self._tail = (self._tail + chunk)[-_TAIL:]
            try:
                if echo:
                    sys.stderr.buffer.write(chunk)
                    sys.stderr.flush()
            except OSError:
                # Whoever read our stderr is gone. Go on reading, or the command would block on a full pipe.
                echo = False

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
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        tail = self._tail.decode(errors="backslashreplace")
        self._delivery.nack(error=f"{tail}{'' if tail.endswith(chr(10)) or not tail else chr(10)}{how}")
        return FAILED

    def _environment(self) -> dict[str, str]:
        d = self._delivery
        environment = {
            "MAILQ_QUEUE": self._location,
            "MAILQ_ID": d.id,
            "MAILQ_ATTEMPT": str(d.attempt),
            "MAILQ_RECEIPT": d.receipt,
            "MAILQ_CONTENT_TYPE": d.content_type,
            "MAILQ_PUSHED_AT": f"{d.pushed_at:.6f}",
        }
        for name, value in d.headers.items():
            key = "".join(c if c.isascii() and c.isalnum() else "_" for c in name).upper()
            environment[f"MAILQ_HEADER_{key}"] = _spell(value)
        return environment


def _spell(value: str) -> str:
    """A header as an environment can hold it."""
    value = value.replace("\0", "")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return value.encode(errors="backslashreplace").decode()
    return value
