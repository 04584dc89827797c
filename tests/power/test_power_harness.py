"""The harness of the power cuts itself: each defect has its word, and a cut loses what it may. Needs no root."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from power_books import DEFECTS, Aftermath, Found, audit, read_report
from power_logged import RECORD, Disk, Log
from power_workload import body_of, headers_of, number_of

REPORT = """\
pushing 10 0/0 0/1
pushed 20 0/0=a 0/1=b
acking 30 a
acked 40 a
pushing 50 1/0
failed 60 d 1/0
pushing 50 1/1
failed 60 - 1/1
pushing 70 2/0
"""
A, B = Found("live", "a", "0/0"), Found("live", "b", "0/1")


def defects(tmp_path: Path, *found: Found, cut: int = 100, troubles: tuple[str, ...] = ()) -> dict[str, int]:
    (tmp_path / "report").write_text(REPORT)
    figures = audit(read_report(tmp_path / "report"), Aftermath(list(found), list(troubles)), cut).figures
    return {word: figures[word] for word in DEFECTS if figures[word]}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([B], {}),
        ([A, B], {}),
        ([Found("dead", "b", "0/1")], {}),
        ([B, Found("live", "d", "1/0"), Found("live", "e", "2/0"), Found("torn", "f", "")], {}),
        ([], {"lost": 1}),
        ([A], {"lost": 1}),
        ([Found("torn", "b", "")], {"torn": 1}),
        ([Found("live", "b", "")], {"changed": 1}),
        ([Found("live", "b", "0/0")], {"changed": 1}),
        ([B, Found("dead", "x", "")], {"changed": 1}),
        ([B, Found("live", "x", "2/1")], {"unexpected": 1}),
        ([B, Found("live", "x", "1/0")], {"denied": 1}),
        ([B, Found("live", "x", "1/1")], {"denied": 1}),
        ([B, B], {"twice": 2}),
        ([B, Found("live", "x", "0/1")], {"twice": 1}),
    ],
)
def test_each_defect_has_its_word(tmp_path: Path, found: list[Found], expected: dict[str, int]) -> None:
    assert defects(tmp_path, *found) == expected


def test_a_queue_that_does_not_go_on_is_a_defect(tmp_path: Path) -> None:
    assert defects(tmp_path, B, troubles=("stuck: it is",)) == {"stuck": 1}


def test_only_what_was_reported_before_the_cut_was_promised(tmp_path: Path) -> None:
    assert defects(tmp_path, cut=19) == {}
    assert defects(tmp_path, cut=20) == {"lost": 2}
    assert defects(tmp_path, cut=30) == {"lost": 1}
    assert defects(tmp_path, B, Found("live", "e", "2/0"), cut=60) == {"unexpected": 1}


@pytest.mark.parametrize("number", ["0/0", "1/0", "1/17"])
def test_a_body_that_differs_has_no_number(number: str) -> None:
    body, headers = body_of(number), headers_of(number)
    assert number_of(body, headers) == number
    assert number_of(body + b"x", headers) == number_of(body[:-1], headers) == ""
    assert number_of(body, {**headers, "more": "of it"}) == ""
    assert number_of(bytes(len(body)), headers) == number_of(b"", headers) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="images are copied by the cp of GNU")
def test_a_cut_loses_nothing_that_was_flushed_and_anything_that_was_not(tmp_path: Path) -> None:
    """Two blocks of 1, a flush, then both are written over in one write, by 2; then a flush and by 3."""
    ops = [(0, 4096, False), (4096, 4096, False), (0, 0, True), (0, 8192, False), (0, 0, True), (0, 4096, False)]
    (tmp_path / "log").write_bytes(b"".join(RECORD.pack(*op) for op in ops))
    (tmp_path / "data").write_bytes(b"1" * 8192 + b"2" * 8192 + b"3" * 4096)
    image = tmp_path / "before.img"

    def left(cut: int, seed: int | None) -> bytes:
        image.write_bytes(b"0" * 8192)
        with Log(tmp_path) as log:
            data = Disk(log, image).left(cut, None if seed is None else random.Random(seed)).read_bytes()
        return data[:1] + data[4096:4097]

    assert [left(cut, None) for cut in range(7)] == [b"00", b"00", b"00", b"11", b"11", b"22", b"22"]
    assert {left(2, seed) for seed in range(50)} == {b"00", b"01", b"10", b"11"}
    assert {left(4, seed) for seed in range(50)} == {b"11", b"12", b"21", b"22"}
    assert {left(5, seed) for seed in range(50)} == {b"22"}
    assert {left(6, seed) for seed in range(50)} == {b"22", b"32"}
