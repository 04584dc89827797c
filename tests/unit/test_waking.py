"""Threads that begin and cease to listen to the kernel at the same moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from beside import Beside

import mailq
from mailq.engines.maildir import watcher
from mailq.engines.maildir.notify import Notifier
from mailq.engines.maildir.ready import ReadyQueue
from mailq.engines.maildir.watcher import DirectoryWatcher, EventHandler


class Made:
    """A watch that hears nothing."""

    def __init__(self) -> None:
        self.is_stopped = False

    def start(self) -> None:
        """There is nothing to hear."""

    def stop(self) -> None:
        self.is_stopped = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Made]:
    """The watches that are made."""
    found: list[Made] = []

    def watch(directories: Sequence[str], listener: EventHandler) -> DirectoryWatcher:
        found.append(Made())
        return found[-1]  # type: ignore[return-value]

    monkeypatch.setattr(watcher, "watch", watch)
    return found


def line_of(queue: mailq.Queue) -> ReadyQueue:
    """Any listener."""
    line = queue._engine._ready  # type: ignore[attr-defined]
    assert isinstance(line, ReadyQueue)
    return line


class Looking(Notifier):
    """Something happens beside when it is asked for the first time whether there is a watch."""

    beside: Beside | None = None

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        if name == "_watch_tried" and (beside := self.beside) is not None:
            self.beside = None
            beside.begin()
        return found


def test_two_threads_that_begin_to_listen_make_one_watch(queue: mailq.Queue, path: Path, made: list[Made]) -> None:
    """Another would hear until the queue is let go, and nobody would listen."""
    line = line_of(queue)
    waking = Looking([str(path / "new")], line)
    firsts: list[bool] = []
    other = Beside(lambda: firsts.append(waking.watch()))
    waking._lock = other.lock  # type: ignore[assignment]
    waking.beside = other
    firsts.append(waking.watch())
    other.end()
    assert sorted(firsts) == [False, True]
    assert len(made) == 1
    waking.close()
    assert made[0].is_stopped


class Setting(Notifier):
    """Something happens beside as soon as there is a watch."""

    beside: Beside | None = None

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "_watch" and isinstance(value, Made) and (beside := self.beside) is not None:
            self.beside = None
            beside.begin()


def test_a_queue_that_is_closed_while_another_thread_begins_to_listen_stops_its_watch(
    queue: mailq.Queue, path: Path, made: list[Made]
) -> None:
    line = line_of(queue)
    waking = Setting([str(path / "new")], line)
    other = waking.beside = Beside(waking.close)
    waking._lock = other.lock  # type: ignore[assignment]
    assert waking.watch()
    other.end()
    assert made[0].is_stopped
    assert waking.watch()  # it can be used again
    waking.close()
