"""What the file system and the machine give a queue: promises, room, limits, locks, the price of a sync, a clock."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
from functools import partial
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import filesystems, names
from mailq.engines.maildir.compaction import REMADE, Compaction
from mailq.engines.maildir.doctor.context import Context, everything
from mailq.engines.maildir.doctor.report import Check, Finding, Findings, Level, Trouble
from mailq.engines.maildir.locks import LockFile
from mailq.ids import NS, new_id

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailq.engines.maildir.doctor.machine import Machine
    from mailq.engines.maildir.filesystems import Mount
    from mailq.settings import Settings

_LITTLE_SHARE: Final = 0.05
_FEW_INSTANCES: Final = 10
_FEW_WATCHES: Final = 100
_NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_SLOW: Final = 0.1
_PROBES: Final = 5

_KERNEL_TICK: Final = 0.05
"""A file system stamps files by the kernel's last tick: the stamp may be older than the clock by this many seconds."""

_DRIFT: Final = 1.0
_SWOLLEN: Final = 1 << 20
_SWOLLEN_TIMES: Final = 16
_ENTRY: Final = 280
"""What an entry of a directory takes at most, in bytes."""

_MEMORY: Final = frozenset(("tmpfs", "ramfs", "devtmpfs"))
_PROVEN: Final = frozenset(("ext4", "xfs", "btrfs"))
_NETWORK: Final = (
    "others may be behind it. Arrivals from other hosts are noticed by looking, once a second at best; leases of a dead host end by time alone; clocks must agree; a rename may report an error and have happened",
    "let one host consume, or keep all clocks in step and leases long",
)
_RISKS: Final = {
    "nobarrier": "the disk is not told to flush: a power cut loses what was synced",
    "barrier=0": "the disk is not told to flush: a power cut loses what was synced",
    "data=writeback": "after a power cut files that were not synced may hold what others deleted; mailq syncs its own",
    "journal_async_commit": "a power cut may lose what was synced last",
    "noload": "the journal was not replayed: names of after the last crash may be missing or wrong",
    "norecovery": "the journal was not replayed: names of after the last crash may be missing or wrong",
    "soft": "a server that does not answer makes writes fail in silence",
}
"""Mount options, and what they mean for a queue."""

_LOSES_SYNCED: Final = frozenset(("nobarrier", "barrier=0", "journal_async_commit"))
"""Those that do not matter to a queue that does not sync."""


def judge(root: str, settings: Settings, machine: Machine, mount: Mount | None) -> Findings:
    """What a queue in a directory should know of its file system."""
    if mount is None:
        yield Finding("file-system", "ok", "this system does not say what the queue is on")
    else:
        what, remedy = _meaning(settings, machine, mount)
        level: Final = "warning" if remedy else "ok"
        yield Finding("file-system", level, f"{mount.type} on {mount.point}: {what}", remedy)
        yield from _options(settings, mount)
    longest = machine.longest_name(root)
    if longest is not None and longest < names.MAX_NAME:
        what = f"a file name may have {longest} bytes here, mailq needs {names.MAX_NAME}: claims of retried messages will fail"
        yield Finding(
            "name-length", "error", what, "move the queue to another file system; eCryptfs is one that is too short"
        )


def is_memory(type: str) -> bool:  # noqa: A002 - what a mount table calls it
    """Whether a type of file system is memory, not a disk."""
    return type in _MEMORY


def _meaning(settings: Settings, machine: Machine, mount: Mount) -> tuple[str, str]:
    """What a type means for a queue, and what to do about it; nothing to do means well."""
    what, remedy, is_synced = "it keeps what was synced", "", settings.durability == "power-loss"
    if filesystems.is_shared(mount):
        what, remedy = _NETWORK
        if mount.type.startswith("nfs"):
            remedy += "; mount it with hard and lookupcache=none, or a new message may be invisible for a minute"
    elif is_memory(mount.type) and is_synced:
        what = "it is memory and lost at a reboot, though the settings say power-loss"
        remedy = "move the queue to a disk, or say so: mailq config QUEUE durability process-crash"
    elif is_memory(mount.type):
        what = "it is lost at a reboot, and the settings promise no more"
    elif mount.type == "overlay":
        what, remedy = "a container's own layer, which goes when the container goes", "put the queue on a volume"
    elif mount.type == "ext4" and machine.has_journal(mount) is False:
        what = "it has no journal: after a power cut it must be checked (e2fsck), and names may be gone that were there"
        remedy = "give it a journal while it is not mounted: tune2fs -O has_journal DEVICE"
    elif mount.type == "ext4" and is_synced and machine.makes_fast_commits(mount):
        what = "it makes fast commits, which a power cut may make damage of: each push syncs all of it instead, which is slow"
        remedy = "give them up while it is not mounted: tune2fs -O ^fast_commit DEVICE"
    elif mount.type not in _PROVEN:
        what, remedy = "mailq was not tested on it", "prefer ext4, XFS or btrfs where messages must survive a power cut"
    return what, remedy


