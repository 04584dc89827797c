"""The processes that use the queues beside the workers of a storm: they push, and their calls are broken off.

Each goes on until it is told to end (SIGTERM), and then has no descriptor more than when it began. Chance decides
where a call is broken off, by SIGINT or by what another thread raises; but it is within mailq, and what the process
writes down is never lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import random
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from actors import write_down
from command import MAILQ
from engines import open_queue
from history import Log
from job_kinds import ENDING, KINDS, PLACES, announce, confirm, draw, is_doable, key_of_kind, kind_in
from leftovers import descriptors
from stage import Stage, key_of
from together import PATIENCE

import mailq
from mailq.message import State

_T = TypeVar("_T")

_LEASE = 1.0
_CROWD = 3
_LINE = 100
"""Messages that may wait in a queue before its producers do."""

_WAITING: tuple[State, ...] = ("ready", "delayed", "leased")
_MANY = 1000
_FEW = 50
"""Keys in one line of a log: a longer one might be written in two pieces."""


class Broken(BaseException):
    """Raised by another thread in the midst of a call. Not an Exception, as with KeyboardInterrupt."""


class Breakable:
    """The calls of the thread that makes this: each may be broken off, once."""

    def __init__(self) -> None:
        self.broken = 0
        self._thread = threading.get_ident()
        self._is_open = False
        self._lock = threading.Lock()

    def __call__(self, call: Callable[..., _T], *given: Any, **options: Any) -> _T | None:
        """What it returned; None if it was broken off."""
        result = None
        try:
            try:
                self._is_open = True
                result = call(*given, **options)
            finally:
                self._close()
        except (Broken, KeyboardInterrupt):  # perhaps only after it had returned
            self._close()
            self.broken += 1
        return result

    def _close(self) -> None:
        with self._lock:
            self._is_open = False
            _raise_in(self._thread, None)

    def strike(self) -> None:
        """Break off the call that is under way, from another thread."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                _raise_in(self._thread, Broken)

    def interrupt(self, _number: int, _frame: object) -> None:
        """The same as a signal handler, in the main thread."""
        if self._is_open:
            self._is_open = False
            raise KeyboardInterrupt


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    what = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)


