"""What the doctor says is to be done can be pasted into a shell, and helps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from clinic import look, machine, troubles
from damages import zero

import mailq

MARKERS: dict[str, Callable[[Path], object]] = {
    "empty": lambda marker: os.truncate(marker, 0),
    "zeros": zero,
    "without a format": lambda marker: marker.write_text("lease = 7.0\n"),
    "too long": lambda marker: marker.write_text("#" * 70_000),
    "a directory": lambda marker: instead(marker).mkdir(),
    "a FIFO": lambda marker: os.mkfifo(instead(marker)),
    "a link": lambda marker: instead(marker).symlink_to("nowhere"),
}


def instead(marker: Path) -> Path:
    marker.unlink()
    return marker


@pytest.mark.parametrize("damage", MARKERS.values(), ids=MARKERS)
@pytest.mark.parametrize("messages", [0, 1])
def test_a_marker_of_which_nothing_is_left(tmp_path: Path, damage: Callable[[Path], object], messages: int) -> None:
    path = tmp_path / "my jobs"
    mailq.open(path).push_many(["x"] * messages)
    damage(path / "mailq.toml")
    (finding,) = look(path, fix=True)["settings"]
    assert (finding.level, finding.fixed) == ("error", None)
    assert "mend that line" not in finding.remedy
    run(finding.remedy.rpartition(": ")[2])
    assert troubles(look(path)) == []
    assert len(list(mailq.open(path, create=False).drain())) == messages


def test_a_dead_letter_queue_with_a_blank_in_its_path(path: Path, tmp_path: Path) -> None:
    mailq.open(path, dead_letters=str(tmp_path / "the dead"))
    shutil.rmtree(tmp_path / "the dead")
    (finding,) = look(path)["dead-letter-queue"]
    run(finding.remedy.partition(", or ")[0])
    assert troubles(look(path)) == []


def test_a_mount_point_with_a_blank_in_its_path(tmp_path: Path) -> None:
    place = tmp_path / "a disk"
    mailq.open(place / "jobs")
    spelled = str(place).replace(" ", r"\040")
    for options, command in (("ro", f"mount -o remount,rw '{place}'"), ("rw,nobarrier", f"mount '{place}' without it")):
        mounts = f"36 1 8:1 / {spelled} {options[:2]} - ext4 /dev/sda1 {options}\n"
        (finding,) = look(place / "jobs", machine=machine(tmp_path / "m", mounts=mounts))["mount-options"]
        assert finding.remedy.endswith(command)


def run(command: str) -> None:
    subprocess.run(["sh", "-ec", command.replace("mailq init", f"{sys.executable} -m mailq init")], check=True)
