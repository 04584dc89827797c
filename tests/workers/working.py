"""Workers as real processes, and what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from together import PATIENCE, children, family, is_alive, wait_until

import mailq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

HERE: Final = str(Path(__file__).parent)
OFTEN: Final = 600
"""Heartbeats in a lease: three take less than a second of one that no standstill of the machine outlasts."""
_WITH_HEARTBEATS: Final = """\
from mailq.workers import job
job._BEATS = {beats}
from mailq.cli.main import main
main()
"""


class Work:
    """``mailq work`` with these arguments, ready when it is entered, ended with SIGKILL if it is still there.

    With ``beats`` it has that number of heartbeats in a lease.
    """

    def __init__(self, *arguments: object, command: str = "work", beats: int | None = None, **env: str) -> None:
        self._log = Path(os.environ["PYTEST_TMP"]) / f"worker.{time.monotonic_ns()}.log"
        program = ["-m", "mailq"] if beats is None else ["-c", _WITH_HEARTBEATS.format(beats=beats)]
        line = [sys.executable, *program, command, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": HERE, **env}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        self._family: set[int] = set()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Self:
        self.ready()
        self._family = set(family(self.pid))
        return self

    def ready(self) -> None:
        try:
            wait_until(lambda: "ready: " in self.log or self._process.poll() is not None, "the worker is ready")
            assert self._process.poll() is None, self.log
        except AssertionError:
            self.kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(self.log)
        if self._process.poll() is None:
            self.kill()
        self.gone()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        return self._process.wait(PATIENCE)

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        self._family |= set(family(self.pid))
        self._process.kill()
        self._process.wait()

    def processes(self) -> list[int]:
        """The worker and all that came of it."""
        found = family(self.pid)
        self._family |= set(found)
        return found

    def slots(self) -> list[int]:
        """The processes that run the jobs."""
        forkserver = children(self.pid)
        return children(forkserver[0]) if forkserver else []

    def gone(self) -> None:
        """Nothing of it is left."""
        wait_until(lambda: not [pid for pid in self._family if is_alive(pid)], "the whole family is gone")


def cpu(pids: list[int]) -> float:
    """Seconds of CPU that these processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def sleeps(pids: list[int]) -> int:
    """How often the threads of these processes have begun to wait for something."""
    statuses = (thread / "status" for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir())
    return sum(int(status.read_text().rpartition("\nvoluntary_ctxt_switches:")[2].split()[0]) for status in statuses)


def assert_idle(pids: list[int], during: Callable[[], object]) -> None:
    """Who does nothing wakes up seldom, however slow everything is; and spins at no time, when he would not wake up at all."""
    sleeps_before, cpu_before, begun = sleeps(pids), cpu(pids), time.monotonic()
    during()
    seconds = time.monotonic() - begun
    assert sleeps(pids) - sleeps_before < 10 * seconds
    assert cpu(pids) - cpu_before < seconds / 4


def assert_the_lease_is_kept(queue: mailq.Queue, is_over: Callable[[], bool]) -> None:
    """Three heartbeats come to the one message in hand before its job is over."""
    deadlines: set[float | None] = set()

    def are_there() -> bool:
        deadlines.update(message.deadline_at for message in queue.peek("leased"))
        return len(deadlines) > 3

    wait_until(lambda: are_there() or is_over(), "its lease was extended three times")
    assert len(deadlines) > 3


def all_settled(queue: mailq.Queue) -> bool:
    return len(queue) == 0


def letters(queue: mailq.Queue) -> Iterator[tuple[Any, str, str]]:
    """Of each dead letter its body, how its last attempt ended, and the last line of its error."""
    for letter in queue.peek("dead", None):
        last = letter.history[-1]
        yield letter.body, last.outcome, (last.error or "").strip().rpartition("\n")[2]
