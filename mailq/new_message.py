"""What a push makes of a body and its options: a new message, checked and encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mailq import codecs
from mailq.errors import MessageTooLarge, UsageError, shown
from mailq.message import CONTENT_TYPE, MAX_PRIORITY, TIMEOUT, NewMessage, join_headers
from mailq.settings import MAX_RETRIES, MOMENT, seconds, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

Options = tuple[float, int, float | None, int | None, float | None]
"""The last fields of a NewMessage: delay, priority, lease, max_retries, ttl."""


def check_options(
    delay: float, priority: int, lease: float | None, max_retries: int | None, ttl: float | None
) -> Options:
    """Check the options of a push. Raises UsageError."""
    return (
        seconds(delay, "delay") if delay else 0.0,
        whole(priority, "priority", least=0, most=MAX_PRIORITY),
        None if lease is None else seconds(lease, "lease", least=MOMENT),
        None if max_retries is None else whole(max_retries, "max_retries", least=0, most=MAX_RETRIES),
        None if ttl is None else seconds(ttl, "ttl", least=MOMENT),
    )


def with_timeout(headers: Mapping[str, str] | None, timeout: float | None) -> Mapping[str, str]:
    """The headers, with the time limit among them: only a worker needs it, when it has read the message anyway."""
    if timeout is None:
        return headers or {}
    return {**(headers or {}), TIMEOUT: f"{seconds(timeout, 'timeout', least=MOMENT):.3f}".rstrip("0").rstrip(".")}


def encode(
    body: Any,  # noqa: ANN401 - any JSON value is a body
    content_type: str | None,
    headers: Mapping[str, str],
    options: Options,
    *,
    limit: int,
) -> NewMessage:
    """Encode a body as its content type says. Raises CodecError, and what from_bytes raises."""
    if not isinstance(content_type, str | None):
        raise UsageError(f"content_type is {shown(content_type)}; it must be text like 'image/png'")
    raw, kind = codecs.encode(body, content_type)
    return from_bytes(raw, kind, codecs.ext_of(kind), headers, options, limit=limit)


def from_bytes(
    raw: bytes, content_type: str, ext: str, headers: Mapping[str, str], options: Options, *, limit: int
) -> NewMessage:
    """Put a body and its headers together; a content type that the extension does not tell goes among them.

    Raises UsageError, and MessageTooLarge for more than ``limit`` bytes.
    """
    if headers and any(str(key).lower() == CONTENT_TYPE for key in headers):
        raise UsageError("content-type is not a header here; pass content_type=")
    if codecs.type_of(ext) != content_type:
        headers = {**headers, CONTENT_TYPE: content_type}
    data, header_bytes = join_headers(headers, raw)
    if len(data) > limit:
        raise MessageTooLarge(len(data), limit)
    return NewMessage(data, ext, header_bytes, *options)
