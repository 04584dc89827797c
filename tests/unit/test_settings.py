from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from envelopes import durations
from hypothesis import given
from hypothesis import strategies as st

from mailq.errors import SettingsConflict, SettingsError
from mailq.settings import LONGEST, Backoff, Marker, Settings, edit, new_marker, parse, parse_duration, render

QUEUE = "0123456789abcdef0123456789abcdef"
HEAD = f'format = 1\nqueue = "{QUEUE}"\n'

paths = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.isprintable).map(os.path.normpath)
some_settings = st.builds(
    Settings,
    lease=durations,
    max_retries=st.integers(0, 99_999),
    backoff=st.tuples(durations, durations).map(lambda pair: Backoff(min(pair), max(pair))),
    retry_order=st.sampled_from(("front", "back")),
    ttl=st.none() | durations,
    max_message_bytes=st.integers(1, 9_999_999_999),
    max_length=st.none() | st.integers(1, 9_999_999_999),
    durability=st.sampled_from(("power-loss", "process-crash")),
    soft_timeout=st.none() | durations,
    timeout=st.none() | durations,
    reply_ttl=durations,
    reap_interval=durations,
    dead_letters=st.none() | paths,
    file_mode=st.sampled_from(("0600", "0640", "0660", "0666", "0777")),
)

# A value of each setting that is not its default.
OTHERS: dict[str, Any] = {
    "lease": 90.5,
    "max_retries": 0,
    "backoff": Backoff(0.25, 30.0),
    "retry_order": "back",
    "ttl": 86_400.0,
    "max_message_bytes": 10,
    "max_length": 7,
    "durability": "process-crash",
    "soft_timeout": 50.0,
    "timeout": 60.5,
    "reply_ttl": 7.0,
    "reap_interval": 0.5,
    "dead_letters": '../failed "jobs"',
    "file_mode": "0660",
}
IN_FILE = [field for field in fields(Settings) if field.name != "paused"]
"""The others: in a directory, a pause is a file of its own."""


def test_there_is_another_value_for_each_setting() -> None:
    assert list(OTHERS) == [field.name for field in IN_FILE]


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings = Settings()
    assert (settings.lease, settings.max_retries, settings.backoff) == (60, 5, (1, 600))
    assert (settings.retry_order, settings.ttl, settings.reap_interval) == ("front", None, 2)
    assert (settings.soft_timeout, settings.timeout, settings.reply_ttl) == (None, None, 3600)
    assert (settings.max_message_bytes, settings.max_length) == (1024 * 1024, None)
    assert (settings.durability, settings.dead_letters, settings.file_mode) == ("power-loss", None, "0600")


# The file


@given(some_settings)
def test_any_settings_come_back_from_their_file(settings: Settings) -> None:
    assert parse(render(Marker(QUEUE, settings)), "q") == Marker(QUEUE, settings)


def test_two_queues_have_two_identities() -> None:
    assert new_marker(Settings()).queue != new_marker(Settings()).queue


def test_a_new_file_explains_every_setting() -> None:
    lines = render(new_marker(Settings())).splitlines()
    for field in IN_FILE:
        (at,) = [n for n, line in enumerate(lines) if line.lstrip("# ").startswith(f"{field.name} =")]
        assert lines[at - 1] == f"# {field.metadata['help']}"
        assert field.metadata["help"].endswith(".")


def test_what_a_new_file_shows_of_an_unset_setting_is_a_good_value() -> None:
    lines = render(new_marker(Settings())).splitlines()
    shown = [line[2:] for line in lines if line.startswith(("# ttl =", "# max_length =", "# dead_letters ="))]
    settings = parse(HEAD + "\n".join(shown), "q").settings
    assert None not in (settings.ttl, settings.max_length, settings.dead_letters)


@pytest.mark.parametrize("key", OTHERS)
def test_an_edit_changes_one_setting_and_its_reset_brings_the_text_back(key: str) -> None:
    marker = Marker(QUEUE, Settings())
    before = render(marker)
    after = edit(before, marker, {key: OTHERS[key]})
    changed = parse(after, "q")
    assert changed.settings == Settings().merged({key: OTHERS[key]})
    assert len(set(before.splitlines()) - set(after.splitlines())) == 1
    assert edit(after, changed, {key: None}) == before


