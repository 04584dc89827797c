"""A message in a queue and in its shared dead-letter queue: a backup of one of them was laid over it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from clinic import level, look

import mailq
from mailq.engines.maildir import names
from mailq.testing import take


@pytest.fixture
def home(path: Path) -> Path:
    """Where the dead letters of the queue go."""
    mailq.open(path, dead_letters=path.parent / "failed")
    return path.parent / "failed"


def die(path: Path, body: str = "body") -> Path:
    """A message that was rejected; its file, in the other queue."""
    queue = mailq.open(path)
    queue.push(body)
    delivery = take(queue)
    delivery.reject("no")
    return Path(queue.get(delivery.id).location)


def lay_over(path: Path, home: Path) -> tuple[Path, Path]:
    """A backup from before its death; the message here and there."""
    mailq.open(path).push("body")
    shutil.copytree(path / "new", path.parent / "backup")
    delivery = take(mailq.open(path))
    delivery.reject("no")
    shutil.copytree(path.parent / "backup", path / "new", dirs_exist_ok=True)
    (here,), (there,) = (path / "new").iterdir(), (home / "new").iterdir()
    return here, there


def test_one_that_died_since_the_backup_of_its_queue_stays_dead(path: Path, home: Path) -> None:
    here, there = lay_over(path, home)
    assert look(path)["duplicates"][0].paths == (f"new/{here.name}",)
    assert here.exists()
    (finding,) = look(path, fix=True)["duplicates"]
    assert (finding.affected, finding.open) == (1, False)
    assert (path / "aside" / "new" / here.name).read_bytes() == there.read_bytes()
    queue = mailq.open(path)
    assert queue.pop() is None
    assert [message.reason for message in queue.peek("dead")] == ["rejected"]
    assert level(look(path), "duplicates") == "ok"


def test_one_that_was_redriven_since_the_backup_of_the_other_queue_stays_ready(path: Path, home: Path) -> None:
    there, others = die(path), mailq.open(path.parent / "other", dead_letters=home)
    other = die(path.parent / "other")
    shutil.copytree(home / "new", path.parent / "backup")
    mailq.open(path).redrive()
    assert others.redrive() == 1
    shutil.copytree(path.parent / "backup", home / "new", dirs_exist_ok=True)
    (finding,) = look(path, fix=True)["duplicates"]
    assert finding.paths == (f"../failed/new/{there.name}",)
    assert os.listdir(home / "new") == [other.name], "of other queues it is not for this one to say"
    assert os.listdir(home / "aside" / "new") == [there.name]
    assert not (path / "aside").exists()
    assert take(mailq.open(path)).id == there.name[27:59]
    assert level(look(path), "duplicates") == "ok"


def test_one_that_a_consumer_of_the_other_queue_holds_is_left_to_it(path: Path, home: Path) -> None:
    letter = die(path)
    dead = mailq.open(home)
    shutil.copy(letter, path / "new" / letter.name)
    delivery = take(dead)
    (finding,) = look(path, fix=True)["duplicates"]
    assert finding.paths == (f"new/{letter.name}",)
    delivery.ack()
    assert len(mailq.open(path)) == 0


@pytest.mark.parametrize("settle", ["nack", "reject"])
def test_one_that_went_on_in_the_other_queue_is_newer(path: Path, home: Path, settle: str) -> None:
    letter = die(path)
    shutil.copy(letter, path / "new" / letter.name)
    dead = mailq.open(home)
    getattr(take(dead), settle)()
    (finding,) = look(path, fix=True)["duplicates"]
    assert finding.paths == (f"new/{letter.name}",)
    assert dead.get(letter.name[27:59]).state == ("delayed" if settle == "nack" else "dead")


def test_dead_letters_that_are_only_there_are_no_duplicates(path: Path, home: Path) -> None:
    letters = {die(path, f"{number}").name for number in range(3)}
    mailq.open(path).push("x")
    assert level(look(path, fix=True, full=True), "duplicates") == "ok"
    assert set(os.listdir(home / "new")) == letters


def test_one_that_moves_between_the_two_queues_while_it_is_listed_is_one(
    path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mailq.engines.maildir.doctor import context  # noqa: PLC0415 - what is replaced

    letter = die(path)
    back = path / "new" / letter.name
    listed = context.message_files

    def move_then_list(directory: str) -> object:
        if directory == f"{path}/new":
            letter.rename(back)
        if directory == f"{home}/new":
            back.rename(letter)
        return listed(directory)

    monkeypatch.setattr("mailq.engines.maildir.doctor.duplicates.message_files", move_then_list)
    (finding,) = look(path, fix=True)["duplicates"]
    assert finding.level == "ok"


@pytest.mark.parametrize("damage", ["missing", "unreadable settings", "a link"])
def test_where_the_other_queue_cannot_be_used_the_own_duplicates_are_found_all_the_same(
    path: Path, home: Path, damage: str
) -> None:
    here, _ = lay_over(path, home)
    if damage == "missing":
        shutil.rmtree(home)
    elif damage == "a link":
        (home / "dead").rmdir()
        (home / "dead").symlink_to(path.parent)
    else:
        (home / "mailq.toml").write_text("?")
    (finding,) = look(path)["duplicates"]
    assert (finding.level, finding.what.partition("; ")[2]) == ("ok", "the dead-letter queue could not be looked into")
    shutil.copy(here, path / "later" / here.name)
    (finding,) = look(path, fix=True)["duplicates"]
    assert finding.paths == (f"later/{here.name}",)
    assert here.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be another user")
def test_in_another_users_queue_root_moves_nothing(path: Path, home: Path) -> None:
    there = die(path)
    shutil.copytree(home / "new", path.parent / "backup")
    mailq.open(path).redrive()
    shutil.copytree(path.parent / "backup", home / "new", dirs_exist_ok=True)
    subprocess.run(["chown", "-R", "2001:2001", home], check=True)
    (finding,) = look(path, fix=True)["duplicates"]
    assert (finding.paths, finding.open) == ((f"../failed/new/{there.name}",), True)
    assert "another user" in finding.remedy
    assert there.exists()
    assert not (home / "aside").exists()


def test_a_mark_that_is_a_part_of_another_name_is_none(path: Path, home: Path) -> None:
    """Only who reads the field knows whose letter it is."""
    there = die(path)
    envelope = names.parse(there.name)
    assert envelope is not None
    strange = there.with_name(names.format_name(envelope._replace(source_queue="0" * 8, owner=envelope.source_queue)))
    there.rename(strange)
    shutil.copy(strange, path / "new" / names.format_name(envelope._replace(source_queue="")))
    assert level(look(path, fix=True), "duplicates") == "ok"
    assert strange.exists()
