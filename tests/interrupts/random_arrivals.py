"""Threads that push, pop and ack while exceptions arrive in them at random moments, and a judge at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import queue as queues
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from arriving import Arrived, send
from interrupted import MAKERS
from together import PATIENCE

import mailq

_THREADS: Final = 3
_SWITCH: Final = 1e-5


class Books:
    """What was pushed for sure, and what was delivered. Each step is one call of C."""

    def __init__(self) -> None:
        self.pushed: list[int] = []
        self.delivered: list[int] = []

    def use(self, queue: mailq.Queue, body: int) -> None:
        """Use a queue as a job does that pushes jobs."""
        queue.push(body)
        self.pushed.append(body)
        if body % 10 == 0:
            queue.push_many([-body, -body - 1])
            self.pushed.extend((-body, -body - 1))
        for delivery in queue.pop_many(3, wait=0.001 if body % 5 == 0 else 0.0):
            self.delivered.append(delivery.body)
            with contextlib.suppress(mailq.LeaseLost):  # another thread has closed the queue
                delivery.ack()
        if body % 97 == 0:
            queue.engine.close()  # which begins anew with the next verb


class User(threading.Thread):
    """Uses the queue, and begins the next round after each exception."""

    def __init__(self, queue: mailq.Queue, books: Books, first: int) -> None:
        super().__init__(daemon=True)
        self.body = first
        self.times = 0
        self.is_over = False
        self._queue, self._books = queue, books

    def run(self) -> None:
        while not self.is_over:
            with contextlib.suppress(Arrived):  # in the handling of the one before
                while not self.is_over:
                    try:
                        self._use()
                    except Arrived:
                        self.times += 1

    def _use(self) -> None:
        while not self.is_over:
            self.body += 1
            self._books.use(self._queue, self.body)


def from_threads(pipe: Connection[Any, Any], place: str, kind: str, seed: int, times: int) -> None:
    """Send exceptions to threads that use one queue, from another."""
    queue, books = _begin(place, kind)
    generator = random.Random(seed)
    users = [User(queue, books, (number + 1) << 32) for number in range(_THREADS)]
    for user in users:
        user.start()
    while sum(user.times for user in users) < times:
        time.sleep(generator.random() * 0.001)
        alive = [user for user in users if user.is_alive()]
        if len(alive) < _THREADS:  # CPython 3.13 may raise where a loop turns as if that were not within its block
            users.append(User(queue, books, (len(users) + 1) << 32))
            users[-1].start()
        send(generator.choice([*alive, users[-1]]).ident or 0)
    for user in users:
        user.is_over = True
    for user in users:
        user.join(PATIENCE / 2)
    hanging = sum(user.is_alive() for user in users)
    pipe.send((hanging, _judged(queue, books)))
    os._exit(0)


def from_signals(pipe: Connection[Any, Any], place: str, kind: str, seed: int, times: int) -> None:
    """Have a signal handler raise in the main thread, and use the queue itself now and then, while others use it, too."""
    queue, books = _begin(place, kind)
    generator = random.Random(seed)
    others = [User(queue, books, (number + 1) << 32) for number in range(2)]
    for other in others:
        other.start()
    victim = _Victim(queue, books, generator, times)
    signal.signal(signal.SIGALRM, victim.interrupt)
    victim.run()
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    for other in others:
        other.is_over = True
    for other in others:
        other.join(PATIENCE / 2)
    pipe.send((sum(other.is_alive() for other in others), _judged(queue, books)))
    os._exit(0)


class _Victim:
    """The main thread, which signals interrupt."""

    def __init__(self, queue: mailq.Queue, books: Books, generator: random.Random, times: int) -> None:
        self._body = 0
        self._queue, self._books, self._generator, self._left = queue, books, generator, times
        self._is_ready = False

    def run(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        while self._left > 0:
            with contextlib.suppress(Arrived):  # just outside of what catches it
                self._run()

    def _run(self) -> None:
        while self._left > 0:
            try:
                while self._left > 0:
                    self._is_ready = True  # also after one that a finalizer has swallowed
                    self._body += 1
                    self._books.use(self._queue, self._body)
                self._is_ready = False
            except Arrived:
                self._left -= 1

    def interrupt(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._generator.random() * 0.002 + 0.0001)
        if self._generator.random() < 0.1:
            self._queue.push(-1)
        if self._is_ready:
            self._is_ready = False  # until this one is caught
            raise Arrived


def _begin(place: str, kind: str) -> tuple[mailq.Queue, Books]:
    logging.getLogger("mailq").setLevel(logging.CRITICAL)
    sys.setswitchinterval(_SWITCH)  # or threads that make system calls wait for each other most of the time
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where Python says what it swallows
    make: Callable[[str], mailq.Queue] = MAKERS[kind]
    return make(place), Books()


def _judged(queue: mailq.Queue, books: Books) -> str:
    """Empty the queue in another thread; what is wrong."""
    told = queues.SimpleQueue[str]()
    threading.Thread(target=lambda: told.put(_emptied(queue, books)), daemon=True).start()
    try:
        return told.get(timeout=PATIENCE / 2)
    except queues.Empty:
        return "it hangs"


def _emptied(queue: mailq.Queue, books: Books) -> str:
    queue.engine.close()  # what an exception took out of a variable's way, on its way out of pop, comes back now
    queue.reap()
    leased = queue.stats().leased
    got = set(books.delivered)
    while deliveries := queue.pop_many(100):
        for delivery in deliveries:
            got.add(delivery.body)
            delivery.ack()
    lost = set(books.pushed) - got
    return f"{len(lost)} of {len(books.pushed)} are lost, {leased} are leased" if lost or leased else ""
