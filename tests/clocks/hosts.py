"""Hosts that share a queue, each with a clock of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mailq
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.testing import ManualClock

HOUR = 3600.0
MINUTE = 60.0


class Host:
    """A consumer and producer whose clock is ``off`` seconds ahead of the true time; set it to step it."""

    def __init__(self, path: Path, true: ManualClock, off: float = 0.0, disk: Disk | None = None) -> None:
        self.off = off
        self._true = true
        self.engine = MaildirEngine(str(path), clock=self._now, disk=disk)
        self.queue = mailq.Queue(self.engine)

    def _now(self) -> int:
        return self._true() + round(self.off * 1e9)

    @property
    def seconds(self) -> float:
        return self._now() / 1e9

    def vanish(self) -> None:
        """Die where nobody here can see it: on another machine, whose locks do not reach us."""
        token = self.engine._holder.token()
        self.engine._holder.close()
        story: dict[str, Any] = {"host": "elsewhere", "boot": "another", "pid": 1, "since": 0.0}
        Path(self.engine.location, "owners", token).write_text(json.dumps(story) + "\n")
