"""Have workers compute Fibonacci numbers three ways, and compare their replies.

Random numbers, and all from 0 to 100, are asked for as requests: recursively (small
ones), iteratively (exact at any size), and by Binet's formula in floats, which cannot
stay right. Every reply is compared with what is computed here, without a queue.

Binet's formula goes wrong at some n, and at another its powers are no float any more:
that job dies, and lies among the dead with its traceback. What is printed about both
is read from the replies. A slow job meanwhile runs for longer than the queue's lease;
it was pushed with a longer one of its own, so that nobody takes it away.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import mailq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

PLACE: Final = "FIBONACCI_QUEUE"
LEASE: Final = 2.0
SLOW_LEASE: Final = 30.0
SMALL: Final = 25  # the recursive way takes 250 000 calls for this one
SCANNED: Final = 100
SHOWN: Final = (10, 25, 90, 100)
EDGE: Final = (604, 605)  # the last number that Binet's formula has a float for, and the first that it has none for
PATIENCE: Final = 60.0

# The tasks. They are the module's, since the worker's processes import it; so is where the queue is.

app = mailq.App(os.environ.get(PLACE, "fibonacci-queue"))


@app.task
def recursive(n: int) -> int:
    """F(n) as it is defined. To call a task is to call the function."""
    return n if n < 2 else recursive(n - 1) + recursive(n - 2)  # noqa: PLR2004 - F(0) and F(1)


@app.task
def iterative(n: int) -> int:
    """F(n) in whole numbers: exact, however large."""
    former, number = 1, 0
    for _ in range(n):
        former, number = number, former + number
    return number


@app.task(max_retries=1)
def binet(n: int) -> int:
    """F(n) in floats. Cut off, as it is mostly written, it is wrong from 72 on; rounded it would be from 71 on."""
    root = 5**0.5
    return int(((1 + root) ** n - (1 - root) ** n) / (2**n * root))


@app.task(lease=SLOW_LEASE)
def slow(seconds: float) -> float:
    """Do nothing for a while. The worker's first heartbeat comes after a third of the lease: too late to be of help."""
    time.sleep(seconds)
    return seconds


WAYS: Final = {"recursive": recursive, "iterative": iterative, "binet": binet}


def plain(n: int) -> int:
    """F(n) in yet another way, by doubling: what the replies are compared with."""
    number, following = 0, 1
    for bit in f"{n:b}":
        number, following = number * (2 * following - number), number * number + following * following
        if bit == "1":
            number, following = following, number + following
    return number


# The requests


class SlowJob:
    """The request for the slow job, with what happened to it."""

    def __init__(self, seconds: float) -> None:
        self._begun: dict[str, list[int]] = defaultdict(list)
        self.taken_back = 0
        self.begun = time.monotonic()
        self.detach = mailq.telemetry.attach(self.note)
        self.reply = slow.request(seconds)

    def note(self, event: mailq.telemetry.Event) -> None:
        """Note each attempt that this process's worker begins, and it has all of them."""
        if event.name == "job.start":
            self._begun[event.id].append(event.facts["attempt"])

    @property
    def attempts(self) -> list[int]:
        """The numbers of its attempts."""
        return self._begun[self.reply.id]

    def result(self, queue: mailq.Queue) -> float:
        """Wait for the reply; when the queue's own lease would have ended, take back whatever is late."""
        time.sleep(max(0.0, self.begun + LEASE + 0.2 - time.monotonic()))
        self.taken_back = queue.reap().returned
        return float(self.reply.result(PATIENCE))


def choose(count: int, seed: int) -> list[int]:
    """The numbers to ask for, in random order."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    numbers = sorted({*chance.sample(range(EDGE[0]), count), *range(SCANNED + 1), *EDGE})
    chance.shuffle(numbers)
    return numbers


def ask(numbers: Iterable[int]) -> dict[tuple[str, int], mailq.Reply]:
    """Push a request for each number and each way that is fit for it."""
    return {
        (way, n): task.request(n) for n in numbers for way, task in WAYS.items() if way != "recursive" or n <= SMALL
    }


def collect(replies: Mapping[tuple[str, int], mailq.Reply]) -> dict[tuple[str, int], int | str]:
    """Wait for what each reply says: a number, or, of a job that died, its last words."""
    answers: dict[tuple[str, int], int | str] = {}
    for question, reply in replies.items():
        try:
            answers[question] = reply.result(PATIENCE)
        except mailq.JobFailed as failure:
            answers[question] = failure.error.strip().rpartition("\n")[2]
    return answers


# What is right


class Binet:
    """How far the formula came: what the answers say of it."""

    def __init__(self, answers: Mapping[tuple[str, int], int | str]) -> None:
        given = {n: answer for (way, n), answer in sorted(answers.items()) if way == "binet"}
        self.wrong = [n for n, answer in given.items() if isinstance(answer, int) and answer != plain(n)]
        self.right = [n for n, answer in given.items() if answer == plain(n)]
        self.failed = [n for n, answer in given.items() if isinstance(answer, str)]
        self.right_again = [n for n in self.right if self.wrong and n > self.wrong[0]]


def find_mistakes(answers: Mapping[tuple[str, int], int | str], letters: Sequence[mailq.Message]) -> list[str]:
    """Say each answer that should not be, in a line. Of Binet's formula only that the queue changed nothing about it."""
    mistakes = []
    for (way, n), answer in answers.items():
        expected = _here(n) if way == "binet" else plain(n)
        if answer != expected:
            mistakes.append(f"wrong: {way}({n}) is {answer}, should be {expected}")
    failed = sorted([way, n] for (way, n), answer in answers.items() if isinstance(answer, str))
    dead = sorted([letter.body["task"], *letter.body["args"]] for letter in letters)
    if failed != dead:
        mistakes.append(f"the dead letters are {dead}, should be {failed}")
    return mistakes


