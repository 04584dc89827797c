"""A queue that is interrupted again and again in its use, and another thread that uses it after each time."""

from __future__ import annotations

import functools
import gc
import logging
import os
import queue as queues
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

from arriving import arrive_at, steps_of
from ordered import opened
from together import PATIENCE

import mailq
from mailq.engines.maildir import journal

Act = Callable[[], object]

_NOT_OURS: Final = re.compile(r"swallowed| Disk\.drop\+0| Delivery\.__exit__\+0|.*/filelock/.*")
"""Where no code of ours could do anything about a file that stays open, or a lease that ends by time: a finalizer, or a function that
was to close or to settle, ends before it begins; or another library's.
"""


_MOMENT: Final = 5.0

_MAY_BE_LEFT: Final = ("a file stays open", "a lease is stuck")


class Finding(NamedTuple):
    """What an exception did that it should not, and where it arrived."""

    what: str
    place: str


def unsynced(place: str) -> mailq.Queue:
    return mailq.open(f"{place}/jobs", durability="process-crash", backoff=mailq.Backoff(0, 0))


def synced(place: str) -> mailq.Queue:
    return mailq.open(f"{place}/jobs", backoff=mailq.Backoff(0, 0))


def journaled(place: str) -> mailq.Queue:
    journal.PUSHES_BEFORE_JOURNAL, journal.SIZE = 0, 1 << 16  # type: ignore[misc]
    return opened(Path(place) / "jobs", backoff=mailq.Backoff(0, 0))


def memory(_place: str) -> mailq.Queue:
    return mailq.open("memory://", backoff=mailq.Backoff(0, 0))


MAKERS: Final = {"memory": memory, "unsynced": unsynced, "synced": synced, "journaled": journaled}


class Other:
    """Another thread, which may find locks taken for ever."""

    def __init__(self) -> None:
        self._acts = queues.SimpleQueue[Act]()
        self._results = queues.SimpleQueue[Any]()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            act = self._acts.get()
            try:
                self._results.put(act())
            except BaseException as error:  # noqa: BLE001 - told to the thread that asked for it
                self._results.put(error)

    def do(self, act: Act) -> Any:
        """What it returned. Raises what it raised, or queue.Empty if it hangs."""
        self._acts.put(act)
        result = self._results.get(timeout=PATIENCE / 4)
        if isinstance(result, BaseException):
            raise result
        return result


class Stage:
    """A queue, what was pushed to it for sure, and what is in our hands."""

    def __init__(self, make: Callable[[str], mailq.Queue], place: str) -> None:
        self.queue = make(tempfile.mkdtemp(dir=place))
        self.other = Other()
        self.number = 0
        self.pushed: set[int] = set()
        self.held: list[mailq.Delivery | None] = []
        self.is_acked = False  # what is in our hands, by the act itself: or not quite

    def body(self) -> int:
        self.number += 1
        return self.number

    def push(self, **options: Any) -> int:
        body = self.body()
        self.queue.push(body, **options)
        self.pushed.add(body)
        return body

    def take(self) -> mailq.Delivery:
        """One that is in our hands."""
        self.push()
        delivery = self.queue.pop()
        assert delivery is not None
        self.held.append(delivery)
        return delivery

    def forget(self) -> None:
        """Ask no more after what was taken."""
        self.held.clear()
        self.pushed.clear()

    def listen(self) -> None:
        self.queue.subscribe(self._bell)
        self.queue.pop(wait=0.00001)

    def silence(self) -> None:
        self.queue.unsubscribe(self._bell)

    def _bell(self) -> None:
        """Ring."""

    def judge(self) -> str:
        """Use the queue; what is wrong, in a word."""
        ours = {delivery.body: delivery for delivery in self.held if delivery is not None}
        self.held.clear()
        got = [body for body, delivery in ours.items() if _is_acked(delivery) or self.is_acked]
        self.queue.reap()
        leased = self.queue.stats().leased and self.queue.purge("leased")
        self.queue.redrive()
        probe = self.push()
        while probe not in got:
            if not (deliveries := self.queue.pop_many(100, wait=PATIENCE / 8)):
                return "nothing is delivered"
            for delivery in deliveries:
                got.append(delivery.body)
                delivery.ack()
        lost, self.pushed, self.is_acked = self.pushed.difference(got), set(), False
        self.queue.pop(wait=0.00001)
        return "lost" if lost else "a lease is stuck" if leased else ""


def _is_acked(delivery: mailq.Delivery) -> bool:
    """Ack one that may have been settled already."""
    try:
        delivery.queue.ack(delivery.receipt)
    except mailq.LeaseLost:
        return False
    return True


# What is interrupted


def push(stage: Stage) -> Act:
    return stage.push


def push_many(stage: Stage) -> Act:
    bodies = [stage.body() for _ in range(3)]

    def act() -> None:
        stage.queue.push_many(bodies)
        stage.pushed.update(bodies)

    return act


def push_and_clear(stage: Stage) -> Act:
    """The largest batch of those that are synced one by one, and one more."""
    bodies = [stage.body() for _ in range(17)]

    def act() -> None:
        stage.queue.push_many(bodies)
        stage.pushed.update(bodies)

    return act


def pop(stage: Stage) -> Act:
    stage.push()
    return lambda: stage.held.append(stage.queue.pop())


