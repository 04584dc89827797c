from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command import MAILQ, Shell

import mailq as library
from mailq.cli import top_data, top_view
from mailq.cli.workers import WorkerStatus, read_status
from mailq.engines.base import LeaseHolder, Stats

PATIENCE = 60.0


def story(**changes: Any) -> dict[str, Any]:
    told = {"role": "worker", "stage": "running", "slots": 4, "done": 7, "failed": 2, "run_times": [0.012, 1.5, 75]}
    return {**told, "jobs": [{"id": "a" * 32, "since": time.time() - 90}], "told": time.time(), **changes}


def owner(told: dict[str, Any], token: str = "t", *, alive: bool = True) -> LeaseHolder:
    return LeaseHolder(token, "vm", 123, 0.0, alive, told)


def worker(told: dict[str, Any], token: str = "t") -> WorkerStatus:
    return read_status(owner(told, token))


def texts(views: tuple[top_data.View, ...], width: int | None = None, height: int | None = None) -> list[str]:
    return [line.plain for line in top_view.screen(top_data.Look(1.0, views), None, width=width, height=height)]


# One screen


def test_one_screen_has_queues_workers_jobs_and_dead_letters(mailq: Shell, tmp_path: Path) -> None:
    with library.open(tmp_path / "jobs") as jobs, library.open(tmp_path / "mails") as mails:
        jobs.push_many(["x", "y", "z"])
        delivery = jobs.pop()
        assert delivery is not None
        delivery.reject("Traceback:\n[red]broken\x1b[31m\n")
        jobs.push("later", delay=1000)
        jobs.publish(story())
        mails.pause()
        for arguments in (["--once"], []):  # the output is no terminal
            lines = mailq("top", "jobs", "mails", *arguments).stdout.decode().splitlines()
            assert lines[0].startswith("mailq top")
            cells = [line.split() for line in lines]
            assert cells[1] == ["queue", "ready", "delayed", "leased", "dead", "oldest", "done/s", "failed/s"]
            assert cells[2][:5] == ["jobs", "2", "1", "0", "1"]
            assert cells[3] == ["mails", "0", "0", "0", "0", "-", "-", "-", "paused"]
            at = cells.index(["worker", "host", "pid", "running", "done", "failed", "p50", "p95", "p99"])
            assert cells[at + 1][2:] == [str(os.getpid()), "1/4", "7", "2", "12ms", "1.5s", "1m", "15s"]
            assert cells[at + 2][0] == "a" * 32
            assert cells[at + 2][1:2] == ["1m"]
            assert lines[-1].startswith(delivery.id)
            assert lines[-1].endswith("ago  rejected  [red]broken\\x1b[31m")
    assert b"\x1b" not in mailq("top", "jobs").stdout


def test_a_missing_queue_is_one_clear_line(mailq: Shell) -> None:
    mailq("init", "jobs")
    done = mailq("top", "jobs", "nowhere", code=1)
    assert b"create it with 'mailq init" in done.stderr
    assert done.stdout == b""


def test_it_does_not_look_all_the_time(mailq: Shell) -> None:
    mailq("init", "jobs")
    assert b"at least 0.1s" in mailq("top", "jobs", "--every", "0", code=2).stderr


# Looks


def test_a_queue_that_goes_is_gone_until_it_is_back(queue: library.Queue, path: Path) -> None:
    queue.push("x")
    watch = top_data.QueueMonitor(str(path))
    assert watch.look().stats is not None
    path.rename(path.with_name("away"))
    assert watch.look() == top_data.View(str(path), note="gone")
    path.with_name("away").rename(path)
    stats = watch.look().stats
    assert stats is not None
    assert stats.ready == 1


