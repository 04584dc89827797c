"""A durable job queue that is a directory: no daemon, no port, no database.

The file is the payload, the name is the record, a rename is the transaction.

    >>> import mailq
    >>> q = mailq.open("memory://")  # or a path
    >>> id = q.push({"resize": "cat.jpg"})
    >>> for delivery in q.drain():
    ...     with delivery as body:
    ...         print(body)
    {'resize': 'cat.jpg'}
"""

from typing import TYPE_CHECKING, Any, Final

from mailq.connect import open  # noqa: A004 - the verb of files, on purpose: mailq.open("jobs")
from mailq.delivery import Delivery, Message, Reject, Retry
from mailq.engines.base import Reaped, Stats
from mailq.errors import (
    CodecError,
    InvalidReceipt,
    JobFailed,
    LeaseLost,
    MailqError,
    MessageNotFound,
    MessageTooLarge,
    QueueClosed,
    QueueFull,
    QueueNotFound,
    Refused,
    ReplyTimeout,
    SettingsConflict,
    SettingsError,
    StorageError,
    TimeLimit,
    Unsupported,
    UsageError,
    WorkerFailed,
)
from mailq.message import Attempt
from mailq.queue import Queue
from mailq.reply import Reply
from mailq.settings import Backoff, Settings

if TYPE_CHECKING:
    from mailq.tasks import App
    from mailq.workers.worker import Worker

__all__ = [
    "App",
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
    "QueueClosed",
    "QueueFull",
    "QueueNotFound",
    "Reaped",
    "Refused",
    "Reject",
    "Reply",
    "ReplyTimeout",
    "Retry",
    "Settings",
    "SettingsConflict",
    "SettingsError",
    "Stats",
    "StorageError",
    "TimeLimit",
    "Unsupported",
    "UsageError",
    "Worker",
    "WorkerFailed",
    "open",
]

_LATE: Final = {
    "App": "mailq.tasks",
    "Worker": "mailq.workers.worker",
    "aio": "mailq.aio",
}
"""What is loaded when somebody asks for it, and the module that has it, or is it."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever has that name
    """Load the worker when somebody asks for it: a producer never needs it, and ``mailq push`` must start fast."""
    if name not in _LATE:
        raise AttributeError(f"module 'mailq' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - as above

    module = import_module(_LATE[name])
    return getattr(module, name, module)
