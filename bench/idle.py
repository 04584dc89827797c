"""What an idle consumer costs: how much of a core it takes to wait for what does not come."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import mailq
from bench.results import Plan, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTLED: Final = 0.2
"""Who has taken so little time in a second, in seconds, has started up and waits."""

_WAITING: Final = "import mailq, sys; mailq.open(sys.argv[1], create=False).pop(wait=3600)"


def _programs(queue: str) -> dict[str, list[str]]:
    return {
        "pop(wait)": [sys.executable, "-c", _WAITING, queue],
        "mailq work": [sys.executable, "-m", "mailq", "work", "-c", "2", queue, "builtins:print"],
    }


def _family(pid: int) -> Iterator[int]:
    """A process and all that it has started."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                for child in file.read().split():
                    yield from _family(int(child))


def _seconds(pid: int) -> float:
    """How long all of them were on a core. Not the times of stat(5): those count in hundredths."""
    total = 0
    for each in _family(pid):
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{each}/task"):
                with open(f"/proc/{each}/task/{thread}/schedstat", encoding="ascii") as file:
                    total += int(file.read().split()[0])
    return total / 1e9


def _wait_until_idle(pid: int) -> None:
    """Wait until it has started up."""
    time.sleep(2)
    patience = time.monotonic() + 60
    before = _seconds(pid)
    while True:
        time.sleep(1)
        now = _seconds(pid)
        if now - before < _SETTLED:
            return
        if time.monotonic() > patience:
            raise RuntimeError("a consumer with nothing to do does not come to rest")
        before = now


def _share(arguments: list[str], directory: str, seconds: float) -> float:
    """The percent of a core that a program takes."""
    with subprocess.Popen(arguments, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_idle(process.pid)
            begun, before = time.monotonic(), _seconds(process.pid)
            time.sleep(seconds)
            after, ended = _seconds(process.pid), time.monotonic()
            if process.poll() is not None:
                raise RuntimeError(f"{arguments} has ended with {process.returncode}")
        finally:
            process.terminate()
    return (after - before) / (ended - begun) * 100


def measure(plan: Plan) -> Iterator[Result]:
    """Run the rounds."""
    if not os.path.exists("/proc/self/schedstat"):
        plan.leave_out("idle: left out: the kernel does not say in /proc how long a process ran")
        return
    queue = os.path.join(plan.directory, "idle")
    mailq.open(queue).close()
    told: dict[str, list[float]] = {}
    for _ in range(plan.rounds):
        for case, arguments in _programs(queue).items():
            told.setdefault(case, []).append(_share(arguments, plan.directory, 2 if plan.quick else 20))
    for case, values in told.items():
        yield Result("idle", case, "mailq", "", "% of a core", values)
