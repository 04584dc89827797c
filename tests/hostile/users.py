"""Other users: a child process that has become one."""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module

import filelock
import pytest

from mailq.cli import main
from mailq.engines.maildir import engine

only_root = pytest.mark.skipif(not hasattr(os, "fork") or os.getuid() != 0, reason="needs root, to become other users")
CONSUMER, PRODUCER, OTHER = 2001, 2002, 2003

# A user who may not read where Python is installed could not load these later.
LOADED = (ctypes, engine, filelock, *(import_module(f"mailq.cli.{module}") for module in set(main._COMMANDS.values())))


def become(user: int, act: Callable[[], object], *, umask: int = 0o077) -> None:
    """Do it as a user with a group of the same number and no other; fails if it fails."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            os.umask(umask)
            act()
            code = 0
        except BaseException:  # noqa: BLE001 - a forked child must not go on as a second pytest
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
