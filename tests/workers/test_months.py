"""What lets a worker run for months: it idles cheaply, does not grow, and changes its processes."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import time
from pathlib import Path

import handlers
import pytest
from together import asleep, wait_until
from working import Work, assert_idle

import mailq
from mailq.engines.maildir import notify


@pytest.mark.parametrize("seconds", [pytest.param(3, id="short"), pytest.param(60, id="long", marks=pytest.mark.slow)])
def test_an_idle_worker_sleeps(path: Path, seconds: float) -> None:
    queue = mailq.open(path)
    with Work(path, "handlers:noop", "-c", 4) as worker:
        wait_until(lambda: len(worker.slots()) == 4, "all are there")
        queue.request(None).result(30)
        wait_until(lambda: all(asleep(pid) for pid in worker.processes()), "all have nothing to do")
        # Nothing is waited for: this is the time that is measured.
        assert_idle(worker.processes(), lambda: time.sleep(seconds))
        assert worker.stop() == 0


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    "count", [pytest.param(8000, id="short"), pytest.param(100_000, id="long", marks=pytest.mark.slow)]
)
def test_memory_does_not_grow_with_jobs(path: Path, count: int) -> None:
    queue = mailq.open(path, durability="process-crash")
    with Work(path, "handlers:noop", "-c", 2) as worker:
        sizes = []
        for _ in range(4):
            queue.push_many([{"n": n} for n in range(count // 4)])
            wait_until(lambda: len(queue) == 0, "all is done")
            sizes.append([resident(pid) for pid in worker.processes()])
        assert worker.stop() == 0
    for first, last in zip(sizes[0], sizes[-1], strict=True):  # less than a kilobyte a job
        assert last < first + 8_000_000


def pids(queue: mailq.Queue, count: int) -> list[int]:
    replies = [queue.request(None) for _ in range(count)]
    return [reply.result(30) for reply in replies]


def test_a_process_is_replaced_after_so_many_jobs(path: Path) -> None:
    queue = mailq.open(path)
    with mailq.Worker(queue, handlers.tell_pid, max_jobs=3):
        seen = pids(queue, 9)
    assert [seen.count(pid) for pid in dict.fromkeys(seen)] == [3, 3, 3]


def test_a_process_is_replaced_when_it_is_old(path: Path) -> None:
    queue = mailq.open(path)
    with mailq.Worker(queue, handlers.tell_pid, max_age=0.001):
        assert len(set(pids(queue, 3))) == 3


def test_a_process_is_replaced_when_it_is_too_big(path: Path) -> None:
    queue = mailq.open(path)
    with mailq.Worker(queue, handlers.tell_pid, max_memory=1):
        assert len(set(pids(queue, 3))) == 3
    with mailq.Worker(queue, handlers.tell_pid, max_memory=1 << 40):
        assert len(set(pids(queue, 3))) == 1


@pytest.mark.parametrize(("size", "processes"), [("1k", 3), ("900g", 1)])
def test_the_command_replaces_a_process_that_is_too_big(path: Path, size: str, processes: int) -> None:
    queue = mailq.open(path)
    with Work(path, "handlers:tell_pid", "--max-rss", size) as worker:
        assert len(set(pids(queue, 3))) == processes
        assert worker.stop() == 0
    assert queue.stats() == mailq.Stats()


# A queue that makes trouble


def test_a_queue_that_goes_away_stops_no_other_and_is_worked_again_when_it_is_back(path: Path, tmp_path: Path) -> None:
    queue, other = mailq.open(path), mailq.open(tmp_path / "other")
    with Work(path, tmp_path / "other", "handlers:echo") as worker:
        assert queue.request(1).result(30) == 1
        wait_until(lambda: "attempt 1: ack" in worker.log, "it is acked")  # the reply comes first
        path.rename(tmp_path / "away")
        wait_until(lambda: "the queue is gone" in worker.log, "it is told")
        assert other.request(2).result(30) == 2
        (tmp_path / "away").rename(path)
        assert queue.request(3).result(30) == 3
        assert worker.log.count("the queue is gone") == 1
        assert worker.stop() == 0


def test_a_paused_queue_is_not_worked_and_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = mailq.open(path)
    queue.pause()
    reply = queue.request(1)

    def nobody_answers() -> None:
        with pytest.raises(mailq.ReplyTimeout):
            reply.result(2)

    with Work(path, "handlers:echo") as worker:
        wait_until(lambda: all(asleep(pid) for pid in worker.processes()), "all have nothing to do")
        assert_idle(worker.processes(), nobody_answers)
        queue.resume()
        assert reply.result(notify._LOOK_WATCHED + 30) == 1
        assert worker.stop() == 0


# Being seen


def test_a_worker_tells_its_story(path: Path) -> None:
    queue = mailq.open(path)
    go = path.parent / "go"
    with Work(path, "handlers:hold_until", "-c", 2) as worker:
        queue.request([str(path.parent / "quick"), "/"]).result(30)
        id = queue.push([str(path.parent / "run"), str(go)])

        def are_told() -> bool:
            return [[job["id"] for job in owner.status.get("jobs", [])] for owner in queue.workers()] == [[id]]

        wait_until(are_told, "it tells of the one job that runs")
        (owner,) = queue.workers()
        assert (owner.pid, owner.alive) == (worker.pid, True)
        assert (owner.status["role"], owner.status["stage"], owner.status["slots"]) == ("worker", "running", 2)
        assert (owner.status["done"], owner.status["failed"], len(owner.status["run_times"])) == (1, 0, 3)
        go.touch()
        assert worker.stop() == 0
    assert queue.workers() == []


def test_a_killed_worker_is_listed_as_dead_once(path: Path) -> None:
    queue = mailq.open(path)
    with Work(path, "handlers:noop") as worker:
        wait_until(lambda: bool(queue.workers()), "it is there")
        worker.kill()
    assert [owner.alive for owner in queue.workers()] == [False]
    assert queue.workers() == []


def test_the_log_has_a_line_an_event_with_what_it_is_about(path: Path) -> None:
    queue = mailq.open(path, max_retries=0)
    ids = [queue.push(body) for body in ("none", "raise")]
    with Work(path, "handlers:outcome", "--log-format", "json") as worker:
        wait_until(lambda: len(queue) == 0, "all is done")
        assert worker.stop() == 0
        lines = [json.loads(line) for line in worker.log.splitlines()]
    told = {line["id"]: line for line in lines if "id" in line}
    assert [(told[id]["event"], told[id]["attempt"], told[id]["queue"]) for id in ids] == [
        ("ack", 1, str(path)),
        ("error", 1, str(path)),
    ]
    assert [line["event"] for line in lines if "id" not in line] == ["ready", "stop"]


def test_telemetry_tells_of_jobs(path: Path) -> None:
    queue = mailq.open(path, max_retries=0)
    events: list[mailq.telemetry.Event] = []
    detach = mailq.telemetry.attach(events.append)
    try:
        ids = [queue.push(body) for body in ("none", "raise")]
        mailq.Worker(queue, handlers.outcome).run(drain=True)
    finally:
        detach()
    jobs = [(event.name, event.id) for event in events if event.name.startswith("job.")]
    assert jobs == [("job.start", ids[0]), ("job.stop", ids[0]), ("job.start", ids[1]), ("job.exception", ids[1])]
    stop, failure = (event.facts for event in events if event.name in ("job.stop", "job.exception"))
    assert (stop["attempt"], stop["outcome"], 0 < stop["ran"] < 60) == (1, "ack", True)
    assert (failure["outcome"], "ValueError: no good" in failure["error"]) == ("error", True)


def test_systemd_is_told(path: Path, tmp_path: Path) -> None:
    mailq.open(path)
    code = tmp_path / "changing.py"
    code.write_text("def handle(body): pass\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        told: list[str] = []

        def hear(wanted: str) -> None:
            while not any(line.startswith(wanted) for line in told):
                told.extend(systemd.recv(4096).decode().split("\n"))

        with Work(path, f"{code}:handle", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000") as worker:
            hear("READY=1")
            hear("STATUS=0 done")
            hear("WATCHDOG=1")
            told.clear()
            worker.signal(signal.SIGHUP)
            hear("RELOADING=1")
            hear("MONOTONIC_USEC=")
            hear("READY=1")
            code.write_text("def handle(body) oops\n")
            told.clear()
            worker.signal(signal.SIGHUP)
            hear("RELOADING=1")
            hear("READY=1")
            assert worker.stop() == 0
            hear("STOPPING=1")


def test_a_worker_in_this_process_uses_its_logging(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queue = mailq.open(path)
    id = queue.push("x")
    with caplog.at_level(logging.INFO, "mailq"):
        mailq.Worker(queue, handlers.echo, threads=1).run(drain=True)
    (record,) = [record for record in caplog.records if getattr(record, "id", "") == id]
    assert record.getMessage().startswith(f"job {id} attempt 1: ack after ")
