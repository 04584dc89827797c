"""What a command that was run as another user leaves behind: named, with what gives it back."""

from __future__ import annotations

import os
import pickle
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clinic import look, machine

import mailq
from mailq.engines.maildir.doctor import Finding

SOMEBODY, ANOTHER = 2001, 2002

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become other users")


@pytest.fixture
def somebodys() -> Iterator[Path]:
    """A queue of a user who is not root, where that user can go."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        path = Path(name) / "jobs"
        mailq.open(path).push("x")
        give(path, SOMEBODY)
        yield path


def give(path: Path, user: int) -> None:
    for place in (path, *path.rglob("*")):
        os.chown(place, user, user)


def of_another_user(path: Path) -> Finding | None:
    found = [f for f in look(path, fix=True)["permissions"] if "of another user" in f.what]
    return found[0] if found else None


def edit_the_settings_as_root(path: Path) -> None:
    """As an editor does that writes a new file and renames it."""
    new = path / "tmp" / "edited"
    new.write_text((path / "mailq.toml").read_text())
    new.chmod(0o600)
    new.rename(path / "mailq.toml")


def make_a_directory_as_root(path: Path) -> None:
    (path / "later").rmdir()
    (path / "later").mkdir(0o700)


@pytest.mark.parametrize(
    ("do", "left"),
    [(edit_the_settings_as_root, "mailq.toml"), (make_a_directory_as_root, "later")],
    ids=["marker", "directory"],
)
def test_what_root_leaves_in_the_queue_of_another_is_named_and_the_remedy_helps(
    somebodys: Path, do: Callable[[Path], None], left: str
) -> None:
    assert of_another_user(somebodys) is None
    do(somebodys)
    finding = of_another_user(somebodys)
    assert finding is not None
    assert (finding.level, finding.paths, finding.fixed) == ("error", (left,), None)
    subprocess.run(shlex.split(finding.remedy.removeprefix("as root: ")), check=True)
    assert of_another_user(somebodys) is None


def test_a_group_that_shares_a_queue_may_leave_what_is_the_groups(path: Path) -> None:
    mailq.open(path, file_mode="0660")
    os.chown(path / "later", ANOTHER, path.stat().st_gid)
    assert of_another_user(path) is None
    os.chown(path / "later", ANOTHER, ANOTHER)
    finding = of_another_user(path)
    assert finding is not None
    assert finding.paths == ("later",)


def test_who_may_not_read_the_marker_of_another_user_is_told_whose_it_is(somebodys: Path) -> None:
    edit_the_settings_as_root(somebodys)
    finding = found_by_somebody(somebodys, "settings")
    assert finding.level == "error"
    assert "chown -R --reference=" in finding.remedy


def test_a_dead_letter_queue_that_may_not_be_read_is_not_looked_into(somebodys: Path) -> None:
    home = somebodys.parent / "failed"
    mailq.open(somebodys).configure(dead_letters=home)
    give(home, ANOTHER)
    home.chmod(0o711)
    (home / "mailq.toml").chmod(0o644)
    (home / "new").chmod(0o733)
    finding = found_by_somebody(somebodys, "duplicates")
    assert (finding.level, finding.what) == (
        "ok",
        "no message is in two places; the dead-letter queue could not be looked into",
    )


def found_by_somebody(path: Path, check: str) -> Finding:
    """What a check finds when it is made by that user."""
    without_faults = machine(path.parent / "machine")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(SOMEBODY)
            os.setuid(SOMEBODY)
            (finding,) = look(path, machine=without_faults)[check]
            os.write(writing, pickle.dumps(finding))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        finding = pickle.load(pipe)
    os.waitpid(child, 0)
    assert isinstance(finding, Finding)
    return finding
