"""A queue of several users: only its owner may set a file's mtime, which is a lease's deadline."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from together import Child

import mailq

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="needs root, to become two other users"
)
ALICE, BOB, GROUP = 65_500, 65_501, 65_502
FUTURE = 4_000_000_000
"""In the year 2096."""


@pytest.fixture
def jobs() -> Iterator[Path]:
    """A queue of a group, where its users can reach it, as they cannot pytest's own directory."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    queue = mailq.open(directory / "jobs", file_mode="0660", lease=60, reap_interval=0.1)
    for path in (directory / "jobs", *(directory / "jobs").rglob("*")):
        os.chown(path, 0, GROUP)
        if path.is_dir():
            path.chmod(0o2770)
    queue.close()
    yield directory / "jobs"
    shutil.rmtree(directory)


def work_as(pipe: Connection[Any, Any], path: str, user: int) -> None:
    """Carry out orders as another user: a verb of the queue, or of the last delivery."""
    import ctypes  # noqa: F401, PLC0415 - loaded while they can be read

    import filelock  # noqa: F401, PLC0415

    os.setgroups([])
    os.setgid(GROUP)
    os.setuid(user)
    queue = mailq.open(path, create=False)
    held: mailq.Delivery | None = None
    while (order := pipe.recv()) is not None:
        verb, facts = order
        if verb == "pop":
            held = queue.pop(**facts)
            pipe.send(held and (held.id, held.deadline_at))
        elif verb == "reap":
            pipe.send(queue.reap().returned)
        else:
            pipe.send(getattr(held, verb)(**facts))


def told(child: Child, verb: str, **facts: Any) -> Any:
    child.say((verb, facts))
    return child.hear()


def drop(jobs: Path, user: int, mode: int) -> None:
    """A file of a user, with an mtime from the future: a copy from a machine with a wrong clock."""
    file = jobs / "tmp" / "dropped.txt"
    file.write_text("x")
    file.chmod(mode)
    os.chown(file, user, GROUP)
    os.utime(file, (FUTURE, FUTURE))
    file.rename(jobs / "new" / "dropped.txt")


def test_a_message_of_a_dead_user_comes_back_at_once(jobs: Path) -> None:
    """Its file is his, and his extension lies in the future."""
    queue = mailq.open(jobs)
    with Child(work_as, str(jobs), ALICE) as alice, Child(work_as, str(jobs), BOB) as bob:
        queue.push("x")
        id, _ = told(alice, "pop")
        told(alice, "extend", seconds=1000)
        assert (jobs / "cur" / os.listdir(jobs / "cur")[0]).stat().st_uid == ALICE
        assert told(bob, "reap") == 0
        alice.kill()
        assert told(bob, "reap") == 1
        again, deadline = told(bob, "pop")
        assert again == id
        assert deadline < time.time() + 100


def test_another_users_file_from_the_future_is_leased_and_settled_like_any(jobs: Path) -> None:
    with Child(work_as, str(jobs), BOB) as bob:
        for mode in (0o660, 0o644):
            for verb in ("nack", "release", "reject", "ack"):
                drop(jobs, ALICE, mode)
                _, deadline = told(bob, "pop", detached=True)
                assert deadline < time.time() + 100
                (held,) = (jobs / "cur").iterdir()
                assert held.stat().st_mtime < time.time() + 100
                told(bob, verb)
                assert os.listdir(jobs / "cur") == []
                for state in ("new", "later"):
                    for file in (jobs / state).iterdir():
                        file.unlink()
