"""Of several files with one id the newest state stays; the others are kept aside, whole and out of the way."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from clinic import level, look, machine, troubles
from damages import copy_to, died, held, owner, push
from together import Child

import mailq
from mailq.engines.maildir import layout, names
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.doctor import context, duplicates
from mailq.engines.maildir.doctor.machine import Machine
from mailq.engines.maildir.names import checksum
from mailq.ids import NS, id_time, new_id

SOON = 3600 * NS


class Copy(NamedTuple):
    """One of several files with an id: where, with which fields, content, and age in seconds."""

    directory: str
    fields: dict[str, Any] = {}  # noqa: RUF012 - never changed
    body: bytes = b"body"
    age: float = 10.0
    torn: bool = False


def write(path: Path, id: str, copy: Copy) -> Path:
    envelope = names.MessageName(id_time(id) or 0, id, "txt", size=len(copy.body), crc=checksum(copy.body))._replace(
        **copy.fields
    )
    file = path / copy.directory / names.format_name(envelope)
    file.write_bytes(copy.body[:1] if copy.torn else copy.body)
    at = time.time() - copy.age
    os.utime(file, (at, at))
    return file


def lease(**fields: Any) -> dict[str, Any]:
    return {"until": time.time_ns() + SOON, "claim": "1a", **fields}


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        pytest.param(Copy("new", {"tries": "E"}), Copy("cur", lease()), id="nacked-after-the-claim"),
        pytest.param(Copy("cur", lease(tries="EE")), Copy("later", {"tries": "E"}), id="claimed-after-a-back-off"),
        pytest.param(Copy("dead", {"tries": "E6r", "dead": True}), Copy("new", {"tries": "E5"}), id="died"),
        pytest.param(Copy("dead", {"tries": "x", "dead": True}), Copy("new"), id="expired-without-an-attempt"),
        pytest.param(
            Copy("new", {"tries": "E6r"}), Copy("dead", {"tries": "E6r", "dead": True}), id="redriven-keeps-its-story"
        ),
        pytest.param(
            Copy("new", {"tries": "E6r"}, body=b"edited", age=9),
            Copy("dead", {"tries": "E6r", "dead": True}, age=5),
            id="edited-and-redriven-whatever-the-times",
        ),
        pytest.param(Copy("new", {"tries": "E6rE"}), Copy("dead", {"tries": "E6r", "dead": True}), id="failed-again"),
        pytest.param(Copy("new", {"tries": "X20E"}), Copy("later", {"tries": "X12E2N3T"}), id="folded-counts"),
        pytest.param(Copy("cur", lease()), Copy("new"), id="in-somebodys-hands"),
        pytest.param(Copy("new"), Copy("cur", lease(owner="abcd")), id="held-by-the-dead"),
        pytest.param(Copy("new"), Copy("cur", lease(until=1)), id="held-too-long"),
        pytest.param(Copy("new"), Copy("later"), id="came-due"),
        pytest.param(Copy("later", body=b"edited", age=5), Copy("new", body=b"body", age=9), id="edited"),
        pytest.param(Copy("new", body=b"body", age=5), Copy("new", body=b"edit", age=9), id="edited-as-long-as-before"),
        pytest.param(
            Copy("dead", {"tries": "r", "dead": True}, body=b"edited", age=5),
            Copy("dead", {"tries": "r", "dead": True}, age=9),
            id="edited-dead",
        ),
        pytest.param(Copy("new"), Copy("new", {"tries": "E"}, torn=True), id="whole-before-torn"),
        pytest.param(
            Copy("new", {"tries": "E6"}), Copy("dead", {"tries": "E6t", "dead": True}, torn=True), id="buried-as-torn"
        ),
    ],
)
def test_the_newest_state_stays(queue: mailq.Queue, path: Path, newer: Copy, older: Copy) -> None:
    id = new_id(time.time_ns())
    stays, goes = write(path, id, newer), write(path, id, older)
    content = goes.read_bytes()
    assert level(look(path), "duplicates") == "error"
    assert stays.exists()
    assert goes.exists(), "nothing is moved without --fix"
    (finding,) = look(path, fix=True)["duplicates"]
    assert finding.paths == (os.path.relpath(goes, path),)
    assert not goes.exists()
    assert (path / "aside" / older.directory / goes.name).read_bytes() == content
    assert queue.get(id).id == id
    assert level(look(path), "duplicates") == "ok"


def test_of_many_one_is_left(queue: mailq.Queue, path: Path) -> None:
    first = push(path)
    ids = {first.name[27:59]}
    for tries in ("E", "EE", "EEE"):
        copy_to(first, "new", tries=tries)
        copy_to(first, "later", tries=tries)
    for _ in range(50):
        ids.add(push(path).name[27:59])
    (finding,) = look(path, fix=True)["duplicates"]
    assert (finding.affected, len(finding.paths)) == (6, 3)
    assert "6 files moved" in str(finding.fixed)
    got = list(queue.drain())
    assert sorted(delivery.id for delivery in got) == sorted(ids)
    assert {delivery.attempt for delivery in got} == {1, 4}


def test_what_was_put_aside_can_be_brought_back_by_hand(queue: mailq.Queue, path: Path) -> None:
    file = push(path)
    copy = copy_to(file, "later")
    look(path, fix=True)
    file.unlink()
    (path / "aside" / "later" / copy.name).rename(path / "new" / copy.name)
    delivery = queue.pop()
    assert delivery is not None
    assert delivery.id == file.name[27:59]
    assert level(look(path), "aside") == "ok"


def test_what_is_aside_is_never_replaced_delivered_or_purged(queue: mailq.Queue, path: Path) -> None:
    file = push(path)
    for _ in range(2):
        copy_to(file, "later")
        look(path, fix=True)
    (finding,) = look(path)["aside"]
    assert (finding.level, finding.affected) == ("warning", 2)
    assert {p.name[: len(file.name)] for p in (path / "aside/later").iterdir()} == {file.name}
    assert len(list(queue.drain())) == 1
    for state in ("ready", "delayed", "leased", "dead"):
        queue.purge(state)
    queue.reap()
    assert len(os.listdir(path / "aside/later")) == 2


def test_a_link_that_was_planted_for_aside_is_not_followed(queue: mailq.Queue, path: Path, tmp_path: Path) -> None:
    copy_to(push(path), "later")
    (tmp_path / "outside").mkdir()
    (path / "aside").mkdir()
    (path / "aside" / "later").symlink_to(tmp_path / "outside")
    (finding,) = look(path, fix=True)["duplicates"]
    assert (finding.level, finding.fixed) == ("error", None)
    assert "it failed: Not a directory" in finding.remedy
    assert os.listdir(tmp_path / "outside") == []


def test_a_copy_that_somebody_takes_meanwhile_is_none_any_more(queue: mailq.Queue, path: Path) -> None:
    copy_to(push(path), "later")

    class Slow(Disk):
        def rename(self, source: str, target: str) -> None:
            if "/aside/" in target:
                os.unlink(source)  # its consumer acks it right now
            super().rename(source, target)

    (finding,) = look(path, fix=True, disk=Slow())["duplicates"]
    assert (finding.level, finding.fixed) == ("ok", None)


def test_a_disk_that_does_not_move_is_told(queue: mailq.Queue, path: Path) -> None:
    copy_to(push(path), "later")

    class Full(Disk):
        def mkdir(self, path: str, mode: int = 0o700) -> None:
            raise OSError(28, "No space left on device")

    (finding,) = look(path, fix=True, disk=Full())["duplicates"]
    assert (finding.level, finding.fixed) == ("error", None)
    assert "No space left" in finding.remedy


def test_a_disk_that_moves_only_some_leaves_an_error(queue: mailq.Queue, path: Path) -> None:
    for _ in range(3):
        copy_to(push(path), "later")
    moved: list[str] = []

    class Failing(Disk):
        def rename(self, source: str, target: str) -> None:
            if moved:
                raise OSError(5, "Input/output error")
            moved.append(target)
            super().rename(source, target)

    (finding,) = look(path, fix=True, disk=Failing())["duplicates"]
    assert (finding.affected, finding.fixed, finding.open) == (3, None, True)
    assert finding.remedy == "1 file moved to aside/, then it failed: Input/output error"
    assert level(look(path, fix=True), "duplicates") == "error"
    assert level(look(path), "duplicates") == "ok"


def test_moves_are_durable(queue: mailq.Queue, path: Path) -> None:
    copy_to(push(path), "later")
    calls: list[str] = []

    class Recording(Disk):
        def rename(self, source: str, target: str) -> None:
            calls.append(f"rename to {os.path.relpath(os.path.dirname(target), path)}")
            super().rename(source, target)

        def sync_directory(self, path_: str) -> None:
            calls.append(f"sync {os.path.relpath(path_, path)}")
            super().sync_directory(path_)

    look(path, fix=True, disk=Recording())
    after = calls[calls.index("rename to aside/later") :]
    assert {"sync aside/later", "sync aside", "sync .", "sync later"} <= set(after)


def test_more_ids_than_are_looked_into_at_once(queue: mailq.Queue, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailq.engines.maildir.doctor.duplicates._AT_ONCE", 7)
    for id in queue.push_many(range(40)):
        copy_to(Path(queue.get(id).location), "later")
    (finding,) = look(path, fix=True)["duplicates"]
    assert finding.affected == 40
    assert len(os.listdir(path / "new")) == 40
    assert os.listdir(path / "later") == []


def churn(pipe: Any, path: str) -> None:
    """Have messages go through every move that there is, until told to stop."""
    queue = mailq.open(path)
    acked: list[str] = []
    turn = 0
    while not pipe.poll():
        delivery = queue.pop()
        if delivery is None:
            continue
        turn += 1
        if turn % 5 == 0:
            delivery.ack()
            acked.append(delivery.id)
        elif turn % 5 == 1:
            delivery.release()
        elif turn % 5 == 2:
            delivery.nack(delay=0.001, error="once more")
        elif turn % 5 == 3:
            delivery.nack(delay=0)
        else:
            queue.edit(queue.get(queue.push(f"{turn}")), f"edited {turn}".encode())
            delivery.release(delay=0.001)
        if turn == 50:
            pipe.send("running")
    pipe.send(acked)


def test_beside_running_workers_nothing_is_taken_for_a_duplicate(path: Path) -> None:
    """Messages move all the time; each is one message at any time, and stays so under --fix."""
    queue = mailq.open(path, durability="process-crash", max_retries=99_999, reap_interval=0.01)
    queue.push_many(range(200))
    with Child(churn, str(path)) as one, Child(churn, str(path)) as two:
        assert one.hear() == two.hear() == "running"
        for turn in range(24):
            found = look(path, fix=turn % 2 == 0)
            assert level(found, "duplicates") == "ok", found["duplicates"]
            assert level(found, "torn") == "ok", found["torn"]
        for child in (one, two):
            child.say("stop")
        acked = [*one.hear(), *two.hear()]
    assert not (path / "aside").exists()
    left = [message.id for state in ("ready", "delayed", "leased", "dead") for message in queue.peek(state, None)]
    assert len(left) == len(set(left))
    assert not set(left) & set(acked)


def test_a_message_that_moves_on_while_it_is_listed_is_one(
    queue: mailq.Queue, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen where it was, then where it is: when its id is listed, and again when the files that carry it meet."""
    file = push(path)
    moved = path / "later" / file.name
    listed = context.message_files

    def move_then_list(directory: str) -> Any:
        if directory == f"{path}/new" and moved.exists():
            moved.rename(file)
        if directory == f"{path}/later":
            file.rename(moved)
        return listed(directory)

    monkeypatch.setattr("mailq.engines.maildir.doctor.duplicates.message_files", move_then_list)
    (finding,) = look(path)["duplicates"]
    assert finding.level == "ok"


