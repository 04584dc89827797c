"""The processes that hold leases: dead, stopped, stuck, or on other hosts."""

from __future__ import annotations

import json
import platform
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import leases, names
from mailq.engines.maildir.doctor.context import Context, message_files
from mailq.engines.maildir.doctor.report import Check, Trouble, reap
from mailq.ids import NS

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator


_DAY: Final = 86_400.0
_STATUS: Final = 65_536

_Fate = Literal["alive", "died with leases", "ended", "left behind", "elsewhere", "stopped", "stuck"]


def _holders(context: Context, fate: _Fate) -> Iterator[str]:
    """The files in ``owners/`` of processes that have this fate."""
    for entry in message_files(context.layout.owners):
        found, pid = _fate_of(context, entry) if names.is_token(entry.name) else ("alive", None)
        if found == fate:
            yield context.short(entry.path) + (f" (pid {pid})" if fate in {"stopped", "stuck"} else "")


def _fate_of(context: Context, entry: os.DirEntry[str]) -> tuple[_Fate, object]:
    data, status = layouts.read_small(context.disk, entry.path, _STATUS), layouts.status_of(entry.path)
    if data is None or status is None:  # it left meanwhile
        return "alive", None
    token, told = entry.name, _read(data)
    pid, is_here = told.get("pid", "?"), leases.runs_here(context.layout, data)
    if context.is_dead(token):
        return ("died with leases" if context.leases[token] else "ended"), pid
    if not is_here:
        is_old = (context.now - status.st_mtime_ns) / NS > _DAY and not context.leases[token]
        return ("left behind" if is_old else "elsewhere"), pid
    # Another container under this kernel counts its processes by other numbers.
    if told.get("host") == platform.node() and isinstance(pid, int) and context.machine.is_stopped(pid):
        return "stopped", pid
    return ("stuck" if context.overdue[token] else "alive"), pid


def _read(data: bytes) -> dict[str, object]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


# fmt: off
CHECKS: Final = (
    Check("owners", "none is dead",
          Trouble("warning", "{n} process[|es] died with leases that no consumer gave back",
                  "any consumer does; with none: mailq reap QUEUE", partial(_holders, fate="died with leases"), reap, "removed"),
          Trouble("ok", "{n} ended without a close: the next consumer removes what is left of [it|them]",
                  "", partial(_holders, fate="ended"), reap, "removed")),
    Check("stuck-owners", "no live process lets its leases run out",
          Trouble("warning", "{n} process[ is|es are] stopped, and so is the work on what [it holds|they hold], until the leases run out",
                  "kill -CONT PID, if a signal or Ctrl-Z has stopped it; or kill -KILL PID: then it is given back at once",
                  partial(_holders, fate="stopped")),
          Trouble("warning", "{n} process[ lives and lets|es live and let] leases run out: hung, stopped, or too slow",
                  "look at [it|them] (mailq workers QUEUE; py-spy dump --pid PID), kill [it|them], or raise the lease",
                  partial(_holders, fate="stuck"))),
    Check("other-hosts", "none",
          Trouble("warning", "{n} owner[|s] of other hosts, older than a day and without leases: left behind, copied along, or of before a restart, on a network disk",
                  "if [it does|they do] not run any more: remove [this file|these files]", partial(_holders, fate="left behind")),
          Trouble("ok", "{n} owner[|s] on other hosts: [its|their] leases end by time alone",
                  "", partial(_holders, fate="elsewhere"))),
)
# fmt: on
