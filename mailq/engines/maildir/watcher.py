"""Word of arrivals: a hint that wakes waiting consumers at once, and spares listings.

It is local to this kernel, can overflow, and may not be had at all (128 inotify
instances a user is a common limit). The listing is the truth; a thread that waits
also looks from time to time.
"""

from __future__ import annotations

import _thread
import contextlib
import math
import os
import select
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

from mailq.alarm import Alarm
from mailq.engines.inotify import CREATE, MOVED_TO, Arrival, InotifyReader
from mailq.engines.maildir import filesystems

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLOSED: Final = -1
_MS: Final = 1000


class EventHandler(Protocol):
    """Gets what a watcher reports, in the thread that reads."""

    def on_events(self, events: Sequence[Arrival]) -> None:
        """Files have arrived, in this order. Calls come one after the other."""

    def on_overflow(self) -> None:
        """Some arrivals may not have been reported. Calls come one after the other, as with on_events."""

    def on_wakeup(self) -> None:
        """Something was reported. Called under no lock: a thread that this wakes may be about to read."""


class DirectoryWatcher(Protocol):
    """A running watch. It reports arrivals in the thread that hears or, after ``start``, in one of its own.

    It is stopped, too, when nobody refers to it any more.
    """

    def hear(self) -> bool:
        """Tell of everything that has come. False if that may not be all: then only a listing knows."""

    def alarm(self) -> Alarm:
        """For the wait of one thread. It rings by itself as soon as there is something to hear."""

    def keep(self, alarm: Alarm) -> None:
        """Take back an alarm that nobody waits for any more."""

    def start(self) -> None:
        """From now on tell of arrivals in the background."""

    def stop(self) -> None:
        """Let go of it."""

    def after_fork(self) -> None:
        """Let go of it in a forked child, and leave it to the parent."""


def watch(directories: Sequence[str], listener: EventHandler) -> DirectoryWatcher | None:
    """Tell of what comes to directories; None if that cannot be had.

    The listener is held weakly: a watch keeps nobody alive who is let go by everybody else.
    """
    try:
        if sys.platform == "linux":
            return _Inotify(directories, listener)
        return _Portable(directories, listener)
    except (OSError, ImportError):
        return None


class _Alarm(Alarm):
    """One that the kernel rings, too. It keeps open what it waits for, also when the watch is stopped meanwhile."""

    _fd = _CLOSED

    def __init__(self, inotify: InotifyReader) -> None:
        self._inotify = inotify
        (self._fd,) = map(os.eventfd, (0,), (os.EFD_CLOEXEC | os.EFD_NONBLOCK,))  # as in Disk.open

    def ring(self) -> None:
        os.eventfd_write(self._fd, 1)

    def wait(self, timeout: float | None) -> None:
        poll = select.poll()
        poll.register(self._inotify, select.POLLIN)
        poll.register(self._fd, select.POLLIN)
        for fd, _ in poll.poll(None if timeout is None else math.ceil(timeout * _MS)):
            if fd == self._fd:
                os.eventfd_read(fd)

    def close(self) -> None:
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            os.close(fd)

    __del__ = close


class _Inotify:
    """The kernel's reports, read by every thread that waits or is about to list: a thread of its own would take longer."""

    def __init__(self, directories: Sequence[str], listener: EventHandler) -> None:
        self._idle: list[Alarm] = []
        self._in_background: list[Alarm] = []
        self._listener = weakref.ref(listener)
        # Reentrant: a signal handler may use the queue in the midst of its own thread's use.
        self._hearing = threading.RLock()
        self._is_hearing = False
        self._is_all_here = filesystems.is_all_here(directories[0])
        self._inotify: InotifyReader | None = InotifyReader(MOVED_TO | CREATE, directories)

    def hear(self) -> bool:
        listener = self._listener()
        if listener is None:
            return False
        with self._hearing:  # one after the other: arrivals are reported in their order
            inotify = self._inotify
            # A signal handler in the midst of this must find by itself what is read and not reported yet.
            if self._is_hearing or inotify is None:
                return False
            try:
                self._is_hearing = True
                came, missed = inotify.read(), inotify.missed
                inotify.missed = False
                if came:
                    listener.on_events(came)
                if missed:
                    listener.on_overflow()
            except BaseException:  # interrupted: what is read may not have been reported
                listener.on_overflow()
                raise
            finally:
                self._is_hearing = False
        if came or missed:
            listener.on_wakeup()
        return self._is_all_here and not missed

    def alarm(self) -> Alarm:
        try:
            return self._idle.pop()
        except IndexError:
            inotify = self._inotify
            return Alarm() if inotify is None else _Alarm(inotify)

    def keep(self, alarm: Alarm) -> None:
        self._idle.append(alarm)

    def start(self) -> None:
        inotify = self._inotify
        if inotify is not None and not self._in_background:
            alarm, watching = _Alarm(inotify), weakref.ref(self)
            self._in_background = [alarm]
            # Not a Thread, whose start waits for an Arrival: see Alarm.
            _thread.start_new_thread(_hear_for_ever, (watching, alarm))

    def stop(self) -> None:
        self._inotify = None
        while self._idle:
            self._idle.pop().close()
        for alarm in self._in_background:
            alarm.ring()
        self._in_background = []

    __del__ = stop

    def after_fork(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
        for alarm in self._in_background:
            alarm.close()
        self._inotify, self._idle, self._in_background = None, [], []


def _hear_for_ever(watching: weakref.ref[_Inotify], alarm: _Alarm) -> None:
    """Read in a thread of its own, until the watcher is stopped or released."""
    while (watch := watching()) is not None and watch._inotify is not None:  # noqa: SLF001 - its own thread
        watch.hear()
        del watch  # or it would not be let go of as long as nothing comes
        alarm.wait(None)


class _Portable:
    """watchdog's observer for other systems, which reports in a thread of its own, a little later."""

    _observer: Any = None

    def __init__(self, directories: Sequence[str], listener: EventHandler) -> None:
        from watchdog.events import FileCreatedEvent, FileMovedEvent, FileSystemEventHandler  # noqa: PLC0415 - slow
        from watchdog.observers import Observer  # noqa: PLC0415 - slow to load

        listening = weakref.ref(listener)

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: Any) -> None:  # noqa: ANN401 - watchdog's own event
                directory, name = os.path.split(os.fsdecode(event.dest_path or event.src_path))
                if (listener := listening()) is not None:
                    listener.on_events([Arrival(directory, name)])
                    listener.on_wakeup()

        self._observer = Observer()
        for directory in directories:
            self._observer.schedule(Handler(), directory, event_filter=[FileCreatedEvent, FileMovedEvent])
        self._observer.start()

    def hear(self) -> bool:
        return False

    def alarm(self) -> Alarm:
        return Alarm()

    def keep(self, alarm: Alarm) -> None:
        """The next one is as good."""

    def start(self) -> None:
        """It does so from the beginning."""

    def stop(self) -> None:
        if self._observer is None:
            return
        self._observer.stop()
        with contextlib.suppress(RuntimeError):  # its own thread cannot wait for itself
            self._observer.join()

    def __del__(self) -> None:
        # At the end of the program its threads, all daemons, are frozen: CPython 3.13 would wait for them for ever.
        if not sys.is_finalizing():
            self.stop()

    def after_fork(self) -> None:
        """Its threads did not come along."""
