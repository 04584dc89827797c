"""How soon an idle consumer has what was just pushed, alone and with three others who want it too.

To the consumer's holding the body, in another process (CLOCK_MONOTONIC is the same for both):
from the last moment before anybody could know (mailq and the bare loop: just before the
rename; a server: just before the command is sent), and "in all" from before the push. So a
push's fsync before the rename is in the second alone; a server has its own in both. The other consumers
wake up too, and find nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import mailq
from bench.results import Plan, Result
from bench.sides import sync_disk
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

CROWDS: Final = {"alone": 1, "with 3 others": 4}
_PAUSE: Final = 0.01
"""Seconds between two pushes: by then everybody waits again."""

_IN_MOVED_TO: Final = 0x80


class Side(Protocol):
    """One way to hand a message to whoever waits for it."""

    name: str
    durability: str
    take: Callable[[str, Connection], None]
    """What a consumer's process runs: for each message it sends its number and when it had it."""

    def start(self, directory: str) -> str:
        """Make everything ready. Returns what a consumer must know: a path."""

    def give(self, number: int) -> int:
        """Hand over a message. Returns when at the latest nobody could know of it yet, in nanoseconds."""

    def stop(self) -> None:
        """Let go of everything."""


# mailq


class _Noting(Disk):
    """A disk that notes when it last began to rename."""

    at = 0

    def rename(self, source: str, target: str) -> None:
        self.at = time.monotonic_ns()
        super().rename(source, target)


def _take_mailq(path: str, pipe: Connection) -> None:
    with mailq.open(path, create=False) as queue:
        queue.pop(wait=0.01)
        pipe.send(None)
        while (delivery := queue.pop(wait=60)) is not None:
            body, at = delivery.raw, time.monotonic_ns()
            delivery.ack()
            pipe.send((int(body), at))


class Mailq:
    """``push`` and ``pop(wait=...)``."""

    name = "mailq"
    take = staticmethod(_take_mailq)

    def __init__(self, durability: str) -> None:
        self.durability = durability

    def start(self, directory: str) -> str:
        path = f"{directory}/queue"
        mailq.open(path, durability=self.durability).close()
        self._disk = _Noting()
        self._queue = mailq.Queue(MaildirEngine(path, disk=self._disk))
        return path

    def give(self, number: int) -> int:
        self._queue.push(b"%d" % number)
        return self._disk.at

    def stop(self) -> None:
        self._queue.close()


# The bare loop


def _take_inotify(path: str, pipe: Connection) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(0)
    if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(f"{path}/new"), _IN_MOVED_TO) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    pipe.send(None)
    while os.read(fd, 65_536):
        for name in sorted(os.listdir(f"{path}/new")):
            held = f"{path}/cur/{name}"
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}/new/{name}", held)
                with open(held, "rb", buffering=0) as file:
                    body, at = file.read(), time.monotonic_ns()
                os.unlink(held)
                pipe.send((int(body), at))


class Inotify:
    """The system calls alone: inotify, a listing, a rename, a read."""

    name = "floor"
    durability = ""
    take = staticmethod(_take_inotify)

    def start(self, directory: str) -> str:
        self._path = directory
        for name in ("tmp", "new", "cur"):
            os.mkdir(f"{directory}/{name}")
        return directory

    def give(self, number: int) -> int:
        written, ready = (os.path.join(self._path, where, f"{number:020}") for where in ("tmp", "new"))
        with open(written, "wb", buffering=0) as file:
            file.write(b"%d" % number)
        at = time.monotonic_ns()
        os.rename(written, ready)
        return at

    def stop(self) -> None:
        pass


# Servers


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def _ask(connection: socket.socket, request: bytes) -> bytes:
    """Send a request that is answered in one piece: the bodies here are a few digits."""
    connection.sendall(request)
    return connection.recv(4096)


