"""Links, FIFOs, devices and directories where mailq expects its files: none is followed, read without end or waited for."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import using
from bait import NAMES, Bait
from command import MAILQ

import mailq as library
from mailq.engines.maildir import names
from mailq.engines.maildir.engine import MaildirEngine
from mailq.ids import new_id
from mailq.message import STATES
from mailq.testing import ManualClock

ID = "01936f0c2b7d7a3e9c41b6d07f52e811"
NAME = f"20261121T013205.123456789Z,{ID},size=1,tries=E.txt"
HELD = NAME.replace(".txt", ",until=20261121T013335Z,by=deadbeef,claim=51d2.txt")

# Every name that mailq itself writes, and can be guessed.
PLACES = [
    ".reap.lock",
    ".settings.lock",
    "paused",
    f"errors/{ID}.0.txt",
    f"errors/{ID}.1.txt",
    f"errors/{ID}.2.txt",
    f"replies/{ID}.json",
    "owners/deadbeef",
    "origins/deadbeef",
    f"tmp/{NAME}",
    f"tmp/{HELD}",
    f"new/{NAME}",
    f"cur/{HELD}",
    f"dead/{NAME}",
    f"later/{NAME}",
]


def device(place: Path) -> None:
    os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: it has no end


def unix_socket(place: Path) -> None:
    made = socket.socket(socket.AF_UNIX)
    here = os.open(place.parent, os.O_RDONLY)  # a socket's path is short
    made.bind(f"/proc/self/fd/{here}/.s")
    os.rename(place.parent / ".s", place)
    os.close(here)
    made.close()


def huge(place: Path) -> None:
    with open(place, "wb") as file:
        file.truncate(1 << 30)


THINGS: dict[str, Callable[[Path, Bait], None]] = {
    "a link to a file": lambda place, bait: place.symlink_to(bait.file),
    "a link to a directory": lambda place, bait: place.symlink_to(bait.directory),
    "a dangling link": lambda place, bait: place.symlink_to(bait.root / "not yet"),
    "a link to itself": lambda place, bait: place.symlink_to(place.name),
    "a directory": lambda place, bait: place.mkdir(),
    "a FIFO": lambda place, bait: os.mkfifo(place),
    "a socket": lambda place, bait: unix_socket(place),
    "a device": lambda place, bait: device(place),
    "a gigabyte": lambda place, bait: huge(place),
    "an unreadable file": lambda place, bait: place.touch(0),
}
ROOT = os.getuid() == 0


def planted() -> Sequence[object]:
    """Each thing in each place; a gigabyte that is a message is read, which takes its time."""
    only_root = pytest.mark.skipif(not ROOT, reason="only root can make a device")
    cases = []
    for place in PLACES:
        for thing in THINGS:
            long = thing == "a gigabyte" and place.partition("/")[0] in ("new", "cur", "dead", "later")
            marks = pytest.mark.slow if long else only_root if thing == "a device" else ()
            cases.append(pytest.param(place, thing, marks=marks, id=f"{thing} as {place.replace(ID, 'ID')}"))
    return cases


@pytest.fixture
def bait(tmp_path: Path) -> Bait:
    return Bait(tmp_path / "bait")


def a_whole_life(path: Path) -> None:
    """Every verb, on the message whose names are taken and on others; what fails says so as documented."""
    clock = ManualClock()
    queue = library.Queue(MaildirEngine(str(path), clock=clock))
    with contextlib.suppress(library.MailqError):
        queue.configure(lease=50)
    for act in (queue.resume, queue.pause, queue.resume):
        with contextlib.suppress(library.StorageError):
            act()
    queue.push_many(["a", "b", "c"])
    with contextlib.suppress(library.StorageError):
        queue.request("d", delay=1)
    using.look(queue)
    clock.advance(5)
    for delivery in queue.pop_many(20):
        with contextlib.suppress(library.MailqError):
            delivery.extend(10)
        with contextlib.suppress(library.StorageError):
            delivery.reply("done")
        delivery.nack(delay=0, error="text")
    clock.advance(5000)
    queue.reap()
    for delivery in queue.pop_many(20):
        delivery.reject("why")
    for state in STATES:
        for message in queue.peek(state):
            with contextlib.suppress(library.MailqError):
                queue.edit(message, b"other")
    queue.redrive()
    using.look(queue)
    for delivery in queue.pop_many(20):
        delivery.ack()
    for state in STATES:
        queue.purge(state)
    queue.close()


@pytest.mark.parametrize(("place", "thing"), planted())
def test_a_thing_in_the_place_of_a_file_is_not_followed_and_stops_no_other(
    path: Path, bait: Bait, place: str, thing: str
) -> None:
    queue = library.open(path, durability="process-crash")
    (path / "origins").mkdir()
    THINGS[thing](path / place, bait)
    directory = place.partition("/")[0]
    if directory != "new":  # the message whose texts, reply and lease have these names
        (path / "new" / NAME).write_bytes(b"x")
    paused = place == "paused"
    if paused:
        assert queue.stats().paused
        assert queue.pop() is None
        with contextlib.suppress(library.StorageError):
            queue.resume()
        if queue.stats().paused:  # only a directory cannot be taken away so
            assert thing == "a directory"
            (path / "paused").rmdir()
    a_whole_life(path)
    assert queue.stats()[:4] == (0, 0, 0, 0)
    bait.check()


OCCASIONAL = ["journal", "origins", "aside"]


@pytest.mark.parametrize(
    "directory", ["tmp", "new", "later", "cur", "dead", "errors", "owners", "replies", *OCCASIONAL]
)
def test_a_directory_that_is_a_link_is_refused_at_once(path: Path, bait: Bait, directory: str) -> None:
    library.open(path).close()
    if directory not in OCCASIONAL:
        (path / directory).rmdir()
    (path / directory).symlink_to(bait.directory)
    for create in (True, False):
        with pytest.raises(library.QueueNotFound, match="is a symbolic link"):
            library.open(path, create=create)
    assert using.run("stats", str(path))[0] == 1
    bait.check()


@pytest.mark.parametrize("directory", ["tmp", "new", "cur", "replies", "journal"])
def test_a_queue_is_not_made_through_links(path: Path, bait: Bait, directory: str) -> None:
    path.mkdir()
    (path / directory).symlink_to(bait.directory)
    with pytest.raises(library.QueueNotFound, match="is a symbolic link"):
        library.open(path)
    bait.check()


@pytest.mark.parametrize("directory", ["tmp", "new", "later", "cur", "dead", "owners", "replies", "journal"])
def test_a_directory_that_becomes_a_link_while_the_queue_runs_is_not_listed(
    path: Path, bait: Bait, directory: str
) -> None:
    library.open(path)
    clock = ManualClock()
    queue = library.Queue(MaildirEngine(str(path), clock=clock))
    queue.push("x")
    held = queue.pop()
    assert held is not None
    if directory not in OCCASIONAL:
        (path / directory).rename(path / f"{directory}.was")
    (path / directory).symlink_to(bait.directory)
    clock.advance(100_000)
    for verb in (queue.pop, queue.reap, queue.stats, queue.redrive, queue.workers, lambda: queue.purge("ready")):
        with contextlib.suppress(library.MailqError):
            verb()
    for state in STATES:
        with contextlib.suppress(library.MailqError):
            queue.peek(state)
    with contextlib.suppress(library.MailqError):
        held.reply("x")  # sweeps
    assert set(NAMES) <= set(os.listdir(bait.directory))  # what is written there is no more than one was told to


def test_where_dead_letters_come_from_is_neither_written_nor_read_through_a_link(path: Path, bait: Bait) -> None:
    home = library.open(path.parent / "home")
    (path.parent / "home" / "origins").symlink_to(bait.directory)
    queue = library.open(path, dead_letters=path.parent / "home")
    queue.push("x")
    delivery = queue.pop()
    assert delivery is not None
    delivery.reject("why")
    bait.check()
    (message,) = home.peek()
    assert message.origin == library_mark(path)
    (bait.directory / message.origin).write_text("secret")
    assert home.peek()[0].origin == message.origin


def library_mark(path: Path) -> str:
    """What stands for a queue in the names of its dead letters."""
    (line,) = (line for line in (path / "mailq.toml").read_text().splitlines() if line.startswith("queue"))
    return line.split('"')[1][:8]


# Hard links


def test_a_hard_link_to_somebodys_file_is_delivered_and_the_file_stays_as_it_was(
    queue: library.Queue, path: Path, tmp_path: Path
) -> None:
    """Its content, mode, owner and times: to extend its lease, a copy takes its place."""
    outside = tmp_path / "letter.txt"
    outside.write_bytes(b"dear")
    outside.chmod(0o444)
    os.utime(outside, (1e9, 1e9))
    os.link(outside, path / "new" / "letter.txt")

    def check(links: int) -> None:
        status = outside.stat()
        assert (outside.read_bytes(), stat.S_IMODE(status.st_mode), status.st_nlink) == (b"dear", 0o444, links)
        assert status.st_mtime == 1e9

    delivery = queue.pop()
    assert delivery is not None
    assert delivery.raw == b"dear"
    check(2)
    delivery.extend(100)
    check(1)
    delivery.nack(delay=0, error="text")
    queue.edit(queue.peek()[0], b"other")
    check(1)
    edited = queue.pop()
    assert edited is not None
    assert edited.raw == b"other"
    edited.reject("no")
    queue.purge("dead")
    check(1)


@pytest.mark.parametrize("place", [".reap.lock", ".settings.lock", "paused", "owners/deadbeef"])
def test_a_hard_link_in_the_place_of_a_lock_empties_nothing(path: Path, tmp_path: Path, place: str) -> None:
    library.open(path)
    outside = tmp_path / "letter.txt"
    outside.write_bytes(b"dear")
    os.link(outside, path / place)
    a_whole_life(path)
    assert outside.read_bytes() == b"dear"


# Races


def swap(place: Path, stop: threading.Event, *things: Callable[[Path], object]) -> None:
    """Have one thing after the other stand in a place, each put there whole."""
    aside = place.parent.parent / "aside"
    while not stop.is_set():
        for thing in things:
            with contextlib.suppress(OSError):
                aside.unlink()
            with contextlib.suppress(OSError):
                thing(aside)
                os.rename(aside, place)


@contextlib.contextmanager
def swapping(place: Path, *things: Callable[[Path], object]) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=swap, args=(place, stop, *things))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def race(path: Path, bait: Bait, rounds: int) -> int:
    queue = library.open(path, durability="process-crash")
    aim = path / "new" / f"20261121T013205.123456789Z,{ID}.txt"
    things = (
        lambda place: place.write_bytes(b"mine"),
        lambda place: place.symlink_to(bait.file),
        os.mkfifo,
        lambda place: place.symlink_to(bait.directory),
    )
    seen = 0
    with swapping(aim, *things):
        for number in range(rounds):
            queue.push(number)
            for delivery in queue.pop_many(3):
                assert delivery.raw in (b"mine", b"", str(number).encode())
                seen += delivery.raw == b"mine"
                delivery.ack()
            with contextlib.suppress(library.MailqError):
                message = queue.get(ID)
                assert message.raw in (b"mine", b"")
    using.drain(queue)
    queue.close()
    bait.check()
    return seen


def test_a_file_that_is_swapped_between_a_look_and_an_open_gives_nothing_away(path: Path, bait: Bait) -> None:
    assert race(path, bait, 500) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_that_is_swapped_many_times_gives_nothing_away(path: Path, bait: Bait) -> None:
    assert race(path, bait, 10_000) > 100


# What the kernel sees


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace here")
def test_no_call_opens_or_changes_a_file_outside_the_queue(path: Path, bait: Bait, tmp_path: Path) -> None:
    """Every path that the command writes to, makes, moves or removes is in the queue."""
    library.open(path)
    for number, directory in enumerate(("new", "cur", "dead", "errors", "owners", "replies")):
        (path / directory / names.format_name(names.MessageName(number, new_id(number), "txt"))).symlink_to(bait.file)
    (path / "new" / "x").symlink_to(bait.directory)
    trace = tmp_path / "trace"
    changing = (
        "rename,renameat,renameat2,unlink,unlinkat,link,linkat,mkdir,mkdirat,rmdir,chmod,fchmodat,truncate,utimensat"
    )
    for command in (["push", "x"], ["pop"], ["reap"], ["redrive", "--all"], ["purge", "--state", "dead"], ["stats"]):
        call = [MAILQ, command[0], str(path), *command[1:]]
        subprocess.run(
            ["strace", "-f", "-y", "-o", str(trace), "-e", f"trace={changing},open,openat,creat", *call],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        for line in trace.read_text().splitlines():
            opened = "open" in line.partition("(")[0]
            if "(" not in line or (opened and not ("O_WRONLY" in line or "O_RDWR" in line or "O_CREAT" in line)):
                assert str(bait.root) not in line or "O_NOFOLLOW" in line, line
                continue
            assert str(path) in line or "/dev/null" in line or line.split()[1].startswith(("+++", "---")), line
    bait.check()
