"""Exceptions arrive from signals and from other threads, at moments that nobody has chosen."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
import random_arrivals
from together import PATIENCE, Child

WAYS = pytest.mark.parametrize(
    "way",
    [
        random_arrivals.from_threads,
        pytest.param(
            random_arrivals.from_signals,
            marks=pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such signals here"),
        ),
    ],
)
KINDS = pytest.mark.parametrize("kind", ["memory", "unsynced", "journaled"])


def interrupted(way: Callable[..., None], place: str, kind: str, seed: int, times: int) -> None:
    with Child(way, place, kind, seed, times) as child:
        hanging, wrong = child.hear(PATIENCE if times < 1000 else 10 * PATIENCE)
    assert not hanging
    assert not wrong


@WAYS
@KINDS
def test_a_queue_that_is_interrupted_at_random_goes_on(way: Callable[..., None], kind: str, place: str) -> None:
    interrupted(way, place, kind, 1, 100)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
@WAYS
@KINDS
def test_a_queue_that_is_interrupted_for_long_goes_on(
    way: Callable[..., None], kind: str, place: str, seed: int
) -> None:
    interrupted(way, place, kind, seed, 2000)
