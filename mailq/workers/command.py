"""A command for each message: the body on its standard input, the rest in its environment."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from typing import IO, TYPE_CHECKING, Final, Literal, TextIO

from mailq import reply
from mailq.codecs import read_json
from mailq.errors import UsageError
from mailq.workers.outcomes import Result
from mailq.workers.process_tree import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mailq.delivery import Delivery

TAIL: Final = 16_384
"""The number of bytes that are kept of a command's output, from its end; of stdout and of stderr each."""

_LINGER: Final = 0.2
"""Seconds for which the output of an ended command is still read, if another process holds it open."""

_MISSING_DELAY: Final = 10.0
"""Seconds for which a message is released whose command cannot be started."""


class Command:
    """Runs one command line for each message.

    Exit 0 acks. A reply, if one is wanted, is what the command printed: JSON if it is
    that, else text. Any other exit nacks, with the end of stdout and stderr as the
    error. With ``echo`` what it prints passes through, except a reply. It runs in the
    process group of its child process, and is killed with it.

    One that is not ``supervised`` inherits stdout, and may live longer than this
    process.
    """

    def __init__(self, arguments: Sequence[str], *, echo: bool = True, supervised: bool = True) -> None:
        if not arguments or shutil.which(arguments[0]) is None:
            raise UsageError(
                f"there is no command {next(iter(arguments), '')!r}; see its path, and whether it is executable"
            )
        self._arguments = list(arguments)
        self._echo = echo
        self._supervised = supervised
        self.queues: list[str] = []
        self.stopped_by = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._terminated = False
        self._waiting: Callable[[], object] | None = None

    def terminate(self, _number: int, _frame: object) -> None:
        """The handler of SIGUSR2: the command gets SIGTERM as well, so this only waits for its end."""
        self._terminated = True
        if self._waiting is not None:
            self._waiting()

    def stop(self, number: int) -> None:
        """Send the command a signal: now, or as soon as it has started."""
        self.stopped_by = number
        if self._process is not None:
            self._process.send_signal(number)

    def __call__(
        self,
        delivery: Delivery,
        tell: Callable[[str], object],
        heartbeat: Callable[[], float | None] = lambda: None,
    ) -> Result:
        """Run it to its end.

        When it is terminated, ``tell`` is called with the end of its output: it may never
        end. ``heartbeat`` is called at the start, and again after the seconds that it
        returns.
        """
        self._terminated = False
        try:
            process = self._process = self._start(delivery)
        except (OSError, ValueError) as error:
            return Result("release", delay=_MISSING_DELAY, error=f"cannot start {self._arguments[0]!r}: {error}")
        if self.stopped_by:  # before there was a process to send it to
            process.send_signal(self.stopped_by)
        wants_reply = self._supervised and delivery.wants_reply  # it is what the command prints
        stdout = _Tail(
            process.stdout, reply.LONGEST + 1 if wants_reply else TAIL, self._echo and not wants_reply and sys.stdout
        )
        stderr = _Tail(process.stderr, TAIL, self._echo and sys.stderr)
        self._waiting = lambda: tell(_written(stdout.data[-TAIL:], stderr.data))
        code = _wait(process, heartbeat)
        self._waiting = None
        stdout.finish()
        stderr.finish()
        if code == 0:
            return Result("ack", reply=_reply(stdout.data) if wants_reply else None)
        text = _written(stdout.data[-TAIL:], stderr.data) + how_it_ended(code)
        if self._terminated or code == -signal.SIGTERM:  # by systemd, perhaps, which stops the worker too
            return Result("interrupted", error=text)
        return Result("nack", error=text, outcome="killed" if code < 0 else "error")

    def _start(self, delivery: Delivery) -> subprocess.Popen[bytes]:
        with tempfile.TemporaryFile() as body:
            body.write(delivery.raw)
            body.seek(0)
            return subprocess.Popen(  # noqa: S603 - running the user's command is what this is for
                self._arguments,
                stdin=body,
                stdout=subprocess.PIPE if self._supervised else None,
                stderr=subprocess.PIPE,
                env={**os.environ, **environment(delivery)},
                preexec_fn=die_with_parent if self._supervised else None,  # noqa: PLW1509 - this process does nothing else when it forks
            )


def _wait(process: subprocess.Popen[bytes], heartbeat: Callable[[], float | None]) -> int:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(heartbeat())


class _Tail:
    """Reads a stream to its end in a thread, keeps its last bytes, and may copy it to a standard stream."""

    def __init__(self, stream: IO[bytes] | None, limit: int, echo: TextIO | Literal[False] | None) -> None:
        self.data = b""
        self._stream = stream
        self._limit = limit
        self._echo: IO[bytes] | None = getattr(echo, "buffer", None)  # a closed standard stream is None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        if hasattr(signal, "pthread_sigmask"):
            # The main thread must get them: only there they are handled, and it waits in a system call.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while self._stream is not None and (chunk := os.read(self._stream.fileno(), 65_536)):
            self.data = (self.data + chunk)[-self._limit :]
            try:
                if self._echo is not None:
                    self._echo.write(chunk)
                    self._echo.flush()
            except OSError:
                # The reader of our output is gone. Read on, or the command would block on a full pipe.
                self._echo = None

    def finish(self) -> None:
        """Wait for the end, for a moment: another process may hold the stream open, but what the command wrote is read."""
        self._thread.join(timeout=_LINGER)
        if self._stream is not None and not self._thread.is_alive():
            self._stream.close()


def _written(stdout: bytes, stderr: bytes) -> str:
    """The first part of an error text: the end of a command's output."""
    parts = []
    for title, data in (("stdout", stdout), ("stderr", stderr)):
        if text := data.decode(errors="backslashreplace").rstrip("\n"):
            parts.append(f"{text}\n" if title == "stderr" and not stdout.strip() else f"--- {title}\n{text}\n")
    return "".join(parts)


def how_it_ended(code: int) -> str:
    """An exit code in words; negative ones are signals."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _reply(data: bytes) -> str:
    """What a command printed, as a reply."""
    if len(data) > reply.LONGEST:
        return reply.encode_failure(f"the command printed more than {reply.LONGEST} bytes").decode()
    text = data.decode(errors="backslashreplace")
    try:
        return reply.encode(read_json(text)).decode()
    except (ValueError, RecursionError):
        return reply.encode(text.rstrip("\n")).decode()


def environment(delivery: Delivery) -> dict[str, str]:
    """The environment variables by which a command gets its message."""
    told = {
        "MAILQ_QUEUE": delivery.queue.location,
        "MAILQ_ID": delivery.id,
        "MAILQ_ATTEMPT": str(delivery.attempt),
        "MAILQ_RECEIPT": delivery.receipt,
        "MAILQ_CONTENT_TYPE": _spell(delivery.content_type),
        "MAILQ_PUSHED_AT": f"{delivery.pushed_at:.6f}",
    }
    for name, value in delivery.headers.items():
        key = "".join(c if c.isascii() and c.isalnum() else "_" for c in name).upper()
        told[f"MAILQ_HEADER_{key}"] = _spell(value)
    return told


def _spell(value: str) -> str:
    """A header as an environment can hold it."""
    value = value.replace("\0", "")
    with contextlib.suppress(UnicodeEncodeError):
        os.fsencode(value)
        return value
    return value.encode(errors="backslashreplace").decode()
