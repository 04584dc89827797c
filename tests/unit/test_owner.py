"""The lock of one owner: who lets go of it, and when, whatever threads, forks and signal handlers do meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import mailq
from mailq.engines.disk import Disk
from mailq.engines.maildir import owners
from mailq.engines.maildir.layout import Layout
from mailq.engines.maildir.owners import Owner


def owner_of(path: Path, disk: Disk | None = None) -> Owner:
    return Owner(Layout(str(path)), disk or Disk(), mode=0o600)


def is_dead(path: Path, token: str) -> bool:
    return owners.is_dead(Layout(str(path)), Disk(), token)


@pytest.mark.parametrize("how", ["a file", "a loop"])
def test_an_owner_whose_file_cannot_be_looked_at_for_a_moment_stays_one(
    queue: mailq.Queue, path: Path, how: str
) -> None:
    """As where another user's owners/ may not be entered: nobody else can see there that it is gone."""
    owner = owner_of(path)
    token = owner.token()
    (path / "owners").rename(path / "elsewhere")
    if how == "a file":
        (path / "owners").touch()
    else:
        (path / "owners").symlink_to("owners")
    owner.check()
    (path / "owners").unlink()
    (path / "elsewhere").rename(path / "owners")
    assert not is_dead(path, token)
    assert owner.token() == token
    owner.leave()


def test_an_owner_whose_file_was_removed_begins_anew(queue: mailq.Queue, path: Path) -> None:
    owner = owner_of(path)
    first = owner.token()
    (path / "owners" / first).unlink()
    owner.check()
    second = owner.token()
    assert second != first
    assert os.listdir(path / "owners") == [second]
    assert is_dead(path, first)
    assert not is_dead(path, second)
    owner.leave()
