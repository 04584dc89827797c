"""The file name of a message, which is its record.

A name is ``<time>,<id>[,key=value...].<ext>``; docs/disk-format.md is its
specification. This module reads and writes names as :class:`MessageName` values.
It touches no disk and no clock.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

from mailq.ids import NS, id_time, new_id
from mailq.message import MAX_PRIORITY, RestingState, safe_ext

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailq.policy import Step

MAX_NAME: Final = 250
"""No name that mailq writes is longer, in bytes. File systems allow 255."""

MAX_LISTED: Final = 1000
"""The most attempts of a message that are listed one by one; the others are only counted."""

ATTEMPTS: Final = {"E": "error", "N": "nack", "T": "timeout", "K": "killed", "R": "rejected"}
"""The letter that a finished attempt leaves in ``tries=``, and the word for how it ended."""

COMPACTED: Final = "X"
"""In ``tries=``, with a number behind it: attempts of which only the count is kept."""

DEATHS: Final = {
    "r": "retries",
    "j": "rejected",
    "x": "expired",
    "t": "torn",
    "u": "unreadable",
    "l": "too-large",
}
"""The letter that a death leaves in ``tries=``, after those of the attempts, and the word for it in ``why=``."""

_COUNTED: Final = frozenset((*ATTEMPTS, COMPACTED))
_LETTERS: Final = {"": "", **{word: letter for letter, word in ATTEMPTS.items()}}
_MARKS: Final = {"": "", **{word: letter for letter, word in DEATHS.items()}}

_TIME: Final = 26
"""The number of characters at the front of a name that are its time."""

_TIME_AND_ID: Final = 59
"""The number of characters at the front of a name that are its time and its id; then come the fields."""

_TRIES_LENGTH: Final = 16
_TRIES_LONGEST: Final = 23  # where nothing more can be compacted; a claim still fits into a name behind it
_MOST_TIMES: Final = 999_999
_MOST_COMPACTED: Final = 999_999_999
_FILE_LENGTH: Final = 48
_CANONICAL: Final = re.compile(
    r"([0-9]{8}T[0-9]{6})\.([0-9]{9})Z,([0-9a-f]{32})"
    r"(?:,size=([0-9]{1,10}))?(?:,crc=([0-9a-f]{8}))?"  # nearly every name has these two, and most no others
    r"((?:,[a-z]+=[A-Za-z0-9._+-]+)*)\.([a-z0-9]{1,7})"
)
# The form that nearly all leased messages have.
_PLAINLY_HELD: Final = re.compile(
    r"([0-9]{8}T[0-9]{6})\.[0-9]{9}Z,[0-9a-f]{32},size=[0-9]{1,10},crc=[0-9a-f]{8}(?:,head=[0-9]{1,10})?"
    r",until=([0-9]{8}T[0-9]{6})(?:\.[0-9]{3})?Z(?:,by=([0-9a-f]{1,8}))?,claim=[0-9a-f]{1,8}\.[a-z0-9]{1,7}"
)
_INSTANT: Final = re.compile(r"([0-9]{8}T[0-9]{6})(?:\.([0-9]{3}))?Z")
_RUN: Final = re.compile(r"([A-Za-z])([0-9]*)")
_TRIES: Final = re.compile(r"(?:X[0-9]{0,9}|[ENTKR][0-9]{0,6}|[rjxtul])+")
_PRIORITIES: Final = frozenset("123456789")
_HEX: Final = re.compile(r"[0-9a-f]{1,8}")
_DIGITS: Final = re.compile(r"[0-9]{1,10}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,3})?")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._+-]")


class MessageName(NamedTuple):
    """A file name, read: what a directory knows of a message. See :class:`mailq.message.Envelope`.

    Times are nanoseconds since 1970. ``visible_at`` is the leading time. ``until`` is the earliest end
    of the lease. ``tries`` is kept as it is spelled in the name. ``edit`` is the state
    that a message came from which is leased to be edited, and not claimed.
    """

    visible_at: int
    id: str
    ext: str = "bin"
    size: int | None = None
    crc: int | None = None
    header_bytes: int = 0
    file_name: str = ""
    priority: int = 0
    lease: float | None = None
    max_retries: int | None = None
    ttl: float | None = None
    tries: str = ""
    source_queue: str = ""
    until: int | None = None
    owner: str = ""
    claim: str = ""
    edit: RestingState | Literal[""] = ""
    dead: bool = False

    @property
    def attempts(self) -> int:
        """The number of attempts finished since the message was pushed or last died."""
        count = 0
        for letter, times in _runs(self.tries):
            count = count + times if letter in _COUNTED else 0
        return count

    @property
    def total_attempts(self) -> int:
        """The number of attempts finished in the message's whole life."""
        return sum(times for letter, times in _runs(self.tries) if letter in _COUNTED)

    @property
    def reason(self) -> str:
        """Why the message last died, as one word; empty if it never did."""
        marks = [letter for letter in self.tries if letter in DEATHS]
        return DEATHS[marks[-1]] if marks else ""

    @property
    def pushed_at(self) -> int:
        """When the message was pushed, in nanoseconds: the id carries it."""
        return id_time(self.id) or self.visible_at

    def claimed(self, *, until: int, owner: str, claim: str) -> MessageName:
        """The name of the message while a consumer holds it."""
        return MessageName._make((*self[:_CLAIM], until, owner, claim, "", False))

    def after(self, step: Step) -> MessageName:
        """The name of the message when it has gone where a step says. A death ends its ttl."""
        tries = self.tries
        if step.outcome or step.reason:
            tries = add_letters(tries, _LETTERS[step.outcome] + _MARKS[step.reason])
        ttl = self.ttl if step.state != "dead" else None
        return self.at_rest(step.state)._replace(visible_at=step.visible_at, tries=tries, ttl=ttl)

    def at_rest(self, state: RestingState) -> MessageName:
        """The name of the message while nobody holds it, and otherwise as it is."""
        return self._replace(until=None, owner="", claim="", edit="", dead=state == "dead")

    def redriven(self, *, visible_at: int) -> MessageName:
        """The name of a dead message that is to be tried again, at the end of the line."""
        return self.at_rest("ready")._replace(visible_at=visible_at, source_queue="")