def _options(settings: Settings, mount: Mount) -> Findings:
    place = shlex.quote(mount.point)
    if "ro" in mount.options:
        what = f"{mount.point} is mounted read-only: the queue can be looked at, not used"
        yield Finding("mount-options", "error", what, f"find out why (dmesg), then: mount -o remount,rw {place}")
    for option in sorted(mount.options & set(_RISKS)):
        if option in _LOSES_SYNCED and settings.durability != "power-loss":
            continue
        if option != "soft" or mount.type.startswith("nfs"):
            yield Finding("mount-options", "warning", f"{option}: {_RISKS[option]}", f"mount {place} without it")


def _judged(context: Context, check: str) -> Findings:
    """What is said of the file system under one name."""
    found = judge(context.layout.root, context.settings, context.machine, context.mount)
    return (finding for finding in found if finding.check == check)


# Room and limits


def _graded(check: str, text: str, *grades: tuple[bool, Level, str, str]) -> Finding:
    """A measurement with the first of its grades that holds: what that means, and the remedy."""
    held = [Finding(check, level, text + meaning, remedy) for holds, level, meaning, remedy in grades if holds]
    return held[0] if held else Finding(check, "ok", text)


def _room(
    context: Context, *, check: str, place: int, least: int, little: int, shown: Callable[[int], str], remedy: str
) -> Findings:
    """Whether there is room, of one kind: ``place`` is where it stands in what the machine says."""
    space = context.machine.space(context.layout.root)
    free, total = space[place : place + 2] if space else (None, None)
    if free is None or total is None:
        yield Finding(check, "ok", "this file system does not say how many are free")
        return
    yield _graded(
        check,
        f"{shown(free)} of {shown(total)} are free",
        (free < least, "error", ": pushes fail", remedy),
        (free < little and free < total * _LITTLE_SHARE, "warning", ": when they are used up, pushes fail", remedy),
    )


def _inotify(context: Context) -> Findings:
    has = context.machine.inotify()
    if has is not None:
        text = f"{has.instances} of {has.max_instances} instances, {has.watches} of {has.max_watches} watches are taken"
        is_little = has.max_instances - has.instances < _FEW_INSTANCES or has.max_watches - has.watches < _FEW_WATCHES
        remedy = "sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288"
        yield _graded("inotify", text, (is_little, "warning", ": further ones look once a second instead", remedy))


# What a lock, a sync and the clock are like here


