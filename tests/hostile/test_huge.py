"""Huge files and huge directories: the work is done, in bounded memory, measured in processes of their own."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import MAILQ
from janitor import memory
from users import become  # noqa: F401 - loads what a child needs, so that it does not count

import mailq
from mailq.engines.maildir import names
from mailq.engines.maildir.listing import SmallestN
from mailq.engines.maildir.ready_index import SIZE
from mailq.ids import new_id
from mailq.message import STATES

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
MB, GB = 1 << 20, 1 << 30
ID = "01936f0c2b7d7a3e9c41b6d07f52e811"
NAME = f"20261121T013205.123456789Z,{ID}"


@pytest.fixture
def room() -> Iterator[Path]:
    """A place in memory, where there is one: a hundred thousand files are made."""
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        yield Path(name) / "jobs"


def sparse(place: Path, size: int) -> None:
    with open(place, "wb") as file:
        file.truncate(size)


def within(megabytes: int, act: Callable[[], object]) -> None:
    """Do it in a child that may not have so much more memory than it begins with; fails if it fails."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(600)
            ctypes.CDLL(None).malloc_trim(0)  # what tests before this have freed would be used without growing
            with open("/proc/self/statm", encoding="ascii") as file:
                now = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * MB, resource.RLIM_INFINITY))
            act()
            code = 0
        except BaseException as error:  # noqa: BLE001 - a forked child must not go on as a second pytest
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            sys.stderr.flush()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


linux = pytest.mark.skipif(sys.platform != "linux", reason="the size of a process is read from /proc")


@linux
def test_a_limit_on_memory_is_one(room: Path) -> None:
    """A test of memory that cannot fail would show nothing. No earlier test has left so much free that this fits into it."""
    with pytest.raises(AssertionError):
        within(50, lambda: bytes(4 * GB))


# Huge files


@linux
def test_a_gigabyte_above_the_limit_is_buried_unread(room: Path) -> None:
    queue = mailq.open(room)
    sparse(room / "new" / f"{NAME}.bin", GB)
    sparse(room / "new" / "by hand.bin", GB)
    queue.push("small")

    def consume() -> None:
        assert [delivery.body for delivery in queue.pop_many(5)] == ["small"]
        assert [(m.reason, m.size) for m in queue.peek("dead")] == [("too-large", GB)] * 2
        assert queue.stats().bytes > GB
        assert queue.redrive() == 2

    within(20, consume)


