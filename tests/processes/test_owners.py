"""Who is there, and what they tell of themselves."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from together import Child, owner_of

import mailq
from mailq.engines.maildir import filesystems, leases
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.message import NewMessage
from mailq.testing import take

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def tell(pipe: Connection[Any, Any], path: str, story: dict[str, Any]) -> None:
    """Tell a story; and another one for each that is heard."""
    queue = mailq.open(path, create=False)
    queue.publish(story)
    pipe.send("told")
    while (story := pipe.recv()) is not None:
        queue.publish(story)
        pipe.send("told")
    queue.close()


def hold(pipe: Connection[Any, Any], path: str) -> None:
    """Pop, tell the receipt, and hold it until told to end."""
    queue = mailq.open(path, create=False)
    pipe.send(take(queue).receipt)
    pipe.recv()


def test_a_live_process_is_listed_with_its_story(queue: mailq.Queue, path: Path) -> None:
    before = time.time()
    with Child(tell, str(path), {"running": ["a"], "größe": 3}) as worker:
        assert worker.hear() == "told"
        for _ in range(3):
            (owner,) = queue.workers()
            assert (owner.pid, owner.host, owner.alive) == (worker.pid, platform.node(), True)
            assert owner.status == {"running": ["a"], "größe": 3}
            assert before <= owner.since <= time.time()
            assert os.listdir(path / "owners") == [owner.token]


def test_a_story_of_another_process_changes_as_it_tells(queue: mailq.Queue, path: Path) -> None:
    with Child(tell, str(path), {"n": 0}) as worker:
        worker.hear()
        for text in ("x" * 1000, "", "y" * 60_000, "z"):
            worker.say({"text": text})
            worker.hear()
            (owner,) = queue.workers()
            assert (owner.pid, owner.alive, owner.status) == (worker.pid, True, {"text": text})
            (file,) = (path / "owners").iterdir()
            assert json.loads(file.read_text())["text"] == text  # as jq would find it


def test_a_holder_of_leases_is_listed_under_the_name_in_its_receipts(queue: mailq.Queue, path: Path) -> None:
    queue.push("x")
    with Child(hold, str(path)) as holder:
        receipt = holder.hear()
        (owner,) = queue.workers()
        assert (owner.token, owner.pid, owner.status) == (owner_of(receipt), holder.pid, {})


def test_who_only_looks_or_pushes_is_no_owner(queue: mailq.Queue, path: Path) -> None:
    queue.push("x")
    assert queue.workers() == []
    queue.stats(), queue.peek(), queue.reap()
    assert queue.workers() == []
    assert os.listdir(path / "owners") == []


def test_a_killed_process_is_listed_dead_once_and_its_file_is_gone(queue: mailq.Queue, path: Path) -> None:
    with Child(tell, str(path), {"running": ["a"]}) as worker:
        worker.hear()
        worker.kill()
        assert len(os.listdir(path / "owners")) == 1
        (owner,) = queue.workers()
        assert (owner.pid, owner.host, owner.alive) == (worker.pid, platform.node(), False)
        assert owner.status == {"running": ["a"]}
        assert os.listdir(path / "owners") == []
        assert queue.workers() == []


def test_what_a_dead_process_held_comes_back_though_somebody_looked_at_the_owners(
    queue: mailq.Queue, path: Path
) -> None:
    id = queue.push("x")
    with Child(hold, str(path)) as holder:
        holder.hear()
        holder.kill()
    (owner,) = queue.workers()
    assert not owner.alive
    assert queue.reap().returned == 1
    delivery = take(queue)
    assert (delivery.id, [attempt.outcome for attempt in delivery.history]) == (id, ["killed"])


def test_the_living_stay_when_the_dead_go(queue: mailq.Queue, path: Path) -> None:
    with Child(tell, str(path), {"name": "one"}) as one:
        one.hear()
        with Child(tell, str(path), {"name": "other"}) as other:
            other.hear()
            assert [owner.pid for owner in queue.workers()] == [one.pid, other.pid]  # oldest first
            one.kill()
            assert [(owner.pid, owner.alive) for owner in queue.workers()] == [(one.pid, False), (other.pid, True)]
            assert [(owner.pid, owner.status) for owner in queue.workers()] == [(other.pid, {"name": "other"})]


def test_a_process_that_leaves_in_good_order_is_not_listed(queue: mailq.Queue, path: Path) -> None:
    with Child(tell, str(path), {}) as worker:
        worker.hear()
        assert len(queue.workers()) == 1
        worker.say(None)
        worker.join()
        assert queue.workers() == []


@pytest.mark.parametrize("how", ["by telling", "by popping"])
def test_a_new_owner_sweeps_the_files_of_the_dead(queue: mailq.Queue, path: Path, how: str) -> None:
    with Child(tell, str(path), {}) as living, Child(tell, str(path), {}) as doomed:
        living.hear(), doomed.hear()
        doomed.kill()
        assert len(os.listdir(path / "owners")) == 2
        queue.push("x")
        if how == "by telling":
            queue.publish({})
        else:
            take(queue)
        assert len(os.listdir(path / "owners")) == 2
        assert {(owner.pid, owner.alive) for owner in queue.workers()} == {(living.pid, True), (os.getpid(), True)}


def test_two_queues_of_one_process_are_two_owners(path: Path) -> None:
    one, other = mailq.open(path), mailq.open(path)
    one.publish({"name": "one"})
    other.publish({"name": "other"})
    assert [owner.status for owner in one.workers()] == [{"name": "one"}, {"name": "other"}]
    assert {owner.pid for owner in other.workers()} == {os.getpid()}
    one.close()
    assert [owner.status for owner in other.workers()] == [{"name": "other"}]


def test_a_story_that_is_too_long_is_not_told_but_does_no_harm(queue: mailq.Queue, path: Path) -> None:
    mailq.open(path).push("x")
    with Child(hold, str(path)) as holder, Child(tell, str(path), {"text": "x" * 50_000}) as worker:
        holder.hear(), worker.hear()
        for story, expected in (
            ({"text": "y" * 100_000}, {}),
            ({"text": "z" * 60_000}, {"text": "z" * 60_000}),
            ({"text": "\0" * 100_000}, {}),
            ({"text": "short"}, {"text": "short"}),
        ):
            worker.say(story)
            assert worker.hear() == "told"
            told = {owner.pid: owner for owner in queue.workers()}
            assert (told[worker.pid].alive, told[worker.pid].status) == (True, expected)
            assert told[holder.pid].alive
        assert queue.reap()[:3] == (0, 0, 0)
        assert max(file.stat().st_size for file in (path / "owners").iterdir()) <= 65_536


def tell_for_ever(pipe: Connection[Any, Any], path: str, least: int) -> None:
    """Tell longer and shorter stories until told to end, so many at least; say how many they were."""
    queue = mailq.open(path, create=False)
    count = 0
    while count < least or not pipe.poll():
        queue.publish({"text": chr(97 + count % 26) * (count * 7919 % 20_000)})
        count += 1
        if count == 1:
            pipe.send("begun")
    queue.publish({"text": "the end"})
    pipe.send(count)
    pipe.recv(), pipe.recv()


def test_who_looks_while_stories_are_rewritten_finds_the_teller_alive(queue: mailq.Queue, path: Path) -> None:
    with Child(tell_for_ever, str(path), 2000) as worker:
        assert worker.hear() == "begun"
        tokens = set()
        for _ in range(2000):
            (owner,) = queue.workers()
            assert owner.alive
            tokens.add(owner.token)
        worker.say("end")
        assert worker.hear() >= 2000
        (owner,) = queue.workers()
        assert (owner.pid, owner.status) == (worker.pid, {"text": "the end"})
        assert tokens == {owner.token}


def test_an_owner_that_leaves_during_the_look_is_not_made_up(queue: mailq.Queue, path: Path) -> None:
    """It is not known who it was, nor that it died: it went in good order, or was shown to another."""
    queue.publish({"name": "leaving"})

    class Leaving(Disk):
        def open_to_read(self, path: str) -> int:
            if "/owners/" in path:
                queue.close()
            return super().open_to_read(path)

    assert MaildirEngine(str(path), disk=Leaving()).holders() == []


STRANGE: dict[str, bytes] = {
    "empty": b"",
    "half": b'{"host": "x", "pi',
    "no text": bytes(range(256)),
    "a list": b"[]",
    "other types": b'{"host": 7, "pid": "x", "since": null, "boot": []}',
    "nested": b"[" * 60_000,
    "long": b" " * 100_000,
    "a huge number": b'{"host": "x", "boot": "", "pid": ' + b"9" * 10_000 + b"}",
    "infinite": b'{"host": "x", "boot": "", "pid": 1, "since": Infinity}',
}


@pytest.mark.parametrize("data", STRANGE.values(), ids=STRANGE)
def test_a_strange_file_among_the_owners_does_no_harm(queue: mailq.Queue, path: Path, data: bytes) -> None:
    (path / "owners" / "strange").write_bytes(data)
    (path / "owners" / "directory").mkdir()
    os.mkfifo(path / "owners" / "fifo")
    (path / "owners" / "link").symlink_to("/etc/passwd")
    queue.workers()
    queue.publish({"n": 1})
    queue.push("x")
    take(queue)
    assert [owner.status for owner in queue.workers() if owner.pid == os.getpid()] == [{"n": 1}]
    assert queue.reap()[:3] == (0, 0, 0)


# Which machine an owner runs on

MACHINE, ANOTHER = "4f8a0d62c1b94e7f9a3d5c6b7e8f9012", "00112233445566778899aabbccddeeff"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has an id, whatever the tests run on."""
    monkeypatch.setattr(leases, "machine_id", lambda: MACHINE)


