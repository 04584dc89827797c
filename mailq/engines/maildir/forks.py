"""What must begin anew in a forked child.

One registration for the process, since ``os.register_at_fork`` cannot be taken
back: registering each queue would leak a little with every one that is opened.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Forkable(Protocol):
    def after_fork(self) -> None: ...


_alive: Final[weakref.WeakSet[_Forkable]] = weakref.WeakSet()
_turn: Final = threading.RLock()


def follow(thing: _Forkable) -> None:
    """Have ``thing.after_fork()`` called in every forked child, as long as somebody holds it."""
    _alive.add(thing)


@contextlib.contextmanager
def held_off() -> Iterator[None]:
    """Have no other thread fork in this block: between the opening of a file and its being known to ``after_fork``.

    Keep it short: whoever wants to fork waits. Who forks in a signal handler, in the midst
    of his own block, does not: he would wait for himself.
    """
    with _turn:
        yield


def _before() -> None:
    _turn.acquire()


def _in_parent() -> None:
    _turn.release()


def _in_child() -> None:
    _turn.release()  # its own: whoever forks has it, and no other thread came along
    for thing in list(_alive):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
