"""A directory that is a symbolic link: what is behind it is not the queue's, and the doctor's neither."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from clinic import level, look, troubles
from damages import lose_the_marker, old, ours

import mailq
from mailq.ids import new_id

DIRECTORIES = (
    *("tmp", "new", "later", "cur", "dead", "errors", "owners", "replies"),
    *("origins", "aside", "journal"),
)


def outside(place: Path) -> Path:
    """A directory with what a mending would delete, move, read or set permissions of in one of a queue's."""
    place.mkdir(mode=0o755)
    for name in (ours(), f"{new_id(1)}.json", f"{new_id(1)}.1.txt", "0123abcd", ".reply.00", "letter.txt"):
        (place / name).write_text("not the queue's")
        (place / name).chmod(0)
        old(place / name)
    return place


def put_a_link(path: Path, directory: str, target: Path) -> None:
    shutil.rmtree(path / directory, ignore_errors=True)
    (path / directory).symlink_to(target)


def snapshot(place: Path) -> list[tuple[str, os.stat_result]]:
    return [(name, os.lstat(place / name)) for name in sorted([".", *os.listdir(place)])]


@pytest.mark.parametrize("directory", DIRECTORIES)
@pytest.mark.parametrize("fix", [False, True])
def test_it_is_named_and_nothing_is_done_behind_it(
    queue: mailq.Queue, path: Path, tmp_path: Path, directory: str, *, fix: bool
) -> None:
    queue.push("x")
    there = outside(tmp_path / "outside")
    put_a_link(path, directory, there)
    before = snapshot(there)
    found = look(path, fix=fix, full=True, ahead=2 * 86_400)
    assert troubles(found) == [("directories", "error")]
    (finding,) = found["directories"]
    assert (finding.fixed, finding.paths) == (None, (directory,))
    assert directory in finding.what
    assert snapshot(there) == before


def test_the_remedy_makes_it_a_queue_again(path: Path, tmp_path: Path) -> None:
    mailq.open(path / "jobs").push("x")
    put_a_link(path / "jobs", "tmp", outside(tmp_path / "outside"))
    (finding,) = look(path / "jobs")["directories"]
    remove = finding.remedy.partition("(")[2].partition(")")[0].replace("NAME", finding.paths[0])
    subprocess.run(shlex.split(remove), check=True)
    (path / "jobs" / "tmp").mkdir(0o700)
    assert troubles(look(path / "jobs")) == []


def test_a_link_that_comes_while_it_looks_is_not_followed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailq.open(path).push("x")
    there = outside(tmp_path / "outside")
    for directory in ("tmp", "errors", "replies"):
        put_a_link(path, directory, there)
    monkeypatch.setattr("mailq.engines.maildir.doctor.structure.linked", lambda layout: None)
    before = [name for name, _ in snapshot(there)]
    found = look(path, fix=True, ahead=2 * 86_400)
    assert level(found, "replies") == "error"
    assert [name for name, _ in snapshot(there)] == before


def test_a_queue_that_is_named_by_a_link_is_examined_as_any_other(path: Path, tmp_path: Path) -> None:
    mailq.open(path).push("x")
    (tmp_path / "link").symlink_to(path)
    assert troubles(look(tmp_path / "link", full=True)) == []


def test_messages_behind_a_link_make_no_queue_of_a_directory(path: Path, tmp_path: Path) -> None:
    mailq.open(path)
    lose_the_marker(path)
    shutil.move(path / "new", tmp_path / "elsewhere")
    (path / "new").symlink_to(tmp_path / "elsewhere")
    (finding,) = look(path, fix=True)["marker"]
    assert (finding.level, finding.fixed) == ("error", None)
    assert "no messages" in finding.what
