"""The process that forks the slots of one worker, and buries them.

Forked from here and not from the supervisor, whose threads and locks a fork
would copy in whatever state they are in. This process has one thread and runs
no handler, so its forks are safe, cheap, and as young as the handlers' code.

It alone signals slots: being their parent, it knows which of their ids are still
theirs. When the supervisor goes, however it goes, its socket closes, and the
nursery kills every slot with its process group, and ends.
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
from mailq.workers.loader import IN_SLOT
from mailq.workers.process_tree import become_subreaper, bury, die_with_parent, kill_group


class Nursery:
    """Forks on request, tells of deaths."""

    def __init__(self, supervisor: socket.socket) -> None:
        self._supervisor = supervisor
        self._handlers: list[Any] = []
        self._echo = True
        self._slots: set[int] = set()
        self._rest = b""
        self._sockets: list[int] = []
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)

    def run(self) -> None:
        """Serve the supervisor until it is gone; then nobody here lives on."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # they are meant for the supervisor, who decides
        for number in (signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, lambda _number, _frame: None)  # what wakes the select
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        become_subreaper()  # for what its slots leave behind
        preload()
        gc.freeze()  # what is here now stays shared with the slots: collecting it would copy it
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
            self._bury()

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
                case "interrupt" if request["slot"] in self._slots:
                    # The slot first: it must know why what its job has started ends.
                    os.kill(request["slot"], signal.SIGUSR2)
                    kill_group(request["slot"], signal.SIGTERM)
                case "kill" if request["slot"] in self._slots:
                    kill_group(request["slot"], signal.SIGKILL)
        return True

    def _fork(self, fd: int) -> None:
        try:
            pid = os.fork()
        except OSError as error:  # no more processes, or no memory
            os.close(fd)
            self._tell({"failed": str(error)})
            return
        if pid == 0:
            code = 1
            try:
                self._become_slot(fd)
                code = 0
            except BaseException:  # noqa: BLE001 - told here, for there is nobody above
                traceback.print_exc()
            finally:
                _flush()
                os._exit(code)
        os.close(fd)
        self._slots.add(pid)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # here and in the child: whichever comes first
        self._tell({"forked": pid})

    def _become_slot(self, fd: int) -> None:
        nursery = os.getppid()
        die_with_parent(signal.SIGKILL)
        if os.getppid() != nursery:  # it died before that was set
            return
        os.environ[IN_SLOT] = str(os.getpid())
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for inherited in (self._woken, self._wake, self._supervisor.detach(), *self._sockets):
            os.close(inherited)
        # Broken: nobody to report to any more.
        with socket.socket(fileno=fd) as supervisor, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            child.main(supervisor, self._handlers, echo=self._echo)

    def _bury(self) -> None:
        """Reap the dead, slots and orphans of slots."""
        while dead := bury(self._slots):
            pid, code = dead
            if pid in self._slots:
                self._slots.discard(pid)
                self._tell({"died": pid, "code": code})

    def _kill_all(self) -> None:
        for pid in self._slots:
            kill_group(pid, signal.SIGKILL)

    def _tell(self, words: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # gone: the next read says so
            self._supervisor.sendall(json.dumps(words).encode() + b"\n")


def main(fd: int, supervisor: int) -> None:
    """Be the nursery of the supervisor at the other end of a socket; ``supervisor`` is its process id.

    Its death is also told by a signal, where the system can do that: a process
    that it has forked may hold the socket open.
    """
    nursery = Nursery(socket.socket(fileno=fd))
    signal.signal(signal.SIGUSR1, lambda _number, _frame: sys.exit())
    die_with_parent(signal.SIGUSR1)
    if os.getppid() == supervisor:
        nursery.run()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
