"""What root does in another user's queue, as with sudo: everything there stays that user's, who goes on as before."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import using
from command import MAILQ
from users import CONSUMER, OTHER, become, only_root

import mailq
from mailq.engines.maildir import compaction, filesystems
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.doctor import examine
from mailq.engines.maildir.engine import MaildirEngine
from mailq.testing import take

pytestmark = [only_root, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]

EXPECTED: Final = {"file-system", "aside"}
"""What the doctor may say: that a tmpfs is not a place for a queue, and that it has put copies aside."""


@pytest.fixture
def jobs() -> Iterator[Path]:
    """A queue of the consumer in a directory of root's: with a ready, a delayed, a leased and a dead message."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        os.chmod(name, 0o755)
        path = Path(name) / "jobs"
        path.mkdir(0o700)
        os.chown(path, CONSUMER, CONSUMER)

        def fill() -> None:
            queue = mailq.open(path, backoff=(0.0, 0.0), max_retries=1)
            queue.push_many(["dead", "leased"])
            take(queue).reject("why")
            take(queue, detached=True)
            queue.push("delayed", delay=3600)
            queue.push("ready")

        become(CONSUMER, fill)
        yield path


def of_others(jobs: Path) -> dict[str, tuple[int, int]]:
    """What is in the queue, and beside it, and does not belong to the consumer."""
    places = [jobs, *(place for place in jobs.parent.rglob("*") if place.name != "archive.tar")]
    users = {place: (place.lstat().st_uid, place.lstat().st_gid) for place in places}
    return {str(place): user for place, user in users.items() if user != (CONSUMER, CONSUMER)}


def use_everything(path: Path) -> None:
    """Do as its user whatever one can do with a queue."""
    queue = mailq.open(path, create=False)
    queue.configure(lease=9)
    queue.resume()
    queue.redrive()
    queue.push_many(range(20))
    for state in ("ready", "delayed", "leased", "dead"):
        for message in queue.peek(state, None):
            assert message.body is not None
    for delivery in queue.drain():
        assert delivery.body is not None
        if delivery.attempt == 1:
            delivery.extend(60)
            delivery.nack(delay=0)
        else:
            delivery.ack()
    assert queue.stats().ready == queue.stats().dead == 0
    queue.publish({})
    assert all(owner.alive for owner in queue.workers())
    queue.reap()
    queue.close()
    findings = [finding for fix in (True, False) for finding in examine(path, fix=fix)]
    assert not [f for f in findings if f.level != "ok" and not f.fixed and f.check not in EXPECTED]


def id_in(jobs: Path, state: str) -> str:
    (file,) = (jobs / state).iterdir()
    return file.name.split(",")[1]


def receipt(jobs: Path) -> str:
    (name,) = os.listdir(jobs / "cur")
    return name


def run(*arguments: object, code: int = 0) -> str:
    """``mailq`` as root."""
    result, out, said = using.run(*map(str, arguments))
    assert result == code, said
    return out


def start(*arguments: object, stdin: bytes = b"", **environment: str) -> bytes:
    """The same as a process of its own."""
    line = [MAILQ, *map(str, arguments)]
    done = subprocess.run(line, input=stdin, capture_output=True, check=False, env={**os.environ, **environment})
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    return done.stdout


def export_and_import(jobs: Path) -> None:
    archive = jobs.parent / "archive.tar"
    run("export", jobs, archive)
    for state in ("new", "later", "dead"):
        for file in (jobs / state).iterdir():
            file.unlink()
    for file in (jobs / "errors").iterdir():
        file.unlink()
    run("import", jobs, archive)
    assert mailq.open(jobs).stats()[:4] == (1, 1, 1, 1)


def import_into_a_new_one(jobs: Path) -> None:
    archive = jobs.parent / "archive.tar"
    run("export", jobs, archive)
    for place in jobs.iterdir():
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    run("import", jobs, archive, "--create")


def bury_elsewhere(jobs: Path) -> None:
    """Root makes the queue for the dead letters beside it, where the consumer may not."""
    using.run("config", str(jobs), "dead_letters", str(jobs.parent / "dead"))
    assert (jobs.parent / "dead" / "mailq.toml").exists()
    run("reject", jobs, receipt(jobs), "--reason", "for a reason")
    mailq.open(jobs).pop()  # a consumer tells the other queue where its letters come from
    assert len(list((jobs.parent / "dead" / "origins").iterdir())) == 1


def mend(jobs: Path) -> None:
    """The doctor makes a directory, moves a copy aside, and sets a torn one apart."""
    (ready,) = (jobs / "new").iterdir()
    for place in ("dead", "later"):
        shutil.copy2(ready, jobs / place)
        os.chown(jobs / place / ready.name, CONSUMER, CONSUMER)
    shutil.rmtree(jobs / "replies")
    using.run("doctor", str(jobs), "--fix")
    assert (jobs / "aside").is_dir()
    assert (jobs / "replies").is_dir()


