"""The mtime of a claimed file is its deadline: what must hold of it between the calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import mailq
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.testing import ManualClock, take

GIVING_BACK: dict[str, Callable[[mailq.Delivery], None]] = {
    "release": lambda delivery: delivery.release(),
    "release with a delay": lambda delivery: delivery.release(delay=5),
    "nack": lambda delivery: delivery.nack(delay=0),
    "nack with a delay": lambda delivery: delivery.nack(delay=5),
    "reject": lambda delivery: delivery.reject(),
}


def mtime_of_the_only_message(path: Path) -> float:
    (file,) = [file for state in ("new", "later", "cur", "dead") for file in (path / state).iterdir()]
    return file.stat().st_mtime


@pytest.mark.parametrize("how", GIVING_BACK)
def test_an_extended_deadline_does_not_stay_in_the_file(path: Path, queue: mailq.Queue, how: str) -> None:
    """A shell consumer that moves it to cur/ would hold it until then."""
    clock = ManualClock()
    queue = mailq.Queue(MaildirEngine(str(path), clock=clock))
    queue.push("x")
    delivery = take(queue)
    delivery.extend(900)
    assert mtime_of_the_only_message(path) == pytest.approx(clock.seconds + 900, abs=0.01)
    GIVING_BACK[how](delivery)
    assert mtime_of_the_only_message(path) <= clock.seconds + 1.01


class Late(Disk):
    """Sets a time so slowly that meanwhile the clock goes on."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds

    def utime(self, path: str, ns: int) -> None:
        super().utime(path, ns)
        self._clock.advance(self._seconds)


def test_an_extension_that_took_until_after_the_old_deadline_came_too_late(path: Path, queue: mailq.Queue) -> None:
    """A reaper that looked before the new time was set may be about to take the message back."""
    clock = ManualClock()
    queue.push("x")
    holder = mailq.Queue(MaildirEngine(str(path), clock=clock, disk=Late(clock, 61)))
    delivery = take(holder)
    clock.advance(59)
    with pytest.raises(mailq.LeaseLost):
        delivery.extend(900)
    assert mailq.Queue(MaildirEngine(str(path), clock=clock)).reap().returned == 1


def test_an_extension_that_was_in_time_holds_although_it_was_slow(path: Path, queue: mailq.Queue) -> None:
    clock = ManualClock()
    queue.push("x")
    holder = mailq.Queue(MaildirEngine(str(path), clock=clock, disk=Late(clock, 10)))
    delivery = take(holder)
    clock.advance(40)
    delivery.extend(900)
    clock.advance(60)
    assert mailq.Queue(MaildirEngine(str(path), clock=clock)).reap().returned == 0
    delivery.ack()
