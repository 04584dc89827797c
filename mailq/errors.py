"""Everything that mailq raises on purpose, and whose move is next.

::

    MailqError (Exception)
    ├── UsageError (ValueError)        the call: change it
    │   ├── InvalidReceipt             that text is not a receipt
    │   ├── QueueClosed                the queue is closed: open it again
    │   ├── Unsupported                this kind of queue cannot do that
    │   └── SettingsError              a setting has an impossible value
    │       └── SettingsConflict       the queue exists with other settings
    ├── CodecError (ValueError)        the body does not fit its content type
    ├── QueueNotFound (LookupError)    no queue at that place, or no longer
    ├── MessageNotFound (LookupError)  no message of that id, or no longer
    ├── LeaseLost                      the message is not yours any more
    ├── Refused                        a limit of the queue: wait, or raise it
    │   ├── MessageTooLarge
    │   └── QueueFull
    ├── StorageError (OSError)         the disk: see the errno, then try again
    ├── WorkerFailed                   a worker cannot start: see its text
    ├── JobFailed                      the job that was to reply is dead: see its error
    └── ReplyTimeout (TimeoutError)    no reply yet: wait on, or do without
    TimeLimit (BaseException)          in a job: it runs too long, end well

``except MailqError`` catches every error. Each keeps its facts in fields. TimeLimit is
an interruption, as KeyboardInterrupt is: a job gets it from outside, between any two
steps, where ``except Exception`` or ``except OSError`` would take it for something else.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST: Final = 80


def shown(value: object) -> str:
    """Spell whatever was passed for an error's text: in ASCII, and no longer than fits in a line."""
    try:
        text = ascii(value)
    except ValueError:  # Python spells no number of more than some thousand digits
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


class MailqError(Exception):
    """The root of every error that mailq raises on purpose.

    Errors can be pickled, so that they cross from a worker process whole.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from fields: the arguments that made it are not those that Exception kept."""
        return _rebuild, (type(self), self.args, dict(vars(self)))


def _rebuild(kind: type[MailqError], args: tuple[Any, ...], fields: dict[str, Any]) -> MailqError:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(fields)
    return error


class UsageError(MailqError, ValueError):
    """The call cannot be carried out as it stands: change it."""


class InvalidReceipt(UsageError):
    """The text is not a receipt: pass the one that the delivery carries, unchanged."""

    def __init__(self, receipt: object) -> None:
        self.receipt = receipt
        super().__init__(f"{shown(receipt)} is not a receipt; pass the one that the delivery carries, unchanged")


class QueueClosed(UsageError):
    """The queue at ``location`` was closed, here: open it again, or close it later."""

    def __init__(self, location: str) -> None:
        self.location = location
        super().__init__(f"the queue {location} is closed; open it again, or close it later")


class Unsupported(UsageError):
    """The engine at ``location`` cannot do ``what``; nothing was changed."""

    def __init__(self, location: str, what: str) -> None:
        self.location = location
        self.what = what
        super().__init__(f"the queue {location} cannot {what}; use a queue in a directory")


class SettingsError(UsageError):
    """A setting is unknown or has an impossible value.

    ``key`` is the setting, ``path`` the settings file and ``line`` the line in
    it, where they are known.
    """

    def __init__(self, message: str, *, key: str = "", path: str = "", line: int | None = None) -> None:
        self.key = key
        self.path = path
        self.line = line
        place = f"{path}, line {line}: " if path and line else f"{path}: " if path else ""
        super().__init__(place + message)


class SettingsConflict(SettingsError):
    """The queue exists, and its settings differ from those asked for.

    Settings live with the queue: leave the argument out, or change the queue's
    setting with ``mailq config``.
    """

    def __init__(self, key: str, *, asked: object, found: object, path: str = "") -> None:
        self.asked = asked
        self.found = found
        super().__init__(
            f"the queue has {key} = {found!r}, not {asked!r}; leave the argument out, "
            f"or change the queue with 'mailq config'",
            key=key,
            path=path,
        )


class CodecError(MailqError, ValueError):
    """A body does not fit its content type.

    ``raw`` holds the bytes when a delivery would not decode; the message is
    still leased and can be nacked or rejected. It is None when a push refused.
    """

    def __init__(self, message: str, *, content_type: str, raw: bytes | None = None) -> None:
        self.content_type = content_type
        self.raw = raw
        super().__init__(message)


class QueueNotFound(MailqError, LookupError):
    """There is no queue at ``path``, or it is there no longer.

    Either it was never made (``mailq init``), or its disk is not mounted; or none
    can be there, and then the text says what to do instead.
    """

    def __init__(self, path: str, why: str = "there is no queue here", todo: str = "") -> None:
        self.path = path
        todo = todo or f"create it with 'mailq init {path}', or mount its disk"
        super().__init__(f"{path}: {why}; {todo}")


