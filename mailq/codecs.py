"""Bodies to bytes and back, as the content type decides.

JSON takes any JSON value, ``text/*`` takes str, everything else takes bytes.
There is no pickle: a queue must not be a way to run code.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any, Final, NoReturn

from mailq.errors import CodecError

JSON: Final = "application/json"
TEXT: Final = "text/plain"
BYTES: Final = "application/octet-stream"

# The first extension of a type is the one that is written. Fixed, and not the system's list of
# types: a message must mean the same on the machine that reads it as on the one that wrote it.
_EXTENSIONS: Final[tuple[tuple[str, str], ...]] = (
    ("json", JSON),
    ("txt", TEXT),
    ("bin", BYTES),
    ("log", TEXT),
    ("csv", "text/csv"),
    ("tsv", "text/tab-separated-values"),
    ("html", "text/html"),
    ("htm", "text/html"),
    ("md", "text/markdown"),
    ("xml", "application/xml"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("toml", "application/toml"),
    ("jsonl", "application/jsonl"),
    ("pdf", "application/pdf"),
    ("zip", "application/zip"),
    ("gz", "application/gzip"),
    ("tar", "application/x-tar"),
    ("zst", "application/zstd"),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("svg", "image/svg+xml"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("mp3", "audio/mpeg"),
    ("wav", "audio/wav"),
    ("mp4", "video/mp4"),
    ("eml", "message/rfc822"),
)
_TYPE_OF: Final = dict(_EXTENSIONS)
_EXT_OF: Final = {content_type: ext for ext, content_type in reversed(_EXTENSIONS)}
_TO_JSON: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def type_of(ext: str) -> str:
    """The content type that an extension stands for; bytes if it is not known."""
    return _TYPE_OF.get(ext, BYTES)


def ext_of(content_type: str) -> str:
    """The extension for a content type; ``bin`` if there is none for it."""
    ext = _EXT_OF.get(content_type)
    if ext is not None:
        return ext
    return "txt" if _is_text(content_type) else "json" if is_json(content_type) else "bin"


def encode(body: Any, content_type: str | None) -> tuple[bytes, str]:  # noqa: ANN401 - any JSON value is a body
    """Turn a body into bytes. Returns them with the content type.

    Without a content type bytes are raw bytes, str is text and everything else
    is JSON. Bytes pass as they are under any content type. Raises CodecError if
    the body does not fit.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), BYTES if content_type is None else content_type
    if content_type is None:
        content_type = TEXT if isinstance(body, str) else JSON
    try:
        if is_json(content_type):
            return _TO_JSON.encode(body).encode(), content_type
        if isinstance(body, str):
            return body.encode(), content_type
    except (TypeError, ValueError, RecursionError) as error:
        raise CodecError(f"the body cannot be written as {content_type}: {error}", content_type=content_type) from error
    raise CodecError(
        f"a body of {content_type} must be bytes or str, not {type(body).__name__}; encode it first, or push it as JSON",
        content_type=content_type,
    )


def decode(raw: bytes, content_type: str) -> Any:  # noqa: ANN401 - any JSON value is a body
    """Turn bytes into a body: a JSON value, str or bytes. Raises CodecError if they do not fit."""
    try:
        if is_json(content_type):
            return read_json(raw)
        if _is_text(content_type):
            return raw.decode()
    except (ValueError, RecursionError) as error:
        raise CodecError(
            f"the body is not {content_type}: {error}; its bytes are in .raw", content_type=content_type, raw=raw
        ) from error
    return raw


def read_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Read what is JSON by its definition, as :func:`encode` writes it: no NaN, and no number beyond any float.

    Of two equal keys the later one counts. Raises ValueError and RecursionError.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    return _FROM_JSON.decode(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:40]} is beyond any float")
    return number


_FROM_JSON: Final = json.JSONDecoder(parse_constant=_refuse, parse_float=_float)


@lru_cache(maxsize=64)
def _essence(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Whether bodies of this type are JSON."""
    essence = _essence(content_type)
    return essence == JSON or essence.endswith("+json")


def _is_text(content_type: str) -> bool:
    return _essence(content_type).startswith("text/")
