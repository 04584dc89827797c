from __future__ import annotations

import email
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from together import PATIENCE

import mailq

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
CHECKSUM_TREE = ROOT / "examples" / "checksum_tree.py"

DIGEST, OTHER = "ab" * 32, "cd" * 32
ODD = b"/odd\xff\nname"


def run(script: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, script, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def numbers(printed: str) -> dict[str, int]:
    """What the example says that it did."""
    found = re.search(
        r"^(?P<files>\d+) files, (?P<bytes>\d+) bytes under .*"
        r"^pushed (?P<pushed>\d+) jobs in .*"
        r"^did (?P<done>\d+) jobs in [\d.]+ s: \d+ jobs/s$.*"
        r"^redeliveries: (?P<redeliveries>\d+), duplicates: (?P<duplicates>\d+), unreadable: (?P<unreadable>\d+)$.*"
        r"^compared with a plain pass: (?P<compared>\d+) files, (?P<differences>\d+) differences$",
        printed,
        re.MULTILINE | re.DOTALL,
    )
    assert found, printed
    return {name: int(text) for name, text in found.groupdict().items()}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example as a module; its consumers are started from it as well."""
    monkeypatch.syspath_prepend(str(CHECKSUM_TREE.parent))
    return importlib.import_module("checksum_tree")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Some thirty files, with names and kinds that are easily got wrong."""
    root = tmp_path / "tree"
    (root / "deep" / "er").mkdir(parents=True)
    for number in range(20):
        (root / "deep" / f"{number}.txt").write_bytes(os.urandom(number * 100))
    (root / "deep" / "er" / "__pycache__").mkdir()
    (root / "deep" / "er" / "__pycache__" / "kept.pyc").write_text("a named directory is taken whole")
    for name in ("empty", ".hidden", "-dash", "two\nlines", " spaces ", "quo'te\"s", "é", "x" * 255, "a,b=c.json"):
        (root / name).write_text("" if name == "empty" else name)
    if sys.platform == "linux":  # elsewhere file names must be text
        Path(os.fsdecode(os.path.join(os.fsencode(root), b"not utf-8 \xff\xfe"))).write_text("bytes")
    (root / "link").symlink_to("/etc/passwd")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "fifo")
    return root


def regular_files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]


# A whole run


@pytest.mark.parametrize(("consumers", "kill_at"), [(1, 0), (4, 50), (2, 100)])
def test_every_file_of_an_odd_tree_comes_out_right(tree: Path, consumers: int, kill_at: int) -> None:
    done = run(CHECKSUM_TREE, tree, "-c", str(consumers), "--kill-at", str(kill_at))
    assert (done.returncode, done.stderr) == (0, "")
    expected = regular_files(tree)
    said = numbers(done.stdout)
    assert {said[name] for name in ("files", "pushed", "done", "compared")} == {len(expected)}
    assert said["bytes"] == sum(path.stat().st_size for path in expected)
    assert (said["differences"], said["unreadable"]) == (0, 0)


