"""A durable job queue that is a directory: no daemon, no port, no database.

The file is the payload, the name is the record, a rename is the transaction.

    >>> import mailq
    >>> q = mailq.open("memory://")  # or a path
    >>> id = q.push({"resize": "cat.jpg"})
    >>> with q.pop() as body:
    ...     print(body)
    {'resize': 'cat.jpg'}
"""

from mailq.delivery import Delivery, Message
from mailq.engine import Reaped, Stats
from mailq.errors import (
    CodecError,
    InvalidReceipt,
    JobFailed,
    LeaseLost,
    MailqError,
    MessageNotFound,
    MessageTooLarge,
    QueueFull,
    QueueNotFound,
    Refused,
    ReplyTimeout,
    SettingsConflict,
    SettingsError,
    StorageError,
    TimeLimit,
    UsageError,
)
from mailq.message import Attempt
from mailq.opening import open  # noqa: A004 - the verb of files, on purpose: mailq.open("jobs")
from mailq.queue import Queue
from mailq.reply import Reply
from mailq.settings import Backoff, Settings

__all__ = [
    "Attempt",
    "Backoff",
    "CodecError",
    "Delivery",
    "InvalidReceipt",
    "JobFailed",
    "LeaseLost",
    "MailqError",
    "Message",
    "MessageNotFound",
    "MessageTooLarge",
    "Queue",
    "QueueFull",
    "QueueNotFound",
    "Reaped",
    "Refused",
    "Reply",
    "ReplyTimeout",
    "Settings",
    "SettingsConflict",
    "SettingsError",
    "Stats",
    "StorageError",
    "TimeLimit",
    "UsageError",
    "open",
]
