"""Work that several processes share is done whole, or the test fails."""

from __future__ import annotations

import os
import signal

import pytest
import together
from together import on_each_core

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_process_does_its_share(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(together, "cores", lambda: count)
    shares = on_each_core(lambda number, count: (os.getpid(), range(10)[number::count]))
    assert sorted(one for _, share in shares for one in share) == list(range(10))
    assert len({os.getpid(), *(pid for pid, _ in shares)}) == count + 1


@pytest.mark.parametrize("which", [0, 1])
def test_work_fails_with_a_process_that_dies(monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    def work(number: int, count: int) -> None:
        if number == which:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(together, "cores", lambda: 2)
    with pytest.raises(AssertionError, match="died without a word"):
        on_each_core(work)


def test_what_a_process_raises_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(number: int, count: int) -> None:
        assert number == 0, f"number {number} of {count} is wrong"

    monkeypatch.setattr(together, "cores", lambda: 2)
    with pytest.raises(AssertionError, match="number 1 of 2 is wrong"):
        on_each_core(work)
