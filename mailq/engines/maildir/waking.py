"""How waiting consumers learn that it is time to look.

By word from the kernel, by a push or a settling in this process, and by the
clock. The word is a hint; the listing is the truth.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import arrivals, forks
from mailq.engines.maildir.layout import log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# A waiting consumer looks by itself this often, in seconds: with arrivals announced by
# the kernel only for what they miss (another host, a dropped event), else for everything.
_LOOK_WATCHED: Final = 1.0
_LOOK_UNWATCHED: Final = 0.25


class Waking:
    """The waits of one engine, and what ends them.

    ``heard(directory, name)`` is called for each arrival, ``missed()`` when some
    may have been missed; both are held weakly, being methods of who holds this.
    """

    def __init__(
        self, directories: Sequence[str], heard: Callable[[str, str], None], missed: Callable[[], None]
    ) -> None:
        self._directories = directories
        self._heard = weakref.WeakMethod(heard)
        self._missed = weakref.WeakMethod(missed)
        self._watch: arrivals.Watch | None = None
        self._watch_tried = False
        self._bells: tuple[Callable[[], None], ...] = ()
        self._count = 0
        self._seen = threading.local()
        # Reentrant: a signal handler may use the queue in the midst of its own thread's use.
        self._rung = threading.Condition(threading.RLock())
        forks.follow(self)

    def looks(self) -> None:
        """This thread is about to list: whatever arrives from now on must end its next wait."""
        self._seen.count = self._count

    def ring(self) -> None:
        """End every wait that began before this."""
        with self._rung:
            self._count += 1
            self._rung.notify_all()
        for bell in self._bells:
            try:
                bell()
            except Exception:  # noqa: BLE001 - what rang it has happened, and must not look failed
                log().exception("a bell that listens to the queue failed")

    def watch(self) -> bool:
        """Begin to listen to the kernel. True at the first time: what arrived before is for the caller to find."""
        if self._watch_tried:
            return False
        self._watch_tried = True
        # Weakly held: the watch must not keep an engine alive that its users let go.
        on_arrival, on_missed = weakref.WeakMethod(self._on_arrival), weakref.WeakMethod(self._on_missed)
        self._watch = arrivals.watch(
            self._directories,
            lambda directory, name: (call := on_arrival()) and call(directory, name),
            lambda: (call := on_missed()) and call(),
        )
        if self._watch is not None:
            self._stop_watch = weakref.finalize(self, self._watch.stop)
        return True

    def add(self, bell: Callable[[], None]) -> bool:
        """Have ``bell()`` called, too, at each ring. True for a new one: it has missed what rang before."""
        if bell in self._bells:
            return False
        self._bells = (*self._bells, bell)
        return True

    def remove(self, bell: Callable[[], None]) -> None:
        """Ring it no more."""
        self._bells = tuple(known for known in self._bells if known != bell)

    @property
    def is_watching(self) -> bool:
        """Whether the kernel tells of arrivals."""
        return self._watch is not None

    @property
    def patience(self) -> float:
        """For how many seconds the word alone may be relied on."""
        return _LOOK_UNWATCHED if self._watch is None else _LOOK_WATCHED

    def wait(self, timeout: float) -> None:
        """Wait for a ring since this thread last looked."""
        with self._rung:
            if getattr(self._seen, "count", None) == self._count:
                self._rung.wait(timeout)

    def _on_arrival(self, directory: str, name: str) -> None:
        if name[0] != "." and (heard := self._heard()) is not None:
            heard(directory, name)
        self.ring()

    def _on_missed(self) -> None:
        if (missed := self._missed()) is not None:
            missed()
        self.ring()

    def close(self) -> None:
        """Stop listening to the kernel; the next wait begins anew."""
        if self._watch is not None:
            self._stop_watch()
        self._watch, self._watch_tried, self._bells = None, False, ()

    def after_fork(self) -> None:
        """Begin a forked child's life: the watch's thread did not come along."""
        if self._watch is not None:
            self._stop_watch.detach()
        self._watch, self._watch_tried, self._bells = None, False, ()
        self._rung = threading.Condition(threading.RLock())
