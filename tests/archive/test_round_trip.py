from __future__ import annotations

import io
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from envelopes import deaths, died, envelopes, instants, stories, tell
from hypothesis import given, settings
from hypothesis import strategies as st
from janitor import memory
from making import exported, imported, lay, make, plain, rows, sealed

import mailq
from mailq import transfer
from mailq.engines.maildir import error_texts, names
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.names import checksum
from mailq.ids import NS
from mailq.message import RestingState, join_headers
from mailq.transfer.items import ErrorText, Format, Item, checked
from mailq.transfer.jsonl import LinesReader, LinesWriter
from mailq.transfer.tar import TarReader, TarWriter

FORMATS: list[Format] = ["tar", "jsonl"]
NOW = 4_102_444_800 * NS
MOST = 1 << 20

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
bodies = st.one_of(
    st.binary(max_size=200),
    st.text().map(lambda text: text.encode(errors="surrogatepass")),
    json_values.map(
        lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "ignore")
    ),
    json_values.map(lambda value: json.dumps(value, indent=1).encode()),
    st.sampled_from(
        (b"", b"null", b"[" * 300 + b"]" * 300, b"1" * 5000, b"1e999", b"NaN", b'{"a":1,"a":2}', b'"\\ud800"')
    ),
)
headers = st.dictionaries(st.text() | st.sampled_from(("content-type", "mailq-timeout")), st.text(), max_size=3)
exts = st.sampled_from(("json", "txt", "bin", "log", "jpeg", "odd"))


@st.composite
def items(draw: st.DrawFn) -> Item:
    """A message as an export takes it from a queue."""
    head_and_body = join_headers(draw(headers), draw(bodies))
    data, head = head_and_body
    if draw(st.integers(0, 9)) == 0:  # headers that no push writes
        data, head = b'{ "by" : "hand" }\n' + data, 18 + head
    state: RestingState = draw(st.sampled_from(("ready", "delayed", "dead")))
    envelope = (
        draw(envelopes()).at_rest(state)._replace(ext=draw(exts), header_bytes=head, size=len(data), crc=checksum(data))
    )
    if draw(st.booleans()):
        envelope = envelope._replace(tries=tell(draw(stories)))
    if state == "dead":
        envelope = died(envelope, names.DEATHS[draw(deaths)])
    numbers = error_texts.numbers(envelope)[-3:] if envelope.tries else []
    errors = tuple(ErrorText(number, draw(st.binary(max_size=50)), draw(instants)) for number in numbers)
    return Item(state, envelope, data, draw(instants) if state == "dead" else None, errors)


def written(form: Format, some: list[Item]) -> bytes:
    stream = io.BytesIO()
    writer = TarWriter(stream, lambda: NOW) if form == "tar" else LinesWriter(stream)
    writer.begin("format = 1\n", mailq.Settings(), NOW)
    for item in some:
        writer.add(item)
    writer.end()
    return stream.getvalue()


def read(form: Format, data: bytes) -> list[Item | str]:
    stream = io.BufferedReader(io.BytesIO(data))
    reader = TarReader(stream) if form == "tar" else LinesReader(stream)
    assert reader.settings() == ("format = 1\n" if form == "tar" else None)
    found = [item for _, item in reader.items(MOST)]
    assert reader.strays == 0
    return found


def fit(item: Item | str) -> Item:
    assert isinstance(item, Item), item
    item_or_why = checked(item, MOST)
    assert isinstance(item_or_why, Item), item_or_why
    return item_or_why


