"""What must begin anew in a forked child.

One registration for the process, since ``os.register_at_fork`` cannot be taken
back: registering each queue would leak a little with every one that is opened.
"""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol


class _Forkable(Protocol):
    def after_fork(self) -> None: ...


_alive: Final[weakref.WeakSet[_Forkable]] = weakref.WeakSet()


def follow(thing: _Forkable) -> None:
    """Have ``thing.after_fork()`` called in every forked child, as long as somebody holds it."""
    _alive.add(thing)


def _in_child() -> None:
    for thing in list(_alive):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
