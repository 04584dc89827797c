"""A socket between two of a worker's processes: JSON, one object a line, without ever blocking."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHUNK: Final = 65_536

_BOOT: Final = (
    "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[4]); "
    "importlib.import_module(sys.argv[1]).main(int(sys.argv[2]), int(sys.argv[3]))"
)


class Channel:
    """The supervisor's end. What the other end cannot take yet waits here."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self.sock = sock
        self.unread = False
        self._parts: list[bytes] = []
        self._waiting: collections.deque[tuple[bytes, list[int]]] = collections.deque()

    def send(self, words: dict[str, Any], sockets: Sequence[socket.socket] = ()) -> None:
        """Send an object, with sockets, which are closed here. Raises OSError when the other end is gone."""
        self._waiting.append((json.dumps(words).encode() + b"\n", [sock.detach() for sock in sockets]))
        self.flush()

    @property
    def is_full(self) -> bool:
        """Whether something waits for the other end to read."""
        return bool(self._waiting)

    def flush(self) -> None:
        """Send what waits, as far as it goes. Raises OSError as send."""
        while self._waiting:
            data, sockets = self._waiting[0]
            try:
                sent = socket.send_fds(self.sock, [data], sockets) if sockets else self.sock.send(data)
            except BlockingIOError:
                return
            for fd in sockets:
                socket.close(fd)
            self._waiting.popleft()
            if sent < len(data):
                self._waiting.appendleft((data[sent:], []))

    def receive(self) -> list[dict[str, Any]] | None:
        """The objects that have come; None when the other end is gone. Raises ValueError for what is none.

        ``unread`` is set if the other end went without having read all that was sent: a
        Unix socket is reset then (on Linux).
        """
        try:
            data = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            self.unread = True
            return None
        except OSError:
            return None
        if not data:
            return None
        self._parts.append(data)
        if b"\n" not in data:  # not joined each time: a long line would cost its square
            return []
        *lines, rest = b"".join(self._parts).split(b"\n")
        self._parts = [rest] if rest else []
        told = [json.loads(line) for line in lines]
        if not all(isinstance(words, dict) for words in told):
            raise ValueError(told)
        return told

    def close(self) -> None:
        """Close it, and what was to be sent."""
        for _, sockets in self._waiting:
            for fd in sockets:
                with contextlib.suppress(OSError):
                    socket.close(fd)
        self._waiting.clear()
        self.sock.close()


def spawn(module: str) -> tuple[Channel, subprocess.Popen[bytes]]:
    """Run ``main(fd, our process id)`` of a module in a new interpreter; ``fd`` is the other end of the channel."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - this very interpreter
            [sys.executable, "-c", _BOOT, module, str(theirs.fileno()), str(os.getpid()), json.dumps(sys.path)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C in a terminal is meant for us alone
        )
    return Channel(ours), process
