"""From what a user calls a queue to the queue."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from mailq.errors import SettingsError, UsageError, shown
from mailq.queue import Queue
from mailq.settings import Settings


def open(  # noqa: A001 - the verb of files, on purpose: mailq.open("jobs")
    target: str | os.PathLike[str],
    *,
    create: bool = True,
    **settings: Any,  # noqa: ANN401 - checked by name
) -> Queue:
    """Open a queue: a path, ``maildir://`` and a path, or ``memory://`` for tests.

    It is created if there is none, durably; with ``create=False`` QueueNotFound is
    raised instead, which is what a consumer wants: an unmounted disk must not look
    like an empty queue. ``settings`` are those of :class:`mailq.Settings`, for a
    new queue; asking for others than an existing queue has raises SettingsConflict.
    ``dead_letters`` is another queue's path, created too if there is none.
    """
    path = _directory_of(target)
    return _open_memory(settings) if path is None else _open_maildir(path, settings, create=create)


def path_of(target: str | os.PathLike[str]) -> str:
    """The directory that a queue is, whether it is there or not. Raises UsageError if the target is none."""
    path = _directory_of(target)
    if path is None:
        raise UsageError(f"{shown(target)} is no directory; only queues on disk can do this")
    return path


def _directory_of(target: str | os.PathLike[str]) -> str | None:
    """The directory that a queue's name stands for; None for a queue in memory. Raises UsageError."""
    text = os.fspath(target)
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"{shown(target)} is no queue; pass the path of a directory, or memory://")
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "memory":
        return None
    if separator and scheme != "maildir":
        raise UsageError(
            f"{shown(text)}: there is no {scheme}:// here; pass a path, maildir:// and a path, or memory://"
        )
    path = rest if separator else text
    if not path:
        raise UsageError(f"{shown(text)} names no directory; pass the path of the queue")
    return os.path.abspath(os.path.expanduser(path))


def preload() -> None:
    """Load now what the use of a directory loads when it first needs it.

    For a process that will be forked often, and for one whose threads may be interrupted: an import that
    is broken off in one thread fails in every other that waits for it.
    """
    import filelock  # noqa: F401, PLC0415 - as above

    from mailq.engines.maildir import engine  # noqa: F401, PLC0415


def _open_memory(settings: dict[str, Any]) -> Queue:
    from mailq.engines.memory import MemoryEngine  # noqa: PLC0415 - only who asks for it loads it

    merged = Settings().merged(settings)
    if merged.dead_letters is not None:
        raise SettingsError("a queue in memory keeps its dead letters itself", key="dead_letters")
    return Queue(MemoryEngine(merged))


def _open_maildir(path: str, settings: dict[str, Any], *, create: bool) -> Queue:
    from mailq.engines.maildir import dead_letters  # noqa: PLC0415
    from mailq.engines.maildir import layout as layouts  # noqa: PLC0415
    from mailq.engines.maildir.disk import Disk  # noqa: PLC0415 - only who asks for it loads it
    from mailq.engines.maildir.engine import MaildirEngine  # noqa: PLC0415

    settings = dict(settings)
    if settings.get("dead_letters") is not None:
        settings["dead_letters"] = dead_letters.relative_path(path, settings["dead_letters"])
    layout = layouts.Layout(path)
    disk = Disk()
    disk.give_to_owner_of(path)
    if create and not os.path.exists(layout.marker):
        wanted = Settings().merged(settings)
        dead_letters.require_shared(layout, wanted, disk)
        layouts.create(layout, wanted, disk)
    engine = MaildirEngine(path, disk=disk)
    engine.settings.refuse_others(settings, layout.marker)
    dead_letters.warn_if_missing(layout, engine.settings)
    return Queue(engine, partial(open, path, create=False))