_CLAIM: Final = MessageName._fields.index("until")
"""The fields from here on say who holds a message, or that nobody will any more."""


def _runs(tries: str) -> list[tuple[str, int]]:
    return [(letter, int(times or 1)) for letter, times in _RUN.findall(tries)]


def _spell(runs: list[tuple[str, int]]) -> str:
    spelled = []
    for letter, times in runs:
        if times > _MOST_TIMES:  # a number claimed by hand: there are no digits for more
            letter, times = COMPACTED, min(times, _MOST_COMPACTED)  # noqa: PLW2901 - the same run, as it can be spelled
        spelled.append(letter if times == 1 else f"{letter}{times}")
    return "".join(spelled)


def add_letters(tries: str, letters: str) -> str:
    """Append letters of attempts and deaths to ``tries=``, run-length encoded.

    Where that grows too long for a name, the oldest attempts become ``X<count>``; the number of
    attempts stays exact, in all and since the last death.
    """
    runs = _runs(tries)
    for letter in letters:
        if letter in _COUNTED and runs and runs[-1][0] == letter:
            runs[-1] = (letter, runs[-1][1] + 1)
        else:
            runs.append((letter, 1))
    while len(text := _spell(runs)) > _TRIES_LENGTH:
        shorter = _compacted(runs)
        if shorter == runs:
            break
        runs = shorter
    return text


