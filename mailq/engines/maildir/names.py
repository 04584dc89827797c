"""The file name of a message, which is its record.

A name is ``<time>,<id>[,key=value...].<ext>``; docs/disk-format.md is its
specification. This module turns names into :class:`Envelope` values and back,
and holds the state changes of a message as plain functions from one envelope
to the next. It touches no disk and no clock.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

RestingState = Literal["ready", "delayed", "dead"]
"""The states of a message that is in nobody's hands."""

MAX_NAME: Final = 250
"""No name that mailq writes is longer, in bytes. File systems allow 255."""

MAX_STORY: Final = 1000
"""So many attempts of a message are told one by one; the others are only counted."""

NS: Final = 1_000_000_000
MAX_PRIORITY: Final = 9

# What a finished attempt leaves in ``tries=``.
ERROR, NACK, TIMEOUT, KILLED, REJECT = "E", "N", "T", "K", "R"
FOLDED: Final = "X"
ATTEMPT_LETTERS: Final = frozenset((ERROR, NACK, TIMEOUT, KILLED, REJECT, FOLDED))

# What giving up leaves in ``tries=``, after the letters of the attempts, and the word for it in ``why=``.
DEATHS: Final = {
    "r": "retries",
    "j": "rejected",
    "x": "expired",
    "t": "torn",
    "u": "unreadable",
    "l": "too-large",
}
_MARKS: Final = {word: mark for mark, word in DEATHS.items()}

END_OF_TIME: Final = 253_402_300_800 * NS  # the year 10000, which a name has no room for
_TIME: Final = 26
"""So many characters at the front of a name are its time."""

_BORN: Final = 59
"""So many characters at the front of a name, the time and the id, are there from birth; then come the fields."""

_TRIES_LENGTH: Final = 16
_TRIES_LONGEST: Final = 23  # what cannot be folded any more; a claim still fits into a name behind it
_MOST_TIMES: Final = 999_999
_MOST_FOLDED: Final = 999_999_999
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
_ID: Final = re.compile(r"[0-9a-f]{32}")
_HEX: Final = re.compile(r"[0-9a-f]{1,8}")
_DIGITS: Final = re.compile(r"[0-9]{1,10}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,3})?")
_EXT: Final = re.compile(r"[a-z0-9]{1,7}")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._+-]")


class Envelope(NamedTuple):
    """Everything a state change needs to know of a message, as its name says it.

    ``place`` is the leading time in nanoseconds: the place in line in ``new/``,
    the due time in ``later/``. ``until`` is the earliest end of the lease, in
    nanoseconds. ``tries`` is kept as it is spelled in the name. ``edit`` is the state
    that a message came from which is leased to be edited, and not claimed.
    """

    place: int
    id: str
    ext: str = "bin"
    size: int | None = None
    crc: int | None = None
    head: int = 0
    file: str = ""
    priority: int = 0
    lease: float | None = None
    max_retries: int | None = None
    ttl: float | None = None
    tries: str = ""
    origin: str = ""
    until: int | None = None
    owner: str = ""
    claim: str = ""
    edit: RestingState | Literal[""] = ""
    dead: bool = False

    @property
    def attempts(self) -> int:
        """How many attempts are finished since the message was pushed or last given up on."""
        count = 0
        for letter, times in _runs(self.tries):
            count = count + times if letter in ATTEMPT_LETTERS else 0
        return count

    @property
    def attempts_ever(self) -> int:
        """How many attempts are finished in the message's whole life."""
        return sum(times for letter, times in _runs(self.tries) if letter in ATTEMPT_LETTERS)

    @property
    def why(self) -> str:
        """Why the message was last given up on, as one word; empty if it never was."""
        marks = [letter for letter in self.tries if letter in DEATHS]
        return DEATHS[marks[-1]] if marks else ""

    @property
    def pushed(self) -> int:
        """When the message was pushed, in nanoseconds: the id carries it."""
        return id_time(self.id) or self.place

    def claimed(self, *, until: int, owner: str, claim: str) -> Envelope:
        """The message in a consumer's hands."""
        return Envelope._make((*self[:_CLAIM], until, owner, claim, "", False))

    def at_rest(self, state: RestingState) -> Envelope:
        """The message in nobody's hands, and otherwise as it is."""
        return self._replace(until=None, owner="", claim="", edit="", dead=state == "dead")

    def returned(self, *, place: int, letter: str = "") -> Envelope:
        """The message back in line, or waiting in ``later/``; no letter, no attempt counted."""
        tries = add_try(self.tries, letter) if letter else self.tries
        return self._replace(place=place, tries=tries, until=None, owner="", claim="", edit="", dead=False)

    def buried(self, why: str, *, letter: str = "") -> Envelope:
        """The message given up on: the count of attempts starts again after this, and its ttl is over."""
        tries = add_try(self.tries, letter + _MARKS[why])
        return self._replace(tries=tries, ttl=None, until=None, owner="", claim="", edit="", dead=True)

    def redriven(self, *, place: int) -> Envelope:
        """The message taken back from the dead, at the end of the line."""
        return self.at_rest("ready")._replace(place=place, origin="")


