"""A disk for nbdkit that logs what is done to it; run by nbdkit's own Python.

``image`` is written in place. Each write goes into ``data``, and a record of each write and flush
(struct ``record``: offset, length, whether it is a flush) into ``log``, before it is answered. While
there is a file ``broken``, writes and flushes fail.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Final

import nbdkit  # type: ignore[import-not-found] # it is there inside nbdkit

API_VERSION: Final = 2


class _Disk:
    def __init__(self, settings: dict[str, str]) -> None:
        self.image = os.open(settings["image"], os.O_RDWR)
        self._data = os.open(settings["data"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._log = os.open(settings["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._record = struct.Struct(settings["record"])
        self._broken = settings["broken"]

    def write(self, data: bytes, offset: int) -> None:
        self._refuse_if_broken()
        os.write(self._data, data)
        self._note(offset, len(data), is_flush=False)
        os.pwrite(self.image, data, offset)

    def flush(self) -> None:
        self._refuse_if_broken()
        self._note(0, 0, is_flush=True)

    def _refuse_if_broken(self) -> None:
        if os.path.exists(self._broken):
            nbdkit.set_error(errno.EIO)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _note(self, offset: int, length: int, *, is_flush: bool) -> None:
        os.write(self._log, self._record.pack(offset, length, is_flush))


# nbdkit calls functions of this module, and has only its globals to keep anything in.
_settings: Final[dict[str, str]] = {}
_disks: Final[list[_Disk]] = []


def config(key: str, value: str) -> None:
    _settings[key] = value


def thread_model() -> int:
    """One request after the other: a write that was answered stands in the log before all that come later."""
    model: int = nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS
    return model


def get_ready() -> None:
    _disks.append(_Disk(_settings))


def open(readonly: bool) -> int:  # noqa: A001, FBT001 - nbdkit's words
    return 0


def get_size(handle: int) -> int:
    return os.fstat(_disks[handle].image).st_size


def pread(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    buffer[:] = os.pread(_disks[handle].image, len(buffer), offset)


def pwrite(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    _disks[handle].write(bytes(buffer), offset)


def flush(handle: int, flags: int) -> None:
    _disks[handle].flush()
