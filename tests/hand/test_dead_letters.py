"""Two queues that share one dead-letter queue."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ordered import Ordered

import mailq
from mailq.engines.maildir.engine import MaildirEngine
from mailq.testing import ManualClock


@pytest.fixture
def queues(tmp_path: Path) -> tuple[mailq.Queue, mailq.Queue, mailq.Queue]:
    home = tmp_path / "failed"
    one = mailq.open(tmp_path / "one", dead_letters=home, max_retries=0)
    other = mailq.open(tmp_path / "other", dead_letters=home, max_retries=0)
    return one, other, mailq.open(home, create=False)


def fail(queue: mailq.Queue, body: str) -> str:
    id = queue.push(body, headers={"h": body})
    delivery = queue.pop()
    assert delivery is not None
    delivery.nack(error=f"{body} failed")
    return id


def test_dead_letters_are_messages_of_the_shared_queue_with_origin_and_story(
    queues: tuple[mailq.Queue, mailq.Queue, mailq.Queue],
) -> None:
    one, other, dead = queues
    ids = [fail(one, "a"), fail(other, "b")]
    letters = [dead.pop(), dead.pop()]
    for letter, id, origin, body in zip(letters, ids, (one, other), "ab", strict=True):
        assert letter is not None
        assert (letter.id, letter.body, letter.headers, letter.attempt) == (id, body, {"h": body}, 1)
        assert (letter.origin, letter.reason) == (origin.location, "retries")
        assert [(a.outcome, a.error) for a in letter.history] == [("error", f"{body} failed")]
        letter.ack()
    assert (one.stats().dead, other.stats().dead, len(dead)) == (0, 0, 0)
    assert list(Path(dead.location, "errors").iterdir()) == []


def test_each_queue_sees_and_redrives_its_own_dead_only(queues: tuple[mailq.Queue, mailq.Queue, mailq.Queue]) -> None:
    one, other, dead = queues
    id = fail(one, "a")
    fail(other, "b")
    assert (one.stats().dead, other.stats().dead, dead.stats().ready) == (1, 1, 2)
    assert [m.id for m in one.peek("dead")] == [id]
    assert one.get(id).state == "dead"
    assert one.redrive() == 1
    back = one.pop()
    assert back is not None
    assert (back.id, back.attempt, back.origin) == (id, 1, one.location)
    assert [a.error for a in back.history] == ["a failed"]
    assert other.stats().dead == 1
    assert other.purge("dead") == 1
    assert len(dead) == 0


def test_a_dead_letter_that_fails_again_dies_in_the_shared_queue(
    queues: tuple[mailq.Queue, mailq.Queue, mailq.Queue],
) -> None:
    one, _, dead = queues
    fail(one, "a")
    letter = dead.pop()
    assert letter is not None
    letter.reject("no use")
    assert dead.stats().dead == 1
    (buried,) = dead.peek("dead")
    assert [a.error for a in buried.history] == ["a failed", "no use"]
    assert buried.origin == one.location


def test_without_the_shared_queue_the_dead_stay_at_home(
    queues: tuple[mailq.Queue, mailq.Queue, mailq.Queue],
) -> None:
    one, _, dead = queues
    shutil.rmtree(dead.location)
    id = fail(one, "a")
    assert [m.id for m in one.peek("dead")] == [id]
    assert one.redrive() == 1


def test_a_queue_cannot_be_its_own_dead_letter_queue(tmp_path: Path) -> None:
    with pytest.raises(mailq.SettingsError, match="names the queue itself"):
        mailq.open(tmp_path / "one", dead_letters=tmp_path / "one")


def test_a_missing_shared_queue_is_logged_and_stops_nobody(
    queues: tuple[mailq.Queue, mailq.Queue, mailq.Queue], caplog: pytest.LogCaptureFixture
) -> None:
    one, _, dead = queues
    shutil.rmtree(dead.location)
    again = mailq.open(one.location, create=False)
    assert "the dead stay here" in caplog.text
    again.configure(dead_letters=None)
    assert again.settings.dead_letters is None


def test_a_shared_queue_that_cannot_be_had_leaves_no_queue_behind(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").touch()
    with pytest.raises(mailq.SettingsError, match="dead_letters"):
        mailq.open(tmp_path / "one", dead_letters=tmp_path / "full")
    assert not (tmp_path / "one").exists()


def test_both_queues_can_move_together(queues: tuple[mailq.Queue, mailq.Queue, mailq.Queue], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("one", "failed"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    one = mailq.open(tmp_path / "elsewhere" / "one", create=False)
    fail(one, "a")
    letter = mailq.open(tmp_path / "elsewhere" / "failed", create=False).pop()
    assert letter is not None
    assert letter.origin == str(tmp_path / "elsewhere" / "one")


@pytest.mark.parametrize("how", ["expire", "are reaped"])
def test_many_that_die_at_once_are_synced_together(tmp_path: Path, how: str) -> None:
    """One by one they would keep a consumer from its other work, such as its heartbeats."""
    disk, clock = Ordered(), ManualClock()
    mailq.open(tmp_path / "jobs", max_retries=0)
    queue = mailq.Queue(MaildirEngine(str(tmp_path / "jobs"), disk=disk, clock=clock))
    queue.push_many(range(100), ttl=5 if how == "expire" else None)
    if how == "are reaped":
        queue.pop_many(100, lease=5)
    clock.advance(10)
    disk.syncs.clear()
    assert queue.pop() is None
    assert queue.stats().dead == 100
    assert disk.syncs.count("syncfs") == 1
    assert disk.syncs.count("fsync") < 5
