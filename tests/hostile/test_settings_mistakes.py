"""mailq.toml edited wrongly by hand: a clear error with file, line and remedy, and running consumers go on."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from command import Shell
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mailq as library
from mailq.engines.maildir.engine import MaildirEngine
from mailq.settings import decode, parse
from mailq.testing import ManualClock

QUEUE = b'queue = "0123456789abcdef0123456789abcdef"\n'
HEAD = b"format = 1\n" + QUEUE  # two lines


class Mistake(NamedTuple):
    """What stands in the file, the line that is at fault, and what the error says of it."""

    content: bytes
    line: int | None
    says: str


MISTAKES = {
    "a syntax error": Mistake(HEAD + b"lease = = 5\n", 3, "not TOML"),
    "no value": Mistake(HEAD + b"\n# more\nlease =\n", 5, "not TOML"),
    "a string that does not end": Mistake(HEAD + b'\ndead_letters = "../x\n', 4, "not TOML"),
    "a string of several lines that does not end": Mistake(HEAD + b'dead_letters = """\n../x\n', 4, "not TOML"),
    "a list that does not end": Mistake(HEAD + b"backoff = [1,\n", 3, "not TOML"),
    "an unknown key": Mistake(HEAD + b"wheel = 5\n", 3, "there is no setting 'wheel'; there are lease, "),
    "a key with a slip": Mistake(HEAD + b"\nmax_retires = 5\n", 4, "perhaps you mean max_retries"),
    "a key with a hyphen": Mistake(HEAD + b"reap-interval = 5\n", 3, "perhaps you mean reap_interval"),
    "a key in capitals": Mistake(HEAD + b"LEASE = 5\n", 3, "perhaps you mean lease"),
    "text for a number": Mistake(HEAD + b'lease = "5m"\n', 3, "must be seconds"),
    "a number for text": Mistake(HEAD + b"durability = 5\n", 3, "'power-loss' or 'process-crash'"),
    "a table": Mistake(HEAD + b"[lease]\nx = 5\n", 3, "must be seconds"),
    "out of range": Mistake(HEAD + b"max_retries = 100000\n", 3, "from 0 to 99999"),
    "negative": Mistake(HEAD + b"ttl = -1\n", 3, "must be seconds"),
    "nan": Mistake(HEAD + b"lease = nan\n", 3, "must be seconds"),
    "infinite": Mistake(HEAD + b"lease = inf\n", 3, "must be seconds"),
    "above any float": Mistake(HEAD + b"lease = 1e999\n", 3, "must be seconds"),
    "a large number": Mistake(HEAD + b"max_length = 1" + b"0" * 4000 + b"\n", 3, "must be a whole number"),
    "a number of five thousand digits": Mistake(HEAD + b"max_length = 1" + b"0" * 5000 + b"\n", 3, "digits"),
    "brackets within brackets": Mistake(HEAD + b"backoff = " + b"[" * 30_000 + b"\n", 3, "mend the line"),
    "a key twice": Mistake(HEAD + b"lease = 5\nlease = 6\n", 4, "not TOML"),
    "a NUL": Mistake(HEAD + b"lease = 5\0\n", 3, "not TOML"),
    "a NUL in a string": Mistake(HEAD + b'dead_letters = "x\0"\n', 3, "not TOML"),
    "an escape in a string": Mistake(HEAD + b'dead_letters = "\\u001b[2J"\n', 3, "must be a path"),
    "not UTF-8": Mistake(HEAD + b"# caf\xe9\n", 3, "0xe9 is not UTF-8"),
    "UTF-16": Mistake((HEAD + b"lease = 5\n").decode().encode("utf-16"), 1, "not UTF-8"),
    "empty": Mistake(b"", None, "put back the lines"),
    "only blanks": Mistake(b" \n\n\t\n", None, "put back the lines"),
    "no format": Mistake(QUEUE, None, "put back the lines"),
    "another format": Mistake(b"format = 2\n" + QUEUE, 1, "reads 1"),
    "a format that is true": Mistake(b"format = true\n" + QUEUE, 1, "reads 1"),
    "no identity": Mistake(b"format = 1\n", None, "queue must be 32 hex digits"),
    "a bad identity": Mistake(b'format = 1\nqueue = "x"\n', 2, "queue must be 32 hex digits"),
    "an identity with an escape": Mistake(b'format = 1\nqueue = "\\u001b]0;x"\n', 2, "queue must be 32 hex digits"),
    "too large": Mistake(HEAD + b"#" * 70_000, None, "settings have 65536 at most"),
}
mistakes = pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)


@mistakes
def test_a_mistake_is_told_with_its_file_its_line_and_a_remedy(
    queue: library.Queue, path: Path, mistake: Mistake
) -> None:
    marker = path / "mailq.toml"
    marker.write_bytes(mistake.content)
    for call in (lambda: library.open(path), lambda: queue.configure(lease=5)):
        with pytest.raises(library.SettingsError) as told:
            call()
        error = told.value
        assert (error.path, error.line) == (str(marker), mistake.line)
        place = f"{marker}, line {mistake.line}: " if mistake.line else f"{marker}: "
        assert str(error).startswith(place)
        assert mistake.says in str(error)
        assert str(error).isprintable()
        assert len(str(error)) < 600
    assert marker.read_bytes() == mistake.content


