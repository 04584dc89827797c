"""Checksum every file under a directory, with several consumers, one of which is killed half way.

One job a file goes into a queue; consumer processes take the jobs and push the
digests into a second queue. Half way one consumer is killed with SIGKILL. In the
end every digest is compared with those of a plain single-process pass: at least
once means that all files are there, whoever died.

The directory is by default the standard library of the running Python, without
``__pycache__`` (Python itself may write there meanwhile) and ``site-packages``
(not the standard library). A directory that is named is taken with all its
regular files; symlinks are not followed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import signal
import stat
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import mailq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from multiprocessing.context import SpawnProcess

BATCH: Final = 256
SHOWN: Final = 20
# Rounds of a tenth of a second without anything to do: when all files are accounted for, and when not.
QUIET: Final = 2
STUCK: Final = 50
PATIENCE: Final = 5.0
NOT_THE_LIBRARY: Final = frozenset((b"__pycache__", b"site-packages", b"dist-packages"))


# The consumer


def consume(jobs_path: str, results_path: str) -> None:
    """Take jobs for ever, and wait when there are none."""
    with mailq.open(jobs_path, create=False) as jobs, mailq.open(results_path, create=False) as results:
        for job in jobs:
            try:
                with job as path:  # acks on leaving; an exception would nack, and the job be tried again
                    try:
                        digest = checksum(path)
                    except OSError as error:  # no use to try again: to the dead, with the reason
                        job.reject(f"{type(error).__name__}: {error.strerror}")
                    else:
                        # The result is safe before the job is acked. Killed in between, the job is
                        # done twice; the other way round its result would be lost.
                        results.push(path, headers={"sha256": digest, "attempt": str(job.attempt)})
            except mailq.LeaseLost:
                continue  # too slow: another consumer has the job now, and will find the same digest


def checksum(path: bytes) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# The producer


def find_files(root: bytes, *, leave_out: frozenset[bytes] = frozenset()) -> dict[bytes, int]:
    """The regular files under a directory with their sizes. Paths are bytes: any name is a name."""

    def warn(error: OSError) -> None:
        print(f"left out, cannot be listed: {os.fsdecode(error.filename)!a}", file=sys.stderr)

    sizes = {}
    for directory, directories, names in os.walk(root, onerror=warn):
        directories[:] = sorted(set(directories) - leave_out)
        for name in sorted(names):
            path = os.path.join(directory, name)
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode):
                    sizes[path] = status.st_size
    return sizes


def push_all(jobs: mailq.Queue, paths: Sequence[bytes]) -> float:
    """Push one job a file, a batch at a time. Returns the seconds that it took."""
    begun = time.perf_counter()
    with progress("pushed", len(paths)) as tell:
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            jobs.push_many(batch)  # on disk, all of them, when this returns
            tell(start + len(batch))
    return time.perf_counter() - begun


# The processes


class Team:
    """The consumer processes."""

    def __init__(self, size: int, jobs_path: str, results_path: str) -> None:
        self._arguments = (jobs_path, results_path)
        self._processes: list[SpawnProcess] = []
        for _ in range(size):
            self._start()

    def _start(self) -> None:
        # Spawned, not forked: a consumer is a program of its own, that shares nothing but the queue.
        process = multiprocessing.get_context("spawn").Process(target=_consumer_process, args=self._arguments)
        process.start()
        self._processes.append(process)

    def kill_one(self) -> str:
        """Kill a consumer, whatever it is doing, and start another in its place. Returns who it was."""
        victim = next((process for process in self._processes if process.is_alive()), None)
        if victim is None:
            return "nobody"
        victim.kill()
        victim.join()
        name = f"consumer {self._processes.index(victim) + 1} (process {victim.pid})"
        self._processes.remove(victim)
        self._start()
        return name

    def failures(self) -> list[str]:
        """Those that ended, which none does by itself."""
        return [f"process {p.pid} ended with {p.exitcode}" for p in self._processes if not p.is_alive()]

    def is_gone(self) -> bool:
        """Whether nobody is left to do anything."""
        return len(self.failures()) == len(self._processes)

    def stop(self) -> None:
        """End them all. Nothing is lost by it: what one holds goes back to the queue."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(PATIENCE)
            process.kill()
            process.join()


