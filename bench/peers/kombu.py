"""kombu's ``filesystem://`` transport: one JSON file a message, as Celery uses it."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, ClassVar

from kombu import Connection

from bench.sides import PROCESS_CRASH, Side, Taken

if TYPE_CHECKING:
    from kombu import Message


class Peer(Side):
    """It has no way to sync, and keeps what was popped in the memory of who popped it."""

    name, acks, shared = "kombu", False, False
    claims: ClassVar = [PROCESS_CRASH]
    note = "one process: a pop takes, and loses, what another process is just writing; each pop lists the directory"

    def __init__(self, directory: str, *, durable: bool) -> None:  # noqa: ARG002 - it has one way
        # What is popped is moved there first; from another file system it would be a copy.
        tempfile.tempdir = os.path.join(directory, "tmp")
        places = {name: os.path.join(directory, name) for name in ("data_folder_in", "control_folder")}
        for path in (tempfile.tempdir, *places.values()):
            os.makedirs(path, exist_ok=True)
        options = {**places, "data_folder_out": places["data_folder_in"]}
        self._connection = Connection("filesystem://", transport_options=options)
        # A process remembers the queues that it declared, whatever directory they were in.
        self._queue = self._connection.SimpleQueue(os.path.basename(directory))

    def push(self, body: bytes) -> None:
        self._queue.put(body)

    def pop(self) -> Taken | None:
        try:
            message = self._queue.get_nowait()
        except self._queue.Empty:
            return None
        return message.body, message

    def ack(self, receipt: Message) -> None:
        receipt.ack()

    def close(self) -> None:
        self._queue.close()
        self._connection.release()
        tempfile.tempdir = None
