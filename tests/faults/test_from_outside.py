"""The real command, with strace to fail the system calls of it that touch the queue, one after the other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from command import MAILQ
from fault_books import Book, wrongs
from fault_trials import tell
from together import PATIENCE, ahead, on_each_core

import mailq

CALLS: Final = {
    "rename": "/^rename",
    "link": "/^link",
    "unlink": "/^unlink",
    "openat": "openat",
    "fsync": "fsync",
    "write": "write",
    "utimensat": "utimensat",
    "mkdir": "/^mkdir",
}
ERRORS: Final = ("EIO", "ENOSPC", "EROFS")


@cache
def _why_not() -> str:
    """What is missing, if anything is."""
    if shutil.which("strace") is None:
        return "strace is not here"
    probe = [shutil.which("strace"), "-f", "-e", "inject=mkdir:error=EIO", "-o", os.devnull, "true"]
    done = subprocess.run([str(part) for part in probe], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"strace may not trace here: {done.stderr.strip()[-200:]}"


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "strace works here")


class Point(NamedTuple):
    """A call that touches the queue: its kind, and which one of that kind it is in the life of the process."""

    kind: str
    number: int


class Scene:
    """A queue made afresh for one run of the command."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.path = f"{base}/jobs"
        self.book = Book()
        self.command: list[str] = []
        self.codes = {0, 1}
        # What becomes of the book after exit code 0; and after any other.
        self.worked: Callable[[str], None] = lambda stdout: None
        self.failed: Callable[[str], None] = lambda stderr: None

    def pushed(self, count: int) -> list[str]:
        bodies = [b"body %d" % number for number in range(count)]
        ids = mailq.open(self.path).push_many(bodies)
        self.book.pushed(ids, bodies)
        self.book.is_made = True
        return ids

    def taken(self) -> mailq.Delivery:
        delivery = mailq.open(self.path).pop(detached=True)
        assert delivery is not None
        return delivery


def _push_new(scene: Scene) -> None:
    def failed(stderr: str) -> None:
        for id in re.findall("[0-9a-f]{32}", stderr.partition("all the same: ")[2]):
            scene.book.places[id], scene.book.bodies[id] = {"live", "gone"}, {b"new"}
        for id in re.findall("stored ([0-9a-f]{32}), but cannot print", stderr):
            scene.book.pushed([id], [b"new"])

    scene.command = ["push", scene.path, "new"]
    scene.worked = lambda stdout: scene.book.pushed(stdout.split(), [b"new"])
    scene.failed = failed


def push(scene: Scene) -> None:
    scene.pushed(1)
    _push_new(scene)


def push_to_a_new_queue(scene: Scene) -> None:
    _push_new(scene)


def pop(scene: Scene) -> None:
    ids = scene.pushed(2)
    for id in ids:
        scene.book.places[id].add("dead")  # if it cannot be read
    scene.command = ["pop", scene.path]
    scene.codes = {0, 1, 3}


def ack(scene: Scene) -> None:
    scene.pushed(2)
    scene.taken().nack(delay=0, error="for a text to be removed")
    delivery = scene.taken()
    scene.command = ["ack", scene.path, delivery.receipt]

    def worked(stdout: str) -> None:
        scene.book.places[delivery.id] = {"gone"}

    scene.worked = worked


def nack(scene: Scene) -> None:
    scene.pushed(2)
    delivery = scene.taken()
    delivery.extend(600)
    scene.command = ["nack", scene.path, delivery.receipt, "--error", "text", "--delay", "5"]


def reject(scene: Scene) -> None:
    scene.pushed(2)
    delivery = scene.taken()
    scene.command = ["reject", scene.path, delivery.receipt, "--reason", "text"]

    def worked(stdout: str) -> None:
        scene.book.places[delivery.id] = {"dead"}

    scene.worked = worked


def reap(scene: Scene) -> None:
    scene.pushed(2)
    assert ahead(Path(scene.path), -3600).pop(detached=True) is not None  # an hour ago
    dead = mailq.open(scene.path)
    assert dead.pop() is not None
    dead._engine._holder.close()  # type: ignore[attr-defined] # its process is dead
    scene.command = ["reap", scene.path]


def drain(scene: Scene) -> None:
    """A worker that ends when there is nothing more to do."""
    scene.pushed(3)
    scene.command = ["drain", scene.path, "--", "true"]


SCENES: Final = (push, push_to_a_new_queue, pop, ack, nack, reject, reap)


def _run(scene: Scene, log: str, *options: str) -> subprocess.CompletedProcess[str]:
    others = ("MAILQ", "PYTHONPYCACHEPREFIX")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    # The same calls every time: no caches written, nor any read that another process may write meanwhile, sets in one order.
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    return subprocess.run(
        ["strace", "-f", "-y", "-s", "300", "-o", log, *options, MAILQ, *scene.command],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment,
        timeout=PATIENCE,
    )


def _set_up(play: Callable[[Scene], None], place: str) -> Scene:
    base = f"{place}/{play.__name__}"
    shutil.rmtree(base, ignore_errors=True)
    Path(base).mkdir()
    scene = Scene(base)
    play(scene)
    return scene


