"""What a message is made of, whatever engine stores it.

A stored message is one run of bytes: one line of JSON with the headers, if there
are any, then the body. Its envelope says how long the headers are.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, get_args

from mailq.errors import CodecError, MessageTooLarge, UsageError, shown
from mailq.ids import END_OF_TIME, NS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

State = Literal["ready", "delayed", "leased", "dead"]
STATES: Final[tuple[State, ...]] = get_args(State)

RestingState = Literal["ready", "delayed", "dead"]
"""The states of a message that nobody holds."""

FailedOutcome = Literal["error", "nack", "timeout", "killed"]
FAILED_OUTCOMES: Final[tuple[FailedOutcome, ...]] = get_args(FailedOutcome)
"""How an attempt may end that is counted, and made again."""

Outcome = Literal["error", "nack", "timeout", "killed", "rejected"]
"""How an attempt may end that is counted."""

Reason = Literal["retries", "rejected", "expired", "torn", "unreadable", "too-large"]
"""Why a message may die."""

MAX_PRIORITY: Final = 9
MAX_HEADERS: Final = 65_536
"""The headers of a message take at most this many bytes."""

_CHUNK: Final = 1 << 20
_EXT: Final = re.compile(r"[a-z0-9]{1,7}")

CONTENT_TYPE: Final = "content-type"
FILENAME: Final = "filename"
TIMEOUT: Final = "mailq-timeout"
"""The header that says how many seconds a worker lets the job run."""

REPLY: Final = "mailq-reply"
"""The header that asks for a reply."""


class Attempt(NamedTuple):
    """One finished attempt. ``at`` is when its error was written, None without one."""

    number: int
    outcome: str
    error: str | None = None
    at: float | None = None


class Envelope(Protocol):
    """What an engine knows of a message without reading it. Times are nanoseconds since 1970, durations seconds."""

    @property
    def id(self) -> str:
        """32 hex digits, the same for the message's whole life."""

    @property
    def pushed_at(self) -> int:
        """When it was pushed."""

    @property
    def visible_at(self) -> int:
        """The place in line of a ready message, the due time of a delayed one."""

    @property
    def ext(self) -> str:
        """A file extension, which stands for the content type unless a header names another."""

    @property
    def header_bytes(self) -> int:
        """The number of bytes in front of the body that are headers."""

    @property
    def file_name(self) -> str:
        """The name of a file that a person has put into the queue; else empty."""

    @property
    def priority(self) -> int:
        """0 to 9; higher is delivered first."""

    @property
    def lease(self) -> float | None:
        """Its own lease, instead of the queue's."""

    @property
    def max_retries(self) -> int | None:
        """Its own number of retries, instead of the queue's."""

    @property
    def ttl(self) -> float | None:
        """Its own time to live, instead of the queue's."""

    @property
    def attempts(self) -> int:
        """The number of attempts finished since it was pushed or last died."""

    @property
    def total_attempts(self) -> int:
        """The number of attempts finished in its whole life."""

    @property
    def reason(self) -> str:
        """Why it last died; empty if it never did."""


class NewMessage(NamedTuple):
    """A message to be pushed: its bytes, the first ``header_bytes`` of which are its headers, and its options."""

    data: bytes
    ext: str
    header_bytes: int = 0
    delay: float = 0.0
    priority: int = 0
    lease: float | None = None
    max_retries: int | None = None
    ttl: float | None = None


def check_state(state: str) -> None:
    """Raise UsageError if there is no such state."""
    if state not in STATES:
        raise UsageError(f"{shown(state)} is no state; there are {', '.join(STATES)}")


def safe_ext(name: str) -> str:
    """The extension of a file name, in lower case, if a message can have it; else ``bin``."""
    ext = name.rpartition(".")[2].lower() if "." in name else ""
    return ext if _EXT.fullmatch(ext) else "bin"


def is_instant(value: object) -> bool:
    """Whether a value that others wrote is a time, in seconds since 1970, as any calendar can show it."""
    return isinstance(value, float) and 0 <= value < END_OF_TIME / NS


def join_headers(headers: Mapping[str, str], body: bytes) -> tuple[bytes, int]:
    """Put headers in front of a body. Returns the bytes, and the number of those that are headers."""
    if not headers:
        return body, 0
    for key, value in headers.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise UsageError(f"header {shown(key)}: {shown(value)} is not text; headers map text to text")
    head = json.dumps(dict(headers), ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
    if len(head) > MAX_HEADERS:
        raise UsageError(
            f"the headers take {len(head)} bytes, at most {MAX_HEADERS} are allowed; put the rest in the body"
        )
    return head + body, len(head)


def split_headers(data: bytes, header_bytes: int) -> tuple[dict[str, str], bytes]:
    """Take headers and body apart. Raises CodecError if the headers are not what join_headers wrote."""
    if not header_bytes:
        return {}, data
    try:
        headers = json.loads(data[:header_bytes])
    except (ValueError, RecursionError):
        headers = None
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise CodecError("the headers in front of the body are damaged", content_type="", raw=data)
    return headers, data[header_bytes:]


def read_body(file: BinaryIO, limit: int) -> bytes:
    """Read all of a file. Raises MessageTooLarge if that is more than ``limit`` bytes; it may have no end, so it is not read on."""
    size = os.fstat(file.fileno()).st_size
    parts: list[bytes] = []
    left = limit + 1
    while left > 0:
        # In parts: a read makes room for all that it may get, however little there is.
        wanted = min(left, max(size + 1, _CHUNK))
        parts.append(file.read(wanted))
        left -= len(parts[-1])
        if len(parts[-1]) < wanted:  # the end: a terminal would ask for it once more
            return b"".join(parts)
    raise MessageTooLarge(max(size, limit + 1), limit, or_more=size <= limit)
