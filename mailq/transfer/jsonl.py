"""The archive as JSON lines: one object a message, for jq and for eyes. docs/backup.md has the table."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, BinaryIO, Final, get_args

from mailq import codecs
from mailq.engines.maildir import error_texts, names
from mailq.errors import MailqError, UsageError
from mailq.ids import id_time, is_id
from mailq.message import CONTENT_TYPE, RestingState, join_headers, split_headers
from mailq.transfer.items import ErrorText, Item, NotAnArchive

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator, Mapping

    from mailq.settings import Settings

_BODIES: Final = ("body", "body_text", "body_base64", "sealed_base64")
_KEYS: Final[dict[str, type]] = {
    **dict.fromkeys(("id", "state", "pushed_at", "place_at", "due_at", "died_at", "reason"), str),
    **dict.fromkeys(("content_type", "ext", "tries", "file", "from", "crc", *_BODIES), str),
    **dict.fromkeys(("priority", "max_retries", "head", "size"), int),
    **dict.fromkeys(("lease", "ttl"), float),
    "headers": dict,
    "errors": list,
    "body": object,
}
_ERROR_KEYS: Final[dict[str, type]] = {"attempt": int, "at": str, "text": str, "text_base64": str}
_KINDS: Final = {str: "text", int: "a whole number", float: "a number", dict: "an object", list: "a list"}
_OPTIONS: Final = {"file": "file_name", "from": "source_queue"} | {
    key: key for key in ("tries", "priority", "lease", "max_retries", "ttl")
}
"""Keys that stand for a field of the name, if that says something."""

_ISO: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?Z")
_DEPTH: Final = 100
"""A body with more brackets than this is text: how deep JSON may be nested depends on who reads it."""

_ESCAPED: Final = 6
"""A byte takes at most this many in a JSON string."""

_AROUND: Final = 48 << 20
"""The bytes that a line may take besides its body: a hundred error texts, all of them escaped, and some more."""

_NOT_TEXT: Final = re.compile(r"\0|[\ud800-\udfff](?![\ud800-\udfff]{0,2}\Z)")
"""A zero byte, or one that is not UTF-8, except in a last character, which may go on."""

_BEGINNING: Final = 4096
"""This many bytes of the first line show whether this is text; a damaged line further on is refused by itself."""


# Out


class LinesWriter:
    """Writes one line a message, in ASCII."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def begin(self, text: str, settings: Settings, at: int) -> None:
        """Write nothing: each line is a message."""

    def add(self, item: Item) -> None:
        """Write one line."""
        self._stream.write(json.dumps(_object(item)).encode() + b"\n")

    def end(self) -> None:
        """Write nothing."""


def _object(item: Item) -> dict[str, Any]:
    """A message as an object; what says nothing is left out."""
    e = item.envelope
    place = "due_at" if item.state == "delayed" else "place_at"
    times = {"pushed_at": e.pushed_at, place: e.visible_at, "died_at": item.at}
    if times.get("place_at") == e.pushed_at:
        del times["place_at"]
    errors = [
        {"attempt": text.number, "at": _spell(text.at), **_text_or_base64(text.data, "text", "text_base64")}
        for text in item.texts
    ]
    fields = {
        "id": e.id,
        "state": item.state,
        **{key: _spell(at) for key, at in times.items() if at is not None},
        "reason": (e.reason or "unknown") if item.state == "dead" else None,
        **{key: getattr(e, field) for key, field in _OPTIONS.items() if getattr(e, field) != e._field_defaults[field]},
        **_content(item),
        "errors": errors or None,
    }
    return {key: value for key, value in fields.items() if value is not None or key == "body"}