def test_a_consumer_is_killed_half_way_and_nothing_is_missing(tmp_path: Path) -> None:
    for module in (json, email):
        package = Path(module.__path__[0])
        shutil.copytree(package, tmp_path / "tree" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    for copy in range(60):
        shutil.copytree(tmp_path / "tree" / "json", tmp_path / "tree" / f"json{copy}")
    done = run(CHECKSUM_TREE, tmp_path / "tree")
    assert (done.returncode, done.stderr) == (0, "")
    said = numbers(done.stdout)
    assert said["differences"] == 0
    killed = re.search(r"^killed consumer \d+ \(process \d+\) after (\d+) of (\d+) files$", done.stdout, re.MULTILINE)
    assert killed, done.stdout
    assert said["files"] // 2 <= int(killed[1]) <= int(killed[2]) == said["files"]


@pytest.mark.parametrize("bodies", [[], [b""], [b"one"]], ids=["no-file", "an-empty-file", "one-file"])
def test_hardly_anything_to_do_is_done_too(tmp_path: Path, bodies: list[bytes]) -> None:
    (tmp_path / "tree").mkdir()
    for body in bodies:
        (tmp_path / "tree" / "file").write_bytes(body)
    done = run(CHECKSUM_TREE, tmp_path / "tree")
    assert (done.returncode, done.stderr) == (0, "")
    said = numbers(done.stdout)
    assert (said["files"], said["bytes"], said["differences"]) == (len(bodies), len(b"".join(bodies)), 0)


def test_the_standard_library_is_taken_without_what_python_writes_there(example: Any) -> None:
    root = os.fsencode(sysconfig.get_path("stdlib"))
    found = example.find_files(root, leave_out=example.NOT_THE_LIBRARY)
    assert os.path.join(root, b"json", b"decoder.py") in found
    assert not [path for path in found if {b"__pycache__", b"site-packages"} & set(path.split(os.sep.encode()))]


def test_no_temporary_queue_is_left_behind(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    assert run(CHECKSUM_TREE, tree, TMPDIR=str(tmp_path / "tmp")).returncode == 0
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_queues_can_be_kept(tree: Path, tmp_path: Path) -> None:
    assert run(CHECKSUM_TREE, tree, "--keep", tmp_path / "kept").returncode == 0
    for name in ("jobs", "results"):
        with mailq.open(tmp_path / "kept" / name, create=False) as kept:
            assert (len(kept), kept.stats().dead) == (0, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_a_terminal_gets_a_bar(tree: Path) -> None:
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, CHECKSUM_TREE, tree], stdout=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65_536):
                shown += chunk
        except OSError:  # how Linux says that the other side is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    total = len(regular_files(tree))
    assert "━" in shown.decode()
    assert f"{total}/{total}" in shown.decode()
    assert f"done {total}" not in shown.decode()


# What it refuses


@pytest.mark.parametrize(
    "arguments", [["missing"], ["file"], ["directory", "--keep", "directory"]], ids=["missing", "a-file", "keep-in-use"]
)
def test_what_cannot_begin_is_one_clear_line(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "something").touch()
    paths = [argument if argument[0] == "-" else str(tmp_path / argument) for argument in arguments]
    done = run(CHECKSUM_TREE, *paths)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"checksum_tree: .*; pass a .*\n|checksum_tree: .* is not empty; pass .*\n", done.stderr)
    assert arguments[-1] in done.stderr


@pytest.mark.parametrize("arguments", [["-c", "0"], ["-c", "many"], ["--kill-at", "101"], ["--kill-at", "nan"]])
def test_senseless_options_are_usage_errors(tmp_path: Path, arguments: list[str]) -> None:
    done = run(CHECKSUM_TREE, tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"checksum_tree: error: argument {arguments[0]}")


def test_its_help_has_an_example() -> None:
    assert "Example: python examples/checksum_tree.py" in run(CHECKSUM_TREE, "--help").stdout


# What it finds out


@pytest.mark.parametrize(
    ("expected", "digests", "unreadable", "difference"),
    [
        (DIGEST, {DIGEST}, set(), None),
        (None, set(), {ODD}, None),
        (DIGEST, set(), set(), "missing"),
        (None, set(), set(), "missing"),
        (DIGEST, {OTHER}, set(), "wrong"),
        (DIGEST, {DIGEST, OTHER}, set(), "two consumers disagree"),
        (None, {DIGEST}, set(), "read by a consumer, but not by the plain pass"),
        (DIGEST, set(), {ODD}, "given up by a consumer, but read by the plain pass"),
        (DIGEST, {DIGEST}, {ODD}, "given up by a consumer, but read by the plain pass"),
    ],
)
def test_each_kind_of_difference_is_told_from_the_others(
    example: Any, expected: str | None, digests: set[str], unreadable: set[bytes], difference: str | None
) -> None:
    path = ODD
    told = example.compare({b"/right": DIGEST, path: expected}, {b"/right": {DIGEST}, path: digests}, unreadable)
    assert [line.partition(":")[0] for line in told] == ([] if difference is None else [difference])
    assert all(r"/odd\udcff\nname" in line for line in told)


def test_a_file_that_nobody_asked_for_is_a_difference(example: Any) -> None:
    assert example.compare({}, {b"/a": {DIGEST}}, {b"/b"}) != []
    assert len(example.compare({}, {b"/a": {DIGEST}}, {b"/b"})) == 2