@given(some_settings, some_settings)
def test_any_edit_of_any_file_gives_the_settings_asked_for(old: Settings, new: Settings) -> None:
    marker = Marker(QUEUE, old)
    changes = {field.name: getattr(new, field.name) for field in IN_FILE}
    assert parse(edit(render(marker), marker, changes), "q").settings == new


def edited(text: str, changes: dict[str, object]) -> str:
    after = edit(text, parse(text, "q"), changes)
    expected = parse(text, "q").settings.changed(changes)
    assert parse(after, "q").settings == expected
    return after


def test_an_edit_leaves_a_persons_comments_order_and_spelling_alone() -> None:
    text = HEAD + "# mine\n\n   max_retries=7 # lucky\n\nlease = 30.00\n# the end\n"
    assert edited(text, {"lease": 90}) == text.replace("lease = 30.00", "lease = 90.0")


def test_an_edit_keeps_the_comment_behind_the_setting() -> None:
    text = HEAD + "lease = 30  # as long as the slowest job\n"
    assert "# as long as the slowest job" in edited(text, {"lease": 90})


def test_an_edit_does_not_take_a_persons_remark_for_the_setting() -> None:
    text = HEAD + "# lease = 30 was too short\nlease = 60\n"
    assert "# lease = 30 was too short\n" in edited(text, {"lease": 90})


def test_an_edit_adds_a_setting_that_is_missing() -> None:
    assert edited(HEAD, {"lease": 90}) == HEAD + "lease = 90.0\n"


@pytest.mark.parametrize("written", ['"lease" = 30', "'lease' = 30", "lease=30", "\tlease\t=\t30"])
def test_an_edit_finds_a_setting_however_it_is_written(written: str) -> None:
    edited(HEAD + written + "\n", {"lease": 90})


def test_an_edit_takes_the_place_of_a_value_of_several_lines() -> None:
    text = HEAD + "backoff = [\n  1,\n  60,  # a minute\n]\nlease = 30\n"
    assert "lease = 30\n" in edited(text, {"backoff": (2, 20)})


def test_an_edit_with_backslashes_and_quotes_writes_what_was_meant() -> None:
    edited(HEAD + "dead_letters = 'x'\n", {"dead_letters": 'C:\\1 "failed" jobs'})


# Bad values


BAD = [
    ("lease", "0"),
    ("lease", "-1"),
    ("lease", "inf"),
    ("lease", "nan"),
    ("lease", "true"),
    ("lease", '"60"'),
    ("lease", "[60]"),
    ("lease", "315360001"),
    ("max_retries", "-1"),
    ("max_retries", "1.5"),
    ("max_retries", "true"),
    ("max_retries", "100000"),
    ("backoff", "1"),
    ("backoff", "[1]"),
    ("backoff", "[1, 2, 3]"),
    ("backoff", "[10, 1]"),
    ("backoff", "[-1, 1]"),
    ("backoff", '["a", "b"]'),
    ("retry_order", '"random"'),
    ("retry_order", "1"),
    ("ttl", "0"),
    ("ttl", '"1d"'),
    ("max_message_bytes", "0"),
    ("max_message_bytes", "1e6"),
    ("max_length", "0"),
    ("max_length", "false"),
    ("durability", '"perhaps"'),
    ("durability", "true"),
    ("reap_interval", "0"),
    ("dead_letters", '""'),
    ("dead_letters", '"a\\u0000b"'),
    ("dead_letters", "5"),
    ("dead_letters", "true"),
    ("dead_letters", '["../failed"]'),
    ("file_mode", '"0400"'),
    ("file_mode", '"rw"'),
    ("file_mode", "0o600"),
    ("leese", "60"),
    ("Lease", "60"),
    ("format", "2"),
    ("format", '"1"'),
    ("queue", '"short"'),
    ("queue", "5"),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_bad_value_is_told_with_its_key_and_its_line(key: str, value: str) -> None:
    lines = [line for line in HEAD.splitlines() if not line.startswith(key)]
    text = "\n".join([*lines, "# a comment", f"{key} = {value}", ""])
    with pytest.raises(SettingsError) as bad:
        parse(text, "/jobs/mailq.toml")
    assert (bad.value.key, bad.value.path, bad.value.line) == (key, "/jobs/mailq.toml", len(lines) + 2)
    assert str(bad.value).startswith(f"/jobs/mailq.toml, line {len(lines) + 2}: ")
    assert key in str(bad.value).partition(": ")[2]
    assert "\n" not in str(bad.value)


@pytest.mark.parametrize("missing", ["format", "queue"])
def test_a_file_without_its_identity_is_refused(missing: str) -> None:
    text = "".join(line for line in HEAD.splitlines(keepends=True) if not line.startswith(missing))
    with pytest.raises(SettingsError) as bad:
        parse(text, "q")
    assert (bad.value.key, bad.value.line) == (missing, None)


def test_a_file_that_is_not_toml_is_told_with_its_line() -> None:
    with pytest.raises(SettingsError) as bad:
        parse(HEAD + "lease = = 60\n", "/jobs/mailq.toml")
    assert (bad.value.line, bad.value.path) == (3, "/jobs/mailq.toml")


@pytest.mark.parametrize("text", ["", "\0", "[", "lease", "x" * 100_000, "[table]\n", "a.b.c = 1\n", HEAD * 2])
def test_a_file_of_garbage_is_refused_as_such(text: str) -> None:
    with pytest.raises(SettingsError):
        parse(text, "q")


@pytest.mark.parametrize("key", OTHERS)
def test_a_value_of_no_sensible_type_is_refused_from_python_too(key: str) -> None:
    for value in ({}, object(), b"60", 1j):
        with pytest.raises(SettingsError) as bad:
            Settings().merged({key: value})
        assert bad.value.key == key


def test_a_setting_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="max_retries") as bad:
        Settings().merged({"retries": 5})
    assert bad.value.key == "retries"


