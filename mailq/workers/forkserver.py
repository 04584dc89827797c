"""The fork server: the process that forks the children of one worker, and reaps them.

It forks instead of the supervisor, because a fork copies the threads' locks in
whatever state they are. It has one thread and runs no handler, so its forks are
safe, cheap, and as young as the handlers' code.

It alone signals children: as their parent, it knows which ids are still theirs.
When the supervisor ends, in any way, its socket closes: the fork server kills
every child with its process group, and ends.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from typing import Any

from mailq.connect import preload
from mailq.workers import child
from mailq.workers.loader import IN_CHILD
from mailq.workers.process_tree import become_subreaper, die_with_parent, kill_group, reap


class ForkServer:
    """Forks on request and reports exits."""

    def __init__(self, supervisor: socket.socket) -> None:
        self._supervisor = supervisor
        self._handlers: list[Any] = []
        self._echo = True
        self._children: set[int] = set()
        self._rest = b""
        self._sockets: list[int] = []
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)

    def run(self) -> None:
        """Serve the supervisor until it is gone; then kill all children."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the supervisor decides what they mean
        for number in (signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, lambda _number, _frame: None)  # they wake the select
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        become_subreaper()  # for what its children leave behind
        preload()
        gc.freeze()  # what is here now stays shared with the children: a collection would copy it
        self._selector.register(self._supervisor, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._supervisor and not self._serve():
                    self._kill_all()
                    return
            with contextlib.suppress(BlockingIOError):
                if signal.SIGUSR1 in os.read(self._woken, 4096):
                    self._kill_all()
                    return
            self._reap()

    def _serve(self) -> bool:
        """Do what the supervisor asks; False when it is gone."""
        try:
            data, sockets, _, _ = socket.recv_fds(self._supervisor, 65_536, 16)
        except OSError:
            return False
        if not data:
            return False
        self._sockets += sockets
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            match request["do"]:
                case "begin":
                    self._handlers, self._echo = request["handlers"], request["echo"]
                case "fork":
                    self._fork(self._sockets.pop(0))
                case "interrupt" if request["pid"] in self._children:
                    # The child first: it must know why the processes of its job end.
                    os.kill(request["pid"], signal.SIGUSR2)
                    kill_group(request["pid"], signal.SIGTERM)
                case "kill" if request["pid"] in self._children:
                    kill_group(request["pid"], signal.SIGKILL)
        return True

    def _fork(self, fd: int) -> None:
        try:
            pid = os.fork()
        except OSError as error:  # no more processes, or no memory
            os.close(fd)
            self._send({"failed": str(error)})
            return
        if pid == 0:
            code = 1
            try:
                self._become_child(fd)
                code = 0
            except BaseException:  # noqa: BLE001 - printed here, because nothing above would
                traceback.print_exc()
            finally:
                _flush()
                os._exit(code)
        os.close(fd)
        self._children.add(pid)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # here and in the child: either may come first
        self._send({"forked": pid})

    def _become_child(self, fd: int) -> None:
        parent = os.getppid()
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # it died before that was set
            return
        os.environ[IN_CHILD] = str(os.getpid())
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for inherited in (self._woken, self._wake, self._supervisor.detach(), *self._sockets):
            os.close(inherited)
        # A broken socket: the supervisor is gone.
        with socket.socket(fileno=fd) as supervisor, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            child.main(supervisor, self._handlers, echo=self._echo)

    def _reap(self) -> None:
        """Reap children, and what they left behind."""
        while dead := reap(self._children):
            pid, code = dead
            if pid in self._children:
                self._children.discard(pid)
                self._send({"died": pid, "code": code})

    def _kill_all(self) -> None:
        for pid in self._children:
            kill_group(pid, signal.SIGKILL)

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # gone: the next read says so
            self._supervisor.sendall(json.dumps(message).encode() + b"\n")


def main(fd: int, supervisor: int) -> None:
    """Be the fork server of the supervisor at the other end of a socket; ``supervisor`` is its process id.

    Where the system can do that, a signal also reports the supervisor's death: a
    process that it has forked may hold the socket open.
    """
    forkserver = ForkServer(socket.socket(fileno=fd))
    signal.signal(signal.SIGUSR1, lambda _number, _frame: sys.exit())
    die_with_parent(signal.SIGUSR1)
    if os.getppid() == supervisor:
        forkserver.run()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
