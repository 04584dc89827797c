"""Each kind of damage is named, with its level; --fix does what it says, and a second look says so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from clinic import level, look, troubles
from damages import Damage, push, tear
from kinds import DAMAGES

import mailq
from mailq.cli.main import main


def make(path: Path, damage: Damage) -> None:
    settings = {"durability": "process-crash", **damage.settings}  # it is not the syncs that are looked at
    if "dead_letters" in settings:
        settings["dead_letters"] = str(path.parent / settings["dead_letters"])
    mailq.open(path, **settings).close()
    damage.do(path)


def named(damage: Damage) -> str:
    return damage.name.replace(" ", "-")


each = pytest.mark.parametrize("damage", DAMAGES, ids=named)


def modes_of(path: Path) -> list[int]:
    """The permissions of the directories."""
    return [place.stat().st_mode for place in (path, *path.iterdir()) if place.is_dir()]


def files_of(path: Path) -> list[tuple[int, int]]:
    """The files of messages, wherever they lie: which they are, and how long."""
    states = ("new", ".new.1a2b3c4d", "later", "cur", "dead", "aside/new", "aside/later", "aside/cur", "aside/dead")
    # To replies/ only a person moves them.
    places = (*(f"{state}/*" for state in states), "replies/*Z,*")
    files = (file for place in places for file in path.glob(place) if file.is_file() and not file.is_symlink())
    return sorted((file.stat().st_ino, file.stat().st_size) for file in files)


@each
def test_it_is_named(path: Path, damage: Damage) -> None:
    make(path, damage)
    before = snapshot(path)
    found = look(path, ahead=damage.ahead)
    assert level(found, damage.check) == damage.level
    (told,) = [f for f in found[damage.check] if f.level == damage.level and damage.says in f.what]
    assert told.remedy or damage.level == "ok"
    assert told.fixed is None
    assert snapshot(path) == before, "without --fix nothing is touched"


@each
def test_it_is_mended_as_far_as_it_can_be_and_no_message_is_lost(path: Path, damage: Damage) -> None:
    make(path, damage)
    before = files_of(path)
    (told,) = [f for f in look(path, ahead=damage.ahead, fix=True)[damage.check] if damage.says in f.what]
    assert damage.fixed in (told.fixed or "")
    assert bool(damage.fixed) == (told.fixed is not None)
    if damage.check == "permissions":
        assert {mode & 0o777 for mode in modes_of(path)} == {0o700}
    again = look(path, ahead=damage.ahead)
    assert level(again, damage.check) == damage.after
    assert not [f for f in again[damage.check] if f.fixed]
    # What was in a journal alone gets a file.
    assert [file for file in files_of(path) if damage.check != "journals" or file in before] == before


@pytest.mark.parametrize("damage", [d for d in DAMAGES if not d.ahead], ids=named)  # the command has but one clock
def test_the_command_names_it(path: Path, damage: Damage, capsys: pytest.CaptureFixture[str]) -> None:
    make(path, damage)
    with pytest.raises(SystemExit) as left:
        main(["doctor", str(path), "--json"])
    report = json.loads(capsys.readouterr().out)
    told = [f for f in report["findings"] if f["check"] == damage.check and f["level"] == damage.level]
    assert damage.says in told[0]["what"]
    assert left.value.code == (1 if damage.level == "error" else 0)
    assert report["healthy"] == (damage.level != "error")


def snapshot(path: Path) -> list[tuple[str, int, int, int]]:
    """All that is there, with times: but for directories, whose times a probe in tmp/ changes."""
    found = []
    for directory, _, files in os.walk(path):
        for name in files:
            status = os.lstat(os.path.join(directory, name))
            found.append((os.path.join(directory, name), status.st_ino, status.st_mtime_ns, status.st_mode))
    return sorted(found)


def test_all_is_well_with_a_healthy_queue(queue: mailq.Queue, path: Path) -> None:
    queue.push_many([{"n": n} for n in range(20)])
    queue.push("later", delay=60)
    held = queue.pop()
    assert held is not None
    failed = queue.pop()
    assert failed is not None
    failed.nack(delay=60, error="once")
    found = look(path, full=True)
    assert troubles(found) == []
    assert "21 messages of the right length; 21 of them read" in found["torn"][0].what
    held.ack()


def test_a_queue_that_lost_its_marker_delivers_again_under_another_identity(path: Path) -> None:
    queue = mailq.open(path)
    id = queue.push("still here")
    queue.pause()
    queue.resume()
    (path / "origins").mkdir()
    before = (path / "mailq.toml").read_text()
    (path / "mailq.toml").unlink()
    (finding,) = look(path, fix=True)["marker"]
    assert "new identity" in str(finding.fixed)
    assert (path / "mailq.toml").read_text() != before
    delivery = mailq.open(path, create=False).pop()
    assert delivery is not None
    assert (delivery.id, delivery.body) == (id, "still here")


def test_a_directory_with_other_things_in_it_is_not_made_a_queue(path: Path) -> None:
    mailq.open(path).push("x")
    (path / "mailq.toml").unlink()
    (path / "letter.txt").write_text("dear")
    (finding,) = look(path, fix=True)["marker"]
    assert finding.fixed is None
    assert "holds other things" in finding.remedy
    assert not (path / "mailq.toml").exists()


def test_an_old_text_of_a_message_that_is_here_is_kept(queue: mailq.Queue, path: Path) -> None:
    queue.push("x")
    delivery = queue.pop()
    assert delivery is not None
    delivery.nack(delay=0, error="evidence")
    (text,) = (path / "errors").iterdir()
    os.utime(text, (1, 1))
    assert level(look(path, fix=True), "error-texts") == "ok"


def test_a_delayed_message_that_is_buried_before_it_is_due_is_not_from_the_future(path: Path) -> None:
    mailq.open(path)
    tear(push(path, delay=86_400))
    assert "1 moved to dead/" in str(look(path, fix=True)["torn"][0].fixed)
    assert level(look(path), "future") == "ok"


def test_every_check_speaks_once_about_a_healthy_queue(queue: mailq.Queue, path: Path) -> None:
    assert {check: len(findings) for check, findings in look(path).items() if len(findings) != 1} == {}
