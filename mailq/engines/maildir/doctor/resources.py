"""How much room is left: bytes, inodes, watches, descriptors; and what a sync and the clock are like here."""

from __future__ import annotations

import contextlib
import os
import stat
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

from mailq.engines.maildir import names
from mailq.engines.maildir.compaction import REMADE, Remaking
from mailq.engines.maildir.doctor.finding import Finding
from mailq.engines.maildir.doctor.listing import everything
from mailq.ids import NS, new_id
from mailq.message import STATES

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from mailq.engines.maildir.doctor.context import Patient
    from mailq.engines.maildir.doctor.finding import Findings

_LITTLE_SHARE: Final = 0.05
_LITTLE_BYTES: Final = 1 << 30
_USUAL_BYTES: Final = 1 << 20
_LITTLE_INODES: Final = 10_000
_FEW_INODES: Final = 100
_FEW_INSTANCES: Final = 10
_FEW_WATCHES: Final = 100
_FEW_FILES: Final = 256
_SLOW: Final = 0.1
_PROBES: Final = 5

_KERNEL_TICK: Final = 0.05
"""A file system stamps files by the kernel's last tick, which may be so many seconds ago."""

_DRIFT: Final = 1.0
_SWOLLEN: Final = 1 << 20
_SWOLLEN_TIMES: Final = 16
_ENTRY: Final = 280
"""What an entry of a directory takes at most, in bytes."""


def examine(patient: Patient) -> Findings:
    """All that may run out, or be slow."""
    yield from _space(patient)
    yield _inotify(patient)
    yield _open_files(patient)
    if patient.writable:
        yield _locks(patient)
        yield from _probe(patient)
    else:
        yield Finding("locks", "ok", "not tried: nothing may be written here")
        yield Finding("fsync", "ok", "not measured: nothing may be written here")
        yield Finding("clock-drift", "ok", "not measured: nothing may be written here")


def _space(patient: Patient) -> Findings:
    space = patient.machine.space(patient.layout.root)
    if space is None:
        yield Finding("free-bytes", "ok", "this system does not say how much is free")
        yield Finding("free-inodes", "ok", "this system does not say how many are free")
        return
    free, total = space.free_bytes, space.total_bytes
    largest = min(patient.settings.max_message_bytes, _USUAL_BYTES)
    text = f"{_size(free)} of {_size(total)} are free"
    todo = "make room: old dead letters (mailq purge QUEUE --state dead), or others' files"
    if free < largest:
        yield Finding("free-bytes", "error", f"{text}: a message may not fit, pushes fail", todo)
    elif free < _LITTLE_BYTES and free < total * _LITTLE_SHARE:
        yield Finding("free-bytes", "warning", f"{text}: when they are used up, pushes fail", todo)
    else:
        yield Finding("free-bytes", "ok", text)
    if space.free_inodes is None or space.total_inodes is None:
        yield Finding("free-inodes", "ok", "this file system makes inodes as it needs them")
        return
    text = f"{space.free_inodes} of {space.total_inodes} are free"
    todo = "remove small files from this file system, or make it anew with more inodes"
    if space.free_inodes < _FEW_INODES:
        yield Finding("free-inodes", "error", text, todo)
    elif space.free_inodes < _LITTLE_INODES and space.free_inodes < space.total_inodes * _LITTLE_SHARE:
        yield Finding("free-inodes", "warning", text, todo)
    else:
        yield Finding("free-inodes", "ok", text)


def _inotify(patient: Patient) -> Finding:
    has = patient.machine.inotify()
    if has is None:
        return Finding("inotify", "ok", "not here: consumers notice arrivals by looking, once a second")
    text = f"{has.instances} of {has.max_instances} instances, {has.watches} of {has.max_watches} watches are taken"
    if has.max_instances - has.instances < _FEW_INSTANCES or has.max_watches - has.watches < _FEW_WATCHES:
        todo = "sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288"
        return Finding("inotify", "warning", f"{text}: further ones look once a second instead", todo)
    return Finding("inotify", "ok", text)


def _open_files(patient: Patient) -> Finding:
    limit = patient.machine.open_files()
    if limit is None:
        return Finding("open-files", "ok", "no limit is known")
    text = f"{limit} for a process"
    if limit < _FEW_FILES:
        return Finding("open-files", "warning", f"{text}: too few for a worker with many slots", "ulimit -n 1024")
    return Finding("open-files", "ok", text)


def _locks(patient: Patient) -> Finding:
    """Whether a process can show that it lives."""
    if fcntl is None:
        return Finding("locks", "ok", "not on this system: leases end by time alone")
    disk, path = patient.store.disk, _a_name(patient)
    try:
        fd = disk.create(path, os.O_RDWR, 0o600)
    except OSError as error:  # no room, or no tmp/: the lock has no part in it, and other checks say so
        return Finding("locks", "ok", f"not tried: no file can be made in tmp/: {error.strerror}")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        what = f"flock fails here ({error.strerror}): what a killed consumer held is back only when its lease ends"
        return Finding("locks", "warning", what, "mount network disks with locks (no nolock); or keep leases short")
    finally:
        disk.drop(fd)
        with contextlib.suppress(OSError):
            disk.unlink(path)
    return Finding("locks", "ok", "a process can show by a lock that it lives")


