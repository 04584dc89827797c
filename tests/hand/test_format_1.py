"""A queue that was made before the modules had their present names opens, drains, and is in good order after that."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

import mailq
from mailq.engines.maildir.doctor import examine

_ARCHIVE = Path(__file__).parent / "queue-format-1.tar.xz"
"""Messages in every state, with every kind of field, a reply, error texts, the journal and the file of a killed process."""

_REQUEST = "01a226d0ac57789f9b1b349c9ccf6fba"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "jobs"


def test_a_queue_that_earlier_code_has_made_drains(root: Path) -> None:
    queue = mailq.open(root, create=False)
    queue.reap()
    found = {}
    for delivery in queue.drain():
        found[repr(delivery.body)] = (delivery.attempt, delivery.priority, delivery.headers, delivery.content_type)
        delivery.ack()
    assert found == {
        "{'n': 1}": (1, 0, {}, "application/json"),
        "'text with headers'": (1, 5, {"trace": "t", "größe": "ä"}, "text/plain"),
        "b'\\x00raw'": (1, 0, {}, "image/png"),
        "['batch', 0]": (1, 0, {}, "application/json"),
        "['batch', 1]": (1, 0, {}, "application/json"),
        "['batch', 2]": (1, 0, {}, "application/json"),
        "'a;b\\n'": (1, 0, {"filename": "by hand.csv"}, "text/csv"),
        "'delayed'": (1, 0, {}, "text/plain"),
        "'fails once'": (2, 9, {}, "text/plain"),
        "'held, and its holder dies'": (2, 9, {}, "text/plain"),
        "'held detached'": (2, 9, {}, "text/plain"),
        "'dropped in by hand'": (1, 0, {"filename": "dropped_in.txt"}, "text/plain"),
    }
    dead = {message.body: (message.reason, [a[:3] for a in message.history]) for message in queue.peek("dead")}
    assert dead == {
        "dies": ("retries", [(1, "error", "it fails"), (2, "error", "it fails")]),
        "rejected": ("rejected", [(1, "rejected", "not wanted")]),
    }
    assert queue.settings.max_retries == 1
    assert queue.reply_to(_REQUEST).result(timeout=0) == {"answer": 42}
    assert queue.redrive() == len(dead)
    assert sorted(delivery.body for delivery in queue.drain()) == ["dies", "rejected"]


def test_the_doctor_leaves_a_queue_that_earlier_code_has_made_in_good_order(root: Path) -> None:
    assert {finding.check for finding in examine(root, fix=True) if finding.level == "error"} == set()
    queue = mailq.open(root, create=False)
    for delivery in queue.drain():
        delivery.ack()
    queue.redrive()
    for delivery in queue.drain():
        delivery.ack()
    queue.close()
    assert {finding.check for finding in examine(root) if finding.level != "ok"} <= {"file-system", "free-bytes"}
