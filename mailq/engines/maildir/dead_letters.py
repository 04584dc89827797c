"""One dead-letter queue for several queues.

A dead letter goes there by rename, into ``new/``: it is an ordinary message of
an ordinary queue, and its name says which queue it came ``from=``.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir.layout import Layout
from mailq.errors import QueueNotFound, SettingsError
from mailq.settings import Settings

if TYPE_CHECKING:
    from mailq.engines.maildir.disk import Disk
    from mailq.engines.maildir.names import MessageName

_KEY: Final = "dead_letters"


def relative_path(root: str, target: str | os.PathLike[str]) -> str:
    """The path of a dead-letter queue as the settings keep it: relative to the queue, so both can move together."""
    absolute = os.path.abspath(os.path.expanduser(os.fspath(target)))
    return os.path.relpath(absolute, root)


def shared_queue(layout: Layout, settings: Settings) -> Layout | None:
    """The queue that gets the dead letters, if it is another one."""
    return None if settings.dead_letters is None else Layout(os.path.join(layout.root, settings.dead_letters))


def require_shared(layout: Layout, settings: Settings, disk: Disk) -> None:
    """Make sure of the dead-letter queue before it is set: it is another one, on the same file system; create it."""
    home = shared_queue(layout, settings)
    if home is None:
        return
    if os.path.realpath(home.root) == os.path.realpath(layout.root):
        raise SettingsError(f"{_KEY} names the queue itself; leave it out: dead/ is there already", key=_KEY)
    try:
        if not os.path.exists(home.marker):
            layouts.create(home, Settings(), disk)
        layouts.load(home, disk)
    except QueueNotFound as error:
        raise SettingsError(f"{_KEY}: {error}", key=_KEY) from error
    if os.stat(home.root).st_dev != _device(layout.root):
        raise SettingsError(
            f"{_KEY} is on another file system ({home.root}); a dead letter is moved by rename, choose a place on the same",
            key=_KEY,
        )


def _device(path: str) -> int:
    """The file system that a directory is on, or would be."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.stat(path).st_dev


def record_origin(layout: Layout, settings: Settings, disk: Disk, *, queue_tag: str) -> None:
    """Write in the dead-letter queue which directory the dead letters with this queue's tag come from."""
    home = shared_queue(layout, settings)
    if home is None:
        return
    path = f"{home.origins}/{queue_tag}"
    text = layout.root + "\n"
    if os.path.islink(home.origins) or _read(disk, path) == text:
        return
    with contextlib.suppress(OSError):  # a convenience: the tag itself is in the name
        if disk.leaves_its_own_in(home.root):  # and that queue's user could not read it
            return
        with contextlib.suppress(FileExistsError):
            disk.make_directory(home.origins, layouts.directory_mode(settings))
        temporary = f"{home.tmp}/.origin.{os.urandom(8).hex()}"
        durable = settings.durability == "power-loss"
        disk.write_file(temporary, os.fsencode(text), mode=int(settings.file_mode, 8), sync=durable)
        disk.rename(temporary, path)


def source_of(layout: Layout, disk: Disk, message: MessageName) -> str:
    """The directory of the queue that a dead letter came from; the tag alone if that is unknown."""
    if not message.source_queue:
        return layout.root
    origins = layout.origins
    text = None if os.path.islink(origins) else _read(disk, f"{origins}/{message.source_queue}")
    return message.source_queue if text is None else text.rstrip("\n")


def _read(disk: Disk, path: str) -> str | None:
    data = layouts.read_small(disk, path, 4096)
    return None if data is None else os.fsdecode(data)


def warn_if_missing(layout: Layout, settings: Settings) -> None:
    """Log that the dead will stay at home for now: no reason to stop the living."""
    home = shared_queue(layout, settings)
    if home is not None and not os.path.exists(home.marker):
        layouts.log().warning("%s: the dead-letter queue %s is not there; the dead stay here", layout.root, home.root)