def _content(item: Item) -> dict[str, Any]:
    """Type, headers and body; all the bytes in one piece where these would not give them back."""
    e = item.envelope
    with contextlib.suppress(MailqError):
        headers, body = split_headers(item.data, e.header_bytes)
        content_type = headers.pop(CONTENT_TYPE, None) or codecs.type_of(e.ext)
        ext = None if codecs.ext_of(content_type) == e.ext else e.ext
        content = {"content_type": content_type, "ext": ext, "headers": headers or None, **_body(body, content_type)}
        if not item.is_torn and _data(content) == (item.data, e.header_bytes, None, None):
            return content
    # Damaged, or spelled otherwise than a push does.
    sums = {"size": e.size, "crc": None if e.crc is None else f"{e.crc:08x}"} if item.is_torn else {}
    whole = {"sealed_base64": base64.b64encode(item.data).decode(), "head": e.header_bytes or None}
    return {"content_type": codecs.type_of(e.ext), "ext": e.ext, **whole, **sums}


def _body(raw: bytes, content_type: str) -> dict[str, Any]:
    """The body in the most readable way that gives back its bytes."""
    if codecs.is_json(content_type) and raw.count(b"[") + raw.count(b"{") <= _DEPTH:
        with contextlib.suppress(ValueError, RecursionError, MailqError):
            value = codecs.read_json(raw.decode())
            if codecs.encode(value, codecs.JSON)[0] == raw:
                return {"body": value}
    return _text_or_base64(raw, "body_text", "body_base64")


def _text_or_base64(data: bytes, text: str, otherwise: str) -> dict[str, str]:
    try:
        return {text: data.decode()}
    except UnicodeDecodeError:
        return {otherwise: base64.b64encode(data).decode()}


def _spell(ns: int) -> str:
    t = names.format_time(ns)
    return f"{t[:4]}-{t[4:6]}-{t[6:8]}T{t[9:11]}:{t[11:13]}:{t[13:]}"


# In


class LinesReader:
    """Reads lines as an export writes them, or a person who keeps to the table."""

    def __init__(self, stream: io.BufferedReader[Any]) -> None:
        self._stream = stream
        self.strays = 0

    def settings(self) -> None:
        """Return None: there are only messages in it. Raises NotAnArchive if the first line is not text."""
        first = self._stream.peek(_BEGINNING)[:_BEGINNING].lstrip().split(b"\n", 1)[0]
        if _NOT_TEXT.search(first.decode(errors="surrogateescape")):
            raise NotAnArchive("JSON lines are text in UTF-8 without zero bytes, and the first line is not")

    def items(self, most: int) -> Iterator[tuple[str, Item | str]]:
        """Yield where each message stands, and it, or why it is refused; empty lines are skipped."""
        longest = _ESCAPED * most + _AROUND
        number = 0
        while line := self._stream.readline(longest + 1):
            number += 1
            if len(line) > longest:
                yield f"line {number}", f"it has more than {longest} bytes; no message of this queue takes as much"
                while line and not line.endswith(b"\n"):
                    line = self._stream.readline(_BEGINNING)
            elif line.strip():
                yield f"line {number}", _item(line)


def _item(line: bytes) -> Item | str:
    try:
        return _read(_checked(codecs.read_json(line.decode()), _KEYS))
    except MailqError as error:
        return str(error)
    except (ValueError, RecursionError) as error:
        cut = "" if line.endswith(b"\n") else "; the last line has no end: it was cut off"
        return f"this is not JSON: {error}{cut}"


def _checked(value: object, keys: Mapping[str, type]) -> dict[str, Any]:
    """The object, if it has only these keys, with values of their kinds; null is as good as no key."""
    if not isinstance(value, dict):
        raise UsageError(f"there must be an object, not {str(value)[:80]!a}")
    table = {key: inner for key, inner in value.items() if inner is not None or key == "body"}
    for key, inner in table.items():
        kind = keys.get(key)
        if kind is None:
            raise UsageError(f"there is no key {key[:80]!a}; there are {', '.join(sorted(keys))}")
        if type(inner) not in ((int, float) if kind is float else (kind,)) and kind is not object:
            raise UsageError(f"{key} must be {_KINDS[kind]}, not {str(inner)[:80]!a}")
    return table


