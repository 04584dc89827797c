"""What another thread does at a chosen moment of this one, without a guess at how long that takes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from together import PATIENCE

_MOMENT: Final = 0.5
"""Seconds after which a fork that has not happened waits for a lock."""


class Waiting:
    """A lock that says when somebody asks for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.is_asked_for = threading.Event()

    def acquire(self) -> None:
        self.is_asked_for.set()
        self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    __enter__ = acquire

    def __exit__(self, *error: object) -> None:
        self._lock.release()


class Beside:
    """Something that another thread does in the midst of this one: until it is done, or asks for the lock.

    The lock is for the test to put in the place of the one that is tested.
    """

    def __init__(self, act: Callable[[], object]) -> None:
        self.lock = Waiting()
        self._act = act
        self._thread = threading.Thread(target=self._run)

    def begin(self) -> None:
        """Start it, and go on when it is that far."""
        self.lock.is_asked_for.clear()
        self._thread.start()
        assert self.lock.is_asked_for.wait(PATIENCE)

    def _run(self) -> None:
        try:
            self._act()
        finally:
            self.lock.is_asked_for.set()

    def end(self) -> None:
        """Wait until it is done."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


class ForkBeside(Beside):
    """A fork that another thread makes: until it is done, or has to wait for the lock of forks.

    Nobody can see who asks for that one: C calls it.
    """

    def begin(self) -> None:
        self._thread.start()
        self._thread.join(_MOMENT)