def _locks(context: Context) -> Findings:
    """Whether a process can show that it lives."""
    path = _a_name(context)
    try:
        with LockFile(context.disk, path, os.O_RDWR) as file:
            if fcntl is not None:
                file.is_locked(fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            what = f"flock fails here ({error.strerror}): what a killed consumer held is back only when its lease ends"
            yield Finding("locks", "warning", what, "mount network disks with locks (no nolock); or keep leases short")
        else:  # no room, or no tmp/: other checks say so
            yield Finding("locks", "ok", f"not tried: no file can be made in tmp/: {error.strerror}")
    finally:
        with contextlib.suppress(OSError):
            context.disk.unlink(path)


def _a_name(context: Context) -> str:
    """A file in ``tmp/`` of a name of ours: if this process is killed before it removes it, it is swept as litter."""
    now = context.store.clock()
    return f"{context.layout.tmp}/{names.format_name(names.MessageName(now, new_id(now), 'txt'))}"


def _fsync(context: Context) -> Findings:
    if not _may_probe(context):
        yield Finding("fsync", "ok", "not measured: nothing may be written here")
        return
    try:
        took = median(_write_one(context)[0] for _ in range(_PROBES))
    except OSError as error:
        what = f"a small file cannot be written and synced: {error.strerror}"
        yield Finding("fsync", "error", what, "see dmesg; a full disk, a quota, or a failing one: pushes fail, too")
        return
    text = f"a durable push takes {took * 1000:.2f} ms, so {1 / max(took, 1e-6):.0f} a second one by one"
    remedy = "push many at a time (push_many syncs once), or find out what else keeps the disk busy"
    is_slow = took > _SLOW and context.settings.durability == "power-loss"
    yield _graded("fsync", text, (is_slow, "warning", "", remedy))


def _may_probe(context: Context) -> bool:
    return context.writable and os.path.isdir(context.layout.tmp)


def _write_one(context: Context) -> tuple[float, float]:
    """Do what a push does, in ``tmp/``: the seconds that it took, and those that the file's stamp is off the clock."""
    disk, clock, timer, path = context.disk, context.store.clock, context.machine.timer, _a_name(context)
    before, begun = clock(), timer()
    disk.write_file(path, b"x", mode=0o600, sync=True)
    try:
        disk.sync_directory(context.layout.tmp)
        took, stamp, after = timer() - begun, os.lstat(path).st_mtime_ns, clock()
    finally:
        disk.unlink(path)
    return took, min(0.0, (stamp - before) / NS + _KERNEL_TICK) + max(0.0, (stamp - after) / NS)


def _drift(context: Context) -> Findings:
    with contextlib.suppress(OSError):  # "fsync" says so
        drift = _write_one(context)[1] if _may_probe(context) else 0.0
        side, lease = "ahead of" if drift > 0 else "behind", context.settings.lease
        what = f"the disk's clock is {abs(drift):.0f} s {side} this machine's: leases ({lease:g} s) end too early or too late"
        remedy = "set both clocks by NTP: chronyc tracking, timedatectl"
        if abs(drift) >= _DRIFT:
            yield Finding("clock-drift", "error" if abs(drift) > lease / 4 else "warning", what, remedy)


# Directories that were once huge


def _swollen(context: Context, directories: tuple[str, ...]) -> Iterator[str]:
    """Those of some directories that are much larger than what they hold: ext4 never shrinks one."""
    if context.mount is None or context.mount.type in {"ext2", "ext3", "ext4"}:
        yield from (name for name in directories if _is_swollen(f"{context.layout.root}/{name}"))


def _is_swollen(path: str) -> bool:
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:  # a copy may lack empty directories, and another process may be making it
        return False
    enough = size // (_SWOLLEN_TIMES * _ENTRY)
    return size > _SWOLLEN and sum(1 for _ in islice(everything(path), enough)) < enough


_IS_SWOLLEN: Final = "{paths}: much larger than what is left in there; each listing of it costs milliseconds"

# fmt: off
SWOLLEN: Final = Check("swollen", "no directory is much larger than what it holds",
      Trouble("warning", _IS_SWOLLEN,
              "the next consumer that finds it empty remakes it, and so does mailq doctor QUEUE --fix",
              partial(_swollen, directories=REMADE), lambda context: Compaction(context.store).swap(), "remade"),
      Trouble("warning", _IS_SWOLLEN,
              "while nothing uses the queue: cd QUEUE && for d in {each}; do mv -T $d $d.old && mkdir $d && chmod --reference=$d.old $d && find $d.old -type f -exec mv -t $d {} + && rmdir $d.old || exit; done",
              partial(_swollen, directories=("cur", "tmp", "errors"))))

CHECKS: Final = (
    Check("free-bytes", "", partial(
        _room, check="free-bytes", place=0, least=1 << 20, little=1 << 30, shown=lambda count: f"{count >> 20:,} MiB",
        remedy="make room: old dead letters (mailq purge QUEUE --state dead), or others' files")),
    Check("free-inodes", "", partial(
        _room, check="free-inodes", place=2, least=100, little=10_000, shown=str,
        remedy="remove small files from this file system, or remake it with more inodes")),
    Check("inotify", "not here: consumers notice arrivals by looking, once a second", _inotify),
    Check("locks", "a process can show by a lock that it lives", _locks),
    Check("fsync", "", _fsync),
    Check("clock-drift", "as far as it could be measured, the disk and this machine agree on the time", _drift),
    # After a sync: only then does ext4 say what it makes of one.
    Check("file-system", "", partial(_judged, check="file-system")),
    Check("mount-options", "nothing in them weakens what is synced", partial(_judged, check="mount-options")),
    Check("name-length", "the longest names fit", partial(_judged, check="name-length")),
)
# fmt: on