@pytest.mark.parametrize("name", ["a syntax error", "a key with a slip", "not UTF-8", "empty"])
def test_the_shell_says_so_in_one_line_with_exit_code_2(
    queue: library.Queue, path: Path, mailq: Shell, name: str
) -> None:
    (path / "mailq.toml").write_bytes(MISTAKES[name].content)
    for arguments in (["stats", str(path)], ["pop", str(path)], ["push", str(path), "x"]):
        told = mailq(*arguments, code=2).stderr.decode()
        assert told.count("\n") == 1
        assert told.startswith(f"mailq: {path}/mailq.toml")
        assert MISTAKES[name].says in told
    assert os.listdir(path / "new") == []


@mistakes
def test_a_running_consumer_keeps_the_settings_that_it_had(
    path: Path, mistake: Mistake, caplog: pytest.LogCaptureFixture
) -> None:
    library.open(path, lease=7)
    clock = ManualClock()
    queue = library.Queue(MaildirEngine(str(path), clock=clock))
    (path / "mailq.toml").write_bytes(mistake.content)
    clock.advance(10)
    queue.push("x")
    with caplog.at_level(logging.WARNING, "mailq"):
        assert queue.pop() is not None
    assert queue.settings.lease == 7
    assert f"the settings were not read again: {path}/mailq.toml" in caplog.text


GOOD = {
    "a byte order mark": b"\xef\xbb\xbf" + HEAD + b"lease = 5\n",
    "the line ends of Windows": (HEAD + b"# x\nlease = 5\n").replace(b"\n", b"\r\n"),
    "no line end": HEAD + b"lease = 5",
    "an exponent": HEAD + b"lease = 0.5e1",
    "a person's words": HEAD + "# das l\u00e4uft so \U0001f600\nlease = 5.0 # ok\n".encode(),
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_what_editors_do_to_a_file_is_no_mistake(queue: library.Queue, path: Path, content: bytes) -> None:
    (path / "mailq.toml").write_bytes(content)
    again = library.open(path)
    assert again.settings.lease == 5
    again.configure(max_retries=1)
    found = library.open(path).settings
    assert (found.lease, found.max_retries) == (5, 1)


def refusal(data: bytes) -> library.SettingsError | None:
    """What is said of a file; any other exception is a defect."""
    try:
        parse(decode(data, "q/mailq.toml"), "q/mailq.toml")
    except library.SettingsError as error:
        return error
    return None


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: HEAD + text.encode(errors="surrogatepass")))
@settings(max_examples=300)
def test_any_bytes_are_settings_or_a_settings_error(data: bytes) -> None:
    error = refusal(data)
    if error is not None:
        assert str(error).startswith("q/mailq.toml")
        assert error.path == "q/mailq.toml"


@given(
    st.integers(0, 600),
    st.integers(0, 20),
    st.sampled_from([b"", b"\0", b"\n", b'"', b"[", b"=", b"\xff", b"9" * 6000]),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_slip_anywhere_in_a_real_file_is_no_crash(tmp_path: Path, at: int, cut: int, slip: bytes) -> None:
    whole = tmp_path / "slips" / "mailq.toml"
    if not whole.exists():
        library.open(tmp_path / "slips")
    text = whole.read_bytes()
    error = refusal(text[:at] + slip + text[at + cut :])
    assert error is None or error.path == "q/mailq.toml"


# What stands in the place of the file


def fifo(place: Path) -> None:
    os.mkfifo(place)


def fed_fifo(place: Path) -> subprocess.Popen[bytes]:
    """A FIFO that somebody writes to without end."""
    os.mkfifo(place)
    with open(place, "r+b", buffering=0) as end:
        return subprocess.Popen(["yes"], stdout=end)


def huge(place: Path) -> None:
    with open(place, "wb") as file:
        file.write(HEAD)
        file.truncate(1 << 30)


PLACES: dict[str, tuple[Any, type[library.MailqError], str]] = {
    "a FIFO": (fifo, library.SettingsError, "not a regular file"),
    "an endless FIFO": (fed_fifo, library.SettingsError, "not a regular file"),
    "a directory": (Path.mkdir, library.SettingsError, "not a regular file"),
    "a link": (lambda place: place.symlink_to("/etc/passwd"), library.StorageError, "symbolic links"),
    "a gigabyte": (huge, library.SettingsError, "65536 at most"),
}


@pytest.mark.parametrize("place", PLACES)
def test_something_else_in_its_place_is_told_at_once(
    queue: library.Queue, path: Path, place: str, mailq: Shell
) -> None:
    make, kind, says = PLACES[place]
    (path / "mailq.toml").unlink()
    made = make(path / "mailq.toml")
    try:
        for call in (
            lambda: library.open(path),
            lambda: library.open(path, create=False),
            lambda: queue.configure(ttl=5),
        ):
            with pytest.raises(kind, match=says):
                call()
        queue.push("the running go on")
        assert queue.pop() is not None
        assert says in mailq("stats", str(path), code=2 if kind is library.SettingsError else 1).stderr.decode()
    finally:
        if isinstance(made, subprocess.Popen):
            made.kill()
            made.wait()


@pytest.mark.parametrize("make", [Path.mkdir, lambda place: place.symlink_to("/etc/passwd")])
def test_something_else_in_the_place_of_the_settings_lock_is_a_storage_error(
    queue: library.Queue, path: Path, make: Any
) -> None:
    make(path / ".settings.lock")
    before = Path("/etc/passwd").read_bytes()
    with pytest.raises(library.StorageError, match="change the settings"):
        queue.configure(lease=5)
    assert Path("/etc/passwd").read_bytes() == before
