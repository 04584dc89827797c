"""One verb, one fault: tried on a fresh queue, and what came of it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fault_books import wrongs
from fault_stage import Stage, descriptors
from fault_verbs import Verb
from faulty import Fault, FaultyDisk
from together import on_each_core


class Trials:
    """Counts them, and keeps what was wrong."""

    def __init__(self, place: str, verb: Verb) -> None:
        self._base = f"{place}/{verb}"
        self._verb = verb
        self.tried = 0
        self.wrong: list[str] = []
        # Up to the fault the calls are the same every time: so many of each kind can fail.
        self.calls: Counter[str] = self._stage(Fault(frozenset())).called

    def _stage(self, fault: Fault) -> Stage:
        """Play it once, without looking what comes of it."""
        stage = Stage(self._base, FaultyDisk(), fault)
        Path(self._base).mkdir()
        try:
            self._verb.prepare(stage)
            self._verb.play(stage)
            stage.q.close()
        finally:
            shutil.rmtree(self._base)
        return stage

    def run_all(self, faults: Sequence[Fault]) -> None:
        """Let each of them fail, and look, and conclude; the cores share them."""

        def run_some(number: int, count: int) -> tuple[int, list[str]]:
            self._base = f"{self._base}-{number}"
            for one in faults[number::count]:
                self.run(one)
            return self.tried, self.wrong

        shares = on_each_core(run_some)
        self.tried = sum(tried for tried, _ in shares)
        self.wrong = [text for _, wrong in shares for text in wrong]
        assert self.tried == len(faults)
        self.conclude()

    def run(self, fault: Fault) -> Stage:
        """Let it fail, and look."""
        Path(self._base).mkdir()
        before = descriptors()
        stage = Stage(self._base, FaultyDisk(), fault)
        try:
            wrong = self._play(stage)
        except Exception as error:  # noqa: BLE001 - what nobody documents is the finding
            wrong = [f"raised {error!r} from {_where(error)}"]
        shutil.rmtree(self._base)
        if not wrong and (stage.disk.open_files or descriptors() > before):
            wrong.append(f"leaked: {len(stage.disk.open_files)} descriptors, {before} before and {descriptors()} now")
        self.tried += 1
        self._note(fault, stage, wrong)
        return stage

    def _play(self, stage: Stage) -> list[str]:
        self._verb.prepare(stage)
        self._verb.play(stage)
        assert stage.fired, "the call is not made"
        self._verb.play(stage)  # the same verb works again, with other messages
        stage.q.close()
        return [*stage.failures, *wrongs(stage.base, stage.book, stage.clock())]

    def _note(self, fault: Fault, stage: Stage, wrong: list[str]) -> None:
        if wrong:
            how = " ".join(word for word in ("made", "part", "lasting") if getattr(fault, word))
            title = f"{self._verb}: {'|'.join(sorted(fault.kinds))} {fault.number} {how} {fault.error!r}"
            self.wrong.append("\n  ".join([f"{title}, which raised {stage.raised!r}", *wrong]))

    def conclude(self) -> None:
        """Say how many there were; fail with the first of what was wrong."""
        tell(f"{self._verb}: {self.tried} faults tried", self.wrong)
        assert self.tried, "the verb makes no durable call"


def tell(title: str, wrong: list[str]) -> None:
    """Say how many were tried; fail with the first of what was wrong."""
    print(title)  # noqa: T201 - how many is half of the result
    assert not wrong, f"{title}, {len(wrong)} went wrong\n\n" + "\n\n".join(wrong[:8])


def _where(error: Exception) -> str:
    entries = pytest.ExceptionInfo.from_exception(error).traceback
    return " < ".join(f"{Path(entry.path).name}:{entry.lineno + 1}" for entry in reversed(entries))


def numbers(count: int, *, thin: bool) -> Iterator[int]:
    """All of them; if so asked, thinned out behind the fifth, with the last."""
    number = 0
    while number < count:
        yield number
        step = max(1, number // 2) if thin and number >= 4 else 1
        number = max(number + 1, min(number + step, count - 1))
