"""What a message is made of, before anybody names a disk or a codec.

A message is a sealed run of bytes: one line of JSON with the headers, if there
are any, then the body. Its envelope (:mod:`mailq.engines.maildir.names`) says how long both
are and what they sum up to.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

from mailq.engines.maildir import names
from mailq.errors import CodecError, MessageTooLarge, UsageError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

    from mailq.engines.maildir.names import Envelope

State = Literal["ready", "delayed", "leased", "dead"]
STATES: Final[tuple[State, ...]] = get_args(State)

MAX_HEADERS: Final = 65_536
"""The headers of a message take at most this many bytes."""

_CHUNK: Final = 1 << 20

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


OUTCOMES: Final = {
    names.ERROR: "error",
    names.NACK: "nack",
    names.TIMEOUT: "timeout",
    names.KILLED: "killed",
    names.REJECT: "rejected",
}
"""The word for each letter of ``tries=``."""


class Draft(NamedTuple):
    """A message on its way in: sealed bytes, and what its name shall say."""

    data: bytes
    ext: str
    head: int = 0
    file: str = ""
    delay: float = 0.0
    priority: int = 0
    lease: float | None = None
    max_retries: int | None = None
    ttl: float | None = None


_SALTS: Final = 64
"""So many random numbers are drawn at a time."""


class Stamps:
    """Hands out instants that never repeat or go backwards, whatever the clock does, and ids for them.

    ``clock`` is read for each; a clock that stands still or steps back yields
    the next nanosecond. Safe to share between threads.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._last = 0
        self._salts: list[int] = []
        # Reentrant: a signal handler that pushes may interrupt its own thread in here.
        self._lock = threading.RLock()

    def next(self) -> int:
        """Take the next instant, in nanoseconds."""
        with self._lock:
            self._last = max(self._last + 1, self._clock())
            return self._last

    def new_id(self, ns: int) -> str:
        """Make an id for one of the instants; see names.new_id."""
        try:
            salt = self._salts.pop()
        except IndexError:  # drawn many at a time: one by one, each would be a system call
            salts = memoryview(os.urandom(_SALTS * 8)).cast("Q").tolist()
            salt, self._salts = salts.pop(), salts
        return names.new_id(ns, salt)

    def after_fork(self) -> None:
        """Start in a forked child with a free lock, for the parent's may have been held, and without its salts."""
        self._lock = threading.RLock()
        self._salts = []


def is_instant(value: object) -> bool:
    """Whether a value that others wrote is a time, in seconds since 1970, as any calendar can show it."""
    return isinstance(value, float) and 0 <= value < names.END_OF_TIME / names.NS


def seal(headers: Mapping[str, str], body: bytes) -> tuple[bytes, int]:
    """Put headers in front of a body. Returns the bytes and the length of the headers in them."""
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


def unseal(data: bytes, head: int) -> tuple[dict[str, str], bytes]:
    """Take headers and body apart. Raises CodecError if the headers are not what ``seal`` wrote."""
    if not head:
        return {}, data
    try:
        headers = json.loads(data[:head])
    except (ValueError, RecursionError):
        headers = None
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise CodecError("the headers in front of the body are damaged", content_type="", raw=data)
    return headers, data[head:]


def checksum(data: bytes) -> int:
    """The CRC-32 that a name carries for its file."""
    return zlib.crc32(data)


def is_whole(envelope: Envelope, data: bytes) -> bool:
    """Whether these bytes are what the name promises, as far as it promises anything."""
    if envelope.size is not None and envelope.size != len(data):
        return False
    if envelope.head > len(data):
        return False
    return envelope.crc is None or envelope.crc == checksum(data)


def read_body(file: BinaryIO, limit: int) -> bytes:
    """All of a file. Raises MessageTooLarge if that is more than ``limit`` bytes; it may have no end, so it is not read on."""
    size = os.fstat(file.fileno()).st_size
    parts: list[bytes] = []
    left = limit + 1
    while left > 0:
        # In parts: to read so many bytes takes room for all of them, however few there are.
        wanted = min(left, max(size + 1, _CHUNK))
        parts.append(file.read(wanted))
        left -= len(parts[-1])
        if len(parts[-1]) < wanted:  # the end: a terminal would have to be told of it once more
            return b"".join(parts)
    raise MessageTooLarge(max(size, limit + 1), limit, or_more=size <= limit)