def take_over_a_message_of_another(jobs: Path) -> None:
    """Extending its lease replaces it by a copy."""
    place = jobs / "new" / "theirs.txt"
    place.write_text("x")
    os.chown(place, OTHER, CONSUMER)
    place.chmod(0o640)

    class NotMine(Disk):
        """Root may set anybody's times; here it is told that it may not."""

        def utime(self, path: str, ns: int) -> None:
            if "/tmp/" not in path:
                raise PermissionError(path)
            super().utime(path, ns)

    queue = mailq.Queue(MaildirEngine(str(jobs), disk=NotMine()))
    for delivery in queue.pop_many(9):
        delivery.extend(120)
        delivery.release()


def remake(jobs: Path) -> None:
    """Exchange an empty directory for a fresh one."""
    (ready,) = (jobs / "new").iterdir()
    ready.unlink()
    before = (jobs / "new").stat().st_ino
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "_SWOLLEN", -1)
        run("reap", jobs)
    assert (jobs / "new").stat().st_ino != before


def keep_a_journal(jobs: Path) -> mailq.Queue:
    queue = mailq.open(jobs)
    queue.push_many(range(20))
    assert len(list((jobs / "journal").iterdir())) == 2
    return queue


def hold(jobs: Path) -> mailq.Delivery:
    delivery = take(mailq.open(jobs))
    assert len(list((jobs / "owners").iterdir())) == 1
    return delivery


def reply(jobs: Path) -> None:
    queue = mailq.open(jobs)
    request = queue.request("x", priority=9)
    delivery = take(queue)
    delivery.reply(1)
    assert request.result(0) == 1


