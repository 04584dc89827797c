"""Wake-ups: what ends the wait of a consumer.

That is an arrival which the kernel reports, a push or a settling in this process, or the
clock. A report is a hint; the listing is the truth.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import TYPE_CHECKING, Final

from mailq.alarm import Alarm
from mailq.engines.maildir import at_fork, watcher
from mailq.engines.maildir.layout import log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mailq.engines.maildir.watcher import EventHandler

# A waiting consumer looks by itself this often, in seconds: with arrivals announced by
# the kernel only for what they miss (another host, a dropped event), else for everything.
_LOOK_WATCHED: Final = 1.0
_LOOK_UNWATCHED: Final = 0.25


class Notifier:
    """The waits of one engine, and what ends them. ``listener`` gets what the kernel reports."""

    def __init__(self, directories: Sequence[str], listener: EventHandler) -> None:
        self._directories = directories
        self._listener = weakref.ref(listener)  # who has this
        self._watch: watcher.DirectoryWatcher | None = None
        self._watch_tried = False
        self._bells: tuple[Callable[[], None], ...] = ()
        self._rings = itertools.count(1)
        self._last_ring = 0
        self._seen = threading.local()
        self._waiting: set[Alarm] = set()
        # Reentrant: a signal handler may use the queue in the midst of its own thread's use.
        self._lock = threading.RLock()
        at_fork.register(self)

    def drain_events(self) -> bool:
        """Pass on all that the kernel reports. False if more may have arrived than that."""
        watch = self._watch
        return watch is not None and watch.hear()

    def remember_position(self) -> None:
        """Remember that this thread is about to list: what arrives from now on must end its next wait."""
        self._seen.ring = self._last_ring

    def notify(self) -> None:
        """End every wait that began before this, and call the subscribers."""
        # In this order: who begins to wait says so first, and then looks which ring was the last.
        self._last_ring = next(self._rings)
        for alarm in tuple(self._waiting) if self._waiting else ():
            alarm.ring()
        for bell in self._bells:
            try:
                bell()
            except Exception:  # noqa: BLE001 - what rang it has happened, and must not look failed
                log().exception("a subscriber of the queue failed")

    def watch(self) -> bool:
        """Begin to watch the directories. True the first time: the caller must find what arrived before."""
        if self._watch_tried:
            return False
        with self._lock:  # of two watches one would never be read, nor stopped before this is let go
            if self._watch_tried:
                return False
            listener = self._listener()
            watch = None if listener is None else watcher.watch(self._directories, listener)
            if self._watch_tried:  # by a signal handler
                return False
            self._watch, self._watch_tried = watch, True
            self._hear_for_bells()
        return True

    def add(self, bell: Callable[[], None]) -> bool:
        """Call ``bell()``, too, at each notification. True for a new one: it has missed those before."""
        is_new = bell not in self._bells
        if is_new:
            self._bells = (*self._bells, bell)
        self._hear_for_bells()
        return is_new

    def _hear_for_bells(self) -> None:
        """Read reports in a thread while there are subscribers: no waiting thread may be there to do so."""
        with self._lock:
            if self._bells and self._watch is not None:
                self._watch.start()

    def remove(self, bell: Callable[[], None]) -> None:
        """Call it no more."""
        self._bells = tuple(known for known in self._bells if known != bell)

    @property
    def poll_interval(self) -> float:
        """Seconds after which a consumer looks by itself."""
        return _LOOK_UNWATCHED if self._watch is None else _LOOK_WATCHED

    def wait(self, timeout: float) -> None:
        """Wait for a notification, or for something to read, since this thread last looked."""
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
        """Stop watching; the next wait begins again."""
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
