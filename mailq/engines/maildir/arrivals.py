"""Word of arrivals: a hint that wakes waiting consumers at once, and spares listings.

It is local to this kernel, can overflow, and may not be had at all (128 inotify
instances a user is a common limit). The listing is the truth; whoever waits
also looks from time to time.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

from mailq.engines import mounts
from mailq.engines.inotify import CREATE, MOVED_TO, Event, Inotify

if TYPE_CHECKING:
    from collections.abc import Sequence

_MS: Final = 1000


class Listener(Protocol):
    """Who is told, by whoever hears."""

    def arrived(self, events: Sequence[Event]) -> None:
        """These came, in this order. One call after the other."""

    def missed(self) -> None:
        """Some may not have been told of. Likewise."""

    def ring(self) -> None:
        """Something was told. Called under no lock: whom it wakes may be about to hear."""


class Watch(Protocol):
    """A running watch. It tells of arrivals in the thread that hears or, ``in_background``, in one of its own."""

    in_background: bool

    def hear(self) -> bool:
        """Tell of everything that has come. False if that may not be all: then only a listing knows."""

    def wait(self, timeout: float) -> None:
        """Wait until there is something to hear, or ``wake`` or ``stop`` is called. For one thread at a time."""

    def wake(self) -> None:
        """End the wait, or the next one."""

    def calm(self) -> None:
        """Take back a ``wake``."""

    def start(self) -> None:
        """From now on tell of arrivals in the background."""

    def stop(self) -> None:
        """Let go of it."""

    def after_fork(self) -> None:
        """Let go of it in a forked child, and leave it to the parent."""


def watch(directories: Sequence[str], listener: Listener) -> Watch | None:
    """Tell of what comes to directories; None if that cannot be had.

    The listener is held weakly: a watch keeps nobody alive who is let go by everybody else.
    """
    try:
        if sys.platform == "linux":
            return _Inotify(directories, listener)
        return _Portable(directories, listener)
    except (OSError, ImportError):
        return None


class _Inotify:
    """The kernel's word, heard by whoever waits or is about to list: to have a thread of its own hear it takes longer."""

    def __init__(self, directories: Sequence[str], listener: Listener) -> None:
        self._listener = weakref.ref(listener)
        self.in_background = False
        self._is_all_here = mounts.is_all_here(directories[0])
        self._inotify = Inotify(MOVED_TO | CREATE, directories)
        try:
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self._inotify.close()
            raise
        # Reentrant, both: a signal handler may use the queue in the midst of its own thread's use.
        self._hearing = threading.RLock()
        self._is_hearing = False
        # Held while the descriptors are used: their numbers may be another file's a moment after they are closed.
        self._lock = threading.RLock()
        self._waits = 0
        self._is_stopped = False

    def hear(self) -> bool:
        listener = self._listener()
        if listener is None:
            return False
        with self._hearing:  # one after the other: arrivals are told of in their order
            # A signal handler, in the midst of this: what is read and not told of yet it must find by itself.
            if self._is_hearing or self._is_stopped:
                return False
            try:
                self._is_hearing = True
                came, missed = self._read()
                if came:
                    listener.arrived(came)
                if missed:
                    listener.missed()
            except BaseException:  # interrupted: what is read may not have been told of
                listener.missed()
                raise
            finally:
                self._is_hearing = False
        if came or missed:
            listener.ring()
        return self._is_all_here and not missed

    def _read(self) -> tuple[Sequence[Event], bool]:
        """What came, and whether that may not be all."""
        with self._lock:
            if self._is_stopped:
                return (), True
            came, missed = self._inotify.read(), self._inotify.missed
            self._inotify.missed = False
            return came, missed

    def wait(self, timeout: float | None) -> None:
        poll = select.poll()
        with self._lock:
            if self._is_stopped:
                return
            poll.register(self._inotify, select.POLLIN)
            poll.register(self._bell, select.POLLIN)
            self._waits += 1
        try:
            poll.poll(None if timeout is None else math.ceil(timeout * _MS))
        finally:
            with self._lock:
                self._waits -= 1
                self._close_if_left()

    def wake(self) -> None:
        with self._lock:
            if not self._is_stopped:
                os.eventfd_write(self._bell, 1)

    def calm(self) -> None:
        with self._lock:
            if not self._is_stopped:  # then it rings for ever, for all who wait
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._bell)

    def start(self) -> None:
        self.in_background = True
        threading.Thread(target=self._hear_for_ever, name="mailq-arrivals", daemon=True).start()

    def _hear_for_ever(self) -> None:
        while not self._is_stopped:
            self.wait(None)
            self.hear()

    def stop(self) -> None:
        with self._lock:
            if not self._is_stopped:
                os.eventfd_write(self._bell, 1)
                self._is_stopped = True
                self._close_if_left()

    def _close_if_left(self) -> None:
        if self._is_stopped and self._waits == 0:
            self._close()

    def _close(self) -> None:
        self._inotify.close()
        os.close(self._bell)

    def after_fork(self) -> None:
        if not self._is_stopped:
            self._is_stopped = True
            self._waits += 1  # who waits, and forked in a signal handler, must not close them once more
            self._close()


class _Portable:
    """watchdog's observer for other systems, which tells in a thread of its own, a little later."""

    in_background = True

    def __init__(self, directories: Sequence[str], listener: Listener) -> None:
        from watchdog.events import FileCreatedEvent, FileMovedEvent, FileSystemEventHandler  # noqa: PLC0415 - slow
        from watchdog.observers import Observer  # noqa: PLC0415 - slow to load

        listening = weakref.ref(listener)

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: Any) -> None:  # noqa: ANN401 - watchdog's own event
                directory, name = os.path.split(os.fsdecode(event.dest_path or event.src_path))
                if (listener := listening()) is not None:
                    listener.arrived([Event(directory, name)])
                    listener.ring()

        self._observer = Observer()
        for directory in directories:
            self._observer.schedule(Handler(), directory, event_filter=[FileCreatedEvent, FileMovedEvent])
        self._observer.start()

    def hear(self) -> bool:
        return False

    def wait(self, timeout: float) -> None:
        """Not called: it is in the background."""

    def wake(self) -> None:
        """Nobody waits."""

    def calm(self) -> None:
        """Nobody was woken."""

    def start(self) -> None:
        """It does so from the beginning."""

    def stop(self) -> None:
        self._observer.stop()
        with contextlib.suppress(RuntimeError):  # its own thread cannot wait for itself
            self._observer.join()

    def after_fork(self) -> None:
        """Its threads did not come along."""
