"""The queue under examination, and how it is to be examined."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from mailq.engines.maildir import leases, reaper

if TYPE_CHECKING:
    from mailq.engines.maildir.doctor.machine import Machine
    from mailq.engines.maildir.files import Store
    from mailq.engines.maildir.filesystems import Mount
    from mailq.engines.maildir.layout import Layout
    from mailq.engines.maildir.names import MessageName
    from mailq.settings import Settings


class Patient(NamedTuple):
    """A queue with a marker that can be read.

    ``fix`` is whether to mend, ``full`` whether to read every message, ``now``
    when the examination began, ``mount`` what the queue is on, if that is known,
    ``torn_for_good`` whether no journal waits that may make torn messages whole.
    """

    store: Store
    machine: Machine
    mount: Mount | None
    now: int
    fix: bool
    full: bool
    writable: bool
    torn_for_good: bool = True

    @property
    def layout(self) -> Layout:
        """Its paths."""
        return self.store.layout

    @property
    def settings(self) -> Settings:
        """Its settings."""
        return self.store.settings

    def short(self, path: str) -> str:
        """A path as a person would name it: from the queue on."""
        return os.path.relpath(path, self.layout.root)

    def is_dead(self, token: str) -> bool:
        """Whether an owner is known to be dead."""
        return leases.is_dead(self.layout, self.store.disk, token)

    def holds(self, name: str, envelope: MessageName) -> bool:
        """Whether a lease is still somebody's: its time is not over, and its owner not known to be dead."""
        end = reaper.deadline(self.store, name, envelope)
        return end is not None and self.now < end and not (envelope.owner and self.is_dead(envelope.owner))
