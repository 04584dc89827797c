"""The jobs of a storm of workers, by their kinds: how many there are of each, and what may become of them.

A message's key names its kind: who has the message, or only its file, can tell what is to come of it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from history import Log
from stage import Stage, body_of, digest_of

SOFT = 0.3
"""The soft limit of every job but the long ones, in seconds."""

HARD = 20.0
"""The hard limit, which no job runs into that has not asked for a shorter one."""

LEASE = 15.0

KEPT = 1 << 62
"""The deadline of a lease that a worker keeps as long as the job runs."""

_NONE: Mapping[str, Any] = MappingProxyType({})


class Kind(NamedTuple):
    """One kind: with which options it is pushed, and what it may die of, with the attempts that this takes (None: any)."""

    share: int
    deaths: Mapping[str, int | None] = _NONE
    options: Mapping[str, Any] = _NONE

    @property
    def is_doable(self) -> bool:
        """Whether somebody may do it."""
        return not self.deaths or "expired" in self.deaths


def _dies(attempts: int, **options: Any) -> dict[str, Any]:
    return {"deaths": {"retries": attempts}, "options": {"max_retries": attempts - 1, **options}}


KINDS = {
    "ok": Kind(60),
    "chain": Kind(6),
    "soft-push": Kind(4, **_dies(2)),
    "soft-pop": Kind(4, **_dies(2)),
    "soft-read": Kind(4, **_dies(2)),
    "soft-once": Kind(4),
    "soft-coroutine": Kind(3, **_dies(1)),
    "hard": Kind(2, **_dies(1, timeout=0.6)),
    "deaf": Kind(2, **_dies(1, timeout=0.6)),
    "raise": Kind(3, **_dies(3)),
    "crash": Kind(2, **_dies(2)),
    "crash-once": Kind(2),
    "retry": Kind(3),
    "retry-raised": Kind(3),
    "reject": Kind(2, deaths={"rejected": None}),
    "reject-raised": Kind(2, deaths={"rejected": None}),
    "coroutine": Kind(4),
    "brief": Kind(0, deaths={"expired": None}, options={"ttl": 0.05}),
    "long": Kind(0),
}

_MANY = tuple(name for name, kind in KINDS.items() if kind.share)
PLACES = {"jobs": _MANY, "mild": tuple(name for name in _MANY if name != "deaf" and not name.startswith("crash"))}
"""The queues, and the kinds that come to each: to the mild one none that ends its process, or stays in its thread."""

ENDING = tuple(name for name in _MANY if name not in ("hard", "deaf") and not name.startswith("soft"))
"""The kinds that need no limit to end."""


def key_of_kind(name: str, kind: str, number: int) -> str:
    return f"{name}.{kind}.{number}"


def kind_in(key: str) -> str:
    return key.split(".")[-2]


def is_doable(key: str) -> bool:
    return KINDS[kind_in(key)].is_doable


def is_mortal(key: str) -> bool:
    return bool(KINDS[kind_in(key)].deaths)


def draw(dice: random.Random, place: str) -> str:
    kinds = PLACES[place]
    return dice.choices(kinds, [KINDS[name].share for name in kinds])[0]


def announce(log: Log, kind: str, keys: list[str]) -> list[dict[str, str]]:
    """Write down that these are about to be pushed. Returns their bodies."""
    bodies = [body_of(key, 10) for key in keys]
    digests = dict(zip(keys, map(digest_of, bodies), strict=True))
    log.write("push?", keys=digests, plain=False, deaths=dict(KINDS[kind].deaths))
    return bodies


def confirm(stage: Stage, log: Log, keys: list[str], ids: list[str]) -> None:
    """Write down that they were pushed."""
    log.write("push!", ids=dict(zip(keys, ids, strict=True)))
    stage.acknowledge(keys)