class _GoesOn:
    """Whether to go on. A process that does not ask for a minute is stuck: it shows where, and ends."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._is_told = False
        self._file = open(f"{stage.root}/failures/{name}", "w", encoding="utf-8")  # noqa: SIM115 - as long as it lives
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, lambda _number, _frame: None)

    def _end(self, _number: int, _frame: object) -> None:
        self._is_told = True

    def __call__(self) -> bool:
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=self._file)
        return not self._is_told

    def pause(self, seconds: float) -> None:
        """Wait for so long, or until it is told to end."""
        until = time.monotonic() + seconds
        while self() and time.monotonic() < until:
            time.sleep(0.02)

    def show(self) -> None:
        """Where all threads are."""
        faulthandler.dump_traceback(self._file)


@contextlib.contextmanager
def no_descriptor_more() -> Iterator[None]:
    """Fail if there are more descriptors afterwards."""
    before = descriptors(os.getpid())
    yield
    gc.collect()
    more = [what for fd, what in descriptors(os.getpid()).items() if fd not in before]
    assert not more, f"{len(more)} descriptors more: {more[:20]}"


# Producers


def produce_interrupted(stage: Stage, name: str) -> None:
    """Push, and push_many, and be interrupted by SIGINT amid that."""
    dice, log, goes_on, call = random.Random(name), stage.log(name), _GoesOn(stage, name), Breakable()
    signal.signal(signal.SIGINT, call.interrupt)
    number = 0
    with no_descriptor_more():
        queues = {place: open_queue(stage.queue(place), stage.engine) for place in PLACES}
        while goes_on():
            place = dice.choice(list(PLACES))
            kind = draw(dice, place)
            keys = [key_of_kind(name, kind, number + n) for n in range(dice.choice((1, 1, 1, 1, 3, 10)))]
            number += len(keys)
            ids = call(queues[place].push_many, announce(log, kind, keys), **KINDS[kind].options)
            if ids is not None:
                confirm(stage, log, keys, ids)
            goes_on.pause(dice.uniform(0, 0.1))
            while goes_on() and (stats := call(queues[place].stats)) and stats.ready > _LINE:
                time.sleep(0.05)
        for queue in queues.values():
            queue.close()


def produce_interrupted_in_shell(stage: Stage, name: str) -> None:
    """``mailq push``, interrupted at some time; if it has printed the id, it has pushed."""
    dice, log, goes_on = random.Random(name), stage.log(name), _GoesOn(stage, name)
    number = 0
    while goes_on():
        number += 1
        key = key_of_kind(name, "ok", number)
        [body] = announce(log, "ok", [key])
        process = subprocess.Popen(
            [MAILQ, "push", stage.jobs, json.dumps(body)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if dice.random() < 0.8:
            time.sleep(dice.uniform(0, 0.4))
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
        if out.endswith(b"\n"):
            confirm(stage, log, [key], [out.decode().strip()])
        else:
            interrupted = process.returncode in (-signal.SIGINT, 130) or b"KeyboardInterrupt" in err
            assert interrupted, (process.returncode, err.decode())
        goes_on.pause(0.2)


def push_backlogs(stage: Stage, name: str) -> None:
    """Push messages by the thousands that expire before anybody can have them: in line, or before their time has come."""
    log, goes_on = stage.log(name), _GoesOn(stage, name)
    queue = open_queue(stage.jobs, stage.engine)
    bouts = 0
    while goes_on():
        due, is_held = time.time() + 2, bouts % 2 == 0
        if is_held:
            queue.pause()
        for first in range(0, stage.backlog, _MANY):
            if goes_on():
                delay = 0.0 if is_held else max(0.0, due - time.time())
                _push_brief_ones(stage, log, queue, f"{name}.{bouts}", first, delay)
        if is_held:
            time.sleep(KINDS["brief"].options["ttl"])
            queue.resume()
        bouts += 1
        goes_on.pause(stage.backlog / _MANY)
    queue.close()


def _push_brief_ones(stage: Stage, log: Log, queue: mailq.Queue, name: str, first: int, delay: float) -> None:
    """Push many at once, and write that down in lines of a few."""
    numbers = range(first, first + _MANY)
    parts = [[key_of_kind(name, "brief", n) for n in numbers[at : at + _FEW]] for at in range(0, _MANY, _FEW)]
    bodies = [body for keys in parts for body in announce(log, "brief", keys)]
    ids = queue.push_many(bodies, delay=delay, **KINDS["brief"].options)
    for number, keys in enumerate(parts):
        confirm(stage, log, keys, ids[number * _FEW : (number + 1) * _FEW])


def push_long_ones(stage: Stage, name: str) -> None:
    """Have a job run all the time that runs for longer than its lease."""
    log, goes_on = stage.log(name), _GoesOn(stage, name)
    queue = open_queue(stage.queue("steady"), stage.engine)
    number = 0
    while goes_on():
        key = key_of_kind(name, "long", number)
        number += 1
        confirm(stage, log, [key], [queue.push(announce(log, "long", [key])[0])])
        goes_on.pause(stage.long)
    queue.close()


# Consumers


def pop_and_vanish(stage: Stage, name: str) -> None:
    """Take messages under leases that outlive this process, and never settle them."""
    dice, log, goes_on = random.Random(name), stage.log(name), _GoesOn(stage, name)
    queue = open_queue(stage.jobs, stage.engine)
    while goes_on():
        since = time.time_ns()
        delivery = queue.pop(lease=_LEASE, detached=True, wait=0.1)
        if delivery is not None:
            _write_down(log, delivery, since, detached=True)
        goes_on.pause(dice.uniform(0, 0.4))
    queue.close()


def consume_interrupted(stage: Stage, name: str) -> None:
    """Several threads use one queue; each is broken off by another, the main thread by SIGINT."""
    import filelock  # noqa: F401, PLC0415 - an import that is broken off fails in every thread that waits for it

    goes_on, log = _GoesOn(stage, name), stage.log(name)
    with no_descriptor_more():
        queue = open_queue(stage.jobs, stage.engine)
        main = _Consumer(stage, log, queue, name)
        signal.signal(signal.SIGINT, main.call.interrupt)
        crowd = [_Crowded(stage, log, queue, f"{name}-{number}") for number in range(_CROWD)]
        dice = random.Random(name)
        while goes_on():
            main.step()
            for thread in crowd:
                if dice.random() < 0.3:
                    thread.strike()
            assert all(thread.is_alive() for thread in crowd), [thread.failure for thread in crowd]
        for thread in crowd:
            thread.is_over = True
        for thread in crowd:
            thread.join(PATIENCE / 2)
            if thread.is_alive():
                goes_on.show()
                raise AssertionError("a thread is stuck")
            assert not thread.failure, thread.failure
        queue.close()


class _Consumer:
    """One thread's use of a queue: everything that it calls may be broken off, and nothing that it writes down."""

    def __init__(self, stage: Stage, log: Log, queue: mailq.Queue, name: str) -> None:
        self.call = Breakable()
        self._stage, self._log, self._queue, self._name = stage, log, queue, name
        self._dice = random.Random(name)
        self._number = 0

    def step(self) -> None:
        """Do something."""
        dice = self._dice
        match dice.choice(("pop", "pop", "pop", "push", "look")):
            case "pop":
                since = time.time_ns()
                deliveries = self.call(
                    self._queue.pop_many, dice.choice((1, 3)), lease=_LEASE, wait=dice.choice((0, 0.02))
                )
                for delivery in deliveries or ():
                    _write_down(self._log, delivery, since)
                for delivery in deliveries or ():
                    self._settle(delivery)
            case "push":
                self._number += 1
                key = key_of_kind(self._name, "ok", self._number)
                ids = self.call(self._queue.push_many, announce(self._log, "ok", [key]))
                if ids is not None:
                    confirm(self._stage, self._log, [key], ids)
            case "look":
                self.call(self._queue.stats)
        time.sleep(dice.uniform(0, 0.05))

    def _settle(self, delivery: mailq.Delivery) -> None:
        receipt, key = delivery.receipt, key_of(delivery.body)
        ends = ("ack", "ack", "ack", "ack", "release", "forget") if is_doable(key) else ("fail",)
        try:
            match self._dice.choice(ends):
                case "ack":
                    self._stage.effect(key)
                    self._log.write("ack?", receipt=receipt)
                    if self.call(_acked, delivery):
                        self._log.write("ack!", receipt=receipt)
                case "release":
                    self._log.write("back?", receipt=receipt)
                    self.call(delivery.release)
                case "fail" if kind_in(key).startswith("reject"):
                    self._log.write("back?", receipt=receipt, words=["rejected"])
                    self.call(delivery.reject, "not for us")
                case "fail":
                    self._log.write("back?", receipt=receipt, words=["error"])
                    self.call(delivery.nack, error="not for us")
        except mailq.LeaseLost:
            self._log.write("gone", receipt=receipt)