def _read(table: dict[str, Any]) -> Item:
    id = table.get("id", "")
    if not is_id(id):
        raise UsageError("id must be 32 hex digits; 'mailq push --lines' takes new messages, without ids")
    state: RestingState = table.get("state", "ready")
    if state not in get_args(RestingState):
        raise UsageError(f"state must be {', '.join(get_args(RestingState))}, not {state[:80]!a}")
    keys = ("due_at",) if state == "delayed" else ("place_at", "pushed_at")
    times = [at for key in keys if (at := _time(table, key)) is not None]
    visible_at = times[0] if times else None if state == "delayed" else id_time(id)
    if visible_at is None:
        raise UsageError(f"{keys[-1]} is missing")
    data, head, size, crc = _data(table)
    options = {field: table[key] for key, field in _OPTIONS.items() if key in table}
    envelope = names.MessageName(visible_at, id, _kind(table)[1], size, crc, head, **options)
    return Item(state, envelope, data, _time(table, "died_at"), tuple(_texts(table)))


def _data(table: Mapping[str, Any]) -> tuple[bytes, int, int | None, int | None]:
    """The bytes of the file, how many of them are headers, and its size and checksum where they are given."""
    key = _one_of(table, _BODIES)
    if key == "sealed_base64":
        crc = table.get("crc")
        if crc is not None and not re.fullmatch("[0-9a-f]{8}", crc):
            raise UsageError("crc must be 8 hex digits")
        return _bytes(table, key), table.get("head", 0), table.get("size"), None if crc is None else int(crc, 16)
    if only := {"head", "size", "crc"} & table.keys():
        raise UsageError(f"{min(only)} stands only beside sealed_base64")
    body = codecs.encode(table["body"], codecs.JSON)[0] if key == "body" else _bytes(table, key)
    content_type, ext = _kind(table)
    also = {} if codecs.type_of(ext) == content_type else {CONTENT_TYPE: content_type}
    return *join_headers((table.get("headers") or {}) | also, body), None, None


def _kind(table: Mapping[str, Any]) -> tuple[str, str]:
    """The content type and the extension."""
    content_type = table.get("content_type") or codecs.BYTES
    return content_type, table.get("ext") or codecs.ext_of(content_type)


def _time(table: Mapping[str, Any], key: str) -> int | None:
    text = table.get(key)
    if text is None:
        return None
    found = _ISO.fullmatch(text)
    at = found and names.parse_time(f"{re.sub('[-:]', '', found[1])}.{(found[2] or ''):0<9}Z")
    if at is None or at < 0:
        raise UsageError(f"{key} must be like 2026-11-21T01:32:05.123456789Z, not {text[:80]!a}")
    return at


def _texts(table: Mapping[str, Any]) -> Iterator[ErrorText]:
    for value in table.get("errors", ()):
        one = _checked(value, _ERROR_KEYS)
        data = _bytes(one, _one_of(one, ("text", "text_base64")))
        if one.get("attempt", -1) < 0 or len(data) > error_texts.LONGEST:
            raise UsageError(f"each of errors must have its attempt, and at most {error_texts.LONGEST} bytes of text")
        yield ErrorText(one["attempt"], data, _time(one, "at") or 0)


def _one_of(table: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    given = [key for key in keys if key in table]
    if len(given) != 1:
        raise UsageError(f"there must be exactly one of {', '.join(keys)}")
    return given[0]


def _bytes(table: Mapping[str, Any], key: str) -> bytes:
    """The bytes that a text stands for."""
    text: str = table[key]
    try:
        return base64.b64decode(text, validate=True) if key.endswith("base64") else text.encode()
    except ValueError as error:
        raise UsageError(f"{key} cannot be turned into bytes: {error}") from None
