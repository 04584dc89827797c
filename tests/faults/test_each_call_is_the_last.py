"""The process dies just before and just after each durable call of each verb: the next one recovers everything."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shutil
import signal
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from fault_books import Book, misplacements, wrongs
from fault_stage import Stage
from fault_trials import Trials, numbers, tell
from fault_verbs import VERBS, Verb
from faulty import Fault, FaultyDisk, fault
from together import Child, cores, fast_directory

CHANGES: Final = ("create", "write", "pwrite", "rename", "link", "unlink", "utime", "chmod", "mkdir")
"""Dying before one of these is dying after the last: in between nothing changes on the disk."""


class DeadlyDisk(FaultyDisk):
    """Kills its process."""

    def strike(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Deaths(NamedTuple):
    """How many were died, and what was wrong after them."""

    died: int
    wrong: list[str]


def killer(pipe: Connection[Any, Any], place: str, share: int, count: int) -> None:
    """A small process with one thread: a fork of it costs a millisecond. Kills one for each fault of its share."""
    logging.getLogger("mailq").setLevel(logging.CRITICAL)  # its warnings are meant
    while (asked := pipe.recv()) is not None:
        number, slow = asked
        verb, wrong = VERBS[number], []
        deaths = list(_deaths(Trials(place, verb).calls, slow=slow))[share::count]
        for death in deaths:
            wrong += [f"{verb} {death}: {text}" for text in _die(f"{place}/{verb}", verb, death)]
        pipe.send(Deaths(len(deaths), wrong))


def _deaths(calls: dict[str, int], *, slow: bool) -> Iterator[Fault]:
    for kind, count in calls.items():
        if kind in CHANGES or slow:
            for number in numbers(count, thin=not slow):
                yield fault(kind, number=number)
                yield fault(kind, number=number, made=True)
                if kind == "write":
                    yield fault(kind, number=number, part=True)


def _die(base: str, verb: Verb, death: Fault) -> list[str]:
    """Have a child die, and recover from it."""
    os.mkdir(base)
    pid = os.fork()
    if pid == 0:
        try:
            _live(base, verb, death)
        except BaseException:  # noqa: BLE001 - a fork must not go on as if it were its parent
            Path(base, "trouble").write_text(traceback.format_exc())
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    book, now = pickle.loads(Path(base, "book").read_bytes())
    trouble = Path(base, "trouble")
    wrong = [trouble.read_text()] if trouble.exists() else []
    # A short write that nobody goes on with kills nobody.
    if not death.part and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        wrong.append(f"it did not die: {status}")
    wrong += misplacements(base, book, now)
    wrong += wrongs(base, book, now)
    shutil.rmtree(base)
    return wrong


def _live(base: str, verb: Verb, death: Fault) -> None:
    def leave(book: Book, now: int) -> None:
        Path(base, "book").write_bytes(pickle.dumps((book, now)))

    stage = Stage(base, DeadlyDisk(), death)
    stage.announce = lambda book: leave(book, stage.clock())
    verb.prepare(stage)
    verb.play(stage)


@pytest.fixture(scope="module")
def killers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Child]]:
    """One for each core."""
    count = cores()
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(fast_directory(tmp_path_factory.mktemp("deaths")))
        children = []
        for share in range(count):
            os.mkdir(f"{place}/{share}")
            children.append(stack.enter_context(Child(killer, f"{place}/{share}", share, count)))
        yield children
        for child in children:
            child.say(None)
            child.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_each_call_is_the_last(killers: list[Child], verb: Verb) -> None:
    _ask(killers, verb, slow=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_each_call_of_any_kind_is_the_last(killers: list[Child], verb: Verb) -> None:
    _ask(killers, verb, slow=True)


def _ask(killers: list[Child], verb: Verb, *, slow: bool) -> None:
    for child in killers:
        child.say((VERBS.index(verb), slow))
    shares = [child.hear(timeout=1700 if slow else 100) for child in killers]
    tell(f"{verb}: {sum(share.died for share in shares)} deaths", [text for share in shares for text in share.wrong])