def coarse(item: Item) -> Item:
    """As a tar keeps it: the time of an error text to the second."""
    return item._replace(texts=tuple(text._replace(at=text.at // NS * NS) for text in item.texts))


@pytest.mark.parametrize("form", FORMATS)
@given(some=st.lists(items(), max_size=3, unique_by=lambda item: item.envelope.id))
@settings(max_examples=100)
def test_whatever_a_message_is_an_archive_gives_it_back(form: Format, some: list[Item]) -> None:
    whole = [item for item in some if isinstance(checked(item, MOST), Item)]
    kept = coarse if form == "tar" else Item._make
    assert [fit(item) for item in read(form, written(form, whole))] == [kept(item) for item in whole]


@pytest.mark.parametrize("form", FORMATS)
@given(item=items(), cut=st.integers(0, 300), data=st.data())
@settings(max_examples=40)
def test_a_torn_dead_letter_stays_what_it_is(form: Format, item: Item, cut: int, data: Any) -> None:
    torn = item._replace(state="dead", envelope=died(item.envelope, "torn"), at=NOW, texts=(), data=item.data[:cut])
    if not isinstance(checked(torn, MOST), Item):
        return  # so long a story leaves no room for one more death
    (again,) = read(form, written(form, [torn]))
    assert fit(again) == torn


@contextmanager
def two_places() -> Iterator[Path]:
    """Many small queues, in memory if there is such a place."""
    path = Path(tempfile.mkdtemp(dir=memory()))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@given(some=st.lists(items(), max_size=4, unique_by=lambda item: item.envelope.id))
@settings(max_examples=25)
def test_from_queue_to_queue_by_either_way_nothing_changes(some: list[Item]) -> None:
    with two_places() as place:
        make(place / "a")
        for item in some:
            if isinstance(checked(item, MOST), Item):
                lay(place / "a", coarse(item))
        lines, whole = exported(place / "a", "jsonl", clock=lambda: NOW), exported(place / "a", clock=lambda: NOW)
        for name, data in (("b", whole), ("c", lines)):
            make(place / name)
            done = imported(place / name, data, format="tar" if name == "b" else "jsonl", clock=lambda: NOW)
            assert done == transfer.Imported(imported=lines.count(b"\n"))
            again = exported(place / name, "jsonl", clock=lambda: NOW)
            assert sorted(again.splitlines()) == sorted(lines.splitlines())
            assert sorted(path.name for path in (place / name).glob("*/*.*")) == sorted(
                path.name for path in (place / "a").glob("*/*.*")
            )


def lived_in(path: Path) -> mailq.Queue:
    """A queue with messages in every state, of every kind, with a story."""
    queue = mailq.open(path, backoff=(0, 0))
    queue.push({"a": 1}, priority=3, lease=5, max_retries=7, ttl=1e6, headers={"trace": "x"}, timeout=9)
    queue.push("text", delay=3600)
    queue.push(b"\0\xff", content_type="image/png")
    queue.push("rejected")
    for delivery in [queue.pop() for _ in range(3)]:
        assert delivery is not None
        delivery.nack(error="first\nfailure", delay=1800 if delivery.raw == b"\0\xff" else 0)
    while (delivery := queue.pop()) is not None:
        if delivery.raw == b"rejected":
            delivery.reject("no good")
    return queue


@pytest.mark.parametrize("form", FORMATS)
def test_a_message_keeps_its_place_its_options_its_story_and_its_errors(tmp_path: Path, form: Format) -> None:
    source = lived_in(tmp_path / "a")
    before = {m.id: m for state in ("ready", "delayed", "leased", "dead") for m in source.peek(state, None)}
    imported(tmp_path / "b", exported(tmp_path / "a", form), create=True)
    with mailq.open(tmp_path / "b", create=False) as target:
        assert target.stats()[:4] == (1, 2, 0, 1)
        for state in ("ready", "delayed", "dead"):
            for message in target.peek(state, None):
                old = before.pop(message.id)
                assert message.raw == old.raw
                assert message.headers == old.headers
                assert message.content_type == old.content_type
                assert message.attempt == old.attempt
                assert message.reason == old.reason
                assert message.pushed_at == old.pushed_at
                assert message.due_at == old.due_at
                assert message.died_at == old.died_at
                assert [a[:3] for a in message.history] == [a[:3] for a in old.history]
        assert before == {}


def test_what_somebody_holds_is_ready_in_the_archive_and_stays_held_in_the_queue(tmp_path: Path) -> None:
    queue = mailq.open(tmp_path / "a")
    id = queue.push("held")
    delivery = queue.pop()
    assert delivery is not None
    assert rows(tmp_path / "a")[id]["state"] == "ready"
    held = names.parse(delivery.receipt)
    assert held is not None
    assert names.format_name(held.at_rest("ready")).encode() in exported(tmp_path / "a")
    assert b"claim=" not in exported(tmp_path / "a")
    assert rows(tmp_path / "a", states=["ready"]) == {}
    assert list(rows(tmp_path / "a", states=["leased"])) == [id]
    delivery.ack()


@pytest.mark.parametrize(
    ("body", "content_type", "key"),
    [
        (b'{"a":[1.5,null]}', "application/json", "body"),
        (b"[1.50]", "application/json", "body_text"),
        (b'{"a": 1}', "application/json", "body_text"),
        (b"NaN", "application/json", "body_text"),
        (b'"a"', "application/ld+json", "body"),
        (b"1", "text/plain", "body_text"),
        ("é\n".encode(), "application/octet-stream", "body_text"),
        (b"\xff", "text/plain", "body_base64"),
    ],
)
def test_a_body_stands_in_its_line_as_readable_as_can_be(
    tmp_path: Path, body: bytes, content_type: str, key: str
) -> None:
    mailq.open(tmp_path / "a").push(body, content_type=content_type, headers={"a": "b"})
    (row,) = rows(tmp_path / "a").values()
    assert [name for name in row if name.startswith(("body", "sealed"))] == [key]
    assert (row["content_type"], row["headers"]) == (content_type, {"a": "b"})


def test_the_same_queue_gives_the_same_archive(tmp_path: Path) -> None:
    lived_in(tmp_path / "a").close()
    assert exported(tmp_path / "a") == exported(tmp_path / "a")
    assert exported(tmp_path / "a", "jsonl") == exported(tmp_path / "a", "jsonl")


def test_an_export_changes_nothing(tmp_path: Path) -> None:
    queue = lived_in(tmp_path / "a")

    def look() -> list[tuple[str, float, float]]:
        found = sorted((tmp_path / "a").rglob("*"))
        return [(str(path), path.stat().st_mtime, path.stat().st_ctime) for path in found]

    before = look()
    exported(tmp_path / "a")
    assert look() == before
    queue.close()


def test_a_plain_tar_xf_makes_a_queue_that_works(tmp_path: Path) -> None:
    source = lived_in(tmp_path / "a")
    bodies = sorted(m.raw for state in ("ready", "leased") for m in source.peek(state, None))
    died = [m.died_at for m in source.peek("dead")]
    (tmp_path / "a.tar").write_bytes(exported(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    subprocess.run(["tar", "xf", "a.tar", "-C", "b"], cwd=tmp_path, check=True, capture_output=True)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == sorted(
        [*(path.name for path in (tmp_path / "a").iterdir() if not path.name.startswith("."))]
    )
    with mailq.open(tmp_path / "b", create=False) as queue:
        assert queue.settings == source.settings
        assert queue.stats()[:4] == (1, 2, 0, 1)
        assert [m.died_at for m in queue.peek("dead")] == died
        assert [a.error for a in queue.peek("dead")[0].history] == ["first\nfailure", "no good"]
        assert sorted(delivery.raw for delivery in queue.drain()) == bodies
        queue.push("goes on")


def test_a_plain_tar_of_a_queues_directory_is_an_archive_too(tmp_path: Path) -> None:
    source = lived_in(tmp_path / "a")
    subprocess.run(["tar", "cf", "a.tar", "-C", "a", "."], cwd=tmp_path, check=True)
    told: list[str] = []
    done = imported(tmp_path / "b", (tmp_path / "a.tar").read_bytes(), create=True, tell=told.append)
    assert done == transfer.Imported(imported=4)
    assert sorted(m["id"] for m in rows(tmp_path / "b").values()) == sorted(
        m["id"] for m in rows(tmp_path / "a").values()
    )
    source.close()


def test_a_torn_message_is_dead_in_the_archive_and_told_of(tmp_path: Path) -> None:
    make(tmp_path / "a")
    item = Item("ready", sealed(1, b"whole body"), b"whole bo")
    lay(tmp_path / "a", item)
    told: list[str] = []
    stream = io.BytesIO()
    assert transfer.export(tmp_path / "a", stream, tell=told.append) == transfer.Exported(1, 1, 0)
    assert item.envelope.id in told[0]
    assert imported(tmp_path / "b", stream.getvalue(), create=True).imported == 1
    with mailq.open(tmp_path / "b") as queue:
        (message,) = queue.peek("dead")
        assert (message.id, message.reason, message.raw) == (item.envelope.id, "torn", b"whole bo")
        assert "8 bytes" in (message.history[0].error or "")
        assert rows(tmp_path / "b")[message.id]["size"] == 10


def test_a_file_dropped_in_by_hand_is_in_it_under_the_id_that_it_will_have(tmp_path: Path) -> None:
    queue = mailq.open(tmp_path / "a")
    (tmp_path / "a/new/cat photo.jpg").write_bytes(b"miau")
    (seen,) = queue.peek()
    assert rows(tmp_path / "a")[seen.id]["file"] == "cat_photo.jpg"
    assert imported(tmp_path / "b", exported(tmp_path / "a"), create=True).imported == 1
    (message,) = mailq.open(tmp_path / "b").peek()
    assert (message.id, message.headers, message.content_type) == (seen.id, {"filename": "cat_photo.jpg"}, "image/jpeg")


def test_a_file_that_is_still_written_to_in_new_is_what_it_is_when_it_is_read(tmp_path: Path) -> None:
    class Growing(Disk):
        def open_to_read(self, path: str) -> int:
            if path.endswith("cat.jpg"):
                Path(path).write_bytes(b"miau miau")
            return super().open_to_read(path)

    make(tmp_path / "a")
    (tmp_path / "a/new/cat.jpg").write_bytes(b"miau")
    found = rows(tmp_path / "a", disk=Growing()).values()
    assert {(row["state"], row["body_text"]) for row in found} == {("ready", "miau miau")}


def test_a_message_larger_than_the_queue_delivers_is_left_out_and_told_of(tmp_path: Path) -> None:
    make(tmp_path / "a", max_message_bytes=10)
    lay(tmp_path / "a", plain(1, b"x" * 11))
    lay(tmp_path / "a", plain(2))
    told: list[str] = []
    assert transfer.export(tmp_path / "a", io.BytesIO(), tell=told.append) == transfer.Exported(1, 0, 1)
    assert "11 bytes" in told[0]