def test_an_owner_says_on_which_machine_and_since_which_start_it_runs(
    queue: mailq.Queue, path: Path, machine: None
) -> None:
    queue.publish({})
    (file,) = (path / "owners").iterdir()
    told = json.loads(file.read_text())
    assert (told["host"], told["machine"], told["boot"]) == (platform.node(), MACHINE, leases.boot_id())


def held_elsewhere(path: Path, **story: Any) -> MaildirEngine:
    """Claim a message as a process whose lock does not reach this one, and which says where it runs."""
    engine = MaildirEngine(str(path))
    engine.push([NewMessage(b"x", "bin")])
    engine.claim(1, lease=None, detached=False)
    token = engine._holder.token()
    engine._holder.close()
    here = {"host": platform.node(), "machine": MACHINE, "boot": leases.boot_id(), "pid": 1, "since": 0.0}
    told = {key: value for key, value in (here | story).items() if value is not None}
    (path / "owners" / token).write_text(json.dumps(told) + "\n")
    return engine


LOCAL, SHARED = False, True
ELSEWHERE: dict[str, tuple[dict[str, Any], bool]] = {
    "another machine of this name": ({"machine": ANOTHER, "boot": "another"}, LOCAL),
    "another machine of this name on a network disk": ({"machine": ANOTHER, "boot": "another"}, SHARED),
    "a machine cloned from this one on a network disk": ({"boot": "another"}, SHARED),
    "a machine cloned from this one, renamed": ({"boot": "another", "host": "elsewhere"}, LOCAL),
    "a container without a machine id": ({"machine": "", "boot": "another"}, LOCAL),
    "earlier code on a network disk": ({"machine": None, "boot": "another"}, SHARED),
}
HERE: dict[str, tuple[dict[str, Any], bool]] = {
    "this start of this machine": ({}, LOCAL),
    "a container under this kernel": ({"machine": ANOTHER, "host": "elsewhere"}, SHARED),
    "an earlier start of this machine": ({"boot": "another"}, LOCAL),
    "earlier code under this kernel": ({"machine": None}, SHARED),
    "earlier code and an earlier start of this machine": ({"machine": None, "boot": "another"}, LOCAL),
}


