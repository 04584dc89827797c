from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from together import PATIENCE, wait_until

import mailq

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parent.parent / "examples"
FIBONACCI = EXAMPLES / "fibonacci.py"
STRESS = EXAMPLES / "stress.py"
PLACE = "FIBONACCI_QUEUE"
SHORT = ("--seconds", "3", "--rate", "50", "--kill-every", "1")


def run(script: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, script, *arguments],
        env={**{key: value for key, value in os.environ.items() if key != PLACE}, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def figures(printed: str) -> dict[str, Any]:
    """The lines that end with a number, by what stands before it."""
    found = re.findall(r"^(.+) (-?[\d.]+)$", printed, re.MULTILINE)
    return {name.strip(): float(number) if "." in number else int(number) for name, number in found}


# Fibonacci


@pytest.fixture
def fibonacci(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The example as a module of its own, with a queue of its own."""
    monkeypatch.setenv(PLACE, str(tmp_path / "jobs"))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "fibonacci", raising=False)
    module = importlib.import_module("fibonacci")
    yield module
    if (tmp_path / "jobs").exists():
        module.app.queue().close()


def test_the_replies_of_the_three_ways_are_compared_and_the_overflow_is_a_dead_letter() -> None:
    done = run(FIBONACCI, "--numbers", "10", "--seed", "7")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert all("OverflowError" in line for line in done.stderr.splitlines())  # what the worker says of its own accord
    said = figures(done.stdout)
    assert (said["F(10)"], said["F(25)"], said["F(90)"]) == (55, 75025, 2880067194370816120)
    assert said["F(100)"] == 354224848179261915075
    assert (
        said["exact replies"] + said["binet right"] + said["binet wrong"] + said["dead letters"] + 1
        == (said["requests"])
    )
    assert (said["binet right"], said["binet first wrong at"], said["binet right again after that"]) == (72, 72, 0)
    assert (said["binet first overflows at"], said["dead letters"], said["dead letter attempts"]) == (605, 1, 2)
    assert re.search(
        r"^  binet\(605\), retries:\n  \| Traceback .*\n(  \| .*\n)*  \| OverflowError: ", done.stdout, re.MULTILINE
    )
    assert (said["slow job's attempts"], said["slow job's seconds"]) == (1, 3)
    assert said["slow job's lease, the queue's being 2:"] == 30
    assert said["mistakes"] == 0
    assert said["seconds"] >= 3


@pytest.mark.parametrize(
    "arguments", [("--numbers", "many"), ("--slow", "2"), ("--workers", "1"), ("--numbers", "-1"), ("surplus",)]
)
def test_fibonacci_refuses_nonsense(arguments: tuple[str, ...]) -> None:
    done = run(FIBONACCI, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "fibonacci: error: " in done.stderr


def test_fibonacci_refuses_a_queue_that_is_in_use(tmp_path: Path) -> None:
    with mailq.open(tmp_path / "jobs", lease=2.0, backoff=(0.05, 0.2)) as queue:
        queue.push("somebody's")
    done = run(FIBONACCI, **{PLACE: str(tmp_path / "jobs")})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_seed_chooses_the_same_numbers_again(fibonacci: Any) -> None:
    assert fibonacci.choose(50, 3) == fibonacci.choose(50, 3) != fibonacci.choose(50, 4)
    for seed in range(20):
        numbers = fibonacci.choose(600, seed)
        assert len(set(numbers)) == len(numbers)
        assert {*range(101), 604, 605} <= set(numbers) <= set(range(606))


def test_what_replies_are_compared_with_is_right(fibonacci: Any) -> None:
    assert [fibonacci.plain(n) for n in range(1000)] == [fibonacci.iterative(n) for n in range(1000)]
    assert [fibonacci.plain(n) for n in range(16)] == [fibonacci.recursive(n) for n in range(16)]


def test_the_figures_of_the_formula_are_those_of_the_replies(fibonacci: Any) -> None:
    right = {("binet", n): fibonacci.plain(n) for n in (80, 7, 90)}
    formula = fibonacci.Binet({("binet", 84): 1, **right, ("binet", 95): "OverflowError: so", ("iterative", 8): 5})
    assert (formula.right, formula.wrong, formula.failed, formula.right_again) == ([7, 80, 90], [84], [95], [90])
    assert fibonacci.Binet(right).right_again == []


@pytest.mark.parametrize(
    ("way", "n", "answer", "mistakes"),
    [
        ("iterative", 90, 2880067194370816120, 0),
        ("iterative", 90, 2880067194370816121, 1),
        ("recursive", 9, 33, 1),
        ("binet", 71, 308061521170129, 0),
        ("binet", 72, 498454011879264, 1),  # right, but not what the formula gives
        ("binet", 605, 1, 1),
        ("binet", 605, "OverflowError: (34, 'Numerical result out of range')", 1),  # and no dead letter
        ("iterative", 9, "OverflowError", 2),
    ],
)
def test_a_wrong_answer_is_a_mistake(fibonacci: Any, way: str, n: int, answer: int | str, mistakes: int) -> None:
    assert len(fibonacci.find_mistakes({(way, n): answer, ("iterative", 10): 55}, [])) == mistakes


@pytest.mark.parametrize("falsified", ["a number", "an overflow", "the attempts"])
def test_a_falsified_reply_makes_the_whole_run_fail(
    fibonacci: Any, falsified: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collect = fibonacci.collect

    def falsify(replies: Any) -> Any:
        answers = collect(replies)
        if falsified == "a number":
            answers["iterative", 90] += 1
        elif falsified == "an overflow":
            answers["binet", 605] = fibonacci.plain(605)
        return answers

    monkeypatch.setattr(fibonacci, "collect", falsify)
    if falsified == "the attempts":
        monkeypatch.setattr(fibonacci.SlowJob, "attempts", [1, 2])
    assert fibonacci.main(["--numbers", "1"]) == 1
    printed = capsys.readouterr().out
    mistakes = {
        "a number": ["wrong: iterative(90) is 2880067194370816121, should be 2880067194370816120"],
        "an overflow": ["wrong: binet(605) is", "the dead letters are [['binet', 605]], should be []"],
        "the attempts": ["the slow job was taken back: attempts [1, 2]"],
    }[falsified]
    assert all(f"\n{line}" in printed for line in mistakes), printed
    assert figures(printed)["mistakes"] == len(mistakes)


# Stress


@pytest.fixture
def stress(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("stress")


def test_the_books_balance_whoever_is_killed(tmp_path: Path) -> None:
    done = run(STRESS, *SHORT, "--dir", tmp_path / "queues")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    said = figures(done.stdout)
    assert said["pushed"] == said["acked"] + said["dead"]
    assert (said["lost"], said["workers left"], said["mistakes"]) == (0, 0, 0)
    assert said["workers killed"] >= 1
    kinds = ("ok", "fail", "fail once", "hang", "hang once", "die", "die once")
    assert min(said[kind] for kind in kinds) >= 1
    assert sum(said[kind] for kind in kinds) == said["pushed"]
    assert said["dead"] - said["dead by bad luck"] == said["fail"] + said["hang"] + said["die"]
    assert_the_dead_tell_how_they_died(tmp_path / "queues", said)


def assert_the_dead_tell_how_they_died(place: Path, said: dict[str, Any]) -> None:
    with mailq.open(place / "dead", create=False) as graves:
        letters = graves.peek("ready", limit=None)
        assert len(letters) == said["dead"]
        assert {letter.origin for letter in letters} == {str(place / "red"), str(place / "blue")}
        ends = {"fail": "error", "hang": "timeout", "die": "killed"}
        for letter in letters:
            outcomes = {attempt.outcome for attempt in letter.history}
            assert len(letter.history) == 4
            assert outcomes <= {"killed", "timeout", ends.get(letter.body["kind"], "error")}
            assert ends.get(letter.body["kind"], "killed") in outcomes
    for name in ("red", "blue"):
        assert "Traceback" not in (place / f"{name}.log").read_text()
        with mailq.open(place / name, create=False) as queue:
            assert len(queue) == 0


def test_each_kind_of_job_comes_soon(stress: Any) -> None:
    assert {stress.kind_of(number) for number in range(78)} == {*stress.RARE.values(), *stress.COMMON.values(), "ok"}
    counts = Counter(stress.kind_of(number) for number in range(1000))
    assert counts["hang"] == counts["die"] == 1
    assert counts["fail"] == 10


@pytest.mark.parametrize("arguments", [("--seconds", "0"), ("--rate", "fast"), ("--kill-every", "-1"), ("surplus",)])
def test_stress_refuses_nonsense(arguments: tuple[str, ...]) -> None:
    done = run(STRESS, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "stress: error: " in done.stderr


def test_stress_refuses_a_directory_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    done = run(STRESS, "--dir", tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("falsified", ["the log forgets", "a dead letter is taken", "a message is taken"])
def test_falsified_books_make_the_whole_run_fail(
    stress: Any,
    tmp_path: Path,
    falsified: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read_log, close_books, push_all = stress.read_log, stress.close_books, stress.push_all

    def forget(location: str) -> Counter[str]:
        done: Counter[str] = read_log(location)
        if location.endswith("red"):
            del done[min(done)]
        return done

    def take_a_letter(pushed: Any, queues: Any, graves: mailq.Queue) -> Any:
        with graves.pop() as body:  # type: ignore[union-attr] # there is one
            assert body["kind"] in stress.HOPELESS
        return close_books(pushed, queues, graves)

    def take_a_message(queues: Any, workers: Any, options: argparse.Namespace) -> Any:
        id = queues[0].push({"kind": "ok"}, delay=60)
        assert queues[0].purge("delayed") == 1
        return {**push_all(queues, workers, options), id: "ok"}

    name, instead = {
        "the log forgets": ("read_log", forget),
        "a dead letter is taken": ("close_books", take_a_letter),
        "a message is taken": ("push_all", take_a_message),
    }[falsified]
    monkeypatch.setattr(stress, name, instead)
    arguments = ["--seconds", "1", "--rate", "100", "--dir", str(tmp_path / "queues")]
    assert stress.main(arguments) == 1
    said = figures(printed := capsys.readouterr().out)
    assert (said["lost"], said["mistakes"]) == (1, 2)
    assert said["pushed"] == said["acked"] + said["dead"] + 1
    assert re.search(r"^lost: [0-9a-f]{32}, \w+$", printed, re.MULTILINE)


A, B = "a" * 32, "b" * 32


@pytest.mark.parametrize(
    ("entries", "mistakes"),
    [
        ({"done": [A]}, []),
        ({"done": [A, A]}, []),
        ({"dead": [A], "mourned": {A}}, []),
        ({"done": [A], "dead": [A], "mourned": {A}}, []),
        ({}, ["lost", "1 pushed are not 0 acked and 0 dead"]),
        ({"waiting": {A}}, ["still in the queue", "1 pushed are not 0 acked and 0 dead"]),
        ({"done": [A], "waiting": {A}}, ["still in the queue", "1 pushed are not 0 acked and 0 dead"]),
        ({"done": [A, B]}, ["never pushed"]),
        ({"done": [A], "dead": [B], "mourned": {B}}, ["never pushed"]),
        ({"dead": [A]}, ["dead in one place only"]),
        ({"done": [A], "mourned": {A}}, ["dead in one place only"]),
        ({"dead": [A, A], "mourned": {A}}, ["dead more than once"]),
        ({"kind": "fail", "done": [A]}, ["done, though it never succeeds"]),
        ({"kind": "fail", "dead": [A], "mourned": {A}}, []),
    ],
)
def test_each_kind_of_mistake_is_told_from_the_others(
    stress: Any, entries: dict[str, Any], mistakes: list[str]
) -> None:
    books = stress.Books(
        pushed={A: entries.get("kind", "ok")},
        done=Counter(entries.get("done", ())),
        dead=Counter(entries.get("dead", ())),
        mourned=set(entries.get("mourned", ())),
        waiting=set(entries.get("waiting", ())),
    )
    assert [line.partition(":")[0] for line in stress.find_mistakes(books)] == mistakes


def test_what_was_done_and_died_is_dead_once_in_the_books(stress: Any) -> None:
    books = stress.Books({A: "ok", B: "fail"}, Counter({A: 2}), Counter([A, B]), {A, B})
    assert (books.acked, books.buried, books.lost) == (set(), {A, B}, set())
    assert (books.done_and_dead, books.run_twice, books.unlucky) == ({A}, {A}, {A})


def test_a_worker_is_gone_when_all_its_processes_are(stress: Any, tmp_path: Path) -> None:
    with mailq.open(tmp_path / "red") as queue:
        worker = stress.Worker(queue.location)
        queue.push({"kind": "hang"}, timeout=60)
        wait_until(lambda: queue.stats().leased == 1, "it works")
        assert not worker.is_gone()
        worker.kill()
        wait_until(worker.is_gone, "it is gone")


def test_workers_that_are_only_starting_end_as_they_are_meant_to(stress: Any, tmp_path: Path) -> None:
    with mailq.open(tmp_path / "red") as queue:
        workers = stress.Workers([queue.location])
        workers.stop()
        assert workers.failures == []
        assert workers.left() == 0


def test_stress_that_is_terminated_leaves_no_worker(tmp_path: Path) -> None:
    command = [sys.executable, str(STRESS), "--rate", "20", "--dir", str(tmp_path / "queues")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        done = [tmp_path / "queues" / f"{name}.done" for name in ("red", "blue")]
        wait_until(lambda: all(path.exists() for path in done), "both work")
        program.send_signal(signal.SIGTERM)
        assert program.wait(PATIENCE) == 130
    listed = subprocess.run(["ps", "-axo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "queues") not in listed