class MessageNotFound(MailqError, LookupError):
    """No message with this ``id`` is in the queue, in any state."""

    def __init__(self, id: str, where: str = "the queue") -> None:
        self.id = id
        super().__init__(f"no message {shown(id)} in {where}; it may be acked or purged already")


class LeaseLost(MailqError):
    """The delivery behind ``receipt`` is no longer yours; nothing was changed.

    Its lease ran out, or it was acked, nacked, released, rejected or purged
    before. Somebody else may hold the message now: stop working on it.
    """

    def __init__(self, receipt: str, verb: str) -> None:
        self.receipt = receipt
        self.verb = verb
        super().__init__(
            f"cannot {verb}: the lease is gone (ran out, or settled before); leave the message to its new holder; receipt {receipt}"
        )


class Refused(MailqError):
    """A limit of the queue refused the push; nothing was stored."""


class MessageTooLarge(Refused):
    """The message is larger than the queue takes. ``size`` and ``limit`` in bytes.

    ``size`` may be the least that it has: what is too large is not read on.
    """

    def __init__(self, size: int, limit: int, *, or_more: bool = False) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"the message has {size} bytes{' or more' * or_more} with its headers, the queue takes {limit}; "
            f"push a path to the data instead, or raise max_message_bytes"
        )


class QueueFull(Refused):
    """The queue holds as many waiting messages as it may. ``length`` and ``limit`` in messages."""

    def __init__(self, length: int, limit: int, asked: int = 1) -> None:
        self.length = length
        self.limit = limit
        self.asked = asked
        super().__init__(
            f"the queue is full: {length} of {limit} messages are waiting and {asked} more would pass the limit; "
            f"try again later, add consumers, or raise max_length"
        )


_REMEDIES: Final = {
    errno.ENOSPC: "free some space, or inodes; what is there can be popped and acked meanwhile",
    errno.EDQUOT: "raise the quota, or free some space; what is there can be popped and acked meanwhile",
    errno.EROFS: "see the system's log for why, and mount it writable again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""Whose move is next, where the system's word alone does not say."""


class StorageError(MailqError, OSError):
    """The file system refused a call.

    ``errno`` and ``path`` are the system's; ``verb`` is what was asked of the
    queue. ``maybe_pushed`` holds the ids that may be in the queue although the
    push raised: everything else that a failed push wrote is gone again.
    """

    def __init__(self, verb: str, cause: OSError, *, maybe_pushed: Sequence[str] = ()) -> None:
        self.verb = verb
        self.maybe_pushed = tuple(maybe_pushed)
        self.path = cause.filename
        OSError.__init__(self, cause.errno, cause.strerror, cause.filename)

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from the system's error, which OSError keeps out of the fields."""
        return _storage_error, (self.verb, (self.errno, self.strerror, self.path), self.maybe_pushed)

    def __str__(self) -> str:
        """Say what failed, where, and what of it may have happened all the same."""
        text = f"cannot {self.verb}: {self.strerror or 'the system gave no reason'}"
        if self.path:
            text += f" ({self.path!a})"
        if self.errno in _REMEDIES:
            text += f"; {_REMEDIES[self.errno]}"
        if self.maybe_pushed:
            text += "; these may be in the queue all the same: " + ", ".join(self.maybe_pushed)
        return text


class TimeLimit(BaseException):
    """Raised by a worker in a job that has run for its soft time limit of ``seconds``.

    Clean up and return, or let it pass: then the attempt counts as a timeout. Like
    KeyboardInterrupt it is not an Exception, so that no ``except Exception`` swallows it.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(seconds)

    def __str__(self) -> str:
        """Say which limit."""
        return f"the job has run for its soft time limit of {self.seconds:g} s; it is to end now"


class WorkerFailed(MailqError):
    """A worker could not start its processes. ``text`` says it all, with the traceback where there is one."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(f"the worker cannot start: {text.strip().rpartition(chr(10))[2]}")


class JobFailed(MailqError):
    """A request gets no result: its message ``id`` is dead. ``error`` is the job's last error text."""

    def __init__(self, id: str, error: str) -> None:
        self.id = id
        self.error = error
        last = error.strip().rpartition("\n")[2]
        super().__init__(f"the job {id} failed: {last}")


class ReplyTimeout(MailqError, TimeoutError):
    """There was no reply to message ``id`` within ``timeout`` seconds; it may still come."""

    def __init__(self, id: str, timeout: float) -> None:
        self.id = id
        self.timeout = timeout
        super().__init__(f"no reply to {id} within {timeout:g} s; the job goes on, ask again or start a worker")


def _storage_error(verb: str, cause: tuple[Any, ...], maybe_pushed: Sequence[str]) -> StorageError:
    return StorageError(verb, OSError(*cause), maybe_pushed=maybe_pushed)
