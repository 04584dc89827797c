"""Each durable call of each verb fails: a documented error or success, nothing lost or doubled, and on it goes.

By default every call of a verb fails with EIO and ENOSPC, and one of each kind with each other
error; with --slow every call with every error.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from fault_trials import Trials, numbers
from fault_verbs import VERBS, Verb
from faulty import CALLS, fault

ERRORS: Final = (
    *(errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE),
    *(errno.EACCES, errno.EROFS, errno.ESTALE, errno.EINTR),
)
MADE: Final = ("create", "rename", "link", "unlink", "utime", "chmod", "mkdir")
"""The calls that may be carried out and reported as failed."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    """In memory where there is such a place: thousands of queues are made."""
    shared = Path("/dev/shm")
    path = tempfile.mkdtemp(prefix="mailq-faults-", dir=shared if shared.is_dir() else tmp_path)
    yield path
    shutil.rmtree(path)


def _sweep(trials: Trials, kind: str, *, thin: bool, error: int = errno.EIO, **how: bool) -> int:
    """Let the first call of a kind fail, the second, and so on. Returns the number of the first that is not made."""
    for number in numbers(thin=thin):
        if not trials.run(fault(kind, number=number, error=error, **how)):
            return number
    raise AssertionError


@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_each_call_of_each_verb_fails(place: str, verb: Verb) -> None:
    trials = Trials(place, verb)
    for kind in CALLS:
        most = _sweep(trials, kind, thin=True)
        _sweep(trials, kind, thin=True, error=errno.ENOSPC)
        for position, error in enumerate(ERRORS[2:] if most else ()):
            trials.run(fault(kind, number=position % most, error=error))
    for kind in MADE:
        _sweep(trials, kind, thin=True, made=True)
    _sweep(trials, "write", thin=True, error=errno.ENOSPC, part=True)
    trials.conclude()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_each_call_of_each_verb_fails_with_each_error(place: str, verb: Verb) -> None:
    trials = Trials(place, verb)
    for error in ERRORS:
        for kind in CALLS:
            _sweep(trials, kind, thin=False, error=error)
        for kind in MADE:
            _sweep(trials, kind, thin=False, error=error, made=True)
        _sweep(trials, "write", thin=False, error=error, part=True)
    trials.conclude()
