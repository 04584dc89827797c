"""Processes that a test starts, talks to over a pipe, and sees off."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

from janitor import memory

import mailq
from mailq.engines.maildir import names
from mailq.engines.maildir.engine import MaildirEngine
from mailq.ids import NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkContext, SpawnContext
    from types import TracebackType

SPAWN: Final = multiprocessing.get_context("spawn")
PATIENCE: Final = float(os.environ.get("TEST_PATIENCE", "300"))
"""Seconds to wait for what must come, on however busy a machine; less where it is known not to come, as for a broken mailq."""

_Result = TypeVar("_Result")


class _Failure(NamedTuple):
    text: str


class Child:
    """A process that runs ``target(pipe, *arguments)``; killed on leaving, if it is still there.

    It is a fresh interpreter, unless the context says that it is a fork.
    """

    def __init__(
        self, target: Callable[..., None], *arguments: object, context: ForkContext | SpawnContext = SPAWN
    ) -> None:
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(target, theirs, arguments), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def say(self, word: object) -> None:
        self._pipe.send(word)

    def hear(self, timeout: float | None = PATIENCE) -> Any:
        """The next thing that it says; fails if it died, raised, or says nothing for too long (None: for ever)."""
        assert self._pipe.poll(timeout), f"{self._process.name} said nothing for {timeout} s"
        try:
            word = self._pipe.recv()
        except EOFError:
            raise AssertionError(f"{self._process.name} died without a word") from None
        assert not isinstance(word, _Failure), word.text
        return word

    def kill(self) -> None:
        """SIGKILL; it is gone when this returns."""
        os.kill(self.pid, signal.SIGKILL)
        self._process.join()

    def join(self) -> None:
        self._process.join(PATIENCE)
        assert self._process.exitcode == 0, f"{self._process.name} ended with {self._process.exitcode}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.is_alive():
            self.kill()
        self._pipe.close()


def _main(target: Callable[..., None], pipe: Connection[Any, Any], arguments: tuple[object, ...]) -> None:
    try:
        target(pipe, *arguments)
    except BaseException:  # noqa: BLE001 - the test that started this process reports it
        pipe.send(_Failure(traceback.format_exc()))


def on_each_core(work: Callable[[int, int], _Result]) -> list[_Result]:
    """What ``work(number, count)`` returned in each of ``count`` forks of this process, one for each core.

    One that died or raised fails the test.
    """
    if not hasattr(os, "fork"):
        return [work(0, 1)]
    count, fork = cores(), multiprocessing.get_context("fork")
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child(_tell, work, number, count, context=fork)) for number in range(count)]
        return [child.hear(timeout=None) for child in children]


def cores() -> int:
    """How many this process may use: the workers of pytest-xdist share what there are."""
    return max(1, all_cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def all_cores() -> int:
    """How many the tests may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tell(pipe: Connection[Any, Any], work: Callable[[int, int], Any], number: int, count: int) -> None:
    pipe.send(work(number, count))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again until it is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not so after {PATIENCE} s: {what}"
        time.sleep(0.001)


def assert_at_once(latencies: Sequence[float]) -> None:
    """Whether messages came when the kernel reported them, by the milliseconds that each took.

    A watch that holds events back takes 500 for nearly each. A busy machine may be as late at times, and not
    with most; how soon messages really come the bench measures.
    """
    assert sorted(latencies)[len(latencies) // 4] < 250, sorted(latencies)


def asleep(pid: int) -> bool:
    """Whether every thread of a process waits for something."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        if state != "S":
            return False
    return True


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def family(pid: int) -> list[int]:
    return [pid, *(one for child in children(pid) for one in family(child))]


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def ahead(path: Path, seconds: float) -> mailq.Queue:
    """The queue as a process sees it whose clock is ahead."""
    return mailq.Queue(MaildirEngine(str(path), clock=lambda: time.time_ns() + round(seconds * NS)))


def owner_of(receipt: str) -> str:
    """The token in a receipt of the process that claimed it."""
    envelope = names.parse(receipt)
    assert envelope is not None
    return envelope.owner


@contextmanager
def fast_directory(fallback: Path) -> Iterator[str]:
    """In memory where there is such a place: for thousands of queues on disks that need not be real."""
    path = tempfile.mkdtemp(dir=memory() or fallback)
    try:
        yield path
    finally:
        shutil.rmtree(path)