def _acked(delivery: mailq.Delivery) -> bool:
    delivery.ack()
    return True


class _Crowded(threading.Thread):
    """A consumer in a thread of its own."""

    def __init__(self, stage: Stage, log: Log, queue: mailq.Queue, name: str) -> None:
        super().__init__(daemon=True)
        self.is_over = False
        self.failure = ""
        self._given = stage, log, queue, name
        self._consumer: _Consumer | None = None
        self.start()

    def run(self) -> None:
        """Consume until it is over."""
        try:
            self._consumer = _Consumer(*self._given)
            while not self.is_over:
                self._consumer.step()
        except BaseException:  # noqa: BLE001 - the main thread reports it
            self.failure = traceback.format_exc()

    def strike(self) -> None:
        """Break off what it is at."""
        if self._consumer is not None:
            self._consumer.call.strike()


def _write_down(log: Log, delivery: mailq.Delivery, since: int, *, detached: bool = False) -> None:
    words = [attempt.outcome for attempt in delivery.history]
    write_down(log, delivery, since=since, detached=detached, group=os.getpid(), words=words)


# Before and after


def warm_up(stage: Stage, name: str) -> None:
    """Have each spared worker open what it needs for its jobs, by doing enough of them, and at least one of each kind."""
    log, goes_on, done = stage.log(name), _GoesOn(stage, name), set[str]()
    for place, kinds in (("mild", PLACES["mild"]), ("steady", ENDING)):
        with mailq.open(stage.queue(place), create=False) as queue:
            for kind in kinds:
                count = 20 if kind in ("chain", "coroutine") else 1
                keys = [key_of_kind(f"{name}-{place}", kind, number) for number in range(count)]
                ids = queue.push_many(announce(log, kind, keys), **KINDS[kind].options)
                confirm(stage, log, keys, ids)
                done.update(key for key in keys if not KINDS[kind].deaths)
    goes_on()
    while not done <= stage.noted("effects").keys():
        time.sleep(0.02)


def drain(stage: Stage, name: str) -> None:
    """Wait until the workers have done everything."""
    queues = [mailq.open(stage.queue(place), create=False) for place in (*PLACES, "steady")]
    until, looks = time.monotonic() + stage.patience, 0
    # Not one look will do: a message that moves meanwhile may be missing from it.
    while looks < 3:
        looks = 0 if any(len(queue) for queue in queues) else looks + 1
        if time.monotonic() >= until:
            left = [message for queue in queues for state in _WAITING for message in queue.peek(state, _FEW)]
            raise AssertionError(f"not done after {stage.patience:g} s: {left}")
        time.sleep(0.02)


def close_books(stage: Stage, name: str) -> None:
    """Write down the dead, and sweep up what the killed have left."""
    log = stage.log(name)
    for place in (*PLACES, "steady"):
        with mailq.open(stage.queue(place), create=False) as queue:
            queue.reap()
            for letter in queue.peek("dead", None):
                words = [attempt.outcome for attempt in letter.history]
                log.write("dead", id=letter.id, key=key_of(letter.body), reason=letter.reason, words=words)
