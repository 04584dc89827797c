"""ls, cat, jq, cp and mv in the queue's directories, by a real shell, while a consumer is open."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from together import PATIENCE

import mailq


def sh(line: str, cwd: Path) -> str:
    done = subprocess.run(["sh", "-euc", line], cwd=cwd, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, (line, done.stdout, done.stderr)
    return done.stdout


def take(queue: mailq.Queue) -> mailq.Delivery:
    delivery = queue.pop()
    assert delivery is not None
    return delivery


def test_ls_shows_the_line_in_order_and_cat_the_bodies(queue: mailq.Queue, path: Path) -> None:
    queue.push_many(["first\n", "second\n", "third\n"])
    assert sh("cat $(ls -d new/*)", path) == "first\nsecond\nthird\n"


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_jq_reads_messages_with_and_without_headers(queue: mailq.Queue, path: Path) -> None:
    queue.push({"n": 1})
    queue.push({"n": 2}, headers={"trace": "7"})
    assert sh("jq -c . new/*.json", path).splitlines() == ['{"n":1}', '{"trace":"7"}', '{"n":2}']


def test_mv_brings_the_dead_back_as_attempt_one_with_their_story(queue: mailq.Queue, path: Path) -> None:
    ids = queue.push_many(["a", "b"])
    for _ in ids:
        take(queue).reject("not today")
    assert queue.pop() is None
    sh("mv dead/* new/", path)
    back = [take(queue), take(queue)]
    assert [delivery.id for delivery in back] == ids
    for delivery in back:
        assert delivery.attempt == 1
        assert [(attempt.outcome, attempt.error) for attempt in delivery.history] == [("rejected", "not today")]
        delivery.ack()
    assert os.listdir(path / "errors") == []


def test_mv_takes_a_message_out_of_a_holders_hands(queue: mailq.Queue, path: Path) -> None:
    queue.push("x")
    held = take(queue)
    sh("mv cur/* new/", path)
    again = take(queue)
    assert (again.id, again.attempt) == (held.id, 1)
    with pytest.raises(mailq.LeaseLost):
        held.ack()
    again.ack()


def test_mv_makes_a_delayed_message_ready_now(queue: mailq.Queue, path: Path) -> None:
    queue.push("x", delay=3600)
    sh("mv later/* new/", path)
    assert take(queue).body == "x"


def test_a_claim_by_hand_comes_back_after_the_queues_lease(path: Path) -> None:
    queue = mailq.open(path, lease=3600)
    queue.push("x")
    sh("mv new/* cur/", path)
    assert queue.pop() is None
    queue.configure(lease=0.2)
    delivery = None
    while delivery is None:
        queue.reap()
        delivery = queue.pop()
    assert [attempt.outcome for attempt in delivery.history] == ["timeout"]


@pytest.mark.parametrize(
    ("name", "content_type", "filename"),
    [
        (b"report.pdf", "application/pdf", "report.pdf"),
        (b"PIC.JPG", "image/jpeg", "PIC.JPG"),
        (b"no extension", "application/octet-stream", "no_extension"),
        (b"-rf", "application/octet-stream", "-rf"),
        (b"two\nlines.txt", "text/plain", "two_lines.txt"),
        ("größe.json".encode(), "application/json", "gr__e.json"),
        (b"\xff\xfe.txt", "text/plain", "__.txt"),
        (b"x" * 251 + b".txt", "text/plain", "x" * 44 + ".txt"),
        (b"archive.tar.verylongext", "application/octet-stream", "archive.tar.verylongext"),
        (b"20261121T013205.123456789Z,nearly,ours.txt", "text/plain", "20261121T013205.123456789Z_nearly_ours.txt"),
    ],
)
def test_any_file_moved_into_new_is_delivered_whatever_its_name(
    queue: mailq.Queue, path: Path, name: bytes, content_type: str, filename: str
) -> None:
    body = b'{"any": "bytes"}'
    source = os.path.join(os.fsencode(path), b"tmp", name)
    with open(source, "wb") as file:
        file.write(body)
    os.rename(source, os.path.join(os.fsencode(path), b"new", name))
    (seen,) = queue.peek()
    delivery = take(queue)
    assert delivery.raw == body
    assert (delivery.content_type, delivery.headers) == (content_type, {"filename": filename})
    assert delivery.id == seen.id
    delivery.nack(delay=0, error="once")
    assert take(queue).attempt == 2


def test_dropped_files_stand_in_line_by_when_they_came(queue: mailq.Queue, path: Path) -> None:
    queue.push("before")
    (path / "tmp" / "a").write_text("dropped")
    # A name of ours that was pushed after the file was written, but before it was moved in.
    sh("mv tmp/a new/zzz", path)
    while os.stat(path / "new/zzz").st_ctime_ns >= (path / "tmp").stat().st_atime_ns + 10**12:
        pass
    queue.push("after")
    bodies = [delivery.raw for delivery in queue.drain()]
    assert bodies[0] == b"before"
    assert set(bodies[1:]) == {b"dropped", b"after"}


def test_a_hundred_dropped_files_are_all_delivered_while_a_consumer_waits(queue: mailq.Queue, path: Path) -> None:
    script = "for i in $(seq 100); do echo $i > tmp/job$i; mv tmp/job$i new/job$i; done"
    with subprocess.Popen(["sh", "-euc", script], cwd=path) as producer:
        got: list[int] = []
        while len(got) < 100 and (delivery := queue.pop(wait=60)) is not None:
            got.append(int(delivery.raw))
            delivery.ack()
        assert producer.wait() == 0
    assert sorted(got) == list(range(1, 101))


def test_a_copy_of_a_running_queue_is_a_queue(queue: mailq.Queue, path: Path) -> None:
    queue.push_many(["a", "b"])
    held = take(queue)
    sh("cp -a jobs copy && rm -r copy/owners copy/later", path.parent)
    copy = mailq.open(path.parent / "copy", create=False)
    copy.reap()
    assert sorted(delivery.body for delivery in copy.drain()) == ["a", "b"]
    held.ack()
