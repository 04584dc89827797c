"""Each durable call of each verb fails: a documented error or success, nothing lost or doubled, and on it goes.

By default every call of a verb fails with EIO and ENOSPC, and one of each kind with each other
error; with --slow every call with every error.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import pytest
from fault_trials import Trials, numbers
from fault_verbs import VERBS, Verb
from faulty import CALLS, Fault, fault

ERRORS: Final = (
    *(errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE),
    *(errno.EACCES, errno.EROFS, errno.ESTALE, errno.EINTR),
)
MADE: Final = ("create", "rename", "exchange", "link", "unlink", "utime", "chmod", "mkdir")
"""The calls that may be carried out and reported as failed."""


@pytest.fixture(autouse=True)
def _silence(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of warnings are meant; the records of them would keep every queue that was tried in memory."""
    caplog.set_level(logging.CRITICAL, logger="mailq")


@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_each_call_of_each_verb_fails(place: str, verb: Verb) -> None:
    trials = Trials(place, verb)
    trials.run_all(list(_some(trials.calls)))


def _some(calls: Mapping[str, int]) -> Iterator[Fault]:
    for kind, count in calls.items():
        for number in numbers(count, thin=True):
            yield fault(kind, number=number, error=errno.EIO)
            yield fault(kind, number=number, error=errno.ENOSPC, part=kind == "write")
            if kind in MADE:
                yield fault(kind, number=number, made=True)
        for position, error in enumerate(ERRORS[2:]):
            yield fault(kind, number=position % count, error=error)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_each_call_of_each_verb_fails_with_each_error(place: str, verb: Verb, error: int) -> None:
    trials = Trials(place, verb)
    trials.run_all(list(_all(trials.calls, error)))


def _all(calls: Mapping[str, int], error: int) -> Iterator[Fault]:
    for kind, count in calls.items():
        for number in range(count):
            yield fault(kind, number=number, error=error)
            if kind in MADE:
                yield fault(kind, number=number, error=error, made=True)
            if kind == "write":
                yield fault(kind, number=number, error=error, part=True)


# A disk that does not fail once but from then on: what each verb still can do


class Weather(NamedTuple):
    """A disk in a bad state, and the verbs that it stops, by the beginnings of their names; any other goes on."""

    kinds: tuple[str, ...]
    error: int
    stops: tuple[str, ...]
    but: tuple[str, ...] = ()


_MAKE: Final = ("create", "open_a_copy", "push", "edit", "configure", "pause", "put_reply", "extend_of_another")
_MOVE: Final = ("pop", "ack", "nack", "release", "reject", "extend", "redrive", "purge", "resume")
_CHANGES: Final = ("create", "write", "pwrite", "rename", "exchange", "link", "unlink", "utime", "chmod", "mkdir")
WEATHERS: Final = {
    # Whatever is there can be worked off: that needs no space.
    "full": Weather(("create", "write", "pwrite", "link", "mkdir"), errno.ENOSPC, _MAKE),
    # What cannot be readied or reaped is logged, and tried again the next time.
    "read-only": Weather(_CHANGES, errno.EROFS, (*_MAKE, *_MOVE), ("pop_due", "pop_overdue")),
    "sick": Weather(CALLS, errno.EIO, (*_MAKE, *_MOVE, "held", "look", "open"), ("pop_due", "pop_overdue")),
    # What is in hand can be settled.
    "no descriptors": Weather(
        ("create", "open"), errno.EMFILE, (*_MAKE, "pop", "held", "look", "redrive", "resume", "open")
    ),
}


@pytest.mark.parametrize("weather", WEATHERS)
@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_each_verb_in_bad_weather(place: str, verb: Verb, weather: str) -> None:
    trials = Trials(place, verb)
    kinds, error, stops, but = WEATHERS[weather]
    stopped = str(verb).startswith(stops) and str(verb) not in but
    if any(trials.calls[kind] for kind in kinds):
        stage = trials.run(fault(*kinds, error=error, lasting=True))
        trials.conclude()
        assert (stage.raised is not None) == stopped
    else:
        assert not stopped


@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_each_kind_of_call_of_each_verb_fails_for_good(place: str, verb: Verb) -> None:
    trials = Trials(place, verb)
    for kind in trials.calls:
        trials.run(fault(kind, error=errno.EIO, lasting=True))
        trials.run(fault(kind, error=errno.ESTALE, lasting=True))
    trials.conclude()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_each_kind_of_call_of_each_verb_fails_for_good_from_each_call_on(place: str, verb: Verb, error: int) -> None:
    trials = Trials(place, verb)
    for kind, count in trials.calls.items():
        for number in range(count):
            trials.run(fault(kind, number=number, error=error, lasting=True))
    trials.conclude()
