"""The others, one module each: what they are, and how each of them is asked for the same."""

from __future__ import annotations

import importlib
import shutil
from typing import TYPE_CHECKING, Any, Final

from bench.floor import Floor
from bench.sides import Mailq

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

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


def everybody(say: Callable[[str], None]) -> list[type[Side]]:
    """The floor, mailq, and the peers that can be measured here."""
    return [Floor, Mailq, *available(say)]


def described(names: Collection[str]) -> dict[str, Any]:
    """What is to be known of sides beside their numbers."""
    found = everybody(lambda missing: None)  # noqa: ARG005 - it was said before
    return {
        side.name: {"version": side.version(), "acks": side.acks, "note": side.note}
        for side in found
        if side.name in names
    }


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
