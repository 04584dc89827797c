"""Word of arrivals: a hint that wakes waiting consumers at once.

It is local to this kernel, can overflow, and may not be had at all (128 inotify
instances a user is a common limit). The listing is the truth; whoever waits
also looks from time to time.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Watch(Protocol):
    """A running watch."""

    def stop(self) -> None:
        """Let go of it."""


def watch(directories: Sequence[str], arrived: Callable[[str, str], None], missed: Callable[[], None]) -> Watch | None:
    """Call ``arrived(directory, name)`` from another thread for each new name; None if that cannot be had.

    ``missed`` is called when events were dropped.
    """
    try:
        if sys.platform == "linux":
            return _Inotify(directories, arrived, missed)
        return _Portable(directories, arrived)
    except (OSError, ImportError):
        return None


class _Inotify:
    """watchdog's inotify reader, asked for arrivals only.

    watchdog's own emitter asks for IN_MOVED_FROM too, and holds every later event
    back for half a second to find its other half: a neighbour's claim would delay
    our wake-up by that much. Its reader without the emitter also spares two
    threads between the kernel and us.
    """

    def __init__(
        self, directories: Sequence[str], arrived: Callable[[str, str], None], missed: Callable[[], None]
    ) -> None:
        from watchdog.observers.inotify_c import InotifyConstants, InotifyFD, Mask  # noqa: PLC0415 - slow to load

        self._arrived = arrived
        self._missed = missed
        self._directories: dict[Any, str] = {}
        self._reader = InotifyFD()
        arrivals = InotifyConstants.IN_MOVED_TO | InotifyConstants.IN_CREATE
        self._mask = Mask(arrivals | InotifyConstants.IN_MOVE_SELF | InotifyConstants.IN_ONLYDIR)
        try:
            for directory in directories:
                self._add(directory)
        except BaseException:
            # Never started, so nobody else closes its descriptors.
            self._reader._is_reading = False  # noqa: SLF001 - or close() would leave that to a thread that does not run
            self._reader.close()
            raise
        self._reader.start()

    def _add(self, directory: str) -> None:
        wd = self._reader.add_callback(os.fsencode(directory), self._mask, self, id(self))  # type: ignore[arg-type]
        self._directories[wd] = directory

    def on_event(self, event: Any) -> None:  # noqa: ANN401 - watchdog's own event
        """Called by the reader's thread."""
        directory = self._directories.get(event.wd)
        if event.is_move_self:
            self.on_watch_deleted(event.wd)
        elif directory is not None and event.name:
            self._arrived(directory, os.fsdecode(event.name))

    def on_watch_deleted(self, wd: Any) -> None:  # noqa: ANN401 - watchdog's own descriptor
        """Called by the reader's thread when the directory is gone, or elsewhere: a new one may be in its place."""
        directory = self._directories.pop(wd, None)
        if directory is not None:
            with contextlib.suppress(OSError):
                self._add(directory)
        self._missed()

    def on_queue_overflow(self) -> None:
        """Called by the reader's thread when the kernel dropped events."""
        self._missed()

    def stop(self) -> None:
        self._directories.clear()
        self._reader.stop()
        with contextlib.suppress(RuntimeError):  # the reader's own thread cannot wait for itself
            self._reader.join()


class _Portable:
    """watchdog's observer for other systems."""

    def __init__(self, directories: Sequence[str], arrived: Callable[[str, str], None]) -> None:
        from watchdog.events import FileCreatedEvent, FileMovedEvent, FileSystemEventHandler  # noqa: PLC0415 - slow
        from watchdog.observers import Observer  # noqa: PLC0415 - slow to load

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: Any) -> None:  # noqa: ANN401 - watchdog's own event
                directory, name = os.path.split(os.fsdecode(event.dest_path or event.src_path))
                arrived(directory, name)

        self._observer = Observer()
        for directory in directories:
            self._observer.schedule(Handler(), directory, event_filter=[FileCreatedEvent, FileMovedEvent])
        self._observer.start()

    def stop(self) -> None:
        self._observer.stop()
        with contextlib.suppress(RuntimeError):
            self._observer.join()
