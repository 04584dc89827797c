"""What the parts of the contract share: the queue under test, and time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import pytest

from mailq.engines.base import Capabilities
from mailq.queue import Queue
from mailq.settings import Settings
from mailq.testing.clock import ManualClock

if TYPE_CHECKING:
    from mailq.delivery import Delivery
    from mailq.engines.base import Claimed, Engine
    from mailq.message import State

EngineFactory = Callable[[Settings, Callable[[], int]], "Engine"]
"""Makes a fresh engine on an empty queue with these settings and this clock."""

Forge = Callable[[str], str]
"""Makes a receipt that is well-formed, and that no claim has returned, out of one that a claim has."""

OpenQueue = Callable[..., Queue]
"""Opens a queue on a fresh engine; its keywords are settings."""

LEASE: Final = 60.0
"""The default lease, in seconds."""

PATIENCE: Final = 30.0
"""Seconds after which a thread that has not come back is taken to hang."""


_Class = TypeVar("_Class", bound=type)


def needs(capability: str) -> Callable[[_Class], _Class]:
    """Mark a class of tests as about a capability that an engine may lack; see ContractBase.capabilities."""

    def mark(tests: _Class) -> _Class:
        for name, test in vars(tests).items():
            if name.startswith("test_"):
                test.__dict__["needs"] = capability
        return tests

    return mark


class ContractBase:
    """The fixtures. A subclass gives ``make_engine`` and ``forge``; everything else follows from them.

    It also gives the ``capabilities`` of its engine, if that lacks some: the tests of those are
    skipped, and others test that the queue refuses them.
    """

    capabilities: ClassVar = Capabilities()

    @pytest.fixture(autouse=True)
    def _skip_what_the_engine_does_not_claim_to_do(self, request: pytest.FixtureRequest) -> None:
        capability = getattr(request.function, "needs", "")
        if capability and not getattr(self.capabilities, capability):
            pytest.skip(f"the engine does not have the capability {capability}")

    @pytest.fixture
    def make_engine(self) -> EngineFactory:
        raise NotImplementedError("override the fixture make_engine: it returns a function (settings, clock) -> Engine")

    @pytest.fixture
    def forge(self) -> Forge:
        raise NotImplementedError(
            "override the fixture forge: it returns a function (receipt) -> a receipt of no claim"
        )

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def open_queue(self, make_engine: EngineFactory, clock: ManualClock) -> Iterator[OpenQueue]:
        """At most one queue a test: an engine may be bound to one place."""
        opened: list[Queue] = []

        def open_one(**settings: Any) -> Queue:  # noqa: ANN401 - settings are checked by name
            opened.append(Queue(make_engine(Settings().merged(settings), clock)))
            return opened[-1]

        yield open_one
        for queue in opened:
            queue.close()

    @pytest.fixture
    def queue(self, open_queue: OpenQueue) -> Queue:
        """A queue with the default settings."""
        return open_queue()


def take(queue: Queue, **options: Any) -> Delivery:  # noqa: ANN401 - the options of pop
    """Pop a message that must be there."""
    delivery = queue.pop(**options)
    assert delivery is not None, f"nothing to pop: {queue.stats()}"
    return delivery


def bodies(queue: Queue) -> list[Any]:
    """Pop and ack everything that is ready; return the bodies in the order of delivery."""
    seen = []
    for delivery in queue.drain():
        seen.append(delivery.body)
        delivery.ack()
    return seen


def lapse(queue: Queue, clock: ManualClock, seconds: float = LEASE) -> None:
    """Let a lease of ``seconds`` run out, and be noticed."""
    clock.advance(seconds)
    queue.reap()


def in_a_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Work in a thread; what it comes to is in the list when it has ended."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    return thread, results


def bring(queue: Queue, state: State, body: Any = "x", **options: Any) -> str:  # noqa: ANN401 - as for push
    """Push a message and bring it into a state; return its id."""
    id = queue.push(body, delay=30 if state == "delayed" else 0, **options)
    if state in ("leased", "dead"):
        delivery = take(queue)
        if state == "dead":
            delivery.reject("gone bad")
    return id


class Claims:
    """Counts the claims on an engine, and holds them up while it is entered."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._claim = engine.claim
        self._lock = threading.RLock()
        monkeypatch.setattr(engine, "claim", self._counted)

    def _counted(self, limit: int, *, lease: float | None, detached: bool) -> Claimed:
        with self._lock:
            claimed = self._claim(limit, lease=lease, detached=detached)
            self.count += 1
            return claimed

    def until(self, count: int) -> None:
        """Wait until there were this many."""
        end = time.monotonic() + PATIENCE
        while self.count < count:
            assert time.monotonic() < end

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