@pytest.mark.parametrize(("story", "shared"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_lease_of_a_process_that_may_live_elsewhere_is_left_to_it(
    path: Path,
    queue: mailq.Queue,
    machine: None,
    monkeypatch: pytest.MonkeyPatch,
    story: dict[str, Any],
    *,
    shared: bool,
) -> None:
    """Its lock can be had, since a disk without shared locks knows of none that another machine has taken."""
    monkeypatch.setattr(filesystems, "is_all_here", lambda _: not shared)
    engine = held_elsewhere(path, **story)
    assert queue.reap()[:3] == (0, 0, 0)
    assert [owner.alive for owner in queue.workers()] == [True]
    assert os.listdir(path / "owners") == [owner.token for owner in queue.workers()]
    assert len(os.listdir(path / "cur")) == 1
    engine.close()


@pytest.mark.parametrize(("story", "shared"), HERE.values(), ids=HERE)
def test_a_lease_of_a_process_that_died_here_is_given_back_at_once(
    path: Path,
    queue: mailq.Queue,
    machine: None,
    monkeypatch: pytest.MonkeyPatch,
    story: dict[str, Any],
    *,
    shared: bool,
) -> None:
    monkeypatch.setattr(filesystems, "is_all_here", lambda _: not shared)
    held_elsewhere(path, **story)
    assert queue.reap()[:3] == (1, 0, 0)
    assert os.listdir(path / "owners") == []


@pytest.mark.parametrize("text", ['{"host": "x", "pi', "", "[]"], ids=["half", "nothing", "a list"])
@pytest.mark.parametrize("shared", [LOCAL, SHARED], ids=["local", "shared"])
def test_a_file_that_says_nothing_is_a_dead_owners_where_nobody_else_can_be_writing_it(
    path: Path, queue: mailq.Queue, monkeypatch: pytest.MonkeyPatch, text: str, *, shared: bool
) -> None:
    """A worker rewrites its file in place, and another machine may read half of it."""
    monkeypatch.setattr(filesystems, "is_all_here", lambda _: not shared)
    held_elsewhere(path)
    (file,) = (path / "owners").iterdir()
    file.write_text(text)
    assert queue.reap()[:3] == (int(not shared), 0, 0)
    assert os.listdir(path / "owners") == ([file.name] if shared else [])


def test_where_the_system_does_not_tell_one_start_from_another_the_name_tells_the_machine(
    path: Path, queue: mailq.Queue, machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS: a process that was killed is found dead at once."""
    monkeypatch.setattr(leases, "boot_id", lambda: "")
    monkeypatch.setattr(filesystems, "is_all_here", lambda _: False)
    held_elsewhere(path, boot="", host="elsewhere")
    held_elsewhere(path, boot="")
    assert queue.reap()[:3] == (1, 0, 0)