def _compacted(runs: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Make one of the two oldest runs; the last death stays, since the count starts again after it."""
    deaths = [index for index, (letter, _) in enumerate(runs) if letter in DEATHS]
    start = 0
    if deaths and (last := deaths[-1]) < 2:  # noqa: PLR2004 - nothing before the last death is left
        start = last + 1
    if len(runs) - start < 2:  # noqa: PLR2004 - it takes two
        return runs
    both = sum(times for letter, times in runs[start : start + 2] if letter in _COUNTED)
    return [*runs[:start], (COMPACTED, both), *runs[start + 2 :]]


def list_attempts(tries: str) -> list[tuple[int, str]]:
    """List the last attempts of a whole life as (number from 1, outcome), without those that are only counted.

    At most ``MAX_LISTED``: a name can claim any number of attempts.
    """
    attempts: list[tuple[int, str]] = []
    number = sum(times for letter, times in _runs(tries) if letter in _COUNTED)
    for letter, times in reversed(_runs(tries)):
        if letter in DEATHS:
            continue
        if letter == COMPACTED or len(attempts) >= MAX_LISTED:
            break
        listed = min(times, MAX_LISTED - len(attempts))
        attempts.extend((number - i, ATTEMPTS[letter]) for i in range(listed))
        number -= times
    return attempts[::-1]


# Times


@lru_cache(maxsize=4096)
def _spell_second(second: int) -> str:
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(second))


@lru_cache(maxsize=4096)
def _read_second(text: str) -> int:
    fields = (text[:4], text[4:6], text[6:8], text[9:11], text[11:13], text[13:15])
    return int(datetime(*map(int, fields), tzinfo=UTC).timestamp())  # type: ignore[misc, arg-type] # six ints, then tzinfo


def format_time(ns: int) -> str:
    """Spell an instant as in the front of a name: UTC, nanoseconds, fixed width."""
    second, fraction = divmod(ns, NS)
    return f"{_spell_second(second)}.{fraction:09d}Z"


def parse_time(text: str) -> int | None:
    """Read an instant as the front of a name spells it; None if it is none."""
    try:
        return _read_second(text[:15]) * NS + int(text[16:25])
    except ValueError:
        return None


def format_instant(ns: int) -> str:
    """Spell an instant as in a field: UTC, rounded up to the millisecond."""
    second, fraction = divmod(-(-ns // 1_000_000), 1000)
    return f"{_spell_second(second)}.{fraction:03d}Z" if fraction else f"{_spell_second(second)}Z"


def parse_instant(text: str) -> int:
    """Read an instant as a field spells it. Raises ValueError."""
    found = _INSTANT.fullmatch(text)
    if not found:
        raise ValueError(text)
    return _read_second(found[1]) * NS + int(found[2] or 0) * 1_000_000


def format_seconds(seconds: float) -> str:
    """Spell a duration in seconds, with at most three decimals and no more than it needs."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


# Names


def _number(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _float(text: str) -> float:
    if not _SECONDS.fullmatch(text):
        raise ValueError(text)
    return float(text)


def _crc(text: str) -> int:
    if len(text) != 8 or not _HEX.fullmatch(text):  # noqa: PLR2004 - 32 bits in hex
        raise ValueError(text)
    return int(text, 16)


def _token(text: str) -> str:
    if not _HEX.fullmatch(text):
        raise ValueError(text)
    return text


def _digit(text: str) -> int:
    if len(text) != 1:
        raise ValueError(text)
    return _number(text)


def _resting(text: str) -> str:
    if text not in get_args(RestingState):
        raise ValueError(text)
    return text


def _letters(text: str) -> str:
    if len(text) > _TRIES_LONGEST or not _TRIES.fullmatch(text):
        raise ValueError(text)
    return text


_FIELDS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "size": ("size", _number),
    "crc": ("crc", _crc),
    "head": ("header_bytes", _number),
    "file": ("file_name", str),
    "prio": ("priority", _digit),
    "lease": ("lease", _float),
    "max": ("max_retries", _number),
    "ttl": ("ttl", _float),
    "tries": ("tries", _letters),
    "from": ("source_queue", _token),
    "until": ("until", parse_instant),
    "by": ("owner", _token),
    "claim": ("claim", _token),
    "edit": ("edit", _resting),
    "why": ("dead", bool),
}


def parse(name: str) -> MessageName | None:
    """Read a file name; None if it is not one of ours (then the file is a message dropped in by hand)."""
    found = _CANONICAL.fullmatch(name) if len(name) <= MAX_NAME else None
    if not found:
        return None
    second, fraction, id, size, crc, fields, ext = found.groups()
    try:
        visible_at = _read_second(second) * NS + int(fraction)
        if visible_at < 0:  # before 1970: years are not spelled with four digits far back
            return None
        if size and crc and not fields:
            return MessageName(visible_at, id, ext, int(size), int(crc, 16))
        values: dict[str, object] = {}
        if size:
            values["size"] = int(size)
        if crc:
            values["crc"] = int(crc, 16)
        for field in fields.split(",")[1:]:
            key, _, text = field.partition("=")
            attribute, read = _FIELDS[key]
            if attribute in values:
                return None
            values[attribute] = read(text)
    except (KeyError, ValueError, OverflowError):
        return None
    return MessageName(visible_at, id, ext, **values)  # type: ignore[arg-type] # each reader gives its field's type


def format_name(message: MessageName) -> str:  # noqa: C901 - one line a field, in the order of the specification
    """Spell a message as a file name: the fields that say something, in one fixed order."""
    visible_at, id, ext, size, crc, header_bytes, file_name, priority, lease = message[:9]
    max_retries, ttl, tries, source_queue, until, owner, claim, edit, dead = message[9:]
    name = f"{format_time(visible_at)},{id}"
    if size is not None:
        name += f",size={size}"
    if crc is not None:
        name += f",crc={crc:08x}"
    if header_bytes:
        name += f",head={header_bytes}"
    if file_name:
        name += f",file={file_name}"
    if priority:
        name += f",prio={priority}"
    if lease is not None:
        name += f",lease={format_seconds(lease)}"
    if max_retries is not None:
        name += f",max={max_retries}"
    if ttl is not None:
        name += f",ttl={format_seconds(ttl)}"
    if tries:
        name += f",tries={tries}"
    if source_queue:
        name += f",from={source_queue}"
    if until is not None:
        name += f",until={format_instant(until)}"
    if owner:
        name += f",by={owner}"
    if claim:
        name += f",claim={claim}"
    if edit:
        name += f",edit={edit}"
    if dead:
        name += f",why={message.reason or 'unknown'}"
    name = f"{name}.{ext}"
    # Only the name of a dropped file can make it too long; the record must fit.
    return name if len(name) <= MAX_NAME or not file_name else format_name(message._replace(file_name=""))


def from_dropped_file(name: str, *, visible_at: int, size: int, number: int) -> MessageName:
    """Name a file that a person has put into ``new/``: with an id, and what can be kept of its own name.

    The id follows from the time, the name and the file's number, so that any process that looks before the
    message is claimed sees the id that it will have. Without the number a second file of that name, moved
    there within the same tick of the kernel's clock when the first was just claimed, would have its id.
    """
    raw = os.fsencode(name)
    salt = zlib.crc32(raw) << 22 ^ zlib.crc32(b"%d %b" % (number, raw))
    safe = _UNSAFE.sub("_", raw.decode(errors="replace"))[-_FILE_LENGTH:]
    return MessageName(visible_at, new_id(visible_at, salt), ext=safe_ext(name), size=size, file_name=safe)


def sort_key(name: str) -> str:
    """Order names of ours: higher priority first, then by time.

    Cheap on purpose, since a listing calls it for each name: it does not parse.
    """
    _, found, rest = name.partition(",prio=")
    return (str(MAX_PRIORITY - int(rest[0])) if found and rest[:1] in _PRIORITIES else "9") + name


def with_time_and_id(name: str, now: int, id: str) -> str:
    """A name that ``format_name`` made for a new message, with another time and id."""
    return f"{format_time(now)},{id}{name[_TIME_AND_ID:]}"


def with_time(name: str, ns: int) -> str:
    """A name that ``format_name`` made, with another time."""
    return format_time(ns) + name[_TIME:]


def checksum(data: bytes) -> int:
    """The CRC-32 that a name carries for its file."""
    return zlib.crc32(data)


def is_intact(message: MessageName, data: bytes) -> bool:
    """Whether these bytes are what the name says, as far as it says anything."""
    if message.size is not None and message.size != len(data):
        return False
    if message.header_bytes > len(data):
        return False
    return message.crc is None or message.crc == checksum(data)


def is_token(text: str) -> bool:
    """Whether a text is spelled like the token of an owner."""
    return _HEX.fullmatch(text) is not None


def looks_ours(name: str) -> bool:
    """Whether a name begins like one of ours, so that it sorts by its own time."""
    return len(name) >= _TIME_AND_ID and name[_TIME] == "," and name[8] == "T" and name[25] == "Z"


def id_in(name: str) -> str:
    """The id in a name that looks like one of ours."""
    return name[_TIME + 1 : _TIME_AND_ID]


def plainly_held(name: str) -> tuple[int, str] | None:
    """When a lease ends at the earliest, to the second before, and its owner; None if only ``parse`` can tell.

    Cheap on purpose, as sort_key is: a reaping asks of each lease whether it may have run out.
    """
    found = _PLAINLY_HELD.fullmatch(name)
    if found is None:
        return None
    place, until, owner = found.groups()
    try:
        return (_read_second(until) * NS, owner or "") if _read_second(place) >= 0 else None
    except ValueError:  # no such day
        return None
