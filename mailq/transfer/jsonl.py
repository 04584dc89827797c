"""The archive as JSON lines: one object a message, for jq and for eyes. docs/backup.md has the table."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Any, Final

from mailq import codecs
from mailq.engines.maildir import names
from mailq.errors import CodecError, MailqError
from mailq.ids import id_time, is_id
from mailq.message import CONTENT_TYPE, join_headers, split_headers
from mailq.transfer.items import MAX_TEXT, Flaw, Item, NoArchive, Text, is_torn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from mailq.engines.maildir.names import MessageName
    from mailq.settings import Settings
    from mailq.transfer.compression import Peekable
    from mailq.transfer.items import Kept

_KEYS: Final = frozenset(
    (
        *("id", "state", "pushed_at", "place_at", "due_at", "died_at", "content_type", "ext", "headers"),
        *("body", "body_text", "body_base64", "sealed_base64", "head", "size", "crc"),
        *("reason", "errors", "priority", "lease", "max_retries", "ttl", "file", "tries", "from"),
    )
)
_BODIES: Final = ("body", "body_text", "body_base64", "sealed_base64")
_TIMES: Final[dict[Kept, tuple[str, ...]]] = {
    "ready": ("place_at", "pushed_at"),
    "delayed": ("due_at",),
    "dead": ("place_at", "pushed_at"),
}
_ISO: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?Z")
_DEPTH: Final = 100
"""A body with more brackets than this is text: how deep JSON may be nested depends on who reads it."""

_ESCAPED: Final = 6
"""A byte takes at most this many in a JSON string."""

_AROUND: Final = 48 << 20
"""What a line may take besides its body: a hundred error texts, all of them escaped, and some more."""

_AT_ONCE: Final = 1 << 16
_BEGINNING: Final = 4096
"""Of the first line so many bytes show whether this is text; a damaged line further on is refused by itself."""


class Bad(Exception):
    """A line that is no message, and why."""


# Out


class LinesWriter:
    """Writes one line a message, in ASCII."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def begin(self, text: str, settings: Settings, at: int) -> None:
        """Nothing: each line is a message."""

    def add(self, item: Item) -> None:
        """One line."""
        self._stream.write(json.dumps(as_object(item)).encode() + b"\n")

    def end(self) -> None:
        """Nothing."""


def as_object(item: Item) -> dict[str, Any]:
    """A message as an object; what says nothing is left out."""
    e = item.envelope
    place = {"due_at" if item.state == "delayed" else "place_at": _spell(e.visible_at)}
    if item.state != "delayed" and e.visible_at == e.pushed_at:
        place = {}
    fields = {
        "id": e.id,
        "state": item.state,
        "pushed_at": _spell(e.pushed_at),
        **place,
        "died_at": None if item.at is None else _spell(item.at),
        "reason": (e.reason or "unknown") if item.state == "dead" else None,
        "tries": e.tries or None,
        "priority": e.priority or None,
        "lease": e.lease,
        "max_retries": e.max_retries,
        "ttl": e.ttl,
        "file": e.file_name or None,
        "from": e.source_queue or None,
        **_content(item),
        "errors": [_text(text) for text in item.texts] or None,
    }
    return {key: value for key, value in fields.items() if value is not None or key == "body"}


def _content(item: Item) -> dict[str, Any]:
    """Type, headers and body; all the bytes in one piece where these would not give them back."""
    e = item.envelope
    try:
        headers, body = split_headers(item.data, e.header_bytes)
    except MailqError:
        return _sealed(item)
    content_type = headers.pop(CONTENT_TYPE, None) or codecs.type_of(e.ext)
    about = {"content_type": content_type}
    if codecs.ext_of(content_type) != e.ext:
        about["ext"] = e.ext
    content = about | ({"headers": headers} if headers else {}) | _body(body, content_type)
    return content if not is_torn(item) and _data(content) == (item.data, e.header_bytes, None, None) else _sealed(item)


def _sealed(item: Item) -> dict[str, Any]:
    """The file as it is: damaged, or spelled otherwise than a push does."""
    e = item.envelope
    sums = {"size": e.size, "crc": None if e.crc is None else f"{e.crc:08x}"} if is_torn(item) else {}
    whole = {"sealed_base64": base64.b64encode(item.data).decode(), "head": e.header_bytes or None}
    return {"content_type": codecs.type_of(e.ext), "ext": e.ext, **whole, **sums}


