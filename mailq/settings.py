"""A queue's settings: their names, units, defaults, and the file they live in.

The settings belong to the queue, not to a process: they stand in
``mailq.toml``, written for a person to edit. A process that asks for other
settings gets an error.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import Field, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mailq.errors import SettingsConflict, SettingsError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

FORMAT: Final = 1
"""The version of the disk format; see docs/disk-format.md for how it may change."""

LONGEST: Final = 10 * 365 * 86_400.0
"""No duration is longer than this, in seconds: ten years."""

MOMENT: Final = 0.001
"""No lease, ttl or timeout is shorter than this, in seconds."""

MAX_RETRIES: Final = 99_999
_MAX_BYTES: Final = 9_999_999_999

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|)", re.IGNORECASE)
_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class Backoff(NamedTuple):
    """The delay before a retry: ``first`` seconds, doubled each time, up to ``longest``.

    Each delay is shortened by a random part of up to a half, so that messages
    that failed together do not come back together.
    """

    first: float = 1.0
    longest: float = 600.0

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds to wait after failed attempt number ``attempt``; ``chance`` is in 0 to 1."""
        exponent = min(attempt - 1, 64)
        return float(min(self.longest, self.first * 2.0**exponent) * (1.0 - chance / 2))


_BACKOFF: Final = Backoff()


def parse_duration(text: str) -> float:
    """Read ``30``, ``30s``, ``1.5m``, ``2h`` or ``1d`` as seconds. Raises SettingsError."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise SettingsError(f"{text!a} is not a duration; write 30, 30s, 5m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2].lower()]


def seconds(value: object, what: str, *, least: float = 0.0) -> float:
    """Check a duration in seconds. From 1000 on it is whole, below it keeps three decimals. Raises SettingsError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= LONGEST:
        raise SettingsError(f"{what} is {shown(value)}; it must be seconds from {least:g} to {LONGEST:.0f}", key=what)
    return float(round(value)) if value >= 1000 else round(float(value), 3)  # noqa: PLR2004 - a name has room for so much


