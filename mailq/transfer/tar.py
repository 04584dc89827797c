"""The archive as a tar: a queue's directory, so that a plain ``tar xf`` makes a queue of it.

Written in the pax format, one member a message under its name of the disk format, in
front of each message its error texts. Read as a stream, with bounded memory; no
name in it ever becomes a path.
"""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING, Final, NamedTuple

from mailq.engines.maildir import names
from mailq.engines.maildir.layout import DIRECTORIES, MARKER, directory_mode
from mailq.ids import NS
from mailq.transfer.items import MAX_TEXT, ArchiveDamaged, Flaw, Item, NoArchive, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from mailq.settings import Settings
    from mailq.transfer.compression import Peekable
    from mailq.transfer.items import Kept

_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK
_MOST_EXTRA: Final = 65_536
"""The longest pax header or long name that is read: a path has 4096 bytes at most."""

_RECORDS: Final = (_RECORD, *(_BLOCK << power for power in range(5, 12)))
"""The end is filled up to one of these: everybody's default, or what was asked of ``tar -b`` for a tape."""

_AT_END: Final = "tmp"
"""The directory that is the last member of an export, and says how many messages came before."""

_ANNOUNCED: Final = "mailq export; its last member says how many messages it has"
_COUNT: Final = re.compile(r"mailq export of ([0-9]{1,18}) messages")
_ZEROS: Final = "what a power cut or a bad disk leaves"

_MOST_SETTINGS: Final = 65_536
_HELD: Final = 8 << 20
"""So many bytes of error texts may wait for their messages; ours stand right in front of them."""

_STATES: Final[dict[str, Kept]] = {"new": "ready", "cur": "ready", "later": "delayed", "dead": "dead"}
_DIRECTORY_OF: Final[dict[Kept, str]] = {"ready": "new", "delayed": "later", "dead": "dead"}
_ELSEWHERE: Final = frozenset(("tmp", "owners", "replies", "origins"))
_TEXT_NAME: Final = re.compile(r"([0-9a-f]{32})\.(0|[1-9][0-9]{0,9})\.txt")
_PAX_LENGTH: Final = re.compile(rb"([1-9][0-9]{0,8}) ")
_PAX_TIME: Final = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9})[0-9]*)?")
_REGULAR: Final = frozenset((tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE))
_WITHOUT_DATA: Final = frozenset(
    (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
)


class TarWriter:
    """Writes a tar. The same message gives the same bytes: owner and times of files are not kept where they mean nothing."""

    def __init__(self, stream: BinaryIO, clock: Callable[[], int]) -> None:
        self._stream = stream
        self._clock = clock
        self._written = self._messages = 0
        self._mode = 0o600
        self._last: tarfile.TarInfo

    def begin(self, text: str, settings: Settings, at: int) -> None:
        """The settings with the identity, and every directory but the one at the end."""
        self._mode = int(settings.file_mode, 8)
        self._put(MARKER, text.encode(), at, {"comment": _ANNOUNCED})
        for name in DIRECTORIES:
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, directory_mode(settings)
            info.mtime = at // NS
            if name == _AT_END:
                self._last = info
            else:
                self._write(info.tobuf(tarfile.PAX_FORMAT))

    def add(self, item: Item) -> None:
        """The error texts, then the message: whoever reads has them by then."""
        for number, data, at in item.texts:
            self._put(f"errors/{item.envelope.id}.{number}.txt", data, at)
        # A ready message's mtime would lengthen its next lease if it were in the future.
        at = item.at if item.at is not None else min(item.envelope.pushed_at, self._clock())
        # The time of death, to the nanosecond.
        more = {"mtime": f"{at // NS}.{at % NS:09d}"} if item.state == "dead" else {}
        self._put(f"{_DIRECTORY_OF[item.state]}/{names.format_name(item.envelope)}", item.data, at, more)
        self._messages += 1

    def end(self) -> None:
        """How many messages there were, two empty blocks, and filled up to a record.

        The count is a comment: of any other key GNU tar says on stderr that it does not know it. In a
        global header Python's tarfile would not read it behind the last member.
        """
        self._last.pax_headers = {"comment": f"mailq export of {self._messages} messages"}
        self._write(self._last.tobuf(tarfile.PAX_FORMAT))
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._written % _RECORD))

    def _put(self, name: str, data: bytes, at: int, more: dict[str, str] | None = None) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), self._mode, at // NS
        info.pax_headers = more or {}
        self._write(info.tobuf(tarfile.PAX_FORMAT))
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._written += len(data)