def _points(play: Callable[[Scene], None], place: str) -> list[Point]:
    """The calls that touch the queue, and those that print, when nothing fails."""
    scene = _set_up(play, place)
    log = f"{place}/log"
    done = _run(scene, log, "-e", f"trace={','.join(CALLS.values())}")
    assert done.returncode == 0, done.stderr
    seen = dict.fromkeys(CALLS, 0)
    points = []
    for line in Path(log).read_text().splitlines():
        call = re.match(r"\d+ +([a-z0-9]+)\(", line)
        kind = next((kind for kind in CALLS if call and call[1].startswith(kind)), None)
        if kind is not None:
            seen[kind] += 1
            if scene.base in line or "write(1<" in line:
                points.append(Point(kind, seen[kind]))
    return points


def _fail(play: Callable[[Scene], None], place: str, point: Point, error: str) -> Iterator[str]:
    """Let one call fail; what was wrong."""
    scene = _set_up(play, place)
    log = f"{place}/log"
    calls = CALLS[point.kind]
    done = _run(scene, log, "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={point.number}")
    injected = [line for line in Path(log).read_text().splitlines() if "(INJECTED)" in line]
    if not injected or not (scene.base in injected[0] or "write(1<" in injected[0]):
        yield f"another call failed: {injected}"
    complaints = [line for line in done.stderr.splitlines() if line.startswith("mailq: ")]
    if done.returncode not in scene.codes or "Traceback" in done.stderr:
        yield f"exit code {done.returncode}"
    if len(complaints) != (done.returncode == 1):
        yield f"complaints: {complaints}"
    if done.returncode == 0:
        scene.worked(done.stdout)
    else:
        scene.failed(done.stderr)
    yield from wrongs(scene.base, scene.book, time.time_ns())


def _room(place: str, name: str) -> str:
    """A directory for one process's queues, as deep as any other: a new queue syncs those above it too."""
    os.mkdir(path := f"{place}/{name}")
    return path


def _explore(play: Callable[[Scene], None], place: str, errors: Callable[[int], tuple[str, ...]]) -> None:
    points = enumerate(_points(play, _room(place, "unharmed")))
    tries = [(point, error) for position, point in points for error in errors(position)]

    def fail(number: int, count: int) -> list[str]:
        """One core's share of them."""
        room, wrong = _room(place, str(number)), []
        for point, error in tries[number::count]:
            found = list(_fail(play, room, point, error))
            wrong += ["\n  ".join([f"{play.__name__}: {point} {error}", *found])] if found else []
        return wrong

    wrong = [text for share in on_each_core(fail) for text in share]
    tell(f"{play.__name__}: {len(tries)} calls failed from outside", wrong)
    assert tries


@pytest.mark.parametrize("play", SCENES, ids=lambda play: play.__name__)
def test_each_call_of_the_command_fails(place: str, play: Callable[[Scene], None]) -> None:
    _explore(play, place, lambda position: (ERRORS[position % len(ERRORS)],))


def test_each_call_of_a_worker_fails(place: str) -> None:
    """In each of its processes. Whatever it does not ack is told in the log, and not lost."""
    tries = [(kind, *which) for kind in ("rename", "unlink", "utimensat") for which in enumerate(ERRORS, 1)]

    def fail(number: int, count: int) -> list[list[str]]:
        """What was wrong with each of one core's share of them, but for those that did not come to pass."""
        room = _room(place, str(number))
        found = [_fail_a_worker(room, *one) for one in tries[number::count]]
        return [wrong for wrong in found if wrong is not None]

    failed = [wrong for share in on_each_core(fail) for wrong in share]
    tell(f"drain: {len(failed)} calls failed from outside", ["\n  ".join(wrong) for wrong in failed if wrong])
    assert failed


def _fail_a_worker(place: str, kind: str, number: int, error: str) -> list[str] | None:
    """Let one call fail, if there are so many of the kind; what was wrong."""
    scene = _set_up(drain, place)
    done = _run(scene, f"{place}/log", "-e", f"inject={CALLS[kind]}:error={error}:when={number}")
    if "(INJECTED)" not in Path(f"{place}/log").read_text():
        return None
    found = [f"exit code {done.returncode}"] if done.returncode or "Traceback" in done.stderr else []
    for id in list(scene.book.places):
        acked = re.search(rf"job {id} attempt \d: ack after", done.stderr)
        kept = re.search(rf"job {id} attempt \d: stays leased, ack failed", done.stderr)
        scene.book.places[id] = {"gone"} if acked else {"live"}
        found += [] if acked or kept else [f"nothing is told of {id}"]
    found += wrongs(scene.base, scene.book, time.time_ns())
    return [f"drain: {kind} {number} {error}", *found, done.stderr] if found else []


@pytest.mark.slow
@pytest.mark.parametrize("play", SCENES, ids=lambda play: play.__name__)
def test_each_call_of_the_command_fails_with_each_error(place: str, play: Callable[[Scene], None]) -> None:
    _explore(play, place, lambda position: ERRORS)