def in_memory_once(room: Path, size: int) -> None:
    queue = mailq.open(room, max_message_bytes=size)
    for front in ("a", "b", "c"):
        sparse(room / "new" / f"{front}.bin", size)

    def consume() -> None:
        delivery = queue.pop()
        assert delivery is not None
        assert len(delivery.raw) == len(delivery.body) == size
        delivery.extend(5)
        delivery.nack(delay=1000, error="text")

    def peek() -> None:
        (message,) = queue.peek(limit=1)
        assert len(message.body) == size

    within(size // MB + 30, consume)
    within(size // MB + 30, peek)


@linux
def test_a_large_message_is_in_memory_once(room: Path) -> None:
    in_memory_once(room, 200 * MB)


@linux
@pytest.mark.slow
def test_a_gigabyte_is_in_memory_once(room: Path) -> None:
    in_memory_once(room, GB)


def peak(arguments: list[str], **environment: str) -> int:
    """Run ``mailq``; the most memory it had, in bytes."""
    with open(os.devnull, "wb") as nowhere:
        process = subprocess.Popen(
            [MAILQ, *arguments], stdout=nowhere, stderr=nowhere, env={**os.environ, **environment}
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


def by_the_shell(room: Path, size: int) -> dict[str, int]:
    """How many times its size a message is in memory, a command."""
    mailq.open(room, max_message_bytes=size, durability="process-crash")
    sparse(room / "new" / f"{NAME}.bin", size)
    place, least = str(room), peak(["stats", str(room)])
    commands = {
        "cat": ["cat", place, ID],
        "ls": ["ls", place, "--json"],
        "stats": ["stats", place],
        "edit": ["edit", place, ID],
        "pop --body": ["pop", place, "--body"],
    }
    return {name: (peak(command, EDITOR="true") - least) * 10 // size for name, command in commands.items()}


def check_copies(room: Path, size: int) -> None:
    tenths = by_the_shell(room, size)
    assert tenths.pop("ls") == tenths.pop("stats") == 0
    assert tenths.pop("edit") <= 21  # what was there, and what the editor left
    assert all(copies <= 11 for copies in tenths.values()), tenths


@linux
def test_the_shell_has_a_large_message_in_memory_once(room: Path) -> None:
    check_copies(room, 200 * MB)


@linux
@pytest.mark.slow
def test_the_shell_has_a_gigabyte_in_memory_once(room: Path) -> None:
    check_copies(room, GB)


@linux
def test_of_huge_texts_owners_replies_and_settings_little_is_read(room: Path) -> None:
    queue = mailq.open(room)
    (room / "new" / f"{NAME},tries=E.txt").write_bytes(b"x")
    (room / "cur" / f"{NAME.replace('811', '812')},by=cafe,claim=1.txt").write_bytes(b"x")
    for place in (f"errors/{ID}.1.txt", f"replies/{ID}.json", "owners/cafe", "owners/beef", "origins", ".reap.lock"):
        sparse(room / place, GB)

    def look() -> None:
        message = queue.get(ID)
        assert [len(attempt.error or "") for attempt in message.history] == [65_536]
        with pytest.raises(mailq.CodecError):
            queue.reply_to(ID).result(timeout=0)
        queue.workers()
        queue.reap()
        assert queue.pop() is not None
        (room / "mailq.toml").unlink()
        sparse(room / "mailq.toml", GB)
        with pytest.raises(mailq.SettingsError, match="65536"):
            mailq.open(room)

    within(80, look)


# Huge directories


def fill(directory: Path, count: int, *, ours: bool = True) -> None:
    """So many messages of two bytes, or foreign names of three kinds."""
    start = 1_700_000_000_000_000_000
    for number in range(count):
        at = start + number * 1000
        envelope = names.MessageName(at, new_id(at, number), "json", size=2)
        name = names.format_name(envelope) if ours else f"{('.', 'g', 'x ')[number % 3]}{number}"
        fd = os.open(directory / name, os.O_CREAT | os.O_WRONLY, 0o600)
        if ours:
            os.write(fd, b"{}")
        os.close(fd)


def look_at_many(room: Path, count: int) -> None:
    """All verbs, in memory that does not grow with the queue; but redrive, which sorts names."""
    queue = mailq.open(room, durability="process-crash")
    fill(room / "new", count)
    oldest = queue.peek(limit=1)[0].id

    def consume() -> None:
        assert queue.stats().ready == count
        assert [message.id for message in queue.peek(limit=1)] == [oldest]
        assert queue.get(oldest).state == "ready"
        deliveries = queue.pop_many(100)
        assert [d.id for d in deliveries] == sorted(d.id for d in deliveries)
        assert deliveries[0].id == oldest
        for delivery in deliveries[:50]:
            delivery.ack()
        for delivery in deliveries[50:]:
            delivery.release()
        queue.reap()
        queue.close()

    within(40, consume)
    (room / "dead").rmdir()
    (room / "new").rename(room / "dead")
    (room / "new").mkdir()

    def redrive() -> None:
        assert queue.redrive(limit=100) == 100
        assert queue.redrive([oldest]) == 0

    within(20, redrive)
    within(20 + count * 400 // MB, lambda: queue.redrive() == count - 150 or sys.exit(1))
    within(10, lambda: queue.purge("ready") == count - 50 or sys.exit(1))
    assert queue.stats()[:4] == (0, 0, 0, 0)


@linux
def test_thirty_thousand_messages_take_little_memory(room: Path) -> None:
    look_at_many(room, 30_000)


@linux
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_million_messages_take_little_memory(room: Path) -> None:
    look_at_many(room, 1_000_000)


def amid_garbage(room: Path, count: int) -> None:
    """Foreign names everywhere but in ``new/``; dot-names there."""
    queue = mailq.open(room, durability="process-crash", reap_interval=0.001)
    for directory in ("tmp", "errors", "owners", "replies"):
        fill(room / directory, count // 4, ours=False)
    for number in range(count // 4):
        os.close(os.open(room / "new" / f".{number}", os.O_CREAT | os.O_WRONLY))

    def consume() -> None:
        ids = queue.push_many(["a", "b"])
        request = queue.request("c")
        for delivery in queue.drain():
            delivery.reply("done")
            delivery.ack() if delivery.id != ids[0] else delivery.reject("why")
        assert request.result(timeout=0) == "done"
        assert queue.reap()[:3] == (0, 0, 0)
        assert queue.get(ids[0]).history[-1].error == "why"
        assert len(queue.workers()) == 1
        queue.redrive()
        for state in STATES:
            queue.purge(state)
        queue.close()

    within(30, consume)
    for directory in ("tmp", "errors", "owners"):
        assert len(os.listdir(room / directory)) == count // 4  # nobody's files stay
    assert len(os.listdir(room / "replies")) == count // 4 + 3


@linux
def test_twenty_thousand_foreign_files_are_passed_over(room: Path) -> None:
    amid_garbage(room, 20_000)


@linux
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_million_foreign_files_are_passed_over(room: Path) -> None:
    amid_garbage(room, 1_000_000)


def test_the_first_of_many_names_are_kept_and_few_more() -> None:
    count = 10 * SIZE

    def shuffled() -> Iterator[str]:
        for number in range(count):
            yield f"{number * 7919 % count:09d}"

    assert SmallestN().of(shuffled()) == [f"{number:09d}" for number in range(SIZE + 1)]
    assert SmallestN().of(iter(())) == []
