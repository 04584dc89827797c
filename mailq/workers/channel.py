"""A socket between two of a worker's processes: JSON, one object a line, without ever blocking."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CHUNK: Final = 65_536
_PATIENCE: Final = 5.0  # seconds that a process may take to end

_BOOT: Final = (
    "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[4]); "
    "importlib.import_module(sys.argv[1]).main(int(sys.argv[2]), int(sys.argv[3]))"
)


class Channel:
    """The supervisor's end. What the other end cannot take yet is kept here."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self.sock = sock
        self.unread = False
        self._selector: selectors.BaseSelector | None = None
        self._parts: list[bytes] = []
        self._waiting: collections.deque[tuple[bytes, list[int]]] = collections.deque()

    def watch(self, selector: selectors.BaseSelector, read: Callable[[], object]) -> None:
        """Have ``read`` called when there is something to receive."""
        selector.register(self.sock, selectors.EVENT_READ, read)
        self._selector = selector

    def unwatch(self) -> None:
        """End that."""
        if self._selector is not None:
            self._selector.unregister(self.sock)
            self._selector = None

    @property
    def is_watched(self) -> bool:
        """Whether something may still be received."""
        return self._selector is not None

    def send(self, message: dict[str, Any], sockets: Sequence[socket.socket] = ()) -> None:
        """Send an object, with sockets, which are closed here. Raises OSError when the other end is gone."""
        self._waiting.append((json.dumps(message).encode() + b"\n", [sock.detach() for sock in sockets]))
        self.flush()

    @property
    def is_full(self) -> bool:
        """Whether something is kept for the other end."""
        return bool(self._waiting)

    def flush(self) -> None:
        """Send what is kept, as far as the other end takes it. Raises OSError as send."""
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
        """Return the objects that have come; None when the other end is gone. Raises ValueError for anything else.

        ``unread`` is set if the other end ended before it read all that was sent: a
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
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError(messages)
        return messages

    def close(self) -> None:
        """Close it, and the sockets that were to be sent."""
        self.unwatch()
        for _, sockets in self._waiting:
            for fd in sockets:
                with contextlib.suppress(OSError):
                    socket.close(fd)
        self._waiting.clear()
        self.sock.close()


class Helper(Channel):
    """A process that runs ``main(fd, our process id)`` of a module in a new interpreter; ``fd`` is its end of the channel."""

    def __init__(self, module: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - this very interpreter
                [sys.executable, "-c", _BOOT, module, str(theirs.fileno()), str(os.getpid()), json.dumps(sys.path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C in a terminal is for the supervisor alone
            )
        super().__init__(ours)

    def close(self) -> None:
        """Close the channel: the process ends by that, and is waited for."""
        super().close()
        try:
            self.process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()  # it may be stopped; its children die with it
            self.process.wait()
