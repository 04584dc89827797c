"""The programs of a cut: the work before it, and what takes stock after it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from power_books import Aftermath, Found
from together import PATIENCE, wait_until

_HERE: Final = Path(__file__).parent


class Work(NamedTuple):
    """What is done until the cut, and what is left out of it for a control."""

    durability: str = "power-loss"
    disk: str = "whole"
    wrapper: tuple[str, ...] = ()
    producers: int = 3
    consumers: int = 2

    def command(self, queue: Path, report: Path, seed: int, log: Path | None = None) -> list[str]:
        crew = [f"--producers={self.producers}", f"--consumers={self.consumers}", f"--seed={seed}"]
        options = [f"--disk={self.disk}", *crew, *([f"--log={log}"] if log else [])]
        return [*self.wrapper, sys.executable, f"{_HERE}/power_workload.py", str(queue), str(report), *options]


def environment() -> dict[str, str]:
    """Where the programs find what tests share."""
    return {**os.environ, "PYTHONPATH": str(_HERE.parent)}


class Program:
    """A program with all that it started, in a session of its own."""

    def __init__(self, command: Sequence[str], output: Path) -> None:
        self._output = output
        # Whoever belongs to it has the other end; when nobody has, all are dead.
        self._alive, theirs = os.pipe()
        with output.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                pass_fds=[theirs],
                env=environment(),
            )
        os.close(theirs)

    def wait_for(self, report: Path, size: int) -> None:
        """Until it has reported so many bytes."""

        def is_there() -> bool:
            assert self._process.poll() is None, f"it ended by itself: {self.output}"
            return report.exists() and report.stat().st_size >= size

        wait_until(is_there, f"{size} bytes of report; {self.output}")

    def end(self) -> None:
        """It ends by itself, and well."""
        assert self._process.wait(PATIENCE) == 0, self.output
        assert "Traceback" not in self.output, self.output

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL for all of it; nobody is left when this returns."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        ready, _, _ = select.select([self._alive], [], [], PATIENCE)
        assert ready, "what it started lives on"


@contextmanager
def running(command: Sequence[str], output: Path) -> Iterator[Program]:
    program = Program(command, output)
    try:
        yield program
    finally:
        program.kill()
        os.close(program._alive)


def recovered(queue: Path) -> Aftermath:
    """What a fresh process finds in the queue."""
    command = [sys.executable, f"{_HERE}/power_recovery.py", str(queue)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment(), timeout=PATIENCE)
    if done.returncode:
        return Aftermath([], [done.stderr])
    told = json.loads(done.stdout)
    return Aftermath([Found(*one) for one in told["found"]], told["troubles"])