_CLAIM: Final = Envelope._fields.index("until")
"""The fields from here on say who holds a message, or that nobody will any more."""


def _runs(tries: str) -> list[tuple[str, int]]:
    return [(letter, int(times or 1)) for letter, times in _RUN.findall(tries)]


def _spell(runs: list[tuple[str, int]]) -> str:
    spelled = []
    for letter, times in runs:
        if times > _MOST_TIMES:  # a number claimed by hand: there are no digits for more
            letter, times = FOLDED, min(times, _MOST_FOLDED)  # noqa: PLW2901 - the same run, as it can be spelled
        spelled.append(letter if times == 1 else f"{letter}{times}")
    return "".join(spelled)


def add_try(tries: str, letters: str) -> str:
    """Append letters to the story of attempts, run-length encoded.

    A story that grows too long for a name folds its oldest attempts into
    ``X<count>``; the number of attempts stays exact, in all and since the last
    death.
    """
    runs = _runs(tries)
    for letter in letters:
        if letter in ATTEMPT_LETTERS and runs and runs[-1][0] == letter:
            runs[-1] = (letter, runs[-1][1] + 1)
        else:
            runs.append((letter, 1))
    while len(text := _spell(runs)) > _TRIES_LENGTH:
        shorter = _fold(runs)
        if shorter == runs:
            break
        runs = shorter
    return text


