"""What the file system under a queue promises, by its type and its mount options."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import filesystems
from mailq.engines.maildir.doctor.finding import Finding
from mailq.engines.maildir.names import MAX_NAME

if TYPE_CHECKING:
    from mailq.engines.maildir.doctor.finding import Findings
    from mailq.engines.maildir.doctor.machine import Machine
    from mailq.engines.maildir.filesystems import Mount
    from mailq.engines.maildir.layout import Layout
    from mailq.settings import Settings

_MEMORY: Final = frozenset(("tmpfs", "ramfs", "devtmpfs"))
_PROVEN: Final = frozenset(("ext4", "xfs", "btrfs"))

_WELL: Final = ("it keeps what was synced", "")

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


def examine(layout: Layout, settings: Settings, machine: Machine, mount: Mount | None) -> Findings:
    """Say what it is, and what that means."""
    if mount is None:
        yield Finding("file-system", "ok", "this system does not say what the queue is on")
    else:
        yield _kind(settings, machine, mount)
        yield from _options(mount, settings)
    longest = machine.longest_name(layout.root)
    if longest is not None and longest < MAX_NAME:
        yield Finding(
            "name-length",
            "error",
            f"file names may have {longest} bytes here, mailq needs {MAX_NAME}: claims of retried messages will fail",
            "move the queue to another file system; eCryptfs is one that is too short",
        )
    else:
        yield Finding("name-length", "ok", "the longest names fit")


def is_memory(type: str) -> bool:  # noqa: A002 - what a mount table calls it
    """Whether a type of file system is no disk at all."""
    return type in _MEMORY


def _kind(settings: Settings, machine: Machine, mount: Mount) -> Finding:
    what, todo = _meaning(settings, machine, mount)
    return Finding("file-system", "warning" if todo else "ok", f"{mount.type} on {mount.point}: {what}", todo)


def _meaning(settings: Settings, machine: Machine, mount: Mount) -> tuple[str, str]:
    """What a type means for a queue, and what to do about it; nothing to do means well."""
    if filesystems.is_shared(mount):
        return _network(mount)
    if is_memory(mount.type):
        return _memory(settings)
    if mount.type == "overlay":
        return "a container's own layer, which goes when the container goes", "put the queue on a volume"
    if mount.type == "ext4":
        return _ext4(settings, machine, mount)
    if mount.type in _PROVEN:
        return _WELL
    return "mailq was not tested on it", "prefer ext4, XFS or btrfs where messages must survive a power cut"


def _ext4(settings: Settings, machine: Machine, mount: Mount) -> tuple[str, str]:
    if machine.has_journal(mount) is False:
        return (
            "it has no journal: after a power cut it must be checked (e2fsck), and names may be gone that were there",
            "give it a journal while it is not mounted: tune2fs -O has_journal DEVICE",
        )
    if settings.durability == "power-loss" and machine.makes_fast_commits(mount):
        return (
            "it makes fast commits, which a power cut may make damage of: for each push all of it is synced instead, which is slow",
            "give them up while it is not mounted: tune2fs -O ^fast_commit DEVICE",
        )
    return _WELL


def _memory(settings: Settings) -> tuple[str, str]:
    if settings.durability != "power-loss":
        return "it is lost at a reboot, and the settings promise no more", ""
    return (
        "it is memory and lost at a reboot, though the settings say power-loss",
        "move the queue to a disk, or say so: mailq config QUEUE durability process-crash",
    )


def _network(mount: Mount) -> tuple[str, str]:
    what = (
        "others may be behind it. Arrivals from other hosts are noticed by looking, once a second at best; leases of a dead "
        "host end by time alone; clocks must agree; a rename may report an error and have happened"
    )
    todo = "let one host consume, or keep all clocks in step and leases long"
    if mount.type.startswith("nfs"):
        todo += "; mount it with hard and lookupcache=none, or a new message may be invisible for a minute"
    return what, todo


def _options(mount: Mount, settings: Settings) -> Findings:
    found = False
    if "ro" in mount.options:
        found = True
        yield Finding(
            "mount-options",
            "error",
            f"{mount.point} is mounted read-only: the queue can be looked at, not used",
            f"find out why (dmesg), then: mount -o remount,rw {shlex.quote(mount.point)}",
        )
    for option in sorted(mount.options & set(_RISKS)):
        if option in {"nobarrier", "barrier=0", "journal_async_commit"} and settings.durability != "power-loss":
            continue
        if option == "soft" and not mount.type.startswith("nfs"):
            continue
        found = True
        yield Finding(
            "mount-options", "warning", f"{option}: {_RISKS[option]}", f"mount {shlex.quote(mount.point)} without it"
        )
    if not found:
        yield Finding("mount-options", "ok", "nothing in them weakens what is synced")
