"""The others, one module each: what they are, and how each of them is asked for the same."""

from __future__ import annotations

import importlib
import shutil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.sides import Side

MODULES: Final = (
    "dirq",
    "kombu",
    "litequeue",
    "persist_queue",
    "huey",
    "diskcache",
    "lmdb",
    "lmdb_queue",
    "redis",
    "beanstalkd",
)


def available(say: Callable[[str], None]) -> list[type[Side]]:
    """The peers that are installed; of the others it is said what is missing."""
    found = []
    for name in MODULES:
        try:
            side: type[Side] = importlib.import_module(f"bench.peers.{name}").Peer
        except ImportError as error:
            say(f"{name} is left out: {error} (pip install '.[bench]')")
            continue
        if side.server and shutil.which(side.server) is None:
            say(f"{side.name} is left out: there is no {side.server} on the path")
            continue
        found.append(side)
    return found