def whole(value: object, what: str, *, least: int, most: int) -> int:
    """Check a whole number. Raises SettingsError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise SettingsError(f"{what} is {shown(value)}; it must be a whole number from {least} to {most}", key=what)
    return value


def _lease(value: object, what: str) -> float:
    return seconds(value, what, least=0.001)


def _retries(value: object, what: str) -> int:
    return whole(value, what, least=0, most=MAX_RETRIES)


def _bytes(value: object, what: str) -> int:
    return whole(value, what, least=1, most=_MAX_BYTES)


def _length(value: object, what: str) -> int:
    return whole(value, what, least=1, most=_MAX_BYTES)


def _backoff(value: object, what: str) -> Backoff:
    if not isinstance(value, list | tuple) or len(value) != 2:  # noqa: PLR2004 - first and longest
        raise SettingsError(
            f"{what} is {shown(value)}; it must be two numbers, the first and the longest delay", key=what
        )
    first, longest = (seconds(part, what) for part in value)
    if first > longest:
        raise SettingsError(f"{what} is {shown(value)}; the first delay must not be above the longest", key=what)
    return Backoff(first, longest)


def _one_of(*choices: str) -> Callable[[object, str], str]:
    def check(value: object, what: str) -> str:
        if value not in choices:
            raise SettingsError(f"{what} is {shown(value)}; it must be {' or '.join(map(repr, choices))}", key=what)
        return str(value)

    return check


def _path(value: object, what: str) -> str:
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if not isinstance(text, str) or not text or not text.isprintable():
        raise SettingsError(f"{what} is {shown(value)}; it must be a path", key=what)
    return os.path.normpath(text)


def _flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise SettingsError(f"{what} is {shown(value)}; it must be true or false", key=what)
    return value


def _mode(value: object, what: str) -> str:
    text = value if isinstance(value, str) else shown(value)
    if not re.fullmatch(r"0?[67][0-7][0-7]", text):
        raise SettingsError(f"{what} is {shown(value)}; it must be a mode in octal like '0600' or '0660'", key=what)
    return text.rjust(4, "0")


def _setting(default: Any, check: Callable[[object, str], Any], help: str, example: str = "") -> Any:  # noqa: A002, ANN401
    return field(default=default, metadata={"check": check, "help": help, "example": example})


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a queue, each with its default. Durations are seconds."""

    lease: float = _setting(
        60.0, _lease, "How long a consumer holds a message before it is given to another, in seconds."
    )
    max_retries: int = _setting(
        5, _retries, "How often a failed message is tried again; then it goes to dead/. 3 allows four attempts."
    )
    backoff: Backoff = _setting(  # noqa: RUF009 - a field, like its neighbours
        _BACKOFF,
        _backoff,
        "The delay before a retry: the first and the longest, in seconds. It doubles from one to the other.",
    )
    retry_order: str = _setting(
        "front", _one_of("front", "back"), 'Where a retry stands in line: "front" (its first place) or "back".'
    )
    ttl: float | None = _setting(
        None,
        _lease,
        "How long after its push a message is worth delivering, in seconds; then it goes to dead/.",
        "86400.0",
    )
    max_message_bytes: int = _setting(1_048_576, _bytes, "The largest message, in bytes with its headers.")
    max_length: int | None = _setting(
        None, _length, "How many messages may wait (ready and delayed) before a push is refused.", "100000"
    )
    durability: str = _setting(
        "power-loss",
        _one_of("power-loss", "process-crash"),
        'What a finished push survives: "power-loss", or only "process-crash" (faster: nothing is synced).',
    )
    soft_timeout: float | None = _setting(
        None, _lease, "A worker raises TimeLimit in a job after this many seconds, so that it can end well.", "50.0"
    )
    timeout: float | None = _setting(
        None, _lease, "A worker ends a job after this many seconds: SIGTERM, then SIGKILL. It is tried again.", "60.0"
    )
    reply_ttl: float = _setting(3600.0, _lease, "How long the reply to a request is kept, in seconds.")
    reap_interval: float = _setting(
        2.0, _lease, "How often consumers look for leases that ran out and owners that died, in seconds."
    )
    dead_letters: str | None = _setting(
        None, _path, "Another queue that gets the dead letters; a path relative to this directory.", '"../failed"'
    )
    file_mode: str = _setting(
        "0600", _mode, 'Permissions of message files, in octal; "0660" shares them with the group.'
    )
    paused: bool = field(default=False, metadata={"check": _flag, "in_file": False})
    """Whether nothing is delivered. In a directory it is not in ``mailq.toml``: it is the file ``paused``."""

    def changed(self, changes: Mapping[str, object]) -> Settings:
        """These settings with some changed; None puts one back to its default. Raises SettingsError."""
        resets: dict[str, Any] = {
            f.name: f.default for f in fields(self) if f.name in changes and changes[f.name] is None
        }
        return replace(self.merged(changes), **resets)

    def merged(self, changes: Mapping[str, object]) -> Settings:
        """These settings with some changed; None means not asked for. Raises SettingsError."""
        known = {f.name: f.metadata["check"] for f in fields(self)}
        values: dict[str, Any] = {}
        for key, value in changes.items():
            if key not in known:
                near = f", perhaps you mean {found[0]}" if (found := _near(key, known)) else ""
                raise SettingsError(f"there is no setting {shown(key)}{near}; there are {', '.join(known)}", key=key)
            if value is not None:
                values[key] = known[key](value, key)
        return replace(self, **values)

    def refuse_others(self, changes: Mapping[str, object], path: str) -> None:
        """Raise SettingsConflict if the queue was asked for with settings that differ from these."""
        asked = self.merged(changes)
        for f in fields(self):
            if changes.get(f.name) is not None and getattr(asked, f.name) != getattr(self, f.name):
                raise SettingsConflict(f.name, asked=getattr(asked, f.name), found=getattr(self, f.name), path=path)


def _near(key: str, known: Iterable[str]) -> list[str]:
    """The setting that somebody may have meant."""
    import difflib  # noqa: PLC0415 - loaded only after a mistake

    return difflib.get_close_matches(key.lower().replace("-", "_")[:40], known, 1)


class Marker(NamedTuple):
    """What ``mailq.toml`` holds: the identity of the queue and its settings."""

    queue: str
    settings: Settings


def new_marker(settings: Settings) -> Marker:
    """An identity for a new queue."""
    return Marker(os.urandom(16).hex(), settings)


def render(marker: Marker) -> str:
    """Write ``mailq.toml`` for a person to read and edit."""
    lines = [
        "# This directory is a mailq queue. Edit the settings below while it runs: consumers notice.",
        "# Durations are seconds. A line that begins with # is not set.",
        "",
        f"format = {FORMAT}  # of the files in this directory; do not edit",
        f'queue = "{marker.queue}"  # the identity of this queue; do not edit',
    ]
    for f in _fields_in_file():
        lines += ["", f"# {f.metadata['help']}", _line(f.name, getattr(marker.settings, f.name), f.metadata["example"])]
    return "\n".join(lines) + "\n"


