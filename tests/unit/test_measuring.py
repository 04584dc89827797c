"""What ``mailq bench`` makes of a disk that it meets."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

import mailq
from mailq import measuring
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.doctor.machine import Machine, Space
from mailq.engines.maildir.filesystems import Mount

EXT4 = Mount("/", "ext4", "/dev/vda", "1:1", frozenset({"rw"}))


class Pretending(Machine):
    """A machine with a file system of our choice."""

    def __init__(self, mount: Mount | None, *, free: int = 1 << 40, journal: bool | None = True) -> None:
        super().__init__()
        self._mount, self._free, self._journal = mount, free, journal

    def mount_of(self, path: str) -> Mount | None:
        return self._mount

    def has_journal(self, mount: Mount) -> bool | None:
        return self._journal

    def space(self, path: str) -> Space:
        return Space(self._free, 1 << 40, None, None)


def told(directory: Path, machine: Machine, sync: float) -> dict[str, str]:
    mount, syncs = machine.mount_of(""), measuring.Syncs(sync, sync)
    return {f.check: f.what for f in measuring.judged(str(directory), machine, mount, Disk(), syncs)}


def test_a_sound_disk_is_nothing_to_warn_of(tmp_path: Path) -> None:
    assert told(tmp_path, Pretending(EXT4), 0.001) == {}


@pytest.mark.parametrize(("sync", "complaint"), [(5e-6, "takes 5 us, which few disks can do"), (0.05, "takes 50 ms")])
def test_a_sync_that_costs_nothing_or_much_is_told(tmp_path: Path, sync: float, complaint: str) -> None:
    assert complaint in told(tmp_path, Pretending(EXT4), sync)["fsync"]


@pytest.mark.parametrize(
    ("kind", "complaint"), [("tmpfs", "it is memory"), ("nfs4", "others may be behind it"), ("overlay", "container")]
)
def test_what_is_no_disk_of_ours_is_told_once(tmp_path: Path, kind: str, complaint: str) -> None:
    found = told(tmp_path, Pretending(EXT4._replace(type=kind)), 1e-6 if kind == "tmpfs" else 0.001)
    assert list(found) == ["file-system"]
    assert complaint in found["file-system"]


def test_a_missing_journal_is_told(tmp_path: Path) -> None:
    assert "it has no journal" in told(tmp_path, Pretending(EXT4, journal=False), 0.001)["file-system"]


def test_the_settings_of_a_queue_that_is_there_count(path: Path) -> None:
    mailq.open(path, durability="process-crash")
    assert told(path, Pretending(EXT4._replace(type="tmpfs")), 1e-6) == {}


def test_with_little_room_it_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(mailq.StorageError, match="cannot measure: fewer than 64 MiB are free") as caught:
        measuring.measure(tmp_path, machine=Pretending(EXT4, free=1 << 20))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    class Refusing(Disk):
        def fsync(self, fd: int) -> None:
            raise OSError(errno.EIO, "refused")

    with pytest.raises(mailq.StorageError, match="cannot measure: refused"):
        measuring.measure(tmp_path, seconds=0.02, disk=Refusing())
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_does_nothing_is_no_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_PATIENCE", 0.0)
    monkeypatch.setattr(measuring, "telemetry", SimpleNamespace(attach=lambda _: lambda: None))  # hears of no job
    with pytest.raises(mailq.MailqError, match="of 64 jobs that do nothing it did 0 in 0 s"):
        measuring.measure(tmp_path, seconds=0.02, machine=Pretending(EXT4))
    assert list(tmp_path.iterdir()) == []


def test_where_the_system_does_not_say_it_measures_all_the_same(tmp_path: Path) -> None:
    measured = measuring.measure(tmp_path, seconds=0.02, machine=Pretending(None))
    assert (measured.type, measured.mount, measured.journal) == (None, None, None)
    assert len(measuring.meaning(measured)) == 5


def test_the_durability_to_choose_follows_from_what_it_costs(tmp_path: Path) -> None:
    def choice(kind: str, durable: float, fast: float) -> str:
        rates = {
            d: dict.fromkeys(measuring.OPERATIONS, r)
            for d, r in zip(measuring.DURABILITIES, (durable, fast), strict=True)
        }
        syncs = measuring.Syncs(0.001, 0.002)
        return measuring.meaning(measuring.Measured(str(tmp_path), kind, "/", None, syncs, rates, 4321.0, ()))[-1]

    assert choice("ext4", 1000, 10_000).startswith("power-loss, the default, costs 0.90 ms a push.")
    assert choice("ext4", 9000, 10_000).endswith("keep it.")
    assert choice("tmpfs", 9000, 10_000).startswith("This is memory")