def _consumer_process(jobs_path: str, results_path: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who ends them all
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    consume(jobs_path, results_path)


# The results


class Outcome:
    """What came out of the queue. ``digests`` has every digest that was reported for a path."""

    def __init__(self) -> None:
        self.digests: dict[bytes, set[str]] = defaultdict(set)
        self.unreadable: set[bytes] = set()
        self.reported = 0
        self.redelivered = 0
        self.killed: str | None = None
        self.failures: list[str] = []
        self.seconds = 0.0

    def take(self, results: Sequence[mailq.Delivery]) -> None:
        """Note some results, and ack them."""
        for result in results:
            with result as path:
                self.digests[path].add(result.headers["sha256"])
                self.reported += 1
                self.redelivered += int(result.headers["attempt"]) > 1

    def take_dead(self, letters: Sequence[mailq.Message]) -> None:
        """Note the jobs that were given up."""
        self.unreadable = {letter.raw for letter in letters}
        self.redelivered += sum(len(letter.history) > 1 for letter in letters)

    @property
    def duplicates(self) -> int:
        """How many results came for a path that had one."""
        return self.reported - len(self.digests)


def work(jobs: mailq.Queue, results: mailq.Queue, total: int, *, consumers: int, kill_at: float) -> Outcome:
    """Have the jobs done by some consumers, and kill one of them when ``kill_at`` percent are done."""
    outcome = Outcome()
    done = dead = quiet = 0
    begun = time.perf_counter()
    team = Team(consumers, jobs.location, results.location)
    try:
        with progress("done", total) as tell:
            # On to the end of the queue, not only until each file is accounted for: a job that was
            # not acked comes once more.
            while quiet < (QUIET if done >= total or team.is_gone() else STUCK):
                batch = results.pop_many(32, wait=0.1)
                outcome.take(batch)
                if batch:
                    outcome.seconds, quiet = time.perf_counter() - begun, 0
                else:
                    stats = jobs.stats()
                    dead = stats.dead
                    left = stats.ready + stats.delayed + stats.leased
                    quiet = 0 if left and not team.is_gone() else quiet + 1
                done = len(outcome.digests) + dead
                tell(done)
                if outcome.killed is None and done >= int(total * kill_at / 100):
                    outcome.killed = f"{team.kill_one()} after {done} of {total} files"
        outcome.failures = team.failures()
    finally:
        team.stop()
    outcome.take_dead(jobs.peek("dead", limit=None))
    return outcome


def plain_pass(paths: Sequence[bytes]) -> dict[bytes, str | None]:
    """The digest of each file, without any queue; None if it cannot be read."""
    digests: dict[bytes, str | None] = {}
    for path in paths:
        try:
            digests[path] = checksum(path)
        except OSError:
            digests[path] = None
    return digests


def compare(
    expected: Mapping[bytes, str | None], digests: Mapping[bytes, set[str]], unreadable: set[bytes]
) -> list[str]:
    """Say each difference between the plain pass and what came out of the queue, in a line."""
    differences = []
    for path, digest in expected.items():
        found = digests.get(path, set())
        name = ascii(os.fsdecode(path))
        if not found and path not in unreadable:
            differences.append(f"missing: {name}")
        elif digest is None and found:
            differences.append(f"read by a consumer, but not by the plain pass: {name}")
        elif digest is not None and path in unreadable:
            differences.append(f"given up by a consumer, but read by the plain pass: {name}")
        elif len(found) > 1:
            differences.append(f"two consumers disagree: {name}: {', '.join(sorted(found))}")
        elif found and found != {digest}:
            differences.append(f"wrong: {name}: {', '.join(found)}, should be {digest}")
    differences += [f"never asked for: {os.fsdecode(path)!a}" for path in {*digests, *unreadable} - expected.keys()]
    return differences


# The program


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many are done: a bar on a terminal, else a line for each quarter."""
    if sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn  # noqa: PLC0415 - slow

        with Progress(f"{what:>6}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    quarter = 0

    def tell(done: int) -> None:
        nonlocal quarter
        if total and quarter < (quarter := 4 * done // total):
            print(f"{what} {done} of {total}", flush=True)

    yield tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. Returns 0 if every digest is right, 1 if not, 2 if it cannot begin."""
    options = _options(arguments)
    given = options.directory is not None
    root = os.fsencode(options.directory if given else sysconfig.get_path("stdlib"))
    place: AbstractContextManager[str] = tempfile.TemporaryDirectory(prefix="checksum_tree-")
    try:
        os.scandir(root).close()
        if options.keep is not None:
            os.makedirs(options.keep, exist_ok=True)
            if os.listdir(options.keep):
                return _refuse(f"{options.keep!a} is not empty; pass a new directory to --keep")
            place = contextlib.nullcontext(options.keep)
    except OSError as error:
        return _refuse(f"{os.fsdecode(error.filename)!a}: {error.strerror}; pass a directory that can be read")
    sizes = find_files(root, leave_out=frozenset() if given else NOT_THE_LIBRARY)
    print(f"{len(sizes)} files, {sum(sizes.values())} bytes under {os.fsdecode(root)!a}", flush=True)
    try:
        with place as directory:
            return run(list(sizes), directory, consumers=options.consumers, kill_at=options.kill_at)
    except mailq.MailqError as error:
        print(f"checksum_tree: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(paths: Sequence[bytes], directory: str, *, consumers: int, kill_at: float) -> int:
    """Push, work, compare; print what happened."""
    # A long lease costs nothing when a consumer dies: its jobs are given back at once all the same.
    with (
        mailq.open(os.path.join(directory, "jobs"), lease=600) as jobs,
        mailq.open(os.path.join(directory, "results")) as results,
    ):
        seconds = push_all(jobs, paths)
        print(f"pushed {len(paths)} jobs in {seconds:.2f} s: {_rate(len(paths), seconds)} jobs/s", flush=True)
        outcome = work(jobs, results, len(paths), consumers=consumers, kill_at=kill_at)
    print(f"did {len(paths)} jobs in {outcome.seconds:.2f} s: {_rate(len(paths), outcome.seconds)} jobs/s")
    print(f"killed {outcome.killed or 'nobody'}")
    print(
        f"redeliveries: {outcome.redelivered}, duplicates: {outcome.duplicates}, unreadable: {len(outcome.unreadable)}"
    )
    differences = [*outcome.failures, *compare(plain_pass(paths), outcome.digests, outcome.unreadable)]
    for line in differences[:SHOWN]:
        print(line)
    if len(differences) > SHOWN:
        print(f"... and {len(differences) - SHOWN} more")
    print(f"compared with a plain pass: {len(paths)} files, {len(differences)} differences")
    return 1 if differences else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="checksum_tree",
        description="Checksum every file under a directory with several consumers of one queue, and kill one half way.",
        epilog="Example: python examples/checksum_tree.py /usr/share/doc -c 8",
    )
    parser.add_argument("directory", nargs="?", metavar="DIR", help="default: Python's own standard library")
    parser.add_argument(
        "-c", "--consumers", type=_count, default=4, metavar="N", help="how many consumer processes (default 4)"
    )
    parser.add_argument(
        "--kill-at",
        type=_percent,
        default=50.0,
        metavar="PERCENT",
        help="kill one when so much is done (default 50)",
    )
    parser.add_argument("--keep", metavar="DIR", help="make the queues in this directory, and leave them there")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:  # noqa: PLR2004 - nobody means more processes
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000")
    return int(text)


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:  # noqa: PLR2004 - percent
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage from 0 to 100")
    return value


def _refuse(text: str) -> int:
    print(f"checksum_tree: {text}", file=sys.stderr)
    return 2


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:.0f}" if seconds else "0"


if __name__ == "__main__":
    sys.exit(main())