@pytest.mark.parametrize("links", [1, 2])
def test_a_message_that_is_there_and_back_again_is_one(
    queue: mailq.Queue, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: int
) -> None:
    """Moved and moved back between three looks: at each it is where it is looked for. A backup may hold a link to it."""
    here = push(path)
    there = path / "later" / here.name
    for n in range(1, links):
        os.link(here, tmp_path / f"backup{n}")
    moves = iter([(), (here, there), (there, here)])
    looked: list[str] = []

    def move_then_look(name: str) -> os.stat_result | None:
        if move := next(moves):
            move[0].rename(move[1])
        looked.append(name)
        return os.lstat(name)

    monkeypatch.setattr(layout, "status_of", move_then_look)
    assert duplicates._both_there(str(here), str(there)) is False
    assert looked == [str(here), str(there), str(here)]


def test_a_file_that_is_listed_twice_is_one(queue: mailq.Queue, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a listing may that others rename in meanwhile. That a backup holds a link to the file must not matter."""
    file = push(path)
    os.link(file, path.parent / "backup")
    listed = context.message_files
    monkeypatch.setattr(
        "mailq.engines.maildir.doctor.duplicates.message_files",
        lambda directory: [*listed(directory), *listed(directory)],
    )
    (finding,) = look(path, fix=True)["duplicates"]
    assert finding.level == "ok"
    assert file.exists()


def test_leases_and_owners_of_a_process_that_was_killed(queue: mailq.Queue, path: Path) -> None:
    push(path)
    with Child(_hold, str(path)) as child:
        receipt = child.hear()
        assert level(look(path), "orphans") == "ok"
        assert level(look(path), "owners") == "ok"
        child.kill()
    found = look(path)
    assert (level(found, "orphans"), level(found, "owners")) == ("warning", "warning")
    assert found["orphans"][0].paths == (f"cur/{receipt}",)
    assert "1 to be tried again" in str(look(path, fix=True)["orphans"][0].fixed)
    again = queue.pop()
    assert again is not None
    assert again.history[0].outcome == "killed"
    assert os.listdir(path / "owners") == [names.parse(again.receipt).owner]  # type: ignore[union-attr]


def _hold(pipe: Any, path: str) -> None:
    delivery = mailq.open(path).pop()
    assert delivery is not None
    pipe.send(delivery.receipt)
    pipe.recv()


def test_a_program_as_the_readme_shows_it_leaves_a_queue_that_is_well(path: Path) -> None:
    """It opens, pushes, pops, acks and ends: no close."""
    code = "import mailq, sys; q = mailq.open(sys.argv[1]); q.push('x'); q.pop().ack()"
    subprocess.run([sys.executable, "-c", code, path], check=True)
    assert len(os.listdir(path / "owners")) == 1
    found = look(path)
    assert troubles(found) == []
    assert "1 ended without a close" in found["owners"][0].what


def test_who_is_no_owner_does_not_count_as_one(queue: mailq.Queue, path: Path) -> None:
    (path / "owners" / "notes.txt").write_text("x")
    (finding,) = look(path, fix=True)["owners"]
    assert (finding.affected, finding.fixed) == (0, None)
    assert "none is dead" in finding.what


@pytest.mark.parametrize("check", ["owners", "litter"])
def test_what_cannot_be_removed_is_not_told_as_removed(path: Path, check: str) -> None:
    mailq.open(path)
    owner(path, "0123abcd", host=platform.node())
    (path / "tmp" / ".reply.00").touch()

    class Kept(Disk):
        def unlink(self, path: str) -> None:
            if path.endswith(("0123abcd", ".reply.00")):
                raise PermissionError
            super().unlink(path)

    (finding,) = look(path, fix=True, disk=Kept(), ahead=2 * 86_400)[check]
    assert (finding.affected, finding.fixed) == (1, None)
    assert look(path, fix=True, ahead=2 * 86_400)[check][0].fixed == "removed"


def test_a_process_that_lives_and_lets_its_lease_run_out_is_stuck(queue: mailq.Queue, path: Path) -> None:
    queue.push("x")
    delivery = queue.pop()
    assert delivery is not None
    (finding,) = look(path, ahead=600)["stuck-owners"]
    assert finding.level == "warning"
    assert f"pid {os.getpid()}" in finding.paths[0]
    assert level(look(path), "stuck-owners") == "ok"
    assert level(look(path, ahead=30), "overdue") == "ok", "half of the lease is left"


@pytest.mark.parametrize("ahead", [0, 600])
def test_a_process_that_is_stopped_is_named_whether_or_not_its_lease_has_run_out(
    queue: mailq.Queue, path: Path, tmp_path: Path, ahead: float
) -> None:
    queue.push("x")
    delivery = queue.pop()
    assert delivery is not None
    here = machine(tmp_path / "machine")
    stat = tmp_path / "machine" / "proc" / str(os.getpid()) / "stat"
    stat.parent.mkdir()
    stat.write_text(f"{os.getpid()} (a) T (name) S 1 1 1\n")
    assert "stopped, and" not in look(path, ahead=ahead, machine=here)["stuck-owners"][0].what
    stat.write_text(f"{os.getpid()} (a) S (name) T 1 1 1\n")
    (finding,) = look(path, ahead=ahead, machine=here)["stuck-owners"]
    assert (finding.level, finding.affected) == ("warning", 1)
    assert "is stopped" in finding.what
    assert f"(pid {os.getpid()})" in finding.paths[0]


def test_a_real_process_that_is_stopped_is_seen_as_such() -> None:
    if not os.path.exists("/proc/self/stat"):
        pytest.skip("no /proc here")
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            assert not Machine().is_stopped(process.pid)
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            assert Machine().is_stopped(process.pid)
        finally:
            process.kill()
    assert not Machine().is_stopped(process.pid)


def test_the_dead_are_not_touched_by_a_mending(queue: mailq.Queue, path: Path) -> None:
    dead, leased = died(path), held(path)
    look(path, fix=True)
    assert dead.exists()
    assert leased.exists()