def _body(raw: bytes, content_type: str) -> dict[str, Any]:
    """The body in the most readable way that gives back its bytes."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(raw).decode()}
    if codecs.is_json(content_type) and raw.count(b"[") + raw.count(b"{") <= _DEPTH:
        try:
            value = codecs.read_json(text)
            if codecs.encode(value, codecs.JSON)[0] == raw:
                return {"body": value}
        except (ValueError, RecursionError, CodecError):
            pass
    return {"body_text": text}


def _text(text: Text) -> dict[str, Any]:
    about = {"attempt": text.number, "at": _spell(text.at)}
    try:
        return {**about, "text": text.data.decode()}
    except UnicodeDecodeError:
        return {**about, "text_base64": base64.b64encode(text.data).decode()}


def _spell(ns: int) -> str:
    t = names.format_time(ns)
    return f"{t[:4]}-{t[4:6]}-{t[6:8]}T{t[9:11]}:{t[11:13]}:{t[13:]}"


# In


class LinesReader:
    """Reads lines as an export writes them, or as a person does who keeps to the table."""

    def __init__(self, stream: Peekable) -> None:
        self._stream = stream
        self.strays = 0

    def settings(self) -> str | None:
        """None: there are only messages in it. Raises NoArchive for what is no text, rather than refuse each line of it."""
        first, *_ = self._stream.peek(_BEGINNING)[:_BEGINNING].lstrip().split(b"\n", 1)
        try:
            first.decode()
        except UnicodeDecodeError as error:
            if error.end < len(first):  # or it is a character that goes on behind what was looked at
                raise NoArchive("JSON lines are text in UTF-8, and the first line is not") from None
        if b"\0" in first:
            raise NoArchive("JSON lines are text, and there is a zero byte in the first line")
        return None

    def items(self, most: int) -> Iterator[Item | Flaw]:
        """The messages; empty lines are skipped."""
        longest = _ESCAPED * most + _AROUND
        number = 0
        while line := self._stream.readline(longest + 1):
            number += 1
            where = f"line {number}"
            if len(line) > longest:
                self._skip_line(line)
                yield Flaw(where, f"it has more than {longest} bytes; no message of this queue takes as much")
            elif line.strip():
                yield _item(line, where)

    def _skip_line(self, line: bytes) -> None:
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(_AT_ONCE)


def _item(line: bytes, where: str) -> Item | Flaw:
    try:
        table = codecs.read_json(line.decode())
    except (ValueError, RecursionError) as error:
        cut = "" if line.endswith(b"\n") else "; the last line has no end: it was cut off"
        return Flaw(where, f"this is not JSON: {error}{cut}")
    try:
        if not isinstance(table, dict):
            raise Bad("this is no JSON object")
        return _read(table, where)
    except (Bad, MailqError) as error:
        return Flaw(where, str(error))


def _read(table: Mapping[str, Any], where: str) -> Item:
    if unknown := sorted(set(table) - _KEYS):
        raise Bad(f"there is no key {unknown[0][:80]!a}; there are {', '.join(sorted(_KEYS))}")
    id = _get(table, "id", str)
    if id is None or not is_id(id):
        raise Bad("id must be 32 hex digits; 'mailq push --lines' takes new messages, without ids")
    state: Kept = _get(table, "state", str) or "ready"
    if state not in _TIMES:
        raise Bad(f"state must be {', '.join(_TIMES)}, not {state[:80]!a}")
    data, head, size, crc = _data(table)
    envelope = names.MessageName(
        visible_at=_place(table, state, id),
        id=id,
        ext=_kind(table)[1],
        size=size,
        crc=crc,
        header_bytes=head,
        priority=_get(table, "priority", int) or 0,
        lease=_get(table, "lease", float),
        max_retries=_get(table, "max_retries", int),
        ttl=_get(table, "ttl", float),
        file_name=_get(table, "file", str) or "",
        tries=_get(table, "tries", str) or "",
        source_queue=_get(table, "from", str) or "",
    )
    return Item(state, _spelled(envelope), data, _time(table, "died_at"), tuple(_texts(table)), where)


def _spelled(envelope: MessageName) -> MessageName:
    """The envelope, if a name can say all that."""
    try:
        name = names.format_name(envelope)
    except (ValueError, OverflowError):
        name = ""
    read = names.parse(name)
    if read is None or read._replace(dead=False) != envelope:
        raise Bad(f"no name of the format can say this: {name[: names.MAX_NAME]!a}")
    return read


def _data(table: Mapping[str, Any]) -> tuple[bytes, int, int | None, int | None]:
    """The bytes of the file, how many of them are headers, and what they should sum up to."""
    given = [key for key in _BODIES if key in table]
    if len(given) != 1:
        raise Bad(f"there must be exactly one of {', '.join(_BODIES)}")
    if given == ["sealed_base64"]:
        spelled = _get(table, "crc", str)
        if spelled is not None and not re.fullmatch("[0-9a-f]{8}", spelled):
            raise Bad("crc must be 8 hex digits")
        crc = None if spelled is None else int(spelled, 16)
        return _bytes(table, "sealed_base64"), _get(table, "head", int) or 0, _get(table, "size", int), crc
    if only := {"head", "size", "crc"} & set(table):
        raise Bad(f"{min(only)} stands only beside sealed_base64")
    match given[0]:
        case "body_text":
            body = _encoded(_get(table, "body_text", str) or "")
        case "body_base64":
            body = _bytes(table, "body_base64")
        case _:
            body = codecs.encode(table["body"], codecs.JSON)[0]
    headers: dict[str, str] = dict(_get(table, "headers", dict) or {})
    content_type, ext = _kind(table)
    if codecs.type_of(ext) != content_type:
        headers[CONTENT_TYPE] = content_type
    return *join_headers(headers, body), None, None


def _kind(table: Mapping[str, Any]) -> tuple[str, str]:
    """The content type and the extension."""
    content_type = _get(table, "content_type", str) or codecs.BYTES
    return content_type, _get(table, "ext", str) or codecs.ext_of(content_type)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Bad(f"this text cannot be UTF-8: {error.reason}") from None


def _place(table: Mapping[str, Any], state: Kept, id: str) -> int:
    for key in _TIMES[state]:
        if (at := _time(table, key)) is not None:
            return at
    at = id_time(id)
    if state == "delayed" or at is None:
        raise Bad(f"{_TIMES[state][-1]} is missing")
    return at


def _time(table: Mapping[str, Any], key: str) -> int | None:
    text = _get(table, key, str)
    if text is None:
        return None
    found = _ISO.fullmatch(text)
    at = found and names.parse_time(
        f"{found[1]}{found[2]}{found[3]}T{found[4]}{found[5]}{found[6]}.{(found[7] or '').ljust(9, '0')}Z"
    )
    if at is None or at < 0:
        raise Bad(f"{key} must be like 2026-11-21T01:32:05.123456789Z, not {text[:80]!a}")
    return at


def _texts(table: Mapping[str, Any]) -> Iterator[Text]:
    for one in _get(table, "errors", list) or []:
        number = _get(one, "attempt", int) if isinstance(one, dict) else None
        if number is None or number < 0 or len({"text", "text_base64"} & set(one)) != 1:
            raise Bad("each of errors must have attempt, at, and text or text_base64")
        data = _bytes(one, "text_base64") if "text_base64" in one else _encoded(_get(one, "text", str) or "")
        if len(data) > MAX_TEXT:
            raise Bad(f"an error text has {len(data)} bytes, at most {MAX_TEXT} are kept")
        yield Text(number, data, _time(one, "at") or 0)


def _bytes(table: Mapping[str, Any], key: str) -> bytes:
    try:
        return base64.b64decode((_get(table, key, str) or "").encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Bad(f"{key} is not base64") from None


def _get(table: Mapping[str, Any], key: str, kind: type) -> Any:  # noqa: ANN401 - of that kind, or None
    """A value of a kind; a whole number is a float, too."""
    value = table.get(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            value = "too large"
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise Bad(f"{key} must be {_KIND_NAMES[kind]}, not {str(value)[:80]!a}")
    return value


_KIND_NAMES: Final = {str: "text", int: "a whole number", float: "a number", dict: "an object", list: "a list"}
