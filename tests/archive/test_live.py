"""Exports and imports while other processes use the queue, or are killed."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from command import MAILQ
from making import exported, ids_on_disk, imported, make, plain, rows, tar
from together import Child, wait_until

import mailq
from mailq import transfer
from mailq.engines.maildir import names
from mailq.transfer.items import Format

STAYING, EXPORTS, SLOW_EXPORTS = 150, 10, 60


def flip(pipe: Connection[Any, Any], path: str, seed: int) -> None:
    """Pop and give back, in every way there is, as fast as it goes; ack only what is not to stay."""
    chance = random.Random(seed)
    queue = mailq.open(path, create=False)
    done = 0
    pipe.send("ready")
    while not pipe.poll():
        for delivery in queue.pop_many(chance.randint(1, 3), wait=0.01):
            done += 1
            with suppress(mailq.LeaseLost):
                if delivery.body["stays"]:
                    _give_back(queue, delivery, chance)
                else:
                    delivery.ack()
        if chance.random() < 0.05:
            queue.redrive(limit=3)
    pipe.recv()
    pipe.send(done)


def _give_back(queue: mailq.Queue, delivery: mailq.Delivery, chance: random.Random) -> None:
    match chance.randrange(6):
        case 0:
            delivery.nack(delay=0.002, error="later")
        case 1:
            delivery.nack(delay=0, error="again")
        case 2:
            delivery.reject("for a while")
        case 3:
            delivery.extend(70)
            delivery.release(delay=0.001)
        case _:
            delivery.release()


def produce(pipe: Connection[Any, Any], path: str) -> None:
    queue = mailq.open(path, create=False)
    count = 0
    pipe.send("ready")
    while not pipe.poll():
        if len(queue) < 3 * STAYING:
            queue.push({"stays": False, "n": count})
            count += 1
    pipe.recv()
    pipe.send(count)


def storm(path: Path, exports: int) -> tuple[int, int]:
    """Export again and again in a storm; every message that stays must be in each archive, once and whole."""
    make(path, max_retries=99_999, reap_interval=0.01)
    with mailq.open(path) as queue, ExitStack() as stack:
        staying = {id: n for n, id in enumerate(queue.push_many([{"stays": True, "n": n} for n in range(STAYING)]))}
        children = [stack.enter_context(Child(flip, str(path), seed)) for seed in range(3)]
        children.append(stack.enter_context(Child(produce, str(path))))
        for child in children:
            assert child.hear() == "ready"
        for turn in range(exports):
            form: Format = "tar" if turn % 4 == 3 else "jsonl"
            told: list[str] = []
            stream = io.BytesIO()
            done = transfer.export(path, stream, format=form, tell=told.append)
            assert (done.torn, done.left_out, told) == (0, 0, [])
            _check(form, stream.getvalue(), staying, path.with_name("copy"))
        for child in children:
            child.say("stop")
        *flips, pushed = (child.hear() for child in children)
        assert {m.id for state in ("ready", "delayed", "leased", "dead") for m in queue.peek(state, None)} >= set(
            staying
        )
    return sum(flips), pushed


def _check(form: str, data: bytes, staying: dict[str, int], copy: Path) -> None:
    if form == "tar":
        done = imported(copy, data, create=True)
        assert (done.already_there, done.refused) == (0, 0)
        found = ids_on_disk(copy)
        assert set(staying) <= set(found)
        assert len(found) == len(set(found)) == done.imported
        subprocess.run(["rm", "-r", str(copy)], check=True)
        return
    objects = [json.loads(line) for line in data.splitlines()]
    ids = [one["id"] for one in objects]
    assert len(ids) == len(set(ids))
    assert {one["id"]: one["body"]["n"] for one in objects if one["body"]["stays"]} == staying


def test_in_a_storm_every_message_that_stays_is_in_each_archive_once(tmp_path: Path) -> None:
    flips, pushed = storm(tmp_path / "jobs", EXPORTS)
    assert flips > 100
    assert pushed > 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_in_a_long_storm_every_message_that_stays_is_in_each_archive_once(tmp_path: Path) -> None:
    flips, pushed = storm(tmp_path / "jobs", SLOW_EXPORTS)
    assert flips > 1000
    assert pushed > 100


def big_archive(tmp_path: Path, count: int) -> Path:
    file = tmp_path / "big.tar"
    body = b"x" * 300
    messages = [plain(n, body) for n in range(count)]
    file.write_bytes(tar(*((f"new/{names.format_name(m.envelope)}", body) for m in messages)))
    return file


def test_an_import_that_is_killed_is_run_again_and_each_message_is_there_once(tmp_path: Path) -> None:
    count = 2000
    file = big_archive(tmp_path, count)
    kills = 0
    for turn in range(4):
        path = tmp_path / f"jobs{turn}"
        make(path, durability="power-loss")
        with subprocess.Popen([MAILQ, "import", str(path), str(file)], stderr=subprocess.PIPE) as process:
            most = turn * count // 6
            wait_until(
                lambda: len(os.listdir(path / "new")) > most or process.poll() is not None,  # noqa: B023 - waited for here
                "some are there",
            )
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += process.returncode == -signal.SIGKILL
        there = len(os.listdir(path / "new"))
        done = imported(path, file.read_bytes())
        assert done == transfer.Imported(count - there, there, 0)
        assert len(set(ids_on_disk(path))) == len(ids_on_disk(path)) == count
    assert kills >= 2


def import_all(pipe: Connection[Any, Any], path: str, file: str) -> None:
    pipe.send("ready")
    pipe.recv()
    told: list[str] = []
    with open(file, "rb") as stream:
        done = transfer.import_(path, stream, tell=told.append)
    pipe.send((tuple(done), told))


def test_imports_of_one_archive_at_the_same_time_give_each_message_once(tmp_path: Path) -> None:
    count = 1500
    file = big_archive(tmp_path, count)
    path = make(tmp_path / "jobs")
    with ExitStack() as stack:
        children = [stack.enter_context(Child(import_all, path, str(file))) for _ in range(3)]
        for child in children:
            assert child.hear() == "ready"
        for child in children:
            child.say("go")
        heard = [child.hear() for child in children]
    assert sorted(done for done, _ in heard) == [(0, count, 0), (0, count, 0), (count, 0, 0)]
    assert {line for _, told in heard for line in told} <= {"another import into this queue is at work; waiting for it"}
    assert len(set(ids_on_disk(path))) == len(ids_on_disk(path)) == count


def test_an_import_while_consumers_drain_the_queue_delivers_each_message_once(tmp_path: Path) -> None:
    count = 1500
    file = big_archive(tmp_path, count)
    path = make(tmp_path / "jobs")
    with ExitStack() as stack, mailq.open(path) as queue:
        importer = stack.enter_context(Child(import_all, path, str(file)))
        assert importer.hear() == "ready"
        importer.say("go")
        got: list[str] = []
        while len(got) < count:
            delivery = queue.pop(wait=60)
            assert delivery is not None
            assert delivery.raw == b"x" * 300
            got.append(delivery.id)
            delivery.ack()
        assert importer.hear() == ((count, 0, 0), [])
        assert len(set(got)) == count
        assert queue.stats() == mailq.Stats()


def test_an_export_that_is_killed_leaves_no_file_of_that_name_and_the_queue_as_it_was(tmp_path: Path) -> None:
    path = make(tmp_path / "jobs")
    imported(path, big_archive(tmp_path, 3000).read_bytes())
    before = sorted(os.listdir(f"{path}/new"))
    (tmp_path / "out.tar").write_bytes(b"the last one")
    with subprocess.Popen([MAILQ, "export", path, str(tmp_path / "out.tar")], stderr=subprocess.PIPE) as process:
        wait_until(
            lambda: (
                any(file.stat().st_size > 100_000 for file in tmp_path.glob("out.tar.*.part"))
                or process.poll() is not None
            ),
            "it is at work",
        )
        process.kill()
        process.wait()
        assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "out.tar").read_bytes() == b"the last one"
    assert sorted(os.listdir(f"{path}/new")) == before
    assert len(rows(path)) == 3000
    assert exported(path)


def test_an_export_into_a_slow_pipe_misses_nothing_that_moves_meanwhile(tmp_path: Path) -> None:
    """More happens while it waits for the reader than the kernel can tell of."""
    path = make(tmp_path / "jobs", max_retries=99_999)
    with mailq.open(path) as queue:
        staying = queue.push_many([b"x" * 10_000] * 100)
        with subprocess.Popen([MAILQ, "export", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            begin = process.stdout.read(1000)
            end = time.monotonic() + 30
            flips = 0
            while flips < 20_000 and time.monotonic() < end:
                for delivery in queue.pop_many(100):
                    delivery.release()
                    flips += 1
            data = begin + process.stdout.read()
            assert process.wait() == 0
        assert imported(tmp_path / "copy", data, create=True) == transfer.Imported(100, 0, 0)
        assert ids_on_disk(tmp_path / "copy") == sorted(staying)
