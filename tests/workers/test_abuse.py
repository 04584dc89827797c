"""Handlers, users and systems that do what nobody should: each was once a lost, stranded or endless job."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import handlers
import pytest
from command import Shell
from together import PATIENCE, asleep, children, family, is_alive, wait_until
from working import HERE, OFTEN, Work, all_settled, assert_the_lease_is_kept, letters

import mailq
from mailq.engines.maildir import watcher
from mailq.workers import job, processes, supervisor, threads

ONCE: dict[str, Any] = {"max_retries": 0, "backoff": (0.01, 0.01), "durability": "process-crash"}


@pytest.mark.parametrize("pool", ["processes", "threads"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_a_handler_forks_settles_nobodys_job(path: Path, pool: str) -> None:
    queue = mailq.open(path, **ONCE)
    replies = [queue.request("fork"), queue.request("slow"), queue.request("slow")]
    mailq.Worker(queue, handlers.fork_and_return, **{pool: 1}).run(drain=True)  # type: ignore[arg-type]
    assert [reply.result(0) for reply in replies] == ["of the parent"] * 3
    assert queue.stats() == mailq.Stats()


def test_what_a_child_of_an_old_job_says_is_not_of_the_next(path: Path) -> None:
    """It says that its message is settled; the next job's lease must be kept all the same."""
    queue = mailq.open(path, **ONCE)
    run, go, said, talk = (str(path.parent / name) for name in ("run", "go", "said", "talk"))
    queue.push_many([["a child that talks", said, talk], [run, go]])
    with Work(path, "handlers:talk_or_hold", beats=OFTEN) as worker:
        wait_until(Path(f"{run}.1").exists, "the next job runs")
        Path(talk).touch()
        wait_until(Path(said).exists, "the child has spoken")
        assert_the_lease_is_kept(queue, lambda: all_settled(queue))
        Path(go).touch()
        wait_until(lambda: all_settled(queue), "it is done")
        assert worker.stop() == 0
    assert queue.stats().dead == 0


def test_a_job_that_never_began_is_given_back_uncounted(path: Path) -> None:
    """Its process died with the order unread."""
    queue = mailq.open(path, backoff=(0.01, 0.01), durability="process-crash")
    with Work(path, "handlers:attempt") as worker:
        (child,) = worker.slots()
        os.kill(child, signal.SIGSTOP)
        reply = queue.request("x")
        wait_until(lambda: queue.stats().leased == 1, "it was given to the process")
        os.kill(child, signal.SIGKILL)
        assert reply.result(30) == 1
        assert worker.stop() == 0


