from __future__ import annotations

import contextlib
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailq import codecs
from mailq.errors import CodecError
from mailq.message import safe_ext

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
texts = st.text(st.characters(codec="utf-8"))


@given(json_values)
def test_any_json_value_comes_back(value: Any) -> None:
    raw, content_type = codecs.encode(value, codecs.JSON)
    assert codecs.decode(raw, content_type) == value
    assert b"\n" not in raw


@given(texts)
def test_any_text_comes_back(text: str) -> None:
    assert codecs.decode(*codecs.encode(text, None)) == text
    assert codecs.encode(text, None)[1] == codecs.TEXT


@given(st.binary(), st.sampled_from((None, codecs.BYTES, "image/png", "application/x-unheard-of")))
def test_any_bytes_come_back(raw: bytes, content_type: str | None) -> None:
    assert codecs.decode(*codecs.encode(raw, content_type)) == raw


@pytest.mark.parametrize("body", [b"raw", bytearray(b"raw"), memoryview(b"raw")])
def test_every_kind_of_bytes_is_raw_bytes(body: Any) -> None:
    assert codecs.encode(body, None) == (b"raw", codecs.BYTES)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "image/png"])
def test_bytes_pass_as_they_are_under_any_type(content_type: str) -> None:
    assert codecs.encode(b"\xff{", content_type) == (b"\xff{", content_type)


def test_json_is_written_compact_and_readable() -> None:
    assert codecs.encode({"größe": [1, 2]}, None)[0] == '{"größe":[1,2]}'.encode()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (object(), None),
        ({1, 2}, None),
        (math.nan, None),
        ([math.inf], None),
        ({"a": b"b"}, None),
        ("\ud800", None),
        (["\ud800"], None),
        ({"a": 1}, "text/plain"),
        ({"a": 1}, "image/png"),
        (5, "application/xml"),
        (None, "text/plain"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_body_that_does_not_fit_its_type_is_refused(body: Any, content_type: str | None) -> None:
    with pytest.raises(CodecError) as refused:
        codecs.encode(body, content_type)
    assert refused.value.raw is None
    assert refused.value.content_type == content_type or content_type is None


def test_a_number_too_long_to_write_is_refused() -> None:
    with pytest.raises(CodecError):
        codecs.encode(10**5000, None)


def test_a_body_that_holds_itself_is_refused() -> None:
    body: list[Any] = []
    body.append(body)
    with pytest.raises(CodecError):
        codecs.encode(body, None)


def test_a_body_nested_beyond_reason_is_refused() -> None:
    body: list[Any] = []
    for _ in range(100_000):
        body = [body]
    with pytest.raises(CodecError):
        codecs.encode(body, None)


@pytest.mark.parametrize(
    ("raw", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"\xff", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"9" * 10_000, "application/json"),
        (b"nope", "application/problem+json"),
        (b"NaN", "application/json"),
        (b'{"n": [-Infinity]}', "application/json"),
        (b"-1e999", "application/json"),
        (b"\xff", "text/plain"),
        (b"\xff", "TEXT/Markdown; charset=utf-8"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_body_that_will_not_decode_keeps_its_bytes(raw: bytes, content_type: str) -> None:
    with pytest.raises(CodecError) as broken:
        codecs.decode(raw, content_type)
    assert (broken.value.raw, broken.value.content_type) == (raw, content_type)
    assert broken.value.__cause__ is not None


def test_of_two_equal_keys_the_later_one_counts() -> None:
    """As for most programs that read JSON."""
    assert codecs.decode(b'{"a": 1, "a": 2}', "application/json") == {"a": 2}


@given(st.binary(max_size=50), st.sampled_from(("application/json", "text/plain", "image/png", "", "a+json;b")))
def test_decoding_gives_a_value_or_a_codec_error(raw: bytes, content_type: str) -> None:
    with contextlib.suppress(CodecError):
        codecs.decode(raw, content_type)


# Types and extensions


@pytest.mark.parametrize(
    ("content_type", "ext"),
    [
        ("application/json", "json"),
        ("text/plain", "txt"),
        ("application/octet-stream", "bin"),
        ("image/jpeg", "jpg"),
        ("text/html", "html"),
        ("application/yaml", "yaml"),
        ("image/tiff", "tif"),
        ("text/x-unheard-of", "txt"),
        ("text/plain; charset=utf-8", "txt"),
        ("application/problem+json", "json"),
        ("application/x-unheard-of", "bin"),
        ("", "bin"),
    ],
)
def test_a_type_has_the_extension_that_programs_know(content_type: str, ext: str) -> None:
    assert codecs.ext_of(content_type) == ext


@pytest.mark.parametrize(
    ("ext", "content_type"),
    [
        ("json", "application/json"),
        ("log", "text/plain"),
        ("jpeg", "image/jpeg"),
        ("exe", codecs.BYTES),
        ("", codecs.BYTES),
    ],
)
def test_an_extension_stands_for_a_type(ext: str, content_type: str) -> None:
    assert codecs.type_of(ext) == content_type


def test_every_known_type_comes_back_from_its_extension() -> None:
    for ext, content_type in codecs._EXTENSIONS:
        assert codecs.type_of(ext) == content_type
        assert codecs.type_of(codecs.ext_of(content_type)) == content_type


def test_every_known_extension_is_listed_once_and_fits_into_a_name() -> None:
    exts = [ext for ext, _ in codecs._EXTENSIONS]
    assert len(exts) == len(set(exts))
    assert all(re.fullmatch("[a-z0-9]{1,7}", ext) and safe_ext(f"a.{ext}") == ext for ext in exts)


def test_no_content_type_runs_code() -> None:
    pickled = b"cos\nsystem\n(S'false'\ntR."
    for content_type in ("application/x-pickle", "application/python-pickle", "application/x-python"):
        assert codecs.decode(pickled, content_type) == pickled
