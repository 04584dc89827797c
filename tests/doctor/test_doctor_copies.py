"""A plain copy of a queue at work is mended by the doctor: everything that stood still is there once, and whole."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from clinic import level, look
from damages import owner
from together import Child, ahead, owner_of

import mailq
from mailq.engines.maildir.doctor import examine

HOUR: Final = 3600.0
MOST: Final = 300
"""So many messages each consumer touches at most."""

TOOLS: Final = {
    "cp": "cp -a jobs copy",
    "tar": "mkdir copy && tar -C jobs -cf - . | tar -C copy -xf -",
    "rsync": "rsync -a jobs/ copy/",
}


def body(n: int) -> str:
    """A text that tells whether it is whole."""
    text = f"{n} " + "x" * (n % 2000)
    return f"{hashlib.sha256(text.encode()).hexdigest()} {text}"


def is_whole(text: str) -> bool:
    digest, _, rest = text.partition(" ")
    return hashlib.sha256(rest.encode()).hexdigest() == digest


def produce(pipe: Any, path: str) -> None:
    """Push until told to stop."""
    queue, n = mailq.open(path), 10_000
    while not pipe.poll():
        queue.push(body(n), delay=(n % 3) * HOUR)
        n += 1
        if n == 10_050:
            pipe.send("running")


def consume(pipe: Any, path: str) -> None:
    """Take messages and settle them in every way, until told to stop; then say which were touched."""
    queue = mailq.open(path)
    touched: set[str] = set()
    turn = 0
    while not pipe.poll(0.01 if len(touched) >= MOST else 0):
        # Not for ever: however slow the copying is, a third of the line must stand still.
        delivery = queue.pop() if len(touched) < MOST else None
        if delivery is None:
            continue
        touched.add(delivery.id)
        turn += 1
        if turn % 12 == 0:
            delivery.ack()
        elif turn % 12 == 1:
            delivery.reject("no")
        elif turn % 3 == 2:
            delivery.nack(delay=0.01, error="later")
        elif turn % 3 == 1:
            delivery.nack(delay=0)
        else:
            delivery.release()
        if turn == 50:
            pipe.send("running")
    pipe.send(touched)
    pipe.recv()  # what it holds is held until the end


@pytest.mark.parametrize("tool", TOOLS)
def test_a_copy_of_a_queue_at_work_is_mended(path: Path, tmp_path: Path, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    queue = mailq.open(path, durability="process-crash", max_retries=99_999)
    stood = set(queue.push_many([body(n) for n in range(900)]))
    still = queue.push_many([body(n) for n in range(50)], delay=HOUR)
    lone = queue.pop(detached=True, lease=HOUR)
    assert lone is not None
    with Child(produce, str(path)) as producer, Child(consume, str(path)) as one, Child(consume, str(path)) as two:
        assert producer.hear() == one.hear() == two.hear() == "running"
        # What vanishes under it makes a tool complain: that is the point.
        done = subprocess.run(TOOLS[tool], shell=True, cwd=tmp_path, capture_output=True, check=False)
        assert (tmp_path / "copy" / "mailq.toml").exists(), done.stderr.decode()
        for child in (one, two):
            child.say("stop")
        touched = one.hear() | two.hear()
        producer.say("stop")
        producer.join()
        expected = (stood - touched) | set(still)
        mended = list(examine(tmp_path / "copy", fix=True, full=True))
        assert [f for f in mended if f.open] == []
        check_the_copy(tmp_path / "copy", expected)


def check_the_copy(copy: Path, expected: set[str]) -> None:
    assert len(expected) >= 200, "most messages stood still, or this shows nothing"
    assert [f.what for f in examine(copy, full=True) if f.level == "error"] == []
    queue = ahead(copy, 2 * HOUR + 600)  # the delays are over, and the lease that nobody ends
    queue.reap()
    queue.redrive()
    got = []
    for delivery in queue.drain():
        got.append(delivery.id)
        assert is_whole(delivery.body)
        delivery.ack()
    assert len(got) == len(set(got)), "nothing is delivered twice"
    assert expected <= set(got), "what stood still is there"
    stats = queue.stats()
    assert stats[:4] == (0, 0, 0, 0)


def test_what_a_live_owner_holds_comes_back_in_a_copy_and_stays_held_in_the_original(
    path: Path, tmp_path: Path
) -> None:
    queue = mailq.open(path)
    queue.push("x")
    delivery = queue.pop()
    assert delivery is not None
    shutil.copytree(path, tmp_path / "copy")
    assert level(look(path, fix=True), "orphans") == "ok"
    mended = look(tmp_path / "copy", fix=True)
    assert "1 to be tried again" in str(mended["orphans"][0].fixed)
    assert mended["owners"][0].fixed == "removed"
    again = mailq.open(tmp_path / "copy").pop()
    assert again is not None
    assert (again.id, again.attempt) == (delivery.id, 2)
    delivery.ack()


def test_in_a_copy_on_another_host_leases_end_by_time(path: Path) -> None:
    """There an owner's copied file may be the file of a process that lives on the first host, for all that can be known."""
    queue = mailq.open(path)
    queue.push("x")
    delivery = queue.pop()
    assert delivery is not None
    token = owner_of(delivery.receipt)
    (path / "owners" / token).unlink()
    owner(path, token)
    assert level(look(path, fix=True), "orphans") == "ok"
    late = look(path, fix=True, ahead=120)
    assert "1 to be tried again" in str(late["overdue"][0].fixed)
    assert level(late, "other-hosts") == "ok"


def test_a_backup_laid_over_the_queue_delivers_nothing_twice(path: Path, tmp_path: Path) -> None:
    """What was acked since comes back, as it must: the backup does not know. All else is there once, in its newest state."""
    queue = mailq.open(path, durability="process-crash", max_retries=0)
    ids = queue.push_many([body(n) for n in range(60)])
    shutil.copytree(path, tmp_path / "backup")
    acked, dead, failed, holding = set(), set(), set(), set()
    for n in range(40):
        delivery = queue.pop()
        assert delivery is not None
        if n < 10:
            delivery.ack()
            acked.add(delivery.id)
        elif n < 20:
            delivery.nack(error="no")
            dead.add(delivery.id)
        elif n < 30:
            delivery.release(delay=HOUR)
            failed.add(delivery.id)
        else:
            holding.add(delivery)
    shutil.copytree(tmp_path / "backup", path, dirs_exist_ok=True)
    found = [f for f in examine(path, fix=True) if f.check == "duplicates"]
    # The dead, and what is held by this living process, are newer than the backup's; a release is as good either way.
    assert found[0].affected == 30
    states = {id: queue.get(id).state for id in ids}
    assert {states[id] for id in acked} == {"ready"}
    assert {states[id] for id in dead} == {"dead"}
    assert {states[d.id] for d in holding} == {"leased"}
    for delivery in holding:
        delivery.ack()
    got = [delivery.id for delivery in queue.drain()]
    assert sorted(got) == sorted(set(ids) - dead - {d.id for d in holding})