def _fold(runs: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Fold the two oldest runs into one; the last death stays, since the count starts again after it."""
    deaths = [index for index, (letter, _) in enumerate(runs) if letter in DEATHS]
    start = 0
    if deaths and (last := deaths[-1]) < 2:  # noqa: PLR2004 - nothing before the last death is left to fold
        start = last + 1
    if len(runs) - start < 2:  # noqa: PLR2004 - a fold takes two
        return runs
    both = sum(times for letter, times in runs[start : start + 2] if letter in ATTEMPT_LETTERS)
    return [*runs[:start], (FOLDED, both), *runs[start + 2 :]]


def story(tries: str) -> list[tuple[int, str]]:
    """List the last attempts of a whole life as (number from 1, letter); folded ones are left out.

    At most ``MAX_STORY``: a name can claim any number of attempts.
    """
    attempts: list[tuple[int, str]] = []
    number = sum(times for letter, times in _runs(tries) if letter in ATTEMPT_LETTERS)
    for letter, times in reversed(_runs(tries)):
        if letter in DEATHS:
            continue
        if letter == FOLDED or len(attempts) >= MAX_STORY:
            break
        listed = min(times, MAX_STORY - len(attempts))
        attempts.extend((number - i, letter) for i in range(listed))
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


# Ids


def new_id(ns: int, salt: int | None = None) -> str:
    """Make a UUIDv7 (RFC 9562, section 5.7) in hex for an instant.

    The 20 bits after the milliseconds hold the nanoseconds within it, as the
    RFC's section 6.2 allows: the id carries the exact time of the push. The last
    54 bits are random, or ``salt``.
    """
    milli, nano = divmod(ns, 1_000_000)
    if salt is None:
        salt = int.from_bytes(os.urandom(7))
    high = (milli & (1 << 48) - 1) << 16 | 7 << 12 | nano >> 8
    low = 2 << 62 | (nano & 0xFF) << 54 | salt & (1 << 54) - 1
    return f"{high << 64 | low:032x}"


def id_time(id: str) -> int | None:
    """The instant that an id of ours carries, in nanoseconds; None for ids made otherwise."""
    if id[12] != "7" or id[16] not in "89ab":
        return None
    nano = int(id[13:16], 16) << 8 | int(id[16:20], 16) >> 6 & 0xFF
    ns = int(id[:12], 16) * 1_000_000 + min(nano, 999_999)
    return ns if ns < END_OF_TIME else None


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
    "head": ("head", _number),
    "file": ("file", str),
    "prio": ("priority", _digit),
    "lease": ("lease", _float),
    "max": ("max_retries", _number),
    "ttl": ("ttl", _float),
    "tries": ("tries", _letters),
    "from": ("origin", _token),
    "until": ("until", parse_instant),
    "by": ("owner", _token),
    "claim": ("claim", _token),
    "edit": ("edit", _resting),
    "why": ("dead", bool),
}


def parse(name: str) -> Envelope | None:
    """Read a file name; None if it is not one of ours (then the file is a message dropped in by hand)."""
    found = _CANONICAL.fullmatch(name) if len(name) <= MAX_NAME else None
    if not found:
        return None
    second, fraction, id, size, crc, fields, ext = found.groups()
    try:
        place = _read_second(second) * NS + int(fraction)
        if place < 0:  # before 1970: years are not spelled with four digits far back
            return None
        if size and crc and not fields:
            return Envelope(place, id, ext, int(size), int(crc, 16))
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
    return Envelope(place, id, ext, **values)  # type: ignore[arg-type] # each reader gives its field's type


def format_name(envelope: Envelope) -> str:  # noqa: C901 - one line a field, in the order of the specification
    """Spell an envelope as a file name: the fields that say something, in one fixed order."""
    place, id, ext, size, crc, head, file, priority, lease = envelope[:9]
    max_retries, ttl, tries, origin, until, owner, claim, edit, dead = envelope[9:]
    name = f"{format_time(place)},{id}"
    if size is not None:
        name += f",size={size}"
    if crc is not None:
        name += f",crc={crc:08x}"
    if head:
        name += f",head={head}"
    if file:
        name += f",file={file}"
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
    if origin:
        name += f",from={origin}"
    if until is not None:
        name += f",until={format_instant(until)}"
    if owner:
        name += f",by={owner}"
    if claim:
        name += f",claim={claim}"
    if edit:
        name += f",edit={edit}"
    if dead:
        name += f",why={envelope.why or 'unknown'}"
    name = f"{name}.{ext}"
    # Only the name of a dropped file can make it too long; the record must fit.
    return name if len(name) <= MAX_NAME or not file else format_name(envelope._replace(file=""))


def adopt(name: str, *, place: int, size: int, number: int) -> Envelope:
    """Give a file that was dropped in by hand an envelope: an id, and what can be kept of its name.

    The id follows from the place, the name and the file's number, so that whoever looks before the
    message is claimed sees the id that it will have. Without the number a second file of that name, moved
    there within the same tick of the kernel's clock when the first was just claimed, would have its id.
    """
    raw = os.fsencode(name)
    salt = zlib.crc32(raw) << 22 ^ zlib.crc32(b"%d %b" % (number, raw))
    safe = _UNSAFE.sub("_", raw.decode(errors="replace"))[-_FILE_LENGTH:]
    return Envelope(place, new_id(place, salt), ext=safe_ext(name), size=size, file=safe)


def safe_ext(name: str) -> str:
    """The extension of a file name, if a name of ours can carry it; else ``bin``."""
    ext = name.rpartition(".")[2].lower() if "." in name else ""
    return ext if _EXT.fullmatch(ext) else "bin"


def sort_key(name: str) -> str:
    """Order names of ours: higher priority first, then by time.

    Cheap on purpose, since a listing calls it for each name: it does not parse.
    """
    _, found, rest = name.partition(",prio=")
    return (str(MAX_PRIORITY - int(rest[0])) if found and rest[:1] in _PRIORITIES else "9") + name


def born_at(name: str, now: int, id: str) -> str:
    """A name that ``format_name`` made for a new message, as if made now, with this id."""
    return f"{format_time(now)},{id}{name[_BORN:]}"


def placed_at(name: str, place: int) -> str:
    """A name that ``format_name`` made, with another place in line."""
    return format_time(place) + name[_TIME:]


def is_id(text: str) -> bool:
    """Whether a text is spelled like an id."""
    return _ID.fullmatch(text) is not None


def is_token(text: str) -> bool:
    """Whether a text is spelled like the token of an owner."""
    return _HEX.fullmatch(text) is not None


def looks_ours(name: str) -> bool:
    """Whether a name begins like one of ours, so that it sorts by its own time."""
    return len(name) >= _BORN and name[_TIME] == "," and name[8] == "T" and name[25] == "Z"


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