@pytest.mark.parametrize("falsified", ["wrong", "missing"])
def test_a_falsified_result_makes_the_whole_run_fail(
    example: Any,
    tree: Path,
    falsified: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = example.work

    def falsify(*arguments: Any, **options: Any) -> Any:
        outcome = work(*arguments, **options)
        victim = os.fsencode(tree / "empty")
        if falsified == "wrong":
            outcome.digests[victim] = {OTHER}
        else:
            del outcome.digests[victim]
        return outcome

    monkeypatch.setattr(example, "work", falsify)
    assert example.main([str(tree), "-c", "1"]) == 1
    printed = capsys.readouterr().out
    assert numbers(printed)["differences"] == 1
    assert re.search(rf"^{falsified}: '{re.escape(str(tree / 'empty'))}'", printed, re.MULTILINE)


# What happens inside


@pytest.fixture
def do_jobs(example: Any, tree: Path, tmp_path: Path) -> Callable[..., Any]:
    """Do the jobs of the tree, after something else has happened to the queues."""

    def do(before: Callable[[mailq.Queue, mailq.Queue, list[bytes]], None], extra: bytes | None = None) -> Any:
        paths = sorted(example.find_files(os.fsencode(tree)))
        paths += [extra] if extra else []
        with mailq.open(tmp_path / "jobs", lease=600) as jobs, mailq.open(tmp_path / "results") as results:
            jobs.push_many(paths)
            before(jobs, results, paths)
            outcome = example.work(jobs, results, len(paths), consumers=2, kill_at=50)
        return outcome, example.compare(example.plain_pass(paths), outcome.digests, outcome.unreadable)

    return do


def test_the_job_of_a_consumer_that_died_is_redelivered(do_jobs: Callable[..., Any]) -> None:
    def die_with_a_job(jobs: mailq.Queue, results: mailq.Queue, paths: list[bytes]) -> None:
        code = "import mailq, sys; held = mailq.open(sys.argv[1]).pop(); print(held.id, flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", code, jobs.location]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline()
            victim.kill()

    outcome, differences = do_jobs(die_with_a_job)
    assert differences == []
    assert outcome.redelivered >= 1


def test_a_job_that_was_finished_but_not_acked_is_a_duplicate_that_agrees(example: Any, do_jobs: Any) -> None:
    def finish_without_ack(jobs: mailq.Queue, results: mailq.Queue, paths: list[bytes]) -> None:
        results.push(paths[0], headers={"sha256": example.checksum(paths[0]), "attempt": "1"})

    outcome, differences = do_jobs(finish_without_ack)
    assert differences == []
    assert outcome.duplicates >= 1


def test_duplicates_that_disagree_are_a_difference(do_jobs: Callable[..., Any]) -> None:
    def lie(jobs: mailq.Queue, results: mailq.Queue, paths: list[bytes]) -> None:
        results.push(paths[0], headers={"sha256": OTHER, "attempt": "1"})

    _, differences = do_jobs(lie)
    assert len(differences) == 1
    assert differences[0].startswith("two consumers disagree")


def test_a_file_that_cannot_be_read_is_a_dead_letter_and_no_difference(do_jobs: Any, tmp_path: Path) -> None:
    gone = os.fsencode(tmp_path / "gone before its job was done")
    outcome, differences = do_jobs(lambda jobs, results, paths: None, extra=gone)
    assert (differences, outcome.unreadable) == ([], {gone})
    with mailq.open(tmp_path / "jobs") as jobs:
        (letter,) = jobs.peek("dead")
        assert (letter.raw, letter.reason) == (gone, "rejected")
        # The text is written after the message was moved: its consumer may have been ended in between.
        assert letter.history[-1].error in {"FileNotFoundError: No such file or directory", None}


def test_a_run_whose_consumers_all_die_ends_and_fails(
    example: Any, tree: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    team = example.Team
    monkeypatch.setattr(example, "Team", lambda size, jobs, results: team(size, f"{jobs} that is missing", results))
    assert example.main([str(tree), "-c", "2", "--kill-at", "100"]) == 1
    printed, complaints = capfd.readouterr()
    assert numbers(printed)["differences"] == len(regular_files(tree)) + 2
    assert len(re.findall(r"^process \d+ ended with 1$", printed, re.MULTILINE)) == 2
    assert complaints.count("\nmailq.errors.QueueNotFound: ") == 2
