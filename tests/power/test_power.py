"""Power cuts on real file systems, as root: a mount shut down, a disk that loses its cache or breaks, a kernel killed.

A few of each here; ``--slow`` or ``power_run.py`` makes hundreds. The controls leave out what keeps
messages, and the harness must find the loss.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import power_disks
import power_logged
import pytest
from power_books import FIGURES
from power_disks import BTRFS, EXT4, EXT4_FAST, XFS, FileSystem, mounted, with_queue, workshop
from power_programs import recovered
from power_run import measure
from power_shutdown import shut_down
from power_trials import CONTROLS, TRIALS, Trial

import mailq
from mailq.engines.maildir import journal
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.doctor import examine
from mailq.engines.maildir.engine import MaildirEngine


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with workshop(tmp_path) as directory:
        yield directory


def _try(trial: Trial, place: Path) -> None:
    if trial.missing:
        pytest.skip(trial.missing)
    audit = trial.run(place, trial.few)
    print(f"{trial}: {audit}")  # noqa: T201 - how many is half of the result
    assert not trial.complaint(audit), trial.complaint(audit)


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_no_cut_loses_what_was_acknowledged_or_delivers_what_is_torn(trial: Trial, place: Path) -> None:
    _try(trial, place)


@pytest.mark.parametrize("trial", CONTROLS, ids=str)
def test_what_leaves_out_a_sync_is_found_out(trial: Trial, place: Path) -> None:
    _try(trial, place)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_many_cuts_lose_nothing_either(trial: Trial) -> None:
    if trial.missing:
        pytest.skip(trial.missing)
    line = measure(trial)
    print({word: line[word] for word in FIGURES})  # noqa: T201 - as above
    assert line["cuts"] == trial.many
    assert line["verdict"] == "as it must be"


def test_a_full_run_makes_more_than_two_hundred_cuts_on_three_file_systems() -> None:
    assert sum(trial.many for trial in TRIALS) > 200
    assert len({trial.system.kind for trial in TRIALS}) >= 3


class DiesAtSync(Disk):
    """The file system goes away just before a directory is synced."""

    def __init__(self, at: Path) -> None:
        self._at = at

    def fsync(self, fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            shut_down(self._at)
        super().fsync(fd)


# XFS says then that the directory was synced.
@pytest.mark.parametrize("system", [EXT4, XFS], ids=lambda system: str(system.name))
def test_a_file_system_that_went_away_is_not_taken_for_synced(system: FileSystem, place: Path) -> None:
    if reason := power_disks.missing(system):
        pytest.skip(reason)
    image = with_queue(system, place, "power-loss")
    with mounted(system, image, place) as at:
        queue = mailq.Queue(MaildirEngine(str(at / "jobs"), disk=DiesAtSync(at)))
        with pytest.raises(mailq.StorageError) as caught:
            queue.push(b"0/0:")
        queue.close()
    assert len(caught.value.maybe_pushed) == 1
    with mounted(system, image, place) as at:
        assert recovered(at / "jobs") == ([], [])


# To sync nothing but the directory would have btrfs keep the message under its old name as well.
@pytest.mark.parametrize("system", [EXT4, XFS, BTRFS], ids=lambda system: str(system.name))
def test_what_was_rejected_before_a_cut_is_in_one_place_after_it(system: FileSystem, place: Path) -> None:
    if reason := power_disks.missing(system) or power_logged.missing():
        pytest.skip(reason)
    image = with_queue(system, place, "power-loss")
    before = power_logged.copied(image, place / "before.img")
    with power_logged.logged_device(image, place) as device, mounted(system, device, place) as at:
        queue = mailq.open(at / "jobs")
        id = queue.push(b"0/0:")
        os.sync()
        delivery = queue.pop()
        assert delivery is not None
        delivery.reject("not wanted")
        cut = (place / "log").stat().st_size // power_logged.RECORD.size
        queue.close()
    with power_logged.Log(place) as log, mounted(system, power_logged.Disk(log, before).left(cut, None), place) as at:
        assert [(one.place, one.id) for one in recovered(at / "jobs").found] == [("dead", id)]


@pytest.mark.parametrize("system", [BTRFS, EXT4], ids=lambda system: str(system.name))
def test_a_journal_is_overwritten_where_it_is(system: FileSystem, place: Path) -> None:
    """Whatever the file system does with other files; as lsattr(1) tells it."""
    if reason := power_disks.missing(system):
        pytest.skip(reason)
    image = with_queue(system, place, "power-loss")
    with mounted(system, image, place) as at:
        queue = mailq.open(at / "jobs")
        for number in range(journal.PUSHES_BEFORE_JOURNAL + 1):
            queue.push(number)
        (path,) = (path for path in (at / "jobs" / "journal").iterdir() if path.suffix != journal.MARK)
        assert ("C" in power_disks.run("lsattr", path).split()[0]) == (system is BTRFS)
        queue.close()


def test_where_commits_are_fast_there_is_no_journal_and_the_doctor_says_why(place: Path) -> None:
    if reason := power_disks.missing(EXT4_FAST):
        pytest.skip(reason)
    with mounted(EXT4_FAST, with_queue(EXT4_FAST, place, "power-loss"), place) as at:
        with mailq.open(at / "jobs") as queue:
            for number in range(journal.PUSHES_BEFORE_JOURNAL + 2):
                queue.push(number)
            assert not (at / "jobs" / "journal").exists()
        told = [finding.what for finding in examine(at / "jobs") if finding.check == "file-system"]
    assert len(told) == 1
    assert "fast commits" in told[0]
