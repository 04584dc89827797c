"""How many system calls a message costs, so that nobody adds one unnoticed.

They are counted twice. In this process by a profiler, which is shown every function of C
that is called, so every one that makes a system call; that tells which. And in another one by
strace, where it is: the kernel must have been asked just as often, so that no call is missed that no
function of ``os`` makes.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import calling
import pytest
from calling import CLASSES
from together import Child

from mailq.engines.maildir import disk

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the numbers are those of Linux")


class Cost(NamedTuple):
    """The calls for each message, and for each turn of the verb, whatever number of messages it has."""

    each: Mapping[str, int]
    turn: Mapping[str, int] = {}


def sum_of(*parts: Mapping[str, int]) -> dict[str, int]:
    return dict(sum((Counter(part) for part in parts), Counter()))


# The table. Names are those of ``os``, and syncfs.

FILE: Final = {"open": 1, "write": 1, "close": 1, "replace": 1}
SYNCED_FILE: Final = sum_of(FILE, {"fsync": 1})
SYNCED_DIRECTORY: Final = {"open": 1, "fsync": 1, "fstat": 1, "stat": 1, "close": 1}
ALL_FILES_SYNCED: Final = {"open": 1, "syncfs": 1, "close": 1}
JOURNALED: Final = {"pwrite": 1, "fdatasync": 1, "utime": 1}
CLAIM: Final = {"lstat": 1, "replace": 1, "open": 1, "fstat": 1, "read": 1, "close": 1}
LOOK: Final = {"access": 1}
LISTING: Final = {"lstat": 1, "scandir": 1}
WORD: Final = {"read": 1}
ACK: Final = {"unlink": 1}

PUSHES: Final = {
    CLASSES[0]: Cost(each=FILE),
    CLASSES[1]: Cost(each=SYNCED_FILE, turn=SYNCED_DIRECTORY),
    CLASSES[2]: Cost(each=FILE, turn=JOURNALED),
}
BATCHES: Final = {
    **PUSHES,
    CLASSES[1]: Cost(each=FILE, turn=sum_of(ALL_FILES_SYNCED, SYNCED_DIRECTORY)),
}


def table(kind: str) -> dict[str, Cost]:
    push = PUSHES[kind]
    return {
        "push": push,
        "pop": Cost(each=CLAIM, turn=LOOK),
        "ack": Cost(each=ACK),
        "push, pop, ack in turn": Cost(each=sum_of(push.each, CLAIM, ACK), turn=sum_of(push.turn, LOOK, LISTING)),
        "push_many": BATCHES[kind],
        "pop_many": Cost(each=CLAIM, turn=sum_of(LOOK, LISTING)),
        "acks of many": Cost(each=ACK),
        "push, pop, ack in turn, told by the kernel": Cost(
            each=sum_of(push.each, CLAIM, ACK), turn=sum_of(push.turn, LOOK, WORD)
        ),
    }


AT_THE_KERNEL: Final = {"scandir": 5}
"""How many system calls a function makes that makes not just one: openat, fstat, getdents64 twice, close."""


def expected(kind: str, scene: calling.Scene) -> dict[str, int]:
    cost = table(kind)[scene.verb]
    calls = Counter({name: number * scene.messages for name, number in cost.each.items()})
    calls.update({name: number * scene.turns for name, number in cost.turn.items()})
    return dict(calls)


# Counting

_MODULES: Final = {"posix", "fcntl", "_io", "mmap", "select", "signal", "_signal", "_socket", "_posixsubprocess"}
BY_C: Final = {disk.Disk.syncfs.__code__: "syncfs", disk.Disk.open.__code__: "open"}
_FREE: Final = {"fspath"}
"""A function of os that asks the kernel nothing."""


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the functions that make system calls: those of C, and those of ours by which C calls one."""
    calls: Counter[str] = Counter()

    def profile(frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and getattr(function, "__module__", None) in _MODULES:
            if function.__name__ not in _FREE:
                calls[function.__name__] += 1
        elif event == "call" and frame.f_code in BY_C:
            calls[BY_C[frame.f_code]] += 1

    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def count(pipe: Connection[Any, Any], path: str, kind: str) -> None:
    """Tell of each scene which calls it made, and which it should."""
    with calling.scenes(path, kind) as scenes:
        for scene in scenes:
            with counted() as calls:
                scene.act()
            pipe.send((scene.verb, dict(calls), expected(kind, scene)))
    pipe.send(None)


@pytest.mark.parametrize("kind", CLASSES)
def test_each_verb_makes_the_calls_that_it_needs_and_no_others(tmp_path: Path, kind: str) -> None:
    # In a fresh interpreter: where a thread was ever sent an exception and had ended, CPython 3.11 hangs under a profiler.
    with Child(count, str(tmp_path), kind) as counter:
        while (told := counter.hear()) is not None:
            verb, calls, wanted = told
            assert (verb, calls) == (verb, wanted)


# What the allocator asks for is no message's.
_MEMORY: Final = {"brk", "mmap", "munmap", "mremap", "madvise"}
_CALL: Final = re.compile(r"\d+ +(\w+)\((.*)")


def traced(trace: str) -> dict[str, Counter[str]]:
    """The system calls of each scene."""
    found: dict[str, Counter[str]] = {}
    calls: Counter[str] | None = None
    for call, rest in (match.groups() for line in trace.splitlines() if (match := _CALL.match(line))):
        if mark := re.search(r'"/(begin|end)-of/([^"]+)"', rest):
            calls = found.setdefault(mark[2], Counter()) if mark[1] == "begin" else None
        elif calls is not None and call not in _MEMORY:
            calls[call] += 1
    return found


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here")
@pytest.mark.parametrize("kind", CLASSES)
def test_the_kernel_is_asked_just_as_often(tmp_path: Path, kind: str) -> None:
    program = [sys.executable, calling.__file__, str(tmp_path), kind]
    done = subprocess.run(
        [str(shutil.which("strace")), "-f", "-o", str(tmp_path / "trace"), *program],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr and "not permitted" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    found = traced((tmp_path / "trace").read_text())
    with calling.scenes(str(tmp_path / "again"), kind) as scenes:
        for scene in scenes:
            scene.act()
            calls = expected(kind, scene)
            total = sum(number * AT_THE_KERNEL.get(name, 1) for name, number in calls.items())
            assert found[scene.verb].total() == total, (scene.verb, dict(found[scene.verb]), calls)
