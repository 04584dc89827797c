"""Push into two queues faster than is comfortable, kill workers meanwhile, and balance the books.

Two queues share one for their dead letters; each has three workers, which are
programs of their own: ``mailq work``. Most jobs are well; some fail, some hang until
their time is up, some kill the process that runs them. Every few seconds a worker is
killed with SIGKILL and another one started.

In the end every message that was pushed must be accounted for: acked, or dead. The
books are kept here and not by the queue: a job that comes to its end writes the
message's id into a file, before its worker acks it. At least once means that some are
in there twice, and that one may be there and dead: done, its worker killed before the
ack, and given up on later. Both are counted. None may be lost.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import mailq

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType

QUEUES: Final = ("red", "blue")
GRAVES: Final = "dead"
WORKERS: Final = 3
JOBS_AT_A_TIME: Final = 2
TIMEOUT: Final = 0.5
RETRIES: Final = 3
BEAT: Final = 0.1
SHOWN: Final = 10
# Seconds without any progress after which the workers are not expected to finish, and for them to end.
STUCK: Final = 30.0
PATIENCE: Final = 20.0

# What a job does, by its number modulo a thousand; and the same every hundred. All others are well.
RARE: Final = {11: "hang", 22: "hang once", 33: "die", 44: "die once", 511: "hang once", 533: "die once"}
COMMON: Final = {55: "fail", 66: "fail once", 77: "fail once"}
HOPELESS: Final = frozenset(("hang", "die", "fail"))


def kind_of(number: int) -> str:
    """What a job is to do."""
    return RARE.get(number % 1000) or COMMON.get(number % 100, "ok")


# The job, in the worker's processes


def handle(delivery: mailq.Delivery) -> None:
    """Do what the body says, and write down that it was done. Only then does the worker ack."""
    kind, _, once = delivery.body["kind"].partition(" ")
    if not once or delivery.attempt == 1:
        match kind:
            case "fail":
                raise ValueError(f"attempt {delivery.attempt} fails, as it should")
            case "hang":
                time.sleep(60)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
    os.write(_log_of(delivery.queue.location), f"{delivery.id} {delivery.attempt}\n".encode())


@functools.cache
def _log_of(location: str) -> int:
    """The file of a queue's finished jobs, open to append: a short line comes there in one piece."""
    return os.open(f"{location}.done", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


# The workers


class Worker:
    """A ``mailq work`` of its own. Whoever it starts has its output too: the end of that is the end of them all."""

    def __init__(self, location: str) -> None:
        command = [sys.executable, "-m", "mailq", "work", location, f"{os.path.abspath(__file__)}:handle"]
        command += [
            "-c",
            str(JOBS_AT_A_TIME),
            "--timeout",
            f"{TIMEOUT}s",
            "--kill-after",
            "0.2s",
            "--log-level",
            "error",
        ]
        self.location = location
        self._output, output = os.pipe()
        with open(f"{location}.log", "ab") as log:
            # A session of its own: Ctrl-C is for this program, which stops them all.
            self.process = subprocess.Popen(  # noqa: S603 - this very interpreter
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=log, start_new_session=True
            )
        os.close(output)
        os.set_blocking(self._output, False)

    def kill(self) -> None:
        """Kill its supervisor, whatever that is doing. The rest of it has to notice by itself."""
        self.process.kill()
        self.process.wait()

    def has_begun(self) -> bool:
        """Whether it listens to signals by now: before that, one ends it like any program that is only starting."""
        with mailq.open(self.location, create=False) as queue:
            return any(owner.pid == self.process.pid for owner in queue.workers())

    def is_gone(self) -> bool:
        """Whether no process of it is left."""
        try:
            while os.read(self._output, 4096):
                pass
        except BlockingIOError:
            return False
        return self.process.poll() is not None


class Workers:
    """All of them, the killed ones too."""

    def __init__(self, locations: Sequence[str]) -> None:
        self._alive = [Worker(location) for _ in range(WORKERS) for location in locations]
        self._killed: list[Worker] = []
        self.failures: list[str] = []

    @property
    def killed(self) -> int:
        """How many were killed."""
        return len(self._killed)

    def kill_one(self) -> None:
        """Kill the one that has been there for longest, and start another in its place."""
        victim = self._alive.pop(0)
        if victim.process.poll() is not None:
            self.failures.append(f"a worker of {victim.location} ended by itself with {victim.process.returncode}")
        victim.kill()
        self._killed.append(victim)
        self._alive.append(Worker(victim.location))

    def stop(self) -> None:
        """End them, as they are meant to be ended."""
        until = time.monotonic() + PATIENCE
        for worker in self._alive:
            while worker.process.poll() is None and not worker.has_begun() and time.monotonic() < until:
                time.sleep(BEAT)
            worker.process.terminate()
        until = time.monotonic() + PATIENCE
        for worker in self._alive:
            try:
                code = worker.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                code = -signal.SIGKILL
            if code != 0:
                self.failures.append(f"a worker of {worker.location} ended with {code}")

    def left(self) -> int:
        """Of how many workers there are processes left. They get a moment to end."""
        until = time.monotonic() + PATIENCE / 4
        while True:
            left = sum(not worker.is_gone() for worker in self._alive + self._killed)
            if not left or time.monotonic() >= until:
                return left
            time.sleep(BEAT)


# The books


@dataclass
class Books:
    """What was pushed, by id with its kind; what was done, with how often; who is dead; who waits.

    ``pushed`` and ``done`` are kept by this program and its jobs, the others are what the queues hold: ``dead`` what
    lies in the queue for the dead, ``mourned`` what the two queues call their dead.
    """

    pushed: dict[str, str] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    mourned: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)

    @property
    def acked(self) -> set[str]:
        """Those that are done, and gone from the queue."""
        return self.pushed.keys() & self.done.keys() - self.dead.keys() - self.waiting

    @property
    def buried(self) -> set[str]:
        """Those that are dead, done or not."""
        return self.pushed.keys() & self.dead.keys()

    @property
    def lost(self) -> set[str]:
        """Those that are nowhere."""
        return self.pushed.keys() - self.done.keys() - self.dead.keys() - self.waiting

    @property
    def done_and_dead(self) -> set[str]:
        """Those that were done, but given up on: whoever did it was killed before the ack."""
        return self.buried & self.done.keys()

    @property
    def run_twice(self) -> set[str]:
        """Those that were done more than once."""
        return {id for id, times in self.done.items() if times > 1}

    @property
    def unlucky(self) -> set[str]:
        """The dead whose job would have succeeded, had it not been interrupted each time."""
        return {id for id in self.buried if self.pushed[id] not in HOPELESS}


