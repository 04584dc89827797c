"""How waiting consumers learn that it is time to look.

By word from the kernel, by a push or a settling in this process, and by the
clock. The word is a hint; the listing is the truth.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import TYPE_CHECKING, Final

from mailq.alarm import Alarm
from mailq.engines.maildir import arrivals, at_fork
from mailq.engines.maildir.layout import log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mailq.engines.maildir.arrivals import Listener

# A waiting consumer looks by itself this often, in seconds: with arrivals announced by
# the kernel only for what they miss (another host, a dropped event), else for everything.
_LOOK_WATCHED: Final = 1.0
_LOOK_UNWATCHED: Final = 0.25


class Waking:
    """The waits of one engine, and what ends them. ``listener`` is told of arrivals, and rings."""

    def __init__(self, directories: Sequence[str], listener: Listener) -> None:
        self._directories = directories
        self._listener = weakref.ref(listener)  # who has this
        self._watch: arrivals.Watch | None = None
        self._watch_tried = False
        self._bells: tuple[Callable[[], None], ...] = ()
        self._rings = itertools.count(1)
        self._last_ring = 0
        self._seen = threading.local()
        self._waiting: set[Alarm] = set()
        # Reentrant: a signal handler may use the queue in the midst of its own thread's use.
        self._lock = threading.RLock()
        at_fork.follow(self)

    def hear(self) -> bool:
        """Tell the listener of all that the kernel tells of. False if that may not be all that has come."""
        watch = self._watch
        return watch is not None and watch.hear()

    def looks(self) -> None:
        """This thread is about to list: whatever arrives from now on must end its next wait."""
        self._seen.ring = self._last_ring

    def ring(self) -> None:
        """End every wait that began before this."""
        # In this order: who begins to wait says so first, and then looks which ring was the last.
        self._last_ring = next(self._rings)
        for alarm in tuple(self._waiting) if self._waiting else ():
            alarm.ring()
        for bell in self._bells:
            try:
                bell()
            except Exception:  # noqa: BLE001 - what rang it has happened, and must not look failed
                log().exception("a bell that listens to the queue failed")

    def watch(self) -> bool:
        """Begin to listen to the kernel. True at the first time: what arrived before is for the caller to find."""
        if self._watch_tried:
            return False
        with self._lock:  # of two watches one would never be read, nor stopped before this is let go
            if self._watch_tried:
                return False
            listener = self._listener()
            watch = None if listener is None else arrivals.watch(self._directories, listener)
            if self._watch_tried:  # by a signal handler
                return False
            self._watch, self._watch_tried = watch, True
            self._hear_for_bells()
        return True

    def add(self, bell: Callable[[], None]) -> bool:
        """Have ``bell()`` called, too, at each ring. True for a new one: it has missed what rang before."""
        is_new = bell not in self._bells
        if is_new:
            self._bells = (*self._bells, bell)
        self._hear_for_bells()
        return is_new

    def _hear_for_bells(self) -> None:
        """Bells ring though nobody waits here who could hear."""
        with self._lock:
            if self._bells and self._watch is not None:
                self._watch.start()

    def remove(self, bell: Callable[[], None]) -> None:
        """Ring it no more."""
        self._bells = tuple(known for known in self._bells if known != bell)

    @property
    def patience(self) -> float:
        """For how many seconds the word alone may be relied on."""
        return _LOOK_UNWATCHED if self._watch is None else _LOOK_WATCHED

    def wait(self, timeout: float) -> None:
        """Wait for a ring, or for something to hear, since this thread last looked."""
        watch = self._watch
        alarm = Alarm() if watch is None else watch.alarm()
        try:
            self._waiting.add(alarm)
            if getattr(self._seen, "ring", None) == self._last_ring:
                alarm.wait(timeout)
        finally:
            self._waiting.discard(alarm)
        if watch is not None:
            watch.keep(alarm)

    def close(self) -> None:
        """Stop listening to the kernel; the next wait begins anew."""
        with self._lock:
            watch, self._watch, self._watch_tried, self._bells = self._watch, None, False, ()
        if watch is not None:
            watch.stop()  # under no lock: it may wait for a thread that is about to ring
        for alarm in tuple(self._waiting):
            alarm.ring()

    def after_fork(self) -> None:
        """Begin a forked child's life: the watch is the parent's, and its threads did not come along."""
        if self._watch is not None:
            self._watch.after_fork()
        for alarm in self._waiting:
            alarm.close()
        self._watch, self._watch_tried, self._bells = None, False, ()
        self._waiting, self._lock = set(), threading.RLock()