def _fields_in_file() -> list[Field[Any]]:
    return [f for f in fields(Settings) if f.metadata.get("in_file", True)]


def edit(text: str, marker: Marker, changes: Mapping[str, object]) -> str:
    """Change settings in the text of a ``mailq.toml`` and leave the rest as it was written.

    A value of None puts the setting back to its default.
    """
    changed = marker.settings.changed(changes)
    for f in _fields_in_file():
        if f.name in changes:
            text = _put(text, f.name, getattr(changed, f.name), f.metadata["example"])
    return text


def _put(text: str, key: str, value: object, example: str) -> str:
    """Write a setting where it stands, or where it stands unset, or at the end."""
    line = _line(key, value, example)
    lines = text.splitlines(keepends=True)
    for start, first in enumerate(lines):
        if re.match(rf"\s*([\"']?){key}\1\s*=", first):
            # A value may go over several lines: it ends where what was read so far is TOML.
            for end in range(start + 1, len(lines) + 1):
                if (comment := _comment("".join(lines[start:end]))) is not None:
                    return "".join([*lines[:start], f"{line}{comment}\n", *lines[end:]])
        elif re.match(rf"# {key} = {re.escape(example)}\s*(#|$)", first):
            return "".join([*lines[:start], f"{line}\n", *lines[start + 1 :]])
    return f"{text.rstrip()}\n{line}\n"


def _comment(assignment: str) -> str | None:
    """The comment behind an assignment, with the space before it; None if this is not a whole assignment."""
    try:
        table = tomllib.loads(assignment)
    except tomllib.TOMLDecodeError:
        return None
    assignment = assignment.rstrip()
    for found in re.finditer(r"\s*#", assignment):
        try:
            if tomllib.loads(assignment[: found.start()]) == table and "\n" not in assignment[found.start() :]:
                return assignment[found.start() :]
        except tomllib.TOMLDecodeError:  # this # is within a string
            continue
    return ""


def decode(data: bytes, path: str) -> str:
    """The text of a ``mailq.toml``; some editors put a byte order mark in front. Raises SettingsError."""
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"0x{data[error.start]:02x}"
        raise SettingsError(f"the byte {byte} is not UTF-8; mend the line", path=path, line=line) from error


def _table(text: str, path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        # What says "at end of document" began somewhere above; the last line is where one would go on.
        line = int(found[1]) if found else max(1, len(text.splitlines()))
        raise SettingsError(f"this is not TOML: {error}; mend the line", path=path, line=line) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets within brackets
        longest = max(enumerate(text.splitlines(), 1), key=lambda line: len(line[1]))[0]
        raise SettingsError(f"this is no setting: {error}; mend the line", path=path, line=longest) from error


def parse(text: str, path: str) -> Marker:
    """Read a ``mailq.toml``. Raises SettingsError with the line where something is wrong."""
    table = _table(text, path)
    if "format" not in table:
        raise SettingsError(
            "there is no format: this is not all of what mailq wrote; put back the lines of format and queue",
            key="format",
            path=path,
        )
    version = table.pop("format")
    if version != FORMAT or isinstance(version, bool):
        raise SettingsError(
            f"format is {shown(version)}, this version of mailq reads {FORMAT}; use the mailq that wrote it",
            key="format",
            path=path,
            line=_line_of(text, "format"),
        )
    queue = table.pop("queue", "")
    if not isinstance(queue, str) or not re.fullmatch(r"[0-9a-f]{32}", queue):
        raise SettingsError(
            "queue must be 32 hex digits; put back what was there", key="queue", path=path, line=_line_of(text, "queue")
        )
    try:
        if "paused" in table:
            raise SettingsError("paused is no line of this file; use 'mailq pause' and 'mailq resume'", key="paused")
        settings = Settings().merged(table)
    except SettingsError as error:
        raise SettingsError(str(error), key=error.key, path=path, line=_line_of(text, error.key)) from None
    return Marker(queue, settings)


def _line(key: str, value: object, example: str) -> str:
    if value is None:
        return f"# {key} = {example}"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{key} = "{escaped}"'
    if isinstance(value, tuple):
        return f"{key} = [{', '.join(str(part) for part in value)}]"
    return f"{key} = {value}"


def _line_of(text: str, key: str) -> int | None:
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*\[*\s*[\"']?{re.escape(key)}\b", line):
            return number
    return None