def find_mistakes(books: Books) -> list[str]:
    """Say each entry that does not fit, in a line."""
    mistakes = [f"lost: {id}, {books.pushed[id]}" for id in sorted(books.lost)]
    mistakes += [f"still in the queue: {id}" for id in sorted(books.waiting)]
    strangers = {*books.done, *books.dead} - books.pushed.keys()
    mistakes += [f"never pushed: {id}" for id in sorted(strangers)]
    mistakes += [f"dead in one place only: {id}" for id in sorted(books.mourned ^ books.dead.keys())]
    mistakes += [f"dead more than once: {id}" for id, times in sorted(books.dead.items()) if times > 1]
    hopeless = [id for id in sorted(books.done) if books.pushed.get(id) in HOPELESS]
    mistakes += [f"done, though it never succeeds: {id}, {books.pushed[id]}" for id in hopeless]
    if len(books.pushed) != len(books.acked) + len(books.buried):
        mistakes.append(f"{len(books.pushed)} pushed are not {len(books.acked)} acked and {len(books.buried)} dead")
    return mistakes


def read_log(location: str) -> Counter[str]:
    """How often each message of a queue was done."""
    try:
        with open(f"{location}.done", encoding="ascii") as log:
            return Counter(line.split()[0] for line in log)
    except FileNotFoundError:
        return Counter()


def close_books(pushed: Mapping[str, str], queues: Sequence[mailq.Queue], graves: mailq.Queue) -> Books:
    """Look everywhere for what was pushed. The dead letters are ordinary messages of the queue that they share."""
    books = Books(dict(pushed))
    for queue in queues:
        books.done += read_log(queue.location)
        for state in ("ready", "delayed", "leased"):
            books.waiting.update(message.id for message in queue.peek(state, limit=None))
        # What a queue calls its dead lies in the queue that they share. Each is to know the same ones.
        books.mourned.update(message.id for message in queue.peek("dead", limit=None))
    books.dead.update(message.id for message in graves.peek("ready", limit=None))
    return books


# The program


