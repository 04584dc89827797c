"""Each kind of damage is named, with its level; --fix does what it says, and a second look says so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from clinic import level, look, troubles
from damages import DAMAGES, Damage

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


def bodies(path: Path) -> list[bytes]:
    """Everything in the files of messages, wherever they lie."""
    states = ("new", "later", "cur", "dead", "aside/new", "aside/later", "aside/cur", "aside/dead")
    files = (file for state in states for file in (path / state).glob("*") if file.is_file() and not file.is_symlink())
    return sorted(file.read_bytes() for file in files)


@each
def test_it_is_named(path: Path, damage: Damage) -> None:
    make(path, damage)
    before = snapshot(path)
    found = look(path, ahead=damage.ahead)
    assert level(found, damage.check) == damage.level
    (told,) = [f for f in found[damage.check] if f.level == damage.level]
    assert damage.says in told.what
    assert told.todo or damage.level == "ok"
    assert told.fixed is None
    assert snapshot(path) == before, "without --fix nothing is touched"


@each
def test_it_is_mended_as_far_as_it_can_be_and_no_message_is_lost(path: Path, damage: Damage) -> None:
    make(path, damage)
    before = bodies(path)
    told = [f for f in look(path, ahead=damage.ahead, fix=True)[damage.check] if f.level == damage.level]
    if damage.fixed:
        assert damage.fixed in str(told[0].fixed)
    else:
        assert told[0].fixed is None
    again = look(path, ahead=damage.ahead)
    assert level(again, damage.check) == damage.after
    assert not [f for f in again[damage.check] if f.fixed]
    assert bodies(path) == before


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


def test_every_check_speaks_once_about_a_healthy_queue(queue: mailq.Queue, path: Path) -> None:
    assert {check: len(findings) for check, findings in look(path).items() if len(findings) != 1} == {}
