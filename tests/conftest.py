"""Fixtures only."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import janitor
import namespace
import pytest
from command import MAILQ, Shell
from together import PATIENCE, all_cores, fast_directory

import mailq as library
from mailq.engines import budget
from mailq.engines.maildir import journal, reaper, recovery

# The same examples every time, and no clock over them: CI must not fail by chance.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("steady"), max_examples=20)
hypothesis.settings.load_profile("steady")

_JANITOR = pytest.StashKey[subprocess.Popen[bytes]]()
_HERE = Path(__file__).parent
QUICK = frozenset(_HERE / name for name in ("contract", "unit", "test_readme.py"))
"""What is in these is quick: all of it has a verdict in less than a minute."""
PARTLY_QUICK = frozenset((_HERE / "shell",))
"""In these are some quick tests, which say so by a mark of their own."""
_MOST_WORKERS = 4
"""Some tests use every core by themselves."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long versions too")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # those that pytest-xdist starts are of this run
        namespace.have_mounts_of_ones_own()  # first: so that the janitor is the last process that has them
        config.stash[_JANITOR] = janitor.employ()
        _keep_bytecode()
    if _runs_the_quick_tests(config):
        hypothesis.settings.load_profile("quick")
    # A shell script starts what it puts into the background with SIGINT ignored, and so would be everything
    # that the tests start: those that interrupt a program would wait for it in vain.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    # Ctrl-C, or -x: pytest-xdist would give each worker ten seconds for its test.
    if exitstatus == pytest.ExitCode.INTERRUPTED and session.config.getoption("dist", "no") != "no":
        _dismiss_janitor(session.config)


def pytest_unconfigure(config: pytest.Config) -> None:
    _dismiss_janitor(config)


def _dismiss_janitor(config: pytest.Config) -> None:
    if (employed := config.stash.get(_JANITOR, None)) is not None:
        janitor.dismiss(employed)


def _keep_bytecode() -> None:
    """Have thousands of processes compile the source once, also where nothing may be written beside it."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = os.path.join(os.environ["TMPDIR"], "bytecode")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker a core, and one more for while others wait. None for a few tests, since to start them takes longer."""
    is_for_few = _runs_the_quick_tests(config) or any("::" in argument for argument in config.args)
    return 0 if is_for_few else min(all_cores() + 1, _MOST_WORKERS)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # To load all the others only to leave them out would take longer than these do.
    if not _runs_the_quick_tests(config) or collection_path.is_dir():
        return None
    return None if _is_in(collection_path, QUICK | PARTLY_QUICK) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if _is_in(item.path, QUICK):
            item.add_marker(pytest.mark.quick)
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="long: run with --slow"))


def _runs_the_quick_tests(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == "quick")


def _is_in(path: Path, places: frozenset[Path]) -> bool:
    return not places.isdisjoint((path, *path.parents))


@pytest.fixture(scope="session", autouse=True)
def _files_go_where_the_janitor_removes_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path_factory.getbasetemp()  # stays where it is looked for
    tempfile.tempdir = os.environ["TMPDIR"]


@pytest.fixture(autouse=True)
def _where_logs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts write what they log next to its queues."""
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path))


@pytest.fixture(autouse=True)
def _who_has_reaped_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rest is measured by the real time that a reaping or a replay took, and would be slept through by a clock moved by hand.

    In a process as large as that of the tests one collection of garbage makes it seconds.
    """
    monkeypatch.setattr(reaper, "_SHARE", 0.0)
    monkeypatch.setattr(recovery, "_SHARE", 0.0)


@pytest.fixture(autouse=True)
def _a_claim_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one claim buries, readies and gives back is bounded by real time: how much that is must depend on no machine."""
    monkeypatch.setattr(budget, "SECONDS", math.inf)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a queue may be made."""
    return tmp_path / "jobs"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    """Where thousands of queues may be made."""
    with fast_directory(tmp_path) as directory:
        yield directory


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Producers have their journals from the first push on."""
    monkeypatch.setattr(journal, "PUSHES_BEFORE_JOURNAL", 0)


@pytest.fixture
def queue(path: Path) -> library.Queue:
    """A fresh queue on disk, with the default settings."""
    return library.open(path)


@pytest.fixture(params=["memory", "directory"])
def opened(request: pytest.FixtureRequest, path: Path) -> library.Queue:
    """A fresh queue of each kind, with short back-offs."""
    return library.open("memory://" if request.param == "memory" else path, backoff=library.Backoff(0.001, 0.001))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which a shell finds mailq, and nothing of the developer's own settings."""
    # Unbuffered, a stream keeps nothing that could not be written: what Python makes of it at its exit would not show.
    others = ("MAILQ", "EDITOR", "VISUAL", "PYTHONUNBUFFERED")
    keep = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    return {**keep, "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}


@pytest.fixture
def mailq(tmp_path: Path, environment: dict[str, str]) -> Shell:
    """Run ``mailq`` with these arguments."""

    def run(*arguments: str, stdin: bytes = b"", code: int = 0, **env: str) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [MAILQ, *arguments],
            input=stdin,
            capture_output=True,
            check=False,
            cwd=tmp_path,
            env={**environment, **env},
            timeout=PATIENCE,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert b"Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def shell(tmp_path: Path, environment: dict[str, str]) -> Shell:
    """Run a line of shell."""

    def run(line: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            ["bash", "-c", line],
            capture_output=True,
            check=False,
            cwd=tmp_path,
            env={**environment, **env},
            timeout=PATIENCE,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    return run