def pop_many(stage: Stage) -> Act:
    for _ in range(3):
        stage.push()
    return lambda: stage.held.extend(stage.queue.pop_many(5))


def pop_nothing(stage: Stage) -> Act:
    return lambda: stage.held.append(stage.queue.pop())


def pop_delayed(stage: Stage) -> Act:
    stage.push(delay=0.00001)
    return lambda: stage.held.append(stage.queue.pop())


def poll(stage: Stage) -> Act:
    stage.push()
    return lambda: stage.held.extend(stage.queue.poll(5) or [])


def pop_expired(stage: Stage) -> Act:
    """One that is ready behind some that have expired."""
    stage.queue.push_many([0] * 3, ttl=0.001)
    time.sleep(0.002)
    stage.push()
    return lambda: stage.held.append(stage.queue.pop())


def wait(stage: Stage) -> Act:
    return lambda: stage.held.append(stage.queue.pop(wait=0.001))


def ack(stage: Stage) -> Act:
    stage.is_acked = True
    return stage.take().ack


def leave(stage: Stage) -> Act:
    """A ``with`` block is left: nobody has the delivery any more."""
    delivery = stage.take()
    stage.forget()
    return functools.partial(delivery.__exit__, None, None, None)


def nack(stage: Stage) -> Act:
    delivery = stage.take()
    return lambda: delivery.nack(0, "an error")


def release(stage: Stage) -> Act:
    return stage.take().release


def reject(stage: Stage) -> Act:
    return stage.take().reject


def extend(stage: Stage) -> Act:
    delivery = stage.take()
    return lambda: delivery.extend(60)


def reply(stage: Stage) -> Act:
    delivery = stage.take()
    return lambda: delivery.reply(1)


def listen(stage: Stage) -> Act:
    def act() -> None:
        stage.listen()
        stage.silence()

    return act


def reap(stage: Stage) -> Act:
    """A lease has run out."""
    stage.push()
    stage.queue.pop(lease=0.001)
    time.sleep(0.002)
    return stage.queue.reap


def redrive(stage: Stage) -> Act:
    stage.take().reject()
    return stage.queue.redrive


def edit(stage: Stage) -> Act:
    stage.queue.purge("delayed")
    (message,) = (stage.queue.get(stage.queue.push(0, delay=1000)),)
    return lambda: stage.queue.edit(message, b"1")


def configure(stage: Stage) -> Act:
    return lambda: stage.queue.configure(max_retries=stage.number % 7)


def close(stage: Stage) -> Act:
    stage.listen()
    stage.take().ack()
    stage.forget()
    return stage.queue.engine.close  # the queue itself would be of no use any more


SHORT: Final = (push, pop, pop_nothing, wait, ack, nack, extend, redrive, listen, close)
"""What the sweep of the default suite tries."""

ALL: Final = (
    *SHORT,
    push_many,
    push_and_clear,
    pop_many,
    poll,
    pop_delayed,
    pop_expired,
    leave,
    release,
    reject,
    reply,
    reap,
    edit,
    configure,
)


def sweep(pipe: Connection[Any, Any], place: str, kind: str, scenes: list[str], most: int) -> None:
    """Interrupt each act at each of its steps, or at so many of them; tell how many there were, and what was wrong."""
    logging.getLogger("mailq").setLevel(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where Python says what it swallows
    for scene in scenes:
        pipe.send((scene, *_swept(Stage(MAKERS[kind], place), globals()[scene], most)))
    pipe.send(None)
    pipe.recv()  # threads that hang would keep this one from its end
    os._exit(0)


def _swept(stage: Stage, scene: Callable[[Stage], Act], most: int) -> tuple[int, list[Finding]]:
    findings: list[Finding] = []
    files, step = _rehearsed(stage, scene)
    step, number, place = max(1, step // most), 0, ""
    while True:
        try:
            where = arrive_at(number * step, scene(stage))
            if where is None:
                return number, findings
            place = where or "swallowed"
            what = stage.other.do(stage.judge)
        except queues.Empty:
            return number, [*findings, Finding("it hangs", f"{place}\n{_stacks()}")]
        except BaseException:  # noqa: BLE001 - whatever it is, it is told
            what = traceback.format_exc()
        number += 1
        if (now := _left_open(files)) > files:
            files, what = now, what or "a file stays open"
        if what and not (what in _MAY_BE_LEFT and _NOT_OURS.search(place)):
            findings.append(Finding(what, place))


def _rehearsed(stage: Stage, scene: Callable[[Stage], Act]) -> tuple[int, int]:
    """How many files are open at most when all is well, and how many steps there are, when what is done once is done."""
    files = steps = 0
    for _ in range(3):
        stage.listen()
        stage.silence()
        act = scene(stage)
        before = _open_files()
        steps = steps_of(act)
        files = max(files, before, _open_files())
        stage.other.do(stage.judge)
    return files, steps


def _left_open(most: int) -> int:
    """How many files are open when a thread that is about to close some has had the time for that."""
    end = time.monotonic() + _MOMENT
    while (now := _open_files()) > most and time.monotonic() < end:
        gc.collect()
        time.sleep(0.001)
    return now


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0


def _stacks() -> str:
    return "\n".join("".join(traceback.format_stack(frame)) for frame in sys._current_frames().values())
