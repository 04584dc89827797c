"""What happens to a queue from outside: its disk goes, its settings are edited, its directories are lost."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

import mailq
from mailq.engines.maildir.engine import MaildirEngine
from mailq.testing import ManualClock


def test_a_queue_whose_marker_goes_away_is_no_empty_queue(queue: mailq.Queue, path: Path) -> None:
    (path / "mailq.toml").rename(path / "gone")
    for verb in (queue.pop, queue.reap):
        with pytest.raises(mailq.QueueNotFound):
            verb()
    with pytest.raises(mailq.QueueNotFound):
        mailq.open(path, create=False)
    (path / "gone").rename(path / "mailq.toml")
    assert queue.pop() is None


def test_a_queue_that_went_away_is_missed_at_the_next_pop(queue: mailq.Queue, path: Path) -> None:
    """And not only when it is time to look at the settings again."""
    queue = mailq.Queue(MaildirEngine(str(path), clock=ManualClock()))
    assert queue.pop() is None
    (path / "mailq.toml").rename(path / "gone")
    with pytest.raises(mailq.QueueNotFound):
        queue.pop()


def test_a_waiting_consumer_notices_that_the_queue_went_away(queue: mailq.Queue, path: Path) -> None:
    queue.pop(wait=0.01)
    path.rename(path.parent / "unmounted")
    with pytest.raises(mailq.QueueNotFound):
        queue.pop(wait=30)


def test_a_push_to_a_queue_that_went_away_raises(queue: mailq.Queue, path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()
    with pytest.raises(mailq.QueueNotFound):
        queue.push("x")
    assert list(path.iterdir()) == []


def test_settling_in_a_queue_that_went_away_is_no_lost_lease(queue: mailq.Queue, path: Path) -> None:
    queue.push("x")
    delivery = queue.pop()
    assert delivery is not None
    path.rename(path.parent / "unmounted")
    for verb in (delivery.ack, delivery.nack, delivery.release, delivery.reject, lambda: delivery.extend(60)):
        with pytest.raises(mailq.QueueNotFound):
            verb()
    (path.parent / "unmounted").rename(path)
    delivery.ack()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to mount")
def test_directories_on_two_file_systems_are_refused(path: Path) -> None:
    mailq.open(path)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", path / "later"], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(mailq.QueueNotFound, match="different file systems"):
            mailq.open(path)
    finally:
        subprocess.run(["umount", path / "later"], check=True)


def test_directories_that_a_copy_dropped_are_made_again(queue: mailq.Queue, path: Path) -> None:
    queue.push("x")
    for name in ("tmp", "later", "cur", "dead", "errors", "owners"):
        (path / name).rmdir()
    delivery = mailq.open(path, create=False).pop()
    assert delivery is not None
    delivery.reject()


def test_settings_edited_by_hand_are_noticed_while_it_runs(path: Path) -> None:
    queue = mailq.open(path, reap_interval=0.001)
    queue.pop()
    text = (path / "mailq.toml").read_text()
    (path / "mailq.toml").write_text(text.replace("lease = 60.0", "lease = 5.0"))
    lease = 60.0
    for _ in range(100):  # the interval of a millisecond must pass first
        queue.push("x")
        delivery = queue.pop()
        assert delivery is not None
        lease = (delivery.deadline_at or 0) - delivery.pushed_at
        delivery.ack()
    assert lease < 10


def test_who_only_pushes_notices_changed_settings_too(path: Path) -> None:
    mailq.open(path)
    clock = ManualClock()
    producer = mailq.Queue(MaildirEngine(str(path), clock=clock))
    producer.push("x")
    mailq.open(path).configure(max_length=1, durability="process-crash")
    clock.advance(2.1)
    with pytest.raises(mailq.QueueFull):
        producer.push("y")
    assert producer.settings.durability == "process-crash"


def test_damaged_settings_keep_a_consumer_going_and_stop_a_new_one_with_the_line(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue = mailq.open(path, reap_interval=0.001)
    queue.push("x")
    text = (path / "mailq.toml").read_text()
    line = text.splitlines().index("lease = 60.0") + 1
    (path / "mailq.toml").write_text(text.replace("lease = 60.0", 'lease = "soon"'))
    with caplog.at_level(logging.WARNING, "mailq"):
        delivery = queue.pop()
    assert delivery is not None
    assert "the settings were not read again" in caplog.text
    with pytest.raises(mailq.SettingsError, match=rf"mailq\.toml, line {line}: lease is 'soon'"):
        mailq.open(path)


@pytest.mark.parametrize("damage", [b"lease = = 5\n", b"\xff\xfe\n", b"format = 2\n", b"", b"[lease]\n"])
def test_a_marker_that_is_no_marker_is_one_clear_error(path: Path, damage: bytes) -> None:
    mailq.open(path)
    (path / "mailq.toml").write_bytes(damage)
    with pytest.raises(mailq.SettingsError) as caught:
        mailq.open(path)
    assert str(path / "mailq.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o077])
def test_only_the_owner_may_look_whatever_the_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        queue = mailq.open(path)
        queue.push("x")
        delivery = queue.pop()
        assert delivery is not None
        delivery.reject("text")
    finally:
        os.umask(before)
    assert modes(path) == {"directory": {0o700}, "file": {0o600}}


def test_a_file_mode_of_the_group_shares_the_whole_queue(path: Path) -> None:
    before = os.umask(0o077)
    try:
        queue = mailq.open(path, file_mode="0660")
        queue.push("x")
    finally:
        os.umask(before)
    found = modes(path)
    assert found == {"directory": {0o770}, "file": {0o660}}


def modes(path: Path) -> dict[str, set[int]]:
    """The permissions of all directories, and of all files but the owners' locks."""
    found: dict[str, set[int]] = {"directory": set(), "file": set()}
    for item in [path, *path.rglob("*")]:
        if item.parent.name != "owners":
            found["directory" if item.is_dir() else "file"].add(stat.S_IMODE(item.stat().st_mode))
    return found


LITTER = [
    "20201121T013205.123456789Z,01a1fbbbd8c37d158d1a2b3c4d5e6f70.bin",
    "20201121T013205.123456789Z,01a1fbbbd8c37d158d1a2b3c4d5e6f70,until=20201121T013305Z,claim=1,edit=dead.bin",
    ".owner.0123abcd",
    ".reply.00",
    ".copy.00",
    ".journal.00",
    ".mailq.toml.00",
]


def test_what_the_dead_left_half_written_is_removed_by_a_consumer_that_holds_nothing(path: Path) -> None:
    """As one does that acks each message before it asks for the next."""
    clock = ManualClock()
    mailq.open(path)
    queue = mailq.Queue(MaildirEngine(str(path), clock=clock))
    for name in (*LITTER, "somebody's notes"):
        (path / "tmp" / name).touch()
    assert queue.pop() is None
    assert len(os.listdir(path / "tmp")) == len(LITTER) + 1, "they may be being written"
    clock.advance(86_401)
    assert queue.pop() is None
    assert os.listdir(path / "tmp") == ["somebody's notes"]


def test_a_consumer_takes_no_turn_at_reaping_where_nothing_is_held_and_nothing_written(path: Path) -> None:
    clock = ManualClock()
    mailq.open(path)
    queue = mailq.Queue(MaildirEngine(str(path), clock=clock))
    for _ in range(3):
        assert queue.pop() is None
        clock.advance(3600)
    assert not (path / ".reap.lock").exists()