def _a_name(patient: Patient) -> str:
    """A file in ``tmp/`` of a name of ours: if we are killed before we remove it, it is swept as litter."""
    now = patient.store.clock()
    return f"{patient.layout.tmp}/{names.format_name(names.MessageName(now, new_id(now), 'txt'))}"


class _Probe(NamedTuple):
    """What writing one small file came to: seconds that its syncs took, and how far its mtime is from the clock."""

    took: float
    drift: float


def _probe(patient: Patient) -> Findings:
    if not os.path.isdir(patient.layout.tmp):  # "directories" says so
        yield Finding("fsync", "ok", "not measured: there is no tmp/ to write in")
        yield Finding("clock-drift", "ok", "not measured: there is no tmp/ to write in")
        return
    try:
        probes = [_write_one(patient) for _ in range(_PROBES)]
    except OSError as error:
        todo = "see dmesg; a full disk, a quota, or a failing one: pushes fail likewise"
        yield Finding("fsync", "error", f"a small file cannot be written and synced: {error.strerror}", todo)
        yield Finding("clock-drift", "ok", "not measured: nothing could be written")
        return
    yield _fsync(patient, median(probe.took for probe in probes))
    yield _drift(patient, median(probe.drift for probe in probes))


def _write_one(patient: Patient) -> _Probe:
    """Do what a push does, in ``tmp/``."""
    disk, tmp, clock, timer = patient.store.disk, patient.layout.tmp, patient.store.clock, patient.machine.timer
    now, path = clock(), _a_name(patient)
    begun = timer()
    disk.write_file(path, b"x", mode=0o600, sync=True)
    try:
        disk.sync_directory(tmp)
        took = timer() - begun
        stamp = os.lstat(path).st_mtime_ns
    finally:
        disk.unlink(path)
    before, after = now / NS - _KERNEL_TICK, clock() / NS
    at = stamp / NS
    return _Probe(took, min(0.0, at - before) + max(0.0, at - after))


def _fsync(patient: Patient, took: float) -> Finding:
    text = f"a durable push takes {took * 1000:.2f} ms, so {1 / max(took, 1e-6):.0f} a second one by one"
    if took > _SLOW:
        todo = "push many at a time (push_many syncs once), or find out what else keeps the disk busy"
        if patient.settings.durability != "power-loss":
            return Finding("fsync", "ok", f"{text}; these settings do not sync")
        return Finding("fsync", "warning", text, todo)
    return Finding("fsync", "ok", text)


def _drift(patient: Patient, drift: float) -> Finding:
    if abs(drift) < _DRIFT:
        return Finding("clock-drift", "ok", "the disk and this machine agree on the time")
    lease = patient.settings.lease
    return Finding(
        "clock-drift",
        "error" if abs(drift) > lease / 4 else "warning",
        f"the disk's clock is {abs(drift):.0f} s {'ahead of' if drift > 0 else 'behind'} this machine's: "
        f"leases ({lease:g} s) end too early or too late",
        "set both clocks by NTP: chronyc tracking, timedatectl",
    )


def examine_swelling(patient: Patient) -> Findings:
    """Look for directories that were once huge: ext4's never shrink, and listing them stays slow."""
    swollen = _swollen(patient)
    if not swollen:
        yield Finding("swollen", "ok", "no directory is much larger than what it holds")
        return
    if patient.fix:
        Remaking(patient.store).renew()
    shown = tuple(map(patient.short, swollen))
    by_hand = [name for name in shown if name not in REMADE]
    remedy = "the next consumer that finds it empty makes it anew, and so does mailq doctor QUEUE --fix"
    if by_hand:
        remedy = f"while nothing uses the queue: cd QUEUE && {' && '.join(_anew(patient, name) for name in by_hand)}"
    yield Finding(
        "swollen",
        "warning",
        f"{', '.join(shown)}: much larger than what is left in there; each listing of it costs milliseconds",
        remedy,
        "made anew" if patient.fix and not _swollen(patient) else None,
        affected=len(swollen),
        paths=shown,
    )


def _anew(patient: Patient, name: str) -> str:
    """The command that makes a directory anew, as it was but for its size."""
    mode = stat.S_IMODE(os.stat(f"{patient.layout.root}/{name}").st_mode)
    return f"mv -T {name} {name}.old && mkdir -m {mode:o} {name} && find {name}.old -type f -exec mv -t {name} {{}} + && rmdir {name}.old"


def _swollen(patient: Patient) -> list[str]:
    if patient.mount is not None and patient.mount.type not in {"ext2", "ext3", "ext4"}:
        return []
    layout = patient.layout
    return [path for path in (*map(layout.directory, STATES), layout.tmp, layout.errors) if _is_swollen(path)]


def _is_swollen(path: str) -> bool:
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:  # a copy may lack empty directories, and another process may be making it
        return False
    if size <= _SWOLLEN:
        return False
    enough = size // (_SWOLLEN_TIMES * _ENTRY)
    return sum(1 for _ in islice(everything(path), enough)) < enough


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:  # noqa: PLR2004 - binary units
            return f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
