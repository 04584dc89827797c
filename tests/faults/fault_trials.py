"""One verb, one fault: tried on a fresh queue, and what came of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_books import wrongs
from fault_stage import Stage, descriptors
from fault_verbs import Verb
from faulty import Fault, FaultyDisk


class Trials:
    """Counts them, and keeps what was wrong with the first few."""

    def __init__(self, place: str, verb: Verb) -> None:
        self._place = place
        self._verb = verb
        self.tried = 0
        self.wrong: list[str] = []

    def run(self, fault: Fault) -> bool:
        """Try it; False if the verb never comes to that call."""
        base = f"{self._place}/{self._verb}"
        Path(base).mkdir()
        before = descriptors()
        stage = Stage(base, FaultyDisk(), fault)
        try:
            wrong = self._play(stage)
        except Exception as error:  # noqa: BLE001 - what nobody documents is the finding
            wrong = [f"raised {error!r} from {_where(error)}"]
        shutil.rmtree(base)
        if not stage.fired:
            assert not wrong, wrong
            return False
        if not wrong and (stage.disk.open_files or descriptors() > before):
            wrong.append(f"leaked: {len(stage.disk.open_files)} descriptors, {before} before and {descriptors()} now")
        self.tried += 1
        self._note(fault, stage, wrong)
        return True

    def _play(self, stage: Stage) -> list[str]:
        self._verb.prepare(stage)
        self._verb.play(stage)
        if not stage.fired:
            stage.q.close()
            return []
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
        print(f"{self._verb}: {self.tried} faults tried")  # noqa: T201 - how many is half of the result
        assert not self.wrong, f"{len(self.wrong)} of {self.tried} went wrong\n\n" + "\n\n".join(self.wrong[:8])
        assert self.tried, "the verb makes no durable call"


def _where(error: BaseException) -> str:
    entries = pytest.ExceptionInfo.from_exception(error).traceback if isinstance(error, Exception) else []
    return " < ".join(f"{Path(entry.path).name}:{entry.lineno + 1}" for entry in reversed(entries))


def numbers(*, thin: bool) -> Iterator[int]:
    """The first, the second, and so on; thinned out behind the eighth if so asked."""
    number = 0
    while True:
        yield number
        number += max(1, number // 3) if thin and number >= 8 else 1