# Merging


def test_none_means_not_asked_for() -> None:
    assert Settings(lease=5.0).merged({"lease": None, "ttl": None}) == Settings(lease=5.0)


def test_none_resets_when_settings_are_changed() -> None:
    assert Settings(lease=5.0, ttl=9.0).changed({"lease": None, "ttl": None, "max_retries": 1}) == Settings(
        max_retries=1
    )


def test_values_are_brought_into_one_form() -> None:
    merged = Settings().merged({"lease": 60, "backoff": [1, 2], "file_mode": "600", "ttl": 0.0014})
    assert merged == Settings(lease=60.0, backoff=Backoff(1.0, 2.0), file_mode="0600", ttl=0.001)
    assert isinstance(merged.lease, float)
    assert isinstance(merged.backoff, Backoff)


def test_a_path_may_be_a_path() -> None:
    assert Settings().merged({"dead_letters": Path("../failed")}).dead_letters == "../failed"


@pytest.mark.parametrize("key", OTHERS)
def test_asking_for_other_settings_than_there_are_is_a_conflict(key: str) -> None:
    found = getattr(Settings(), key)
    with pytest.raises(SettingsConflict) as conflict:
        Settings().refuse_others({key: OTHERS[key]}, "/jobs/mailq.toml")
    error = conflict.value
    assert (error.key, error.asked, error.found, error.path) == (key, OTHERS[key], found, "/jobs/mailq.toml")


@pytest.mark.parametrize("key", OTHERS)
def test_asking_for_the_settings_that_there_are_is_none(key: str) -> None:
    settings = Settings().merged(OTHERS)
    settings.refuse_others({key: OTHERS[key]}, "q")
    settings.refuse_others({key: None}, "q")


# Durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("30s", 30),
        ("1.5m", 90),
        ("2h", 7200),
        ("1d", 86_400),
        ("250ms", 0.25),
        (" 5 M ", 300),
        ("0", 0),
        ("5 s", 5),
    ],
)
def test_a_duration_is_read_in_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-5", "5w", "1h30m", "5,5", "1e3", "inf", "nan", "five", "5ss", "0x5", "٣"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="30s"):
        parse_duration(text)


def test_no_duration_is_longer_than_ten_years() -> None:
    assert Settings().merged({"lease": LONGEST}).lease == LONGEST
    with pytest.raises(SettingsError):
        Settings().merged({"lease": LONGEST + 1})


def test_a_pause_is_no_line_of_the_file() -> None:
    assert "paused" not in render(Marker(QUEUE, Settings(paused=True)))
    with pytest.raises(SettingsError, match="use 'mailq pause' and 'mailq resume'"):
        parse(HEAD + "paused = true\n", "q")
    with pytest.raises(SettingsError, match="it must be true or false"):
        Settings().changed({"paused": "yes"})
