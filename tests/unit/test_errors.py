from __future__ import annotations

import builtins
import errno
import os
import pickle
import re

import pytest

import mailq
from mailq import errors

EXAMPLES: list[BaseException] = [
    errors.MailqError("text"),
    errors.UsageError("text"),
    errors.InvalidReceipt("../x"),
    errors.SettingsError("text", key="lease", path="/jobs/mailq.toml", line=3),
    errors.SettingsConflict("lease", asked=5.0, found=60.0, path="/jobs/mailq.toml"),
    errors.QueueClosed("/jobs"),
    errors.Unsupported("memory://", "keep replies"),
    errors.CodecError("text", content_type="application/json", raw=b"{"),
    errors.QueueNotFound("/jobs"),
    errors.MessageNotFound("0" * 32),
    errors.LeaseLost("receipt", "ack"),
    errors.Refused("text"),
    errors.MessageTooLarge(11, 10),
    errors.QueueFull(9, 10, 2),
    errors.StorageError("push", OSError(errno.ENOSPC, "No space left on device", "/jobs/tmp/x"), maybe_pushed=["a"]),
    errors.TimeLimit(50.0),
    errors.WorkerFailed("Traceback ...\nImportError: no"),
    errors.JobFailed("0" * 32, "Traceback ...\nValueError: no"),
    errors.ReplyTimeout("0" * 32, 30.0),
]


def classes() -> dict[str, type[BaseException]]:
    found = vars(errors).values()
    return {c.__name__: c for c in found if isinstance(c, type) and issubclass(c, BaseException)}


def drawn() -> list[tuple[str, str, str]]:
    """The tree in the docstring as (class, parent, parent from the standard library)."""
    lines = [
        found
        for line in (errors.__doc__ or "").splitlines()
        if (found := re.match(r"    ([│├└─ ]*)([A-Z]\w+)(?: \((\w+)\))?(?: {2}|$)", line))
    ]
    parents: dict[int, str] = {}
    tree = []
    for found in lines:
        depth = len(found[1]) // 4
        parents[depth] = found[2]
        tree.append((found[2], parents.get(depth - 1, ""), found[3] or ""))
    return tree


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert sorted(name for name, _, _ in drawn()) == sorted(classes())
    for name, parent, builtin in drawn():
        bases = [base.__name__ for base in classes()[name].__bases__]
        assert bases == [base for base in (parent, builtin) if base]


def test_every_error_is_exported_and_has_an_example_here() -> None:
    assert {type(error) for error in EXAMPLES} == set(classes().values())
    for name, kind in classes().items():
        assert getattr(mailq, name) is kind


def test_a_time_limit_passes_every_handler_that_is_for_errors() -> None:
    """Of mailq too: it is raised in the midst of anything."""
    assert not issubclass(errors.TimeLimit, Exception)
    assert [kind for kind in classes().values() if not issubclass(kind, errors.MailqError)] == [errors.TimeLimit]


def test_no_name_hides_one_of_pythons() -> None:
    assert not [name for name in classes() if hasattr(builtins, name)]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_one_line_says_what_happened(error: BaseException) -> None:
    assert str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_crosses_to_another_process_whole(error: BaseException) -> None:
    """concurrent.futures and multiprocessing pickle what a worker raises; one that will not load breaks the pool."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert copy.args == error.args


@pytest.mark.parametrize("receipt", ["../x\n\x1b[2J", "x" * 10_000, "\udcff", b"\xff", None, object(), "é" * 100])
def test_a_bad_receipt_is_shown_short_and_harmless(receipt: object) -> None:
    text = str(errors.InvalidReceipt(receipt))
    assert len(text) < 200
    assert text.isascii()
    assert text.isprintable()


def test_a_missing_id_is_shown_short_and_harmless() -> None:
    text = str(errors.MessageNotFound("\x1b[2J\n" + "x" * 10_000))
    assert len(text) < 200
    assert text.isprintable()


def test_a_settings_error_says_where() -> None:
    assert str(errors.SettingsError("bad", path="p", line=3)) == "p, line 3: bad"
    assert str(errors.SettingsError("bad", path="p")) == "p: bad"
    assert str(errors.SettingsError("bad")) == "bad"


def test_limits_say_both_numbers() -> None:
    assert "11" in str(errors.MessageTooLarge(11, 10))
    assert "10" in str(errors.MessageTooLarge(11, 10))
    assert all(number in str(errors.QueueFull(9, 10, 2)) for number in ("9", "10", "2"))


def test_a_storage_error_is_the_systems_error_and_more() -> None:
    cause = OSError(errno.ENOSPC, "No space left on device", "/jobs/tmp/x")
    error = errors.StorageError("push", cause, maybe_pushed=["a", "b"])
    assert isinstance(error, OSError)
    assert (error.errno, error.filename, error.path, error.verb) == (errno.ENOSPC, "/jobs/tmp/x", "/jobs/tmp/x", "push")
    assert error.maybe_pushed == ("a", "b")
    text = str(error)
    assert text.startswith("cannot push: No space left on device ('/jobs/tmp/x')")
    assert text.endswith("a, b")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space, or inodes"),
        (errno.EDQUOT, "raise the quota"),
        (errno.EROFS, "mount it writable again"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_a_storage_error_says_what_to_do(number: int, remedy: str) -> None:
    assert remedy in str(errors.StorageError("push", OSError(number, os.strerror(number))))


def test_a_storage_error_without_a_path_or_a_reason_still_reads() -> None:
    assert (
        str(errors.StorageError("push", OSError(errno.EIO, "Input/output error"))) == "cannot push: Input/output error"
    )
    assert str(errors.StorageError("push", OSError())) == "cannot push: the system gave no reason"
