"""What must begin again in a forked child.

One registration for the process, since ``os.register_at_fork`` cannot be taken
back: registering each queue would leak a little with every one that is opened.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final, Protocol


class _Forkable(Protocol):
    def after_fork(self) -> None: ...


_alive: Final[weakref.WeakSet[_Forkable]] = weakref.WeakSet()

no_fork: Final = threading.RLock()
"""``with no_fork:`` no other thread forks: between the opening of a file and its being known to ``after_fork``.

Keep it short: any thread that wants to fork waits. One that forks in a signal handler, in the midst
of its own block, does not: it would wait for itself.
"""


def register(thing: _Forkable) -> None:
    """Have ``thing.after_fork()`` called in every forked child, as long as somebody holds it. It may be called twice."""
    _alive.add(thing)


def _in_child() -> None:
    for thing in list(_alive):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    # The lock's own methods: an exception from outside could arrive in a function of ours before that lets go of the lock.
    os.register_at_fork(before=no_fork.acquire, after_in_parent=no_fork.release, after_in_child=no_fork.release)
    # Twice: an exception that was on its way before the fork arrives in the first, and goes no further.
    os.register_at_fork(after_in_child=_in_child)
    os.register_at_fork(after_in_child=_in_child)
