"""The reply to a request: what the handler returned, or why it never will."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any, Final

from mailq.codecs import read_json
from mailq.errors import CodecError, JobFailed, ReplyTimeout, UsageError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailq.engines.base import Opened

# A reply is looked for at growing intervals, in seconds. Replies are rare and each is looked
# for by its one caller, by name: cheaper than a watch on a directory.
_FIRST_LOOK: Final = 0.001
_LAST_LOOK: Final = 0.05

LONGEST: Final = 1_048_576
"""The most bytes of a result that a worker keeps."""

_AGES: Final = 1e12
"""A longer wait, in seconds, is one for ever."""

_CHECK: Final = 1.0
"""So often a waiting caller looks whether the message is still alive, in seconds."""

_SHARE: Final = 0.05
"""But that takes at most this part of the time: for it a whole queue is listed."""


class Reply:
    """The reply to come to a message; ``id`` is the message's."""

    def __init__(self, queue: Opened, id: str) -> None:
        self._queue = queue
        self.id = id

    def __repr__(self) -> str:
        """Name the message."""
        return f"<mailq.Reply to {self.id}>"

    @property
    def ready(self) -> bool:
        """Whether result() would return, or raise JobFailed, at once."""
        return self._queue.replies.get_reply(self.id) is not None

    def result(self, timeout: float | None = None) -> Any:  # noqa: ANN401 - any JSON value is a result
        """Wait for what the handler returned: a JSON value. May be asked again, until ``reply_ttl`` has passed.

        Raises JobFailed with the job's last error when the message is dead (or gone
        without a reply: acked by a consumer that is no worker), and ReplyTimeout after
        ``timeout`` seconds; None waits for ever. The job goes on whether anybody waits
        or not.
        """
        for pause in self.pauses(timeout):
            time.sleep(pause)
        return self._open(self._queue.replies.get_reply(self.id))

    def pauses(self, timeout: float | None = None) -> Iterator[float]:
        """The pauses to make until result() returns, or raises JobFailed, at once; in seconds.

        For who must not sleep: each step looks once, and never blocks for longer.
        Raises what result raises.
        """
        if timeout is not None and not timeout >= 0:
            raise UsageError(f"timeout is {shown(timeout)}; it must be seconds from 0, or None")
        until = math.inf if timeout is None or timeout > _AGES else time.monotonic() + timeout
        pause, next_check, missing = _FIRST_LOOK, time.monotonic() + _CHECK, 0
        while not self.ready:
            now = time.monotonic()
            if now >= until:
                raise ReplyTimeout(self.id, timeout or 0.0)
            if now >= next_check:
                missing = 0 if self._is_alive() else missing + 1
                # Twice in a row: a message may hide from one look while it is moved. And it may have
                # been answered and acked since.
                if missing > 1 and not self.ready:
                    raise JobFailed(self.id, "the message is gone and there is no reply to it")
                looked = time.monotonic()
                next_check = looked + max(_CHECK, (looked - now) / _SHARE)
            yield max(0.0, min(pause, until - now))
            pause = min(2 * pause, _LAST_LOOK)

    def _is_alive(self) -> bool:
        """Whether an answer may still come. Raises JobFailed for a dead letter that nobody could answer."""
        found = self._queue.engine.look(None, ids=[self.id], limit=1)
        if not found:
            return False
        (record,) = found
        if record.state == "dead" and self._queue.replies.get_reply(self.id) is None:
            attempts = self._queue.engine.history(record).attempts
            errors = [attempt.error for attempt in attempts if attempt.error]
            raise JobFailed(self.id, errors[-1] if errors else f"given up on: {record.envelope.reason}")
        return True

    def _open(self, data: bytes | None) -> Any:  # noqa: ANN401 - any JSON value is a result
        try:
            told = read_json(data or b"")
            if told["ok"]:
                return told["result"]
            error = str(told["error"])
        except (ValueError, KeyError, TypeError, RecursionError) as failure:
            text = f"the reply to {self.id} is damaged"
            raise CodecError(text, content_type="application/json", raw=data) from failure
        raise JobFailed(self.id, error)


def encode(result: Any) -> bytes:  # noqa: ANN401 - any JSON value is a result
    """A result as a reply keeps it. Raises CodecError if it is no JSON, or too long."""
    try:
        data = json.dumps({"ok": True, "result": result}, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise CodecError(f"the result cannot be a reply: {error}", content_type="application/json") from error
    if len(data) > LONGEST:
        text = f"the result has {len(data)} bytes as JSON, a reply takes {LONGEST}; keep it elsewhere and reply where"
        raise CodecError(text, content_type="application/json")
    return data


def encode_failure(error: str) -> bytes:
    """A failure as a reply keeps it."""
    return json.dumps({"ok": False, "error": error}).encode() + b"\n"