def push_all(queues: Sequence[mailq.Queue], workers: Workers, options: argparse.Namespace) -> dict[str, str]:
    """Push into each queue at the rate, for so long, and kill a worker now and then. Returns all ids with their kinds.

    What a beat is late is made up for in the next one, up to a second. Who cannot keep up pushes less.
    """
    pushed: dict[str, str] = {}
    numbers = dict.fromkeys(queues, 0)
    begun = time.monotonic()
    passed = last_kill = 0.0
    while passed < options.seconds:
        time.sleep(BEAT)
        passed = min(time.monotonic() - begun, options.seconds)
        for queue in queues:
            number = numbers[queue]
            until = min(round(passed * options.rate), number + options.rate)
            kinds = [kind_of(n) for n in range(number, until)]
            pushed.update(zip(queue.push_many([{"kind": kind} for kind in kinds]), kinds, strict=True))
            numbers[queue] = until
        if passed >= last_kill + options.kill_every:
            last_kill += options.kill_every
            workers.kill_one()
    return pushed


def drain(queues: Sequence[mailq.Queue]) -> float:
    """Wait until the queues are empty, or nothing happens any more. Returns the seconds that it took."""
    begun = moved = time.monotonic()
    former: list[Any] = []
    while any(len(queue) for queue in queues):
        stats = [queue.stats()[:4] for queue in queues]
        now = time.monotonic()
        if stats != former:
            former, moved = stats, now
        if now >= moved + STUCK:
            break
        time.sleep(BEAT)
    return time.monotonic() - begun


def report(books: Books) -> None:
    """Print the books: a line a figure."""
    print("pushed", len(books.pushed))
    for kind, count in sorted(Counter(books.pushed.values()).items()):
        print(f"  {kind}", count)
    print("acked", len(books.acked))
    print("dead", len(books.buried))
    print("dead by bad luck", len(books.unlucky))
    print("dead though done", len(books.done_and_dead))
    print("run twice", len(books.run_twice))
    for id in sorted(books.run_twice)[:SHOWN]:
        print(f"  {id}", books.done[id])
    print("lost", len(books.lost))


def run(directory: str, options: argparse.Namespace) -> int:
    """Push, kill, drain, balance; print what happened."""
    graves_path = os.path.join(directory, GRAVES)
    settings: dict[str, Any] = {"durability": "process-crash", "max_retries": RETRIES, "backoff": (0.1, 0.5)}
    with contextlib.ExitStack() as stack:
        graves = stack.enter_context(mailq.open(graves_path, durability="process-crash"))
        queues = [
            stack.enter_context(mailq.open(os.path.join(directory, name), dead_letters=graves_path, **settings))
            for name in QUEUES
        ]
        workers = Workers([queue.location for queue in queues])
        try:
            begun = time.monotonic()
            pushed = push_all(queues, workers, options)
            pushing = time.monotonic() - begun
            print("pushing seconds", f"{pushing:.1f}")
            print("pushes a second", f"{len(pushed) / pushing:.0f}", flush=True)
            print("draining seconds", f"{drain(queues):.1f}", flush=True)
        finally:
            workers.stop()
        seconds = time.monotonic() - begun
        left = workers.left()
        books = close_books(pushed, queues, graves)
    report(books)
    print("workers killed", workers.killed)
    print("workers left", left)
    print("seconds", f"{seconds:.1f}")
    mistakes = [*workers.failures, *find_mistakes(books)]
    for line in mistakes[:SHOWN]:
        print(line)
    if len(mistakes) > SHOWN:
        print(f"... and {len(mistakes) - SHOWN} more")
    print("mistakes", len(mistakes) + left)
    return 1 if mistakes or left else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. Returns 0 if the books balance, 1 if not, 2 if it cannot begin."""
    options = _options(arguments)
    former = signal.signal(signal.SIGTERM, _terminated)  # its workers must not outlive it
    try:
        if options.dir is None:
            with tempfile.TemporaryDirectory(prefix="stress-") as directory:
                return run(directory, options)
        os.makedirs(options.dir, exist_ok=True)
        if os.listdir(options.dir):
            print(f"stress: {options.dir!a} is not empty; pass a new directory to --dir", file=sys.stderr)
            return 2
        return run(options.dir, options)
    except (OSError, mailq.MailqError) as error:
        print(f"stress: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, former)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="stress",
        description="Push into two queues with failing, hanging and dying jobs, kill their workers, balance the books.",
        epilog="Example: python examples/stress.py --seconds 10 --rate 200",
    )
    add = functools.partial(parser.add_argument, type=_number(1, 100_000), metavar="N")
    add("--seconds", default=60, help="how long to push (default 60)")
    add("--rate", default=500, help="pushes a second into each of the two queues (default 500)")
    add("--kill-every", default=5, metavar="SECONDS", help="how often a worker is killed (default 5)")
    parser.add_argument("--dir", help="make the queues in this directory, and leave them there")
    return parser.parse_args(arguments)


def _number(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return convert


if __name__ == "__main__":
    sys.exit(main())