ACTS: dict[str, Callable[[Path], object]] = {
    "init": lambda jobs: run("init", jobs),
    "config": lambda jobs: run("config", jobs, "lease", "7"),
    "config dead_letters": bury_elsewhere,
    "push": lambda jobs: run("push", jobs, "x"),
    "push, delayed": lambda jobs: run("push", jobs, "x", "--delay", "1h"),
    "push, with a journal": keep_a_journal,
    "pop": lambda jobs: run("pop", jobs),
    "pop, and hold it": hold,
    "ack": lambda jobs: run("ack", jobs, receipt(jobs)),
    "nack": lambda jobs: run("nack", jobs, receipt(jobs), "--error", "why"),
    "release": lambda jobs: run("release", jobs, receipt(jobs), "--delay", "1s"),
    "reject": lambda jobs: run("reject", jobs, receipt(jobs), "--reason", "why"),
    "extend": lambda jobs: run("extend", jobs, receipt(jobs), "--for", "1h"),
    "run": lambda jobs: start("run", jobs, "--", "cat"),
    "drain": lambda jobs: start("drain", jobs, "--", "false"),
    "request": lambda jobs: using.run("request", str(jobs), "x", "--timeout", "0"),
    "a reply": reply,
    "ls, show, cat": lambda jobs: [run(verb, jobs, *also) for verb, *also in (["ls"], ["show", id_in(jobs, "dead")])],
    "edit": lambda jobs: start("edit", jobs, id_in(jobs, "new"), EDITOR="sed -i s/ready/edited/"),
    "stats": lambda jobs: run("stats", jobs),
    "workers": lambda jobs: run("workers", jobs),
    "pause": lambda jobs: run("pause", jobs),
    "resume": lambda jobs: [run("pause", jobs), run("resume", jobs)],
    "redrive": lambda jobs: run("redrive", jobs, "--all"),
    "purge": lambda jobs: run("purge", jobs, "--state", "dead"),
    "reap": lambda jobs: run("reap", jobs),
    "export and import": export_and_import,
    "import --create": import_into_a_new_one,
    "doctor": mend,
    "bench": lambda jobs: start("bench", jobs, "--seconds", "0.01"),
    "a copy of another's message": take_over_a_message_of_another,
    "a directory made anew": remake,
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_what_root_does_in_the_queue_of_another_leaves_it_all_to_that_user(
    jobs: Path, act: Callable[[Path], object], at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "keeps_order", lambda _: True)
    kept = act(jobs)
    assert of_others(jobs) == {}
    become(CONSUMER, lambda: use_everything(jobs))
    del kept


def test_root_makes_a_queue_for_the_user_whose_empty_directory_it_was_given(jobs: Path) -> None:
    shutil.rmtree(jobs)
    jobs.mkdir(0o700)
    os.chown(jobs, CONSUMER, CONSUMER)
    run("push", jobs, "x")
    assert of_others(jobs) == {}
    become(CONSUMER, lambda: use_everything(jobs))


def test_root_leaves_nothing_of_its_own_in_a_third_users_queue_for_dead_letters(jobs: Path) -> None:
    theirs = jobs.parent / "theirs"
    theirs.mkdir(0o700)
    os.chown(theirs, OTHER, OTHER)
    become(OTHER, lambda: mailq.open(theirs))
    run("config", jobs, "dead_letters", theirs)
    take(mailq.open(jobs)).reject("why")
    (letter,) = (theirs / "new").iterdir()
    shutil.copy2(letter, jobs / "new")  # the doctor would have one of the two, and put the other aside
    run("doctor", jobs, "--fix", code=1)
    assert letter.exists()
    assert [place for place in theirs.rglob("*") if place.stat().st_uid == 0] == []


def test_what_root_may_not_give_away_stays_roots_and_is_told_of(jobs: Path) -> None:
    """As on a server that knows no root, or in a container without that user."""

    class Refusing(Disk):
        def chown(self, fd: int, user: int, group: int) -> None:
            raise PermissionError(fd, user, group)

    queue = mailq.Queue(MaildirEngine(str(jobs), disk=Refusing()))
    id = queue.push("x")
    (pushed,) = (file for file in (jobs / "new").iterdir() if id in file.name)
    assert pushed.stat().st_uid == 0
    (finding,) = (f for f in examine(jobs, disk=Refusing()) if f.check == "permissions")
    assert (finding.level, "root cannot give files" in finding.what) == ("warning", True)
    become(CONSUMER, lambda: look_at_the_dead(jobs, id))


def look_at_the_dead(jobs: Path, id: str) -> None:
    """The consumer gives up on a message that it may not read, and is told what to do."""
    synced: list[str] = []

    class Syncing(Disk):
        def sync_directory(self, path: str) -> None:
            super().sync_directory(path)
            synced.append(path)

    queue = mailq.Queue(MaildirEngine(str(jobs), disk=Syncing()))
    assert using.drain(queue) == 1
    assert str(jobs / "dead") in synced
    (death,) = queue.get(id).history
    assert (death.outcome, "chown -R --reference=QUEUE QUEUE" in str(death.error)) == ("unreadable", True)
    for form in ([], ["--json"]):
        code, out, said = using.run("show", str(jobs), id, *form)
        assert (code, said.count("\n"), "Permission denied" in said) == (1, 1, True)
        assert "chown -R --reference=QUEUE QUEUE" in out


def test_a_process_that_ceases_to_be_root_goes_on(jobs: Path) -> None:
    queue = mailq.open(jobs)
    queue.push("as root")

    def go_on() -> None:
        queue.push("as the user")
        assert using.drain(queue) == 3

    become(CONSUMER, go_on)
    os.chmod(jobs, 0o711)
    (jobs / "mailq.toml").chmod(0o644)
    for place in ("new", "tmp"):
        (jobs / place).chmod(0o3733)
    become(OTHER, lambda: queue.push("as another user"))
    (pushed,) = (jobs / "new").iterdir()
    assert pushed.stat().st_uid == OTHER


class Watching(Disk):
    """Tells what was given away; ``made`` is called when a directory was made and is not open yet."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.made: Callable[[], object] = lambda: None

    def chown(self, fd: int, user: int, group: int) -> None:
        self.given.append(os.readlink(f"/proc/self/fd/{fd}"))
        super().chown(fd, user, group)

    def mkdir_in(self, directory: int, name: str, mode: int) -> None:
        super().mkdir_in(directory, name, mode)
        self.made()


@pytest.fixture
def roots(jobs: Path) -> Path:
    """A directory of root's, in which files of another user would do harm."""
    place = jobs.parent / "roots"
    place.mkdir()
    for name in ("tmp", "new", "later", "cur", "dead", "errors", "owners", "replies"):
        (place / name).mkdir()
    shutil.copy(jobs / "mailq.toml", place)
    return place


@pytest.mark.parametrize("place", ["tmp", "errors", ""], ids=["tmp", "errors", "the queue itself"])
def test_root_gives_away_nothing_in_a_directory_of_its_own_where_a_link_leads(
    jobs: Path, roots: Path, place: str
) -> None:
    disk = Watching()
    queue = mailq.Queue(MaildirEngine(str(jobs), disk=disk))
    disk.given.clear()
    (jobs / place).rename(jobs.parent / "before")
    (jobs / place).symlink_to(roots / place)
    queue.push("x")
    queue.pause()
    queue.resume()
    for delivery in queue.pop_many(9):
        delivery.reject("why")
    shutil.rmtree(roots / "replies")
    with contextlib.suppress(mailq.QueueNotFound):  # a link is refused, the queue itself may be one
        MaildirEngine(str(jobs), disk=disk)
    assert [given for given in disk.given if str(roots) in given] == []


def test_root_gives_away_no_directory_that_was_put_in_the_place_of_a_fresh_one(jobs: Path) -> None:
    """The queue's user may move there what root has left in the queue's directory."""
    disk = Watching()
    precious = jobs / "precious"
    precious.mkdir(0o700)
    (precious / "file").touch()
    shutil.rmtree(jobs / "replies")

    def swap() -> None:
        (jobs / "replies").rename(jobs / "fresh")
        precious.rename(jobs / "replies")

    disk.made = swap
    MaildirEngine(str(jobs), disk=disk)
    status = (jobs / "replies").stat()
    assert (status.st_uid, status.st_mode & 0o777) == (0, 0o700)