def _resp(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _take_redis(path: str, pipe: Connection) -> None:
    connection = _connect(path)
    pipe.send(None)
    while answer := _ask(connection, _resp(b"BLMOVE", b"new", b"cur", b"RIGHT", b"LEFT", b"0")):
        body, at = answer.split(b"\r\n")[1], time.monotonic_ns()
        _ask(connection, _resp(b"LREM", b"cur", b"1", body))
        pipe.send((int(body), at))


def _take_beanstalkd(path: str, pipe: Connection) -> None:
    connection = _connect(path)
    pipe.send(None)
    while answer := _ask(connection, b"reserve\r\n"):
        (_, id, _), body, at = answer.split(b"\r\n")[0].split(), answer.split(b"\r\n")[1], time.monotonic_ns()
        _ask(connection, b"delete %s\r\n" % id)
        pipe.send((int(body), at))


class Server:
    """A server that keeps a log in the directory that is measured, on a socket of the file system."""

    def __init__(
        self,
        name: str,
        program: str,
        durability: str,
        arguments: Callable[[str], list[str]],
        request: Callable[[bytes], bytes],
        take: Callable[[str, Connection], None],
    ) -> None:
        self.name, self.durability, self.take = name, durability, take
        self._program, self._arguments, self._request = program, arguments, request

    @property
    def is_installed(self) -> bool:
        """Whether its program is there."""
        return shutil.which(self._program) is not None

    def start(self, directory: str) -> str:
        self._place = tempfile.TemporaryDirectory(prefix="wake-")  # a socket's path must be short
        path = f"{self._place.name}/s"
        self._process = subprocess.Popen(
            [self._program, *self._arguments(path)], cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        patience = time.monotonic() + 10
        while True:
            try:
                self._connection = _connect(path)
            except OSError:
                if time.monotonic() > patience or self._process.poll() is not None:
                    raise
                time.sleep(0.01)
            else:
                return path

    def give(self, number: int) -> int:
        request = self._request(b"%d" % number)
        at = time.monotonic_ns()
        _ask(self._connection, request)
        return at

    def stop(self) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.wait()
        self._place.cleanup()


def _servers(plan: Plan) -> list[Server]:
    servers = []
    for durability, redis, beanstalkd in (
        ("power-loss", ["--appendfsync", "always"], ["-f0"]),
        ("process-crash", ["--appendfsync", "no"], ["-F"]),
    ):
        servers += [
            Server(
                "redis",
                "redis-server",
                durability,
                lambda path, how=redis: [  # type: ignore[misc]
                    *("--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "yes"),
                    *how,
                ],
                lambda body: _resp(b"LPUSH", b"new", body),
                _take_redis,
            ),
            Server(
                "beanstalkd",
                "beanstalkd",
                durability,
                lambda path, how=beanstalkd: ["-l", f"unix:{path}", "-b", ".", *how],  # type: ignore[misc]
                lambda body: b"put 0 0 60 %d\r\n%s\r\n" % (len(body), body),
                _take_beanstalkd,
            ),
        ]
    for name in {server.name for server in servers if not server.is_installed}:
        plan.leave_out(f"waking: {name} is left out: it is not installed")
    return [server for server in servers if server.is_installed]


# Measuring


@contextlib.contextmanager
def _consumers(side: Side, path: str, count: int) -> Iterator[Connection]:
    """So many processes that wait; what they have to tell comes from one pipe each, in one hand."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    processes = [context.Process(target=side.take, args=(path, theirs), daemon=True) for _ in range(count)]
    try:
        for process in processes:
            process.start()
            if not ours.poll(30):
                raise RuntimeError(f"a consumer of {side.name} does not begin")
            ours.recv()
        yield ours
    finally:
        for process in processes:
            process.terminate()
            process.join()


def latencies(side: Side, directory: str, *, crowd: int, count: int) -> dict[str, list[float]]:
    """The milliseconds to somebody's having each message, sorted: since it could be known of, and since before the push."""
    found: dict[str, list[float]] = {"": [], " in all": []}
    path = side.start(directory)
    try:
        with _consumers(side, path, crowd) as pipe:
            sync_disk(directory)
            for number in range(count):
                time.sleep(_PAUSE)
                begun = time.monotonic_ns()
                at = side.give(number)
                if not pipe.poll(10):
                    raise RuntimeError(f"nobody has message {number} of {side.name}")
                got, had = pipe.recv()
                if got != number:
                    raise RuntimeError(f"message {got} came instead of {number}")
                found[""].append((had - at) / 1e6)
                found[" in all"].append((had - begun) / 1e6)
    finally:
        side.stop()
    return {words: sorted(times) for words, times in found.items()}


def measure(plan: Plan) -> Iterator[Result]:
    """Run the rounds."""
    if sys.platform != "linux":
        plan.leave_out("waking: left out: the floor needs inotify, which Linux alone has")
        return
    count = 10 if plan.quick else 300
    seen: dict[tuple[str, str, str], list[float]] = {}
    sides: list[Any] = [Mailq("process-crash"), Mailq("power-loss"), Inotify(), *_servers(plan)]
    for _ in range(plan.rounds):
        for side in sides:
            for words, crowd in CROWDS.items():
                with tempfile.TemporaryDirectory(dir=plan.directory) as directory:
                    found = latencies(side, directory, crowd=crowd, count=count)
                for since, times in found.items():
                    for share, at in (("p50", 0.5), ("p99", 0.99)):
                        case = f"{share} {words}{since}"
                        seen.setdefault((case, side.name, side.durability), []).append(times[int(at * (count - 1))])
        sides.reverse()
    for (case, name, durability), values in seen.items():
        yield Result("wake-up", case, name, durability, "ms", values)
