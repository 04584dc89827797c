"""The length limit: ``max_length``, without a count for each push."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import layout as layouts
from mailq.errors import QueueFull

if TYPE_CHECKING:
    from mailq.engines.maildir.files import Store

# A count of the waiting messages lets this producer fill a tenth of the room that it found, for a second.
_SHARE: Final = 10
_FRESH: Final = 1.0


class LengthLimit:
    """The number of messages that this producer may push before it counts again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._left = 0
        self._until = 0.0

    def reserve(self, asked: int) -> None:
        """Reserve room for a push of ``asked`` messages. Raises QueueFull."""
        limit = self._store.settings.max_length
        if limit is None:
            return
        now = time.monotonic()
        if asked <= self._left and now < self._until:
            self._left -= asked
            return
        layout = self._store.layout
        length = sum(1 for path in (layout.new, layout.later) for _ in layouts.entries(path))
        if length + asked > limit:
            raise QueueFull(length, limit, asked)
        # Not exact under other producers anyway: while there is much room, count only once in a while.
        left = limit - length - asked
        self._left = left // _SHARE if length < left else 0
        self._until = now + _FRESH