def test_the_newest_of_the_dead_come_first(queue: library.Queue, path: Path) -> None:
    queue.push_many(range(top_data.SHOWN + 5))
    deliveries = queue.pop_many(100)
    for number, delivery in enumerate(reversed(deliveries)):
        delivery.reject(f"number {number}")
    for number, message in enumerate(queue.peek("dead", None)):  # the first in line died last
        os.utime(message.location, (1000 - number, 1000 - number))
    letters = top_data.QueueMonitor(str(path)).look().letters
    assert [letter.id for letter in letters] == [delivery.id for delivery in deliveries[: top_data.SHOWN]]
    assert letters[0].error == f"number {top_data.SHOWN + 4}"


def test_the_dead_are_listed_again_only_when_there_are_others(
    queue: library.Queue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []
    peek = library.Queue.peek

    def counted(self: library.Queue, state: Any, limit: int | None) -> list[library.Message]:
        limits.append(limit)
        return peek(self, state, limit)

    now = time.monotonic()
    monkeypatch.setattr(library.Queue, "peek", counted)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch = top_data.QueueMonitor(str(path))
    for count, listed in ((0, 0), (1, 1), (1, 1), (2, 2), (2, 2)):
        while queue.stats().dead < count:
            queue.push("x")
            delivery = queue.pop()
            assert delivery is not None
            delivery.reject()
        assert len(watch.look().letters) == count
        assert len(limits) == listed
    now += top_data._RELIST
    watch.look()
    assert limits == [top_data.LISTED] * 3


def test_a_killed_worker_stays_a_while(path: Path, queue: library.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    script = f"import mailq, os; mailq.open({str(path)!r}).publish({story()!r}); os._exit(9)"
    subprocess.run([Path(MAILQ).with_name("python"), "-c", script], check=False)
    watch = top_data.QueueMonitor(str(path))
    for _ in range(3):
        assert [worker.state for worker in watch.look().workers] == ["dead"]
    now += top_data._LINGER
    assert watch.look().workers == ()


# Rates


def test_rates_are_of_the_workers_seen_at_both_looks() -> None:
    before = [worker(story(done=10, failed=1), "a"), worker(story(done=5, failed=5), "gone")]
    after = [worker(story(done=30, failed=2), "a"), worker(story(done=1000, failed=9), "new")]
    assert top_data.rates(before, after, 4.0) == (5.0, 0.25)
    assert top_data.rates(before, before, 4.0) == (0.0, 0.0)


def test_rates_are_not_made_up() -> None:
    one, other = [worker(story(), "a")], [worker(story(), "b")]
    assert top_data.rates(one, other, 1.0) is None
    assert top_data.rates([], [], 1.0) is None
    assert top_data.rates(one, one, 0.0) is None
    assert top_data.rates(one, [worker(story(done="many"), "a")], 1.0) is None
    assert top_data.rates([worker({}, "a")], one, 1.0) is None
    assert top_data.rates(one, [worker(story(done=0, failed=0), "a")], 1.0) == (0.0, 0.0)


def test_rates_are_on_the_screen() -> None:
    looks = [
        top_data.Look(
            at, (top_data.View("jobs", Stats(), (worker(story(done=done)),)), top_data.View("mails", Stats()))
        )
        for at, done in ((10.0, 0), (14.0, 50))
    ]
    lines = [line.plain.split() for line in top_view.screen(looks[1], looks[0])]
    assert [line[-2:] for line in lines[2:4]] == [["12.5", "0.0"], ["-", "-"]]


# Strange stories

GARBAGE: list[Any] = [
    None,
    True,
    -1,
    10**4000,
    1.5,
    float("nan"),
    float("inf"),
    "\x1b]0;x\x07\n\ud800",
    "x" * 9999,
    [],
    [[]],
    {},
]


@pytest.mark.parametrize("key", ["role", "stage", "slots", "done", "failed", "run_times", "jobs", "told"])
@pytest.mark.parametrize("value", [*GARBAGE, GARBAGE, GARBAGE[:3]], ids=range(len(GARBAGE) + 2))
def test_garbage_in_a_story_is_passed_over(key: str, value: object) -> None:
    read = worker(story(**{key: value}))
    stats = Stats(ready=1)
    lines = texts((top_data.View("jobs", stats, (read,)),), width=80, height=24)
    assert all(line.isprintable() and len(line) <= 80 for line in lines)
    assert top_data.rates([read], [read], 1.0) in (None, (0.0, 0.0))


@pytest.mark.parametrize("key", ["id", "since"])
@pytest.mark.parametrize("value", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_in_a_job_is_passed_over(key: str, value: object) -> None:
    read = worker(story(jobs=[{"id": "good", "since": 1, key: value}, {"id": "other", "since": 2}, value]))
    assert read.jobs[-1] == ("other", 2)
    assert all(line.isprintable() for line in texts((top_data.View("jobs", Stats(), (read,)),)))


def test_strange_files_of_owners_do_no_harm(mailq: Shell, queue: library.Queue, path: Path) -> None:
    queue.publish(story())
    for number, value in enumerate(GARBAGE[:3] + GARBAGE[4:]):
        identity = {"host": "x\x1b", "boot": "", "pid": 1, "since": number}
        (path / "owners" / f"strange{number}").write_text(json.dumps({**identity, **dict.fromkeys(story(), value)}))
    assert f"{os.getpid()}" in mailq("top", "jobs").stdout.decode()


# Little room


def crowd(count: int, jobs: int = 5) -> top_data.View:
    told = story(jobs=[{"id": f"{number:032}", "since": 0} for number in range(jobs)])
    letters = tuple(top_data.DeadLetter("jobs", f"{number:032}", 0.0, "retries", "e" * 400) for number in range(10))
    return top_data.View("a/long/way/to/" * 9 + "jobs", Stats(dead=10), (worker(told),) * count, letters)


@pytest.mark.parametrize("width", [1, 5, 20, 40, 80, 200])
@pytest.mark.parametrize("height", [1, 2, 5, 10, 24, 60])
@pytest.mark.parametrize("count", [0, 1, 4, 100])
def test_a_screen_is_no_larger_than_the_terminal(width: int, height: int, count: int) -> None:
    lines = texts((crowd(count), crowd(1)), width, height)
    assert max(map(len, lines)) <= width
    assert len(lines) <= max(height, 9)  # the headings stay; a lower terminal shows the first of them


def test_many_workers_are_cut_with_their_number() -> None:
    lines = texts((crowd(100),), 80, 24)
    assert len(lines) == 24
    shown = sum(line.startswith("running") for line in lines)
    assert f"… and {100 - shown} more workers" in lines


def test_many_jobs_are_cut_with_their_number() -> None:
    lines = texts((crowd(2, jobs=30),), 80, 24)
    shown = [line for line in lines if line.startswith("    000")]
    hidden = [int(line.split()[-2]) for line in shown if line.endswith(" more")]
    assert len(hidden) == 2
    assert len(shown) + sum(hidden) == 60
    assert abs(hidden[0] - hidden[1]) <= 1


def test_at_80_columns_the_end_of_a_path_and_all_numbers_are_there() -> None:
    lines = texts((crowd(1),), 80, 24)
    assert lines[2].startswith("…")
    assert lines[2].split()[0].endswith("/jobs")
    assert lines[1].split() == ["queue", "ready", "delayed", "leased", "dead", "oldest", "done/s", "failed/s"]
    assert lines[5].split()[-3:] == ["1.5s", "1m", "15s"]


def test_room_is_shared() -> None:
    assert top_view.share(9, [2, 3, 4]) == [2, 3, 4]
    assert top_view.share(8, [1, 100, 3]) == [1, 4, 3]
    assert top_view.share(1, [5, 5]) == [1, 0]
    assert top_view.share(0, [5]) == [0]


# The terminal


class Screen:
    """A terminal with the command on it."""

    def __init__(self, ours: int, theirs: int, process: subprocess.Popen[bytes]) -> None:
        self.ours, self.theirs, self.process = ours, theirs, process
        self.text = b""

    def read_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.text
            if select.select([self.ours], [], [], 0.05)[0]:
                self.text += os.read(self.ours, 65_536)

    def shows(self, text: str) -> None:
        """It is there, or comes; whatever came before it counts no more."""
        self.read_until(lambda: text.encode() in self.text)
        self.text = self.text.rpartition(text.encode())[2]

    def end(self) -> int:
        """The exit code; what is shown meanwhile is read, so that it does not wait for us."""
        self.read_until(lambda: self.process.poll() is not None)
        while select.select([self.ours], [], [], 0)[0]:
            self.text += os.read(self.ours, 65_536)
        return self.process.returncode


@contextmanager
def terminal(tmp_path: Path, environment: dict[str, str], *arguments: str, **env: str) -> Iterator[Screen]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    keep = {key: value for key, value in environment.items() if key not in ("COLUMNS", "LINES")}
    command = [MAILQ, "top", *arguments]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, cwd=tmp_path, env={**keep, "TERM": "xterm", **env}
    ) as process:
        try:
            yield Screen(ours, theirs, process)
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)


def quit_by_key(screen: Screen) -> None:
    os.write(screen.ours, b"\x1b[Axq")


def interrupt(screen: Screen) -> None:
    screen.process.send_signal(signal.SIGINT)


def terminate(screen: Screen) -> None:
    screen.process.terminate()


@pytest.mark.parametrize(("leave", "code"), [(quit_by_key, 0), (interrupt, 0), (terminate, 143)])
def test_it_leaves_the_terminal_as_it_was(
    tmp_path: Path, environment: dict[str, str], leave: Callable[[Screen], None], code: int
) -> None:
    library.open(tmp_path / "jobs").push("x")
    with terminal(tmp_path, environment, "jobs", "--every", "1h") as screen:
        before = termios.tcgetattr(screen.theirs)
        screen.shows("\x1b[?1049h")
        screen.shows("q quits")
        screen.shows("failed/s")
        during = termios.tcgetattr(screen.theirs)
        assert not during[3] & (termios.ICANON | termios.ECHO)
        began = time.monotonic()
        leave(screen)
        assert screen.end() == code
        assert time.monotonic() - began < 20
        assert termios.tcgetattr(screen.theirs) == before
        assert screen.text.rindex(b"\x1b[?1049l") > screen.text.find(b"\x1b[?1049h")
        assert b"\x1b[?25h" in screen.text


def test_it_looks_again_and_sees_a_queue_go(tmp_path: Path, environment: dict[str, str]) -> None:
    queue = library.open(tmp_path / "jobs")
    with terminal(tmp_path, environment, "jobs", "--every", "0.1s") as screen:
        screen.shows("q quits")
        queue.publish(story(stage="finishing"))
        screen.shows("finishing")
        (tmp_path / "jobs").rename(tmp_path / "away")
        screen.shows("gone")
        (tmp_path / "away").rename(tmp_path / "jobs")
        screen.shows("finishing")
        os.write(screen.ours, b"q")
        assert screen.end() == 0


def test_it_fits_another_size_at_once(tmp_path: Path, environment: dict[str, str]) -> None:
    library.open(tmp_path / ("long" * 20)).push("x")
    with terminal(tmp_path, environment, "long" * 20, "--every", "1h") as screen:
        screen.shows("…")
        fcntl.ioctl(screen.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
        screen.shows("long" * 20)
        os.write(screen.ours, b"Q")
        assert screen.end() == 0


def test_a_dumb_terminal_gets_one_screen(tmp_path: Path, environment: dict[str, str]) -> None:
    library.open(tmp_path / "jobs").push("x")
    with terminal(tmp_path, environment, "jobs", TERM="dumb") as screen:
        assert screen.end() == 0
        assert b"failed/s" in screen.text
        assert b"\x1b" not in screen.text