def _here(n: int) -> int | str:
    """What Binet's formula gives in this process."""
    try:
        return binet(n)
    except OverflowError as error:
        return f"OverflowError: {error}"


# The program


def report(answers: Mapping[tuple[str, int], int | str], letters: Sequence[mailq.Message]) -> None:
    """Print what came out: a line a figure, and the traceback of each dead letter."""
    for n in SHOWN:
        print(f"F({n})", answers["iterative", n])
    exact = [(way, n) for (way, n), answer in answers.items() if way != "binet" and answer == plain(n)]
    formula = Binet(answers)
    print("exact replies", len(exact))
    print("binet right", len(formula.right))
    print("binet wrong", len(formula.wrong))
    print("binet first wrong at", min(formula.wrong, default=-1))
    print("binet right again after that", len(formula.right_again))
    print("binet first overflows at", min(formula.failed, default=-1))
    print("dead letters", len(letters))
    for letter in letters:
        print("dead letter attempts", len(letter.history))
        print(f"  {letter.body['task']}({letter.body['args'][0]}), {letter.reason}:")
        for line in (letter.history[-1].error or "no traceback").splitlines():
            print(f"  | {line}")


def run(queue: mailq.Queue, numbers: Sequence[int], *, workers: int, seconds: float) -> int:
    """Ask, work, compare; print what happened."""
    begun = time.perf_counter()
    with mailq.Worker(app, processes=workers):
        slow_job = SlowJob(seconds)  # first in line: it runs beside all the others
        replies = ask(numbers)
        print("requests", len(replies) + 1, flush=True)
        answers = collect(replies)
        slept = slow_job.result(queue)
    slow_job.detach()
    letters = queue.peek("dead", limit=None)
    report(answers, letters)
    mistakes = find_mistakes(answers, letters)
    print(f"slow job's lease, the queue's being {LEASE:g}:", f"{SLOW_LEASE:g}")
    print("slow job's seconds", f"{slept:g}")
    print("slow job's attempts", len(slow_job.attempts))
    if slow_job.attempts != [1] or slow_job.taken_back:
        mistakes.append(f"the slow job was taken back: attempts {slow_job.attempts}")
    if len(queue):
        mistakes.append(f"{len(queue)} jobs are left")
    for mistake in mistakes:
        print(mistake)
    print("seconds", f"{time.perf_counter() - begun:.1f}")
    print("mistakes", len(mistakes))
    return 1 if mistakes else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. Returns 0 if every reply is as it should be, 1 if not, 2 if it cannot begin."""
    options = _options(arguments)
    if PLACE not in os.environ:
        # The tasks' queue is named when the module is imported: so begin again, with a name for it.
        with tempfile.TemporaryDirectory(prefix="fibonacci-") as directory:
            command = [sys.executable, __file__, *(sys.argv[1:] if arguments is None else arguments)]
            environment = {**os.environ, PLACE: os.path.join(directory, "jobs")}
            return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - this very program
    try:
        with mailq.open(os.environ[PLACE], lease=LEASE, backoff=(0.05, 0.2)) as queue:
            if len(queue) or queue.stats().dead:
                print(f"fibonacci: {queue.location!a} has messages; unset {PLACE} or name a new queue", file=sys.stderr)
                return 2
            print("random numbers", options.numbers)
            return run(queue, choose(options.numbers, options.seed), workers=options.workers, seconds=options.slow)
    except mailq.MailqError as error:
        print(f"fibonacci: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fibonacci",
        description="Have workers compute Fibonacci numbers three ways, and compare their replies.",
        epilog="Example: python examples/fibonacci.py --numbers 100 --workers 8",
    )
    parser.add_argument(
        "--numbers", type=_number(0, 600), default=20, metavar="N", help="how many random numbers (default 20)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random numbers (default 1)")
    parser.add_argument(
        "--workers", type=_number(2, 100), default=4, metavar="N", help="how many worker processes (default 4)"
    )
    parser.add_argument(
        "--slow",
        type=_number(3, 20),
        default=3,
        metavar="SECONDS",
        help=f"how long the slow job takes, more than the queue's lease of {LEASE:g} s (default 3)",
    )
    return parser.parse_args(arguments)


def _number(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return convert


if __name__ == "__main__":
    sys.exit(main())
