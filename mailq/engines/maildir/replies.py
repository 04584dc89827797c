"""The replies to messages: ``replies/<id>.json``, kept for ``reply_ttl`` seconds."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import layout as layouts
from mailq.errors import StorageError
from mailq.ids import NS, is_id

if TYPE_CHECKING:
    from mailq.engines.maildir.files import Store

_SWEEPS: Final = 10
"""Old replies are looked for so often in the time that one is kept, or once a minute if that is less often."""

_MINUTE: Final = 60.0

_LONGEST: Final = 1 << 24
"""No more bytes of a reply are read: many times what a worker keeps."""


class ReplyFiles:
    """The replies of one queue."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next_sweep = 0.0

    def _path(self, id: str) -> str:
        # An id comes from outside: only what is one may become a part of a path.
        return f"{self._store.layout.replies}/{id}.json" if is_id(id) else ""

    def put(self, id: str, data: bytes) -> None:
        """Write it aside, sync, rename, sync: as a push. A second reply to one message replaces the first."""
        store = self._store
        temporary = f"{store.layout.tmp}/.reply.{os.urandom(8).hex()}"
        try:
            store.disk.write_file(temporary, data, mode=int(store.settings.file_mode, 8), sync=store.durable)
            try:
                store.disk.rename(temporary, self._path(id))
            except BaseException:
                with contextlib.suppress(OSError):
                    store.disk.unlink(temporary)
                raise
            if store.durable:
                store.disk.sync_directory(store.layout.replies)
        except OSError as error:
            raise StorageError("reply", error) from error
        self._sweep()

    def get(self, id: str) -> bytes | None:
        """Read it, if it is there."""
        return layouts.read_small(self._store.disk, path, _LONGEST) if (path := self._path(id)) else None

    def _sweep(self) -> None:
        """Delete the old ones, from time to time."""
        now, ttl = self._store.clock() / NS, self._store.settings.reply_ttl
        every = max(ttl / _SWEEPS, _MINUTE)
        # An appointment further away than that was made before the clock stepped back.
        if 0 < self._next_sweep - now <= every:
            return
        self._next_sweep = now + every
        for entry in layouts.entries(self._store.layout.replies):
            status = layouts.status_of(entry.path) if is_reply(entry.name) else None
            if status is not None and status.st_mtime < now - ttl:
                with contextlib.suppress(OSError):
                    self._store.disk.unlink(entry.path)


def is_reply(name: str) -> bool:
    """Whether a name in ``replies/`` is one that mailq writes under; nothing else there is deleted."""
    return is_id(name.removesuffix(".json"))