class _Member(NamedTuple):
    """A header: what comes, and how much of it."""

    name: str
    kind: bytes
    size: int
    at: int
    where: str


class TarReader:
    """Reads a tar, written by an export or of a queue's directory."""

    def __init__(self, stream: Peekable) -> None:
        self._stream = stream
        self._count = 0
        self._length = 0
        self._rest = 0
        self._next: _Member | None = None
        self._ended = False
        self._announced = False
        self._messages = 0
        self._texts: dict[str, list[Text]] = {}
        self._held = 0
        self.strays = 0

    def settings(self) -> str | None:
        """The settings, if they come before any message."""
        while (member := self._member()) is not None:
            if _path_of(member.name) == (MARKER,) and member.kind in _REGULAR:
                if member.size > _MOST_SETTINGS:
                    raise ArchiveDamaged(member.where, f"{member.size} bytes are no settings")
                return self._read(member.size, member.where).decode(errors="replace")
            if member.kind != tarfile.DIRTYPE:
                self._next = member
                return None
        return None

    def items(self, most: int) -> Iterator[Item | Flaw]:
        """The messages. The other files of a queue are passed over."""
        while (member := self._member()) is not None:
            path = _path_of(member.name)
            if path is None:
                yield Flaw(member.where, "this is no path within a queue")
            elif member.kind == tarfile.DIRTYPE or _is_passed_over(path):
                continue
            elif len(path) != 2 or path[0] not in {*_STATES, "errors"}:  # noqa: PLR2004 - a directory and a name
                yield Flaw(member.where, "there is nothing of that name in a queue")
            elif member.kind not in _REGULAR:
                yield Flaw(member.where, "this is not a regular file; links, devices and FIFOs are no messages")
            elif path[0] == "errors":
                yield from self._hold(member, path[1])
            else:
                yield self._item(member, path[0], path[1], most)
        self.strays += sum(map(len, self._texts.values()))

    def _item(self, member: _Member, directory: str, name: str, most: int) -> Item | Flaw:
        envelope = names.parse(name)
        if envelope is None:
            return Flaw(
                member.where, "this is not a name of the format; 'mailq push --file' makes a message of any file"
            )
        if member.size > most:
            return Flaw(member.where, f"it has {member.size} bytes, the queue takes {most}; raise max_message_bytes")
        data = self._read(member.size, member.where)
        state = (directory == "cur" and envelope.edit) or _STATES[directory]
        texts = tuple(self._texts.pop(envelope.id, ()))
        self._held -= sum(len(text.data) for text in texts)
        return Item(state, envelope, data, member.at if state == "dead" else None, texts, member.where)

    def _hold(self, member: _Member, name: str) -> Iterator[Flaw]:
        """Keep an error text for the message that follows."""
        found = _TEXT_NAME.fullmatch(name)
        if found is None or member.size > MAX_TEXT:
            yield Flaw(member.where, "this is no error text of a message")
            return
        if self._held + member.size > _HELD or len(self._texts) > _HELD // MAX_TEXT:
            self.strays += sum(map(len, self._texts.values()))
            self._texts.clear()
            self._held = 0
        text = Text(int(found[2]), self._read(member.size, member.where), member.at)
        self._texts.setdefault(found[1], []).append(text)
        self._held += member.size

    # Blocks

    def _member(self) -> _Member | None:
        """The next header; None at the end of the archive."""
        if self._next is not None:
            member, self._next = self._next, None
            return member
        if self._ended:
            return None
        self._skip()
        extra: dict[str, str] = {}
        while True:
            block = self._exactly(_BLOCK, f"after {self._count} members")
            if not any(block):
                self._end()
                return None
            info = self._header(block)
            if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                extra |= _pax(self._extra(info))
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                extra["path"] = self._extra(info).rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
                self._extra(info)
            else:
                return self._begin(info, extra)

    def _header(self, block: bytes) -> tarfile.TarInfo:
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError):
            if not self._count:
                raise NoArchive("it begins neither like a tar nor like JSON lines") from None
            raise ArchiveDamaged(
                f"after {self._count} members", "here is no header of a tar; the archive is damaged"
            ) from None
        self._count += 1
        return info

    def _begin(self, info: tarfile.TarInfo, extra: dict[str, str]) -> _Member:
        name = extra.get("path", info.name)
        where = f"member {name[:300]!a}"
        spelled = extra.get("size", "")
        size = int(spelled) if re.fullmatch("[0-9]{1,18}", spelled) else info.size
        if size < 0:
            raise ArchiveDamaged(where, f"its size is {size}; the archive is damaged")
        self._rest = 0 if info.type in _WITHOUT_DATA else size + -size % _BLOCK
        self._tally(name, extra.get("comment", ""), where)
        found = _PAX_TIME.fullmatch(extra.get("mtime", ""))
        at = int(found[1]) * NS + int((found[2] or "").ljust(9, "0")) if found else int(info.mtime) * NS
        return _Member(name, info.type, size, max(0, at), where)

    def _extra(self, info: tarfile.TarInfo) -> bytes:
        where = f"after {self._count} members"
        if not 0 <= info.size <= _MOST_EXTRA:
            raise ArchiveDamaged(where, f"a header of {info.size} bytes; at most {_MOST_EXTRA} are read")
        data = self._exactly(info.size + -info.size % _BLOCK, where)
        return data[: info.size]

    def _read(self, size: int, where: str) -> bytes:
        self._rest -= size
        return self._exactly(size, where)

    def _skip(self) -> None:
        while self._rest:
            self._rest -= len(self._exactly(min(self._rest, _RECORD), f"after {self._count} members"))

    def _tally(self, name: str, comment: str, where: str) -> None:
        """Count the messages, and compare with what the archive says. Counted is what has the place of one, fit or not."""
        if comment == _ANNOUNCED:
            self._announced, self._messages = True, 0
        elif found := _COUNT.fullmatch(comment):
            self._announced = False
            if self._messages != int(found[1]):
                raise ArchiveDamaged(
                    where, f"there should be {int(found[1])} messages before this, there are {self._messages}"
                )
        else:
            path = _path_of(name) or ()
            self._messages += len(path) == 2 and path[0] in _STATES  # noqa: PLR2004 - a directory and a name

    def _end(self) -> None:
        """See that the zeros are the end of the archive, and not a part of it that was zeroed.

        It is read to its end: who writes into a pipe is not done yet, and a checksum may stand there.
        """
        self._ended = True
        where = f"after {self._count} members"
        if not self._count:
            raise NoArchive(f"it begins with zeros, {_ZEROS}")
        if any(self._exactly(_BLOCK, where)):
            raise ArchiveDamaged(where, f"here are zeros, {_ZEROS}, and more behind them")
        if self._announced:
            raise ArchiveDamaged(
                where, f"here are zeros, {_ZEROS}: the last member, which counts the messages, is missing"
            )
        left = max(_RECORDS)
        end = self._length
        while left > 0 and (data := self._stream.read(_RECORD)):
            if any(data):
                raise ArchiveDamaged(where, "the archive ends here, and something stands behind its end")
            left -= len(data)
            self._length += len(data)
        padding = self._length - end
        if padding >= _RECORD and not any(padding < record and not self._length % record for record in _RECORDS):
            raise ArchiveDamaged(where, f"more zeros than the end of a tar has, {_ZEROS}: {padding} bytes, or more")

    def _exactly(self, size: int, where: str) -> bytes:
        data = self._stream.read(size)
        self._length += len(data)
        if len(data) < size:
            raise ArchiveDamaged(where, "the archive ends here, before its end: it was cut off")
        return data


def _path_of(name: str) -> tuple[str, ...] | None:
    """A member's name as directory and name; None if it leads out of the queue."""
    parts = name.split("/")
    if parts[0] == ".":
        parts = parts[1:]
    while parts and not parts[-1]:  # a directory may end with a slash
        parts.pop()
    return None if any(part in ("", ".", "..") or "\0" in part for part in parts) else tuple(parts)


def _is_passed_over(path: tuple[str, ...]) -> bool:
    """Whether it is something of a queue that is no message: its settings, locks, owners; and all dot-names."""
    return len(path) < 2 or path[0] in _ELSEWHERE or path[-1].startswith(".")  # noqa: PLR2004 - a directory and a name


def _pax(data: bytes) -> dict[str, str]:
    """The records of a pax header; what is no record ends them."""
    records = {}
    while (found := _PAX_LENGTH.match(data)) is not None and (length := int(found[1])) > found.end():
        key, _, value = data[found.end() : length].removesuffix(b"\n").partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return records