def test_a_script_without_a_guard_is_told_so(path: Path, tmp_path: Path) -> None:
    queue = mailq.open(path)
    id = queue.push("x")
    script = tmp_path / "script.py"
    script.write_text(f"import mailq\ndef handle(body): pass\nmailq.Worker({str(path)!r}, handle).run(drain=True)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert b"put that behind: if __name__ == '__main__'" in done.stderr
    assert queue.get(id).attempt == 1


@pytest.mark.parametrize("handler", [["sh", "-c", "kill 0; exit 1"], "handlers:end_itself"])
def test_a_job_that_interrupts_itself_is_counted(path: Path, handler: Any) -> None:
    queue = mailq.open(path, **ONCE)
    queue.push("x")
    mailq.Worker(queue, handler).run(drain=True)
    assert [outcome for _, outcome, _ in letters(queue)] == ["killed"]


def test_a_late_signal_does_not_hit_the_next_job(path: Path) -> None:
    """The fork server is held up between the wish to end a job and the signal."""
    queue = mailq.open(path, **ONCE)
    run, go = str(path.parent / "run"), path.parent / "go"
    with Work(path, "handlers:hold_until", "--kill-after", "0.1") as worker:
        (forkserver,) = children(worker.pid)
        os.kill(forkserver, signal.SIGSTOP)
        first = queue.push([run, str(go)], timeout=0.2)
        wait_until(lambda: "terminating it" in worker.log, "it is to be ended")
        go.touch()
        next_one = queue.request([run, str(go)])
        wait_until(lambda: first not in {message.id for message in queue.peek("leased")}, "the first is done")
        wait_until(lambda: asleep(worker.pid), "the worker has looked for another")
        assert (queue.stats().ready, queue.stats().leased) == (1, 0)
        os.kill(forkserver, signal.SIGCONT)
        assert next_one.result(30) is None
        assert worker.stop() == 0
    assert queue.stats().dead == 0


def test_a_stopped_fork_server_does_not_keep_the_worker_from_ending(path: Path) -> None:
    queue = mailq.open(path)
    queue.push(3600)
    with Work(path, "handlers:nap", "--grace", "0s") as worker:
        wait_until(lambda: queue.stats().leased == 1, "it runs")
        os.kill(children(worker.pid)[0], signal.SIGSTOP)
        assert worker.stop() == 0
    assert (queue.stats().ready, queue.peek()[0].attempt) == (1, 1)


def test_an_endless_error_is_cut(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    queue.push(50_000_000)
    mailq.Worker(queue, handlers.long_error).run(drain=True)
    assert len(queue.peek("dead")[0].history[0].error or "") <= 65_536


def test_a_sigterm_to_every_process_is_one_to_the_supervisor(path: Path) -> None:
    """So does systemd by default."""
    queue = mailq.open(path)
    go = path.parent / "go"
    queue.push_many([[str(path.parent / f"run{n}"), str(go)] for n in range(4)])
    with Work(path, "handlers:hold_until", "-c", 4) as worker:
        wait_until(lambda: queue.stats().leased == 4, "all run")
        for pid in reversed(worker.processes()):
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: "stopping" in worker.log, "the signal is heard")
        go.touch()
        assert worker.wait() == 0
        assert worker.log.count("attempt 1: ack") == 4


def test_a_sigterm_to_the_commands_too_burns_no_attempt_while_stopping(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    queue.push_many(range(3))
    with Work(path, "-c", 3, "--", "sleep", "3607") as worker:
        wait_until(lambda: len(worker.processes()) == 8, "all run")
        for pid in worker.processes():
            os.kill(pid, signal.SIGTERM)
        assert worker.wait() == 0
    assert [message.attempt for message in queue.peek()] == [1] * 3


def test_a_failure_to_clean_up_is_still_an_interruption(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    runs = path.parent / "runs"
    id = queue.push(str(runs))
    with Work(path, "handlers:fail_to_clean_up", "--grace", "0.1s") as worker:
        wait_until(runs.exists, "it runs")
        assert worker.stop() == 0
    assert (queue.get(id).state, queue.get(id).attempt) == ("ready", 1)
    mailq.Worker(queue, handlers.fail_to_clean_up, timeout=0.2).run(drain=True)
    assert [outcome for _, outcome, _ in letters(queue)] == ["timeout"]


@pytest.mark.parametrize("pool", ["processes", "threads"])
def test_a_limit_that_comes_with_the_end_strands_nothing(path: Path, pool: str) -> None:
    queue = mailq.open(path, max_retries=2, backoff=(0.001, 0.001), durability="process-crash")
    queue.push_many([0.01] * 60)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with mailq.Worker(queue, handlers.almost_at_the_limit, soft_timeout=0.0102, **{pool: 2}):  # type: ignore[arg-type]
            wait_until(lambda: len(queue) == 0, "all is done")
    finally:
        sys.setswitchinterval(interval)
    killed = [letter.id for letter in queue.peek("dead", None) if any(a.outcome == "killed" for a in letter.history)]
    assert killed == []


def test_a_limit_is_called_off_only_when_it_cannot_come_any_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the midst of that it would leave a lock of the timer behind."""
    running: list[object] = []

    class Timer(threading.Timer):
        def cancel(self) -> None:
            thread = threading.current_thread()
            assert isinstance(thread, threads._Thread)
            running.append(thread._running)
            super().cancel()

    monkeypatch.setattr(threading, "Timer", Timer)
    queue = mailq.open(path, **ONCE)
    queue.push("x")
    mailq.Worker(queue, handlers.noop, threads=1, soft_timeout=60).run(drain=True)
    assert running == [None]


def test_reloads_in_quick_succession_leave_only_the_newest_code(path: Path, tmp_path: Path) -> None:
    queue = mailq.open(path)
    code = tmp_path / "changing.py"
    code.write_text("import time\ntime.sleep(0.3)\ndef handle(body): return 0\n")
    with Work(path, f"{code}:handle", "-c", 2) as worker:
        for n in range(1, 6):
            nap = 0 if n == 5 else 1
            code.write_text(f"import time\ntime.sleep({nap})\ndef handle(body): return {n}{' ' * n}\n")
            worker.signal(signal.SIGHUP)
            wait_until(lambda n=n: worker.log.count("loading the handlers again") == n, "the reload is heard")  # type: ignore[misc]
        wait_until(lambda: queue.request("x").result(30) == 5, "the newest is there")
        wait_until(lambda: len(worker.slots()) == 2, "the others are gone")
        assert {queue.request("x").result(30) for _ in range(20)} == {5}
        assert worker.stop() == 0


def test_processes_go_on_past_their_time_if_the_code_does_not_load_any_more(path: Path, tmp_path: Path) -> None:
    queue = mailq.open(path)
    code = tmp_path / "changing.py"
    code.write_text("def handle(body): return 'fine'\n")
    with Work(path, f"{code}:handle", "--max-jobs", 2) as worker:
        assert queue.request("x").result(30) == "fine"
        code.write_text("def handle(body) oops\n")
        assert [queue.request("x").result(60) for _ in range(5)] == ["fine"] * 5
        assert "SyntaxError" in worker.log
        assert worker.stop() == 0


EMBEDDED = """
import os, sys, time, mailq
if __name__ == "__main__":
    worker = mailq.Worker(sys.argv[1], "handlers:nap", **{sys.argv[2]: 1})
    worker.start()
    while sys.argv[2] == "threads" and not worker._supervisor._pool._beats:  # until what keeps the leases is there
        time.sleep(0.001)
    os.fork()
    time.sleep(3600)
"""


@pytest.mark.parametrize(("pool", "count"), [("processes", 4), ("threads", 3)])
def test_a_fork_of_the_program_does_not_keep_its_dead_workers_alive(
    path: Path, tmp_path: Path, pool: str, count: int
) -> None:
    queue = mailq.open(path)
    queue.push(3600)
    (tmp_path / "program.py").write_text(EMBEDDED)
    environment = {**os.environ, "PYTHONPATH": HERE, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen([sys.executable, tmp_path / "program.py", path, pool], env=environment) as program:
        wait_until(lambda: queue.stats().leased == 1, "it runs")
        wait_until(lambda: len(family(program.pid)) >= count, "it was forked")
        everybody = family(program.pid)
        program.kill()
        try:
            wait_until(lambda: sum(map(is_alive, everybody)) == 1, "only the fork is left")
        finally:
            for pid in filter(is_alive, everybody):
                os.kill(pid, signal.SIGKILL)


def test_drain_sees_what_its_own_jobs_push_also_without_inotify(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "watch", lambda *_: None)
    queue = mailq.open(path, durability="process-crash")
    queue.push_many([30, 0])
    # Two, of which one idles from then on: to the worker there is nothing more yet.
    mailq.Worker(queue, handlers.push_the_next_when_two_are_at_work, processes=2).run(drain=True)
    assert queue.stats() == mailq.Stats()


def test_drain_finishes_what_it_can_when_a_queue_breaks(path: Path, tmp_path: Path) -> None:
    whole, broken = mailq.open(path, **ONCE), mailq.open(tmp_path / "broken", **ONCE)
    whole.push_many([0.3] * 3)
    worker = mailq.Worker([whole, broken], handlers.nap)
    (tmp_path / "broken" / "mailq.toml").unlink()
    with pytest.raises(mailq.QueueNotFound):
        worker.run(drain=True)
    assert whole.stats() == mailq.Stats()


def test_workers_that_come_and_go_leave_nothing_in_the_process(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    counts = []
    for _ in range(8):
        for options in ({"threads": 2}, {"processes": 1}):
            queue.push("x")
            mailq.Worker(queue, handlers.noop, **options).run(drain=True)  # type: ignore[arg-type]
        gc.collect()
        counts.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
    assert counts[-1] == counts[1]


def test_a_queue_that_an_app_names_as_a_url_is_opened_once(path: Path, tmp_path: Path) -> None:
    mailq.open(path)
    (tmp_path / "tasks.py").write_text(
        f"import mailq\napp = mailq.App('maildir://{path}')\n@app.task\ndef one(): return 1\n"
    )
    queue = mailq.open(path)
    with Work(f"{tmp_path}/tasks.py:app", "--max-jobs", 1) as worker:
        assert queue.request({"task": "one"}).result(30) == 1  # by now it has opened what it needs
        before = len(os.listdir(f"/proc/{worker.pid}/fd"))
        for _ in range(6):
            assert queue.request({"task": "one"}).result(30) == 1
        wait_until(lambda: len(os.listdir(f"/proc/{worker.pid}/fd")) <= before + 2, "nothing piles up")
        assert worker.stop() == 0
    assert os.listdir(path / "owners") == []


def test_an_app_does_not_make_the_queues_that_it_works_for(tmp_path: Path, mailq: Shell) -> None:
    (tmp_path / "tasks.py").write_text(f"import mailq\napp = mailq.App('{tmp_path}/missing')\n")
    assert b"there is no queue here" in mailq("work", "tasks:app", code=1).stderr
    assert not (tmp_path / "missing").exists()


def test_a_bound_method_and_a_closure_are_refused(path: Path) -> None:
    class Local:
        def handle(self, body: Any) -> None:
            pass

    queue = mailq.open(path)
    with pytest.raises(mailq.UsageError, match="cannot be loaded by another process"):
        mailq.Worker(queue, Local().handle)
    with pytest.raises(mailq.UsageError, match="is something else"):
        mailq.Worker(queue, threading.Thread().join)


def test_a_handler_may_settle_early_and_work_on(path: Path) -> None:
    queue = mailq.open(path)
    done = path.parent / "done"
    queue.push(str(done))
    with Work(path, "handlers:ack_early", "--kill-on-lost-lease", beats=OFTEN) as worker:
        wait_until(done.exists, "it worked on")
        wait_until(lambda: "settled after" in worker.log, "it ended")
        assert "lost its lease" not in worker.log
        assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["processes", "threads"])
def test_a_heartbeat_between_the_settling_and_the_word_of_it_takes_no_lease_for_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, pool: str
) -> None:
    monkeypatch.setattr(job, "_BEATS", OFTEN)
    monkeypatch.setattr(supervisor, "_MOMENT", 3600.0)
    monkeypatch.setattr(threads, "_has_heartbeat", lambda job: False)  # another process's heartbeats are not seen here
    missed = threading.Event()
    extend = mailq.Delivery.extend

    def extend_or_miss(delivery: mailq.Delivery, seconds: float) -> None:
        try:
            extend(delivery, seconds)
        except mailq.LeaseLost:
            missed.set()
            raise

    monkeypatch.setattr(mailq.Delivery, "extend", extend_or_miss)
    queue = mailq.open(path)
    done, go = path.parent / "done", path.parent / "go"
    queue.push([str(done), str(go)])
    with mailq.Worker(queue, handlers.ack_and_tell_late, kill_on_lost_lease=True, **{pool: 1}):  # type: ignore[arg-type]
        assert missed.wait(PATIENCE)
        go.touch()
        wait_until(lambda: done.exists() or "lost its lease" in caplog.text, "it worked on")
    assert "lost its lease" not in caplog.text


def test_a_job_may_stop_its_own_worker(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    queue.push("x")
    ended = threading.Event()

    def stop(body: Any) -> None:
        worker.stop()
        ended.set()

    worker = mailq.Worker(queue, stop, threads=1)
    worker.start()
    assert ended.wait(30)
    worker.stop()
    assert queue.stats() == mailq.Stats()


def test_a_callback_may_stop_its_worker(path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    ended = threading.Event()

    def stop(_story: dict[str, Any]) -> None:
        worker.stop()
        assert worker._supervisor is not None  # it runs on until this returns
        ended.set()

    worker = mailq.Worker(queue, handlers.echo, threads=1, on_change=stop)
    worker.start()
    assert ended.wait(30)
    worker.stop()
    with pytest.raises(TimeoutError):
        queue.request(1).result(0.01)


def test_a_callback_that_fails_stops_nothing(path: Path) -> None:
    queue = mailq.open(path, **ONCE)

    def fail(story: dict[str, Any]) -> None:
        raise ValueError(story)

    with mailq.Worker(queue, handlers.echo, threads=1, on_change=fail):
        assert queue.request(1).result(30) == 1


@pytest.mark.parametrize("limits", [{"timeout": "90s"}, {"soft_timeout": -1}, {"timeout": 0}])
def test_a_task_with_a_senseless_limit_is_refused_at_once(limits: dict[str, Any]) -> None:
    with pytest.raises(mailq.UsageError, match="timeout is"):
        mailq.App("memory://").task(**limits)(handlers.noop)


NEVER = (float("nan"), float("inf"), -1e300, 1e300)


def test_a_foreign_story_does_not_break_the_list(mailq: Shell, tmp_path: Path) -> None:
    mailq("init", "jobs")
    identity = {"host": "elsewhere", "boot": "other", "pid": 7, "since": 1.5}
    stories: list[dict[str, Any]] = [
        {"jobs": [1]},
        {"jobs": [{"id": 7}]},
        {"stage": [], "done": {}},
        {"since": 10**400},
        *({"since": never} for never in NEVER),
        *({"jobs": [{"id": "x", "since": never}]} for never in NEVER),
    ]
    for n, story in enumerate(stories):
        (tmp_path / "jobs" / "owners" / f"{n}").write_text(json.dumps({**identity, **story}))
    assert mailq("workers", "jobs").stdout.count(b"\n") == len(stories)


def test_a_foreign_story_cannot_pass_itself_off_as_another(mailq: Shell, tmp_path: Path) -> None:
    mailq("init", "jobs")
    story = {"host": "elsewhere", "boot": "other", "pid": 7, "since": 1.5, "slots": 2}
    lie = {"token": "another", "alive": False, "status": "none"}
    (tmp_path / "jobs" / "owners" / "cafe").write_text(json.dumps({**story, **lie}))
    told = json.loads(mailq("workers", "jobs", "--json").stdout)
    assert told["alive"]
    assert told == {
        "slots": 2,
        "status": "none",
        "token": "cafe",
        "host": "elsewhere",
        "pid": 7,
        "since": 1.5,
        "alive": True,
    }


def test_what_a_job_says_does_not_steer_the_terminal(path: Path, tmp_path: Path) -> None:
    queue = mailq.open(path, **ONCE)
    queue.push("x")
    (tmp_path / "evil.py").write_text("def handle(body):\n    raise ValueError('\\033[2Jevil\\007')\n")
    with Work(path, f"{tmp_path}/evil.py:handle") as worker:
        wait_until(lambda: all_settled(queue), "it failed")
        wait_until(lambda: "error after" in worker.log, "it is told")
        assert "evil" in worker.log
        assert "\033" not in worker.log
        assert worker.stop() == 0


def test_hundreds_of_processes_start(path: Path) -> None:
    """More than fit into the sockets between supervisor and fork server."""
    queue = mailq.open(path, **ONCE)
    code = path.parent / "small.py"  # quickly loaded, three hundred times
    code.write_text("def handle(body): pass\n")
    with Work(path, f"{code}:handle", "-c", 300) as worker:
        wait_until(lambda: len(worker.slots()) == 300, "all are there")
        queue.push_many(range(1000))
        wait_until(lambda: all_settled(queue), "all is done")
        assert worker.stop() == 0


def test_a_kill_while_the_worker_starts_is_forgiven(path: Path) -> None:
    queue = mailq.open(path)
    worker = Work(path, "handlers:echo")
    wait_until(lambda: len(children(worker.pid)) == 1, "the fork server is there")
    os.kill(children(worker.pid)[0], signal.SIGKILL)
    with worker:
        assert queue.request(1).result(30) == 1
        assert worker.stop() == 0


def test_code_that_takes_its_process_with_it_does_not_start_for_ever(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_FIRST_DELAY", 0.05)
    mailq.open(path)
    (tmp_path / "deadly.py").write_text("import os\nos.kill(os.getpid(), 9)\ndef handle(body): pass\n")
    with pytest.raises(mailq.WorkerFailed, match="died while it was starting: killed by SIGKILL"):
        mailq.Worker(path, f"{tmp_path}/deadly.py:handle").run()
