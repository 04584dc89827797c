"""The archive as a tar: a queue's directory, so that a plain ``tar xf`` makes a queue of it.

Written in the pax format, one member a message under its name of the disk format, in
front of each message its error texts. Read as a stream, with bounded memory; no
name in it ever becomes a path.

The headers are tarfile's, the walk from one to the next is not: ``TarFile`` takes a damaged header and an archive
that is cut off between two members for its end, keeps every member that it has read, and calls itself once for
each of the headers that belong to one member, whatever their size.
"""

from __future__ import annotations

import re
import tarfile
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from mailq.engines.maildir import error_texts, names
from mailq.engines.maildir.layout import DIRECTORIES, MARKER, directory_mode
from mailq.ids import NS
from mailq.transfer.items import ArchiveDamaged, ErrorText, Flaw, Item, NotAnArchive

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from mailq.message import RestingState
    from mailq.settings import Settings

_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK
_RECORDS: Final = (_RECORD, *(_BLOCK << power for power in range(5, 12)))
"""The end is filled up to one of these: the default of each tar, or what ``tar -b`` asks for on a tape."""

_MOST_EXTRA: Final = 65_536
"""The longest pax header or long name that is read, and the longest settings: a path has 4096 bytes at most."""

_LAST: Final = "tmp"
"""The directory that is the last member of an export, and says how many messages came before."""

_ANNOUNCED: Final = "mailq export; its last member says how many messages it has"
_COUNT: Final = re.compile(r"mailq export of ([0-9]{1,18}) messages")
_ZEROS: Final = "what a power cut or a bad disk leaves"

_HELD: Final = 8 << 20
"""The bytes of error texts that may wait for their messages; those of an export stand right in front of them."""

_STATES: Final[dict[str, RestingState]] = {"new": "ready", "cur": "ready", "later": "delayed", "dead": "dead"}
_DIRECTORY_OF: Final[dict[RestingState, str]] = {"ready": "new", "delayed": "later", "dead": "dead"}
_ELSEWHERE: Final = frozenset(("tmp", "owners", "replies", "origins"))
_TEXT_NAME: Final = re.compile(r"([0-9a-f]{32})\.(0|[1-9][0-9]{0,9})\.txt")
_PAX_LENGTH: Final = re.compile(rb"([1-9][0-9]{0,8}) ")
_PAX_TIME: Final = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9})[0-9]*)?")
_REGULAR: Final = frozenset((tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE))
_WITHOUT_DATA: Final = frozenset(
    (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
)
_PAX: Final = frozenset((tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE))
_EXTRA: Final = _PAX | {tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}


class TarWriter:
    """Writes a tar. The same message gives the same bytes: owner and times of files are kept only where they matter."""

    def __init__(self, stream: BinaryIO, clock: Callable[[], int]) -> None:
        self._stream = stream
        self._clock = clock
        self._written = self._messages = self._begun = 0
        self._file_mode, self._directory_mode = 0o600, 0o700

    def begin(self, text: str, settings: Settings, at: int) -> None:
        """Write the settings with the identity, and every directory except the last member."""
        self._begun, self._file_mode, self._directory_mode = at, int(settings.file_mode, 8), directory_mode(settings)
        self._put(MARKER, at, text.encode(), comment=_ANNOUNCED)
        for name in DIRECTORIES:
            if name != _LAST:
                self._put(name, at)

    def add(self, item: Item) -> None:
        """Write the error texts, then the message: its reader has them by then."""
        for number, data, at in item.texts:
            self._put(f"errors/{item.envelope.id}.{number}.txt", at, data)
        # A ready message's mtime would lengthen its next lease if it were in the future.
        at = item.at if item.at is not None else min(item.envelope.pushed_at, self._clock())
        # The time of death, to the nanosecond.
        exactly = {"mtime": f"{at // NS}.{at % NS:09d}"} if item.state == "dead" else {}
        self._put(f"{_DIRECTORY_OF[item.state]}/{names.format_name(item.envelope)}", at, item.data, **exactly)
        self._messages += 1

    def end(self) -> None:
        """Write the number of messages, two empty blocks, and zeros up to a record.

        The number is a comment: of any other key GNU tar says on stderr that it does not know it. Python's
        tarfile would not read a global header behind the last member.
        """
        self._put(_LAST, self._begun, comment=f"mailq export of {self._messages} messages")
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._written % _RECORD))

    def _put(self, name: str, at: int, data: bytes | None = None, **more: str) -> None:
        """Write a member; without data it is a directory."""
        info = tarfile.TarInfo(name)
        info.mode, info.mtime, info.pax_headers = self._file_mode, at // NS, more
        if data is None:
            info.type, info.mode, data = tarfile.DIRTYPE, self._directory_mode, b""
        info.size = len(data)
        for part in (info.tobuf(tarfile.PAX_FORMAT), data, bytes(-len(data) % _BLOCK)):
            self._write(part)

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._written += len(data)


class TarReader:
    """Reads a tar, written by an export or of a queue's directory."""

    def __init__(self, stream: io.BufferedReader[Any]) -> None:
        self._stream = stream
        self._members = self._read_members()
        self._length = self._count = self._rest = self._messages = 0
        self._is_announced = False
        self._texts: dict[str, list[ErrorText]] = {}
        self._held = self.strays = 0

    def settings(self) -> str | None:
        """Return the settings, if they come before any message."""
        for member in self._members:
            if _path_of(member) == (MARKER,) and member.type in _REGULAR:
                if member.size > _MOST_EXTRA:
                    raise ArchiveDamaged(_where(member), f"{member.size} bytes are not settings")
                return self._read(member).decode(errors="replace")
            if not member.isdir():
                self._members = chain((member,), self._members)
                break
        return None

    def items(self, most: int) -> Iterator[Item | Flaw]:
        """Yield the messages. The other files of a queue are passed over, and all dot-names."""
        for member in self._members:
            path = _path_of(member)
            if path is None:
                yield Flaw(_where(member), "this is not a path within a queue")
            elif member.isdir() or len(path) < 2 or path[0] in _ELSEWHERE or path[-1].startswith("."):  # noqa: PLR2004 - a directory and a name
                continue
            elif len(path) > 2 or path[0] not in {*_STATES, "errors"}:  # noqa: PLR2004 - as above
                yield Flaw(_where(member), "there is nothing of that name in a queue")
            elif member.type not in _REGULAR:
                yield Flaw(_where(member), "this is not a regular file; links, devices and FIFOs are not messages")
            elif path[0] != "errors":
                yield self._item(member, path, most)
            elif (found := _TEXT_NAME.fullmatch(path[1])) is None or member.size > error_texts.LONGEST:
                yield Flaw(_where(member), "this is not an error text of a message")
            else:
                self._hold(found[1], ErrorText(int(found[2]), self._read(member), _time_of(member)))
        self._let_go()

    def _item(self, member: tarfile.TarInfo, path: tuple[str, ...], most: int) -> Item | Flaw:
        where = _where(member)
        envelope = names.parse(path[1])
        if envelope is None:
            return Flaw(where, "this is not a name of the format; 'mailq push --file' makes a message of any file")
        if member.size > most:
            return Flaw(where, f"it has {member.size} bytes, the queue takes {most}; raise max_message_bytes")
        state = (path[0] == "cur" and envelope.edit) or _STATES[path[0]]
        texts = tuple(self._texts.pop(envelope.id, ()))
        self._held -= sum(len(text.data) + _BLOCK for text in texts)
        return Item(state, envelope, self._read(member), _time_of(member) if state == "dead" else None, texts, where)

    def _hold(self, id: str, text: ErrorText) -> None:
        """Keep an error text for the message that follows."""
        self._texts.setdefault(id, []).append(text)
        self._held += len(text.data) + _BLOCK
        if self._held > _HELD:
            self._let_go()

    def _let_go(self) -> None:
        self.strays += sum(map(len, self._texts.values()))
        self._texts.clear()
        self._held = 0

    # Blocks

    def _read_members(self) -> Iterator[tarfile.TarInfo]:
        """Yield each header, with all that the headers in front of it say. What is not read of its data is skipped."""
        while True:
            while self._rest:
                self._rest -= len(self._exactly(min(self._rest, _RECORD)))
            member = self._header({})
            if member is None:
                self._check_end()
                return
            self._rest = 0 if member.type in _WITHOUT_DATA else member.size + -member.size % _BLOCK
            self._check_count(member)
            yield member

    def _header(self, extra: dict[str, str]) -> tarfile.TarInfo | None:
        """The next header; None at a block of zeros."""
        block = self._exactly(_BLOCK)
        while any(block):
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except (tarfile.HeaderError, ValueError):
                if not self._count:
                    raise NotAnArchive("it begins neither like a tar nor like JSON lines") from None
                raise self._damaged("here is no header of a tar; the archive is damaged") from None
            self._count += 1
            if info.type not in _EXTRA:
                size = extra.get("size", "")
                info.size = int(size) if re.fullmatch("[0-9]{1,18}", size) else info.size
                info.name, info.pax_headers = extra.get("path", info.name), extra
                if info.size < 0:
                    raise self._damaged(f"a size of {info.size} bytes; the archive is damaged")
                return info
            if not 0 <= info.size <= _MOST_EXTRA:
                raise self._damaged(f"a header of {info.size} bytes; at most {_MOST_EXTRA} are read")
            data = self._exactly(info.size + -info.size % _BLOCK)[: info.size]
            if info.type in _PAX:
                extra |= _pax(data)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                extra["path"] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            block = self._exactly(_BLOCK)
        return None

    def _read(self, member: tarfile.TarInfo) -> bytes:
        data = self._exactly(member.size)
        self._rest -= member.size
        return data

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._length += len(data)
        if len(data) < size:
            raise self._damaged("the archive ends here, before its end: it was cut off")
        return data

    def _damaged(self, why: str) -> ArchiveDamaged:
        return ArchiveDamaged(f"after {self._count} members", why)

    def _check_count(self, member: tarfile.TarInfo) -> None:
        """Compare the messages so far with what the archive says. Counted is what has the place of one, fit or not."""
        comment = member.pax_headers.get("comment", "")
        if comment == _ANNOUNCED:
            self._is_announced, self._messages = True, 0
        elif found := _COUNT.fullmatch(comment):
            self._is_announced = False
            if self._messages != int(found[1]):
                raise self._damaged(f"there should be {int(found[1])} messages before this, there are {self._messages}")
        else:
            path = _path_of(member) or ()
            self._messages += len(path) == 2 and path[0] in _STATES  # noqa: PLR2004 - a directory and a name

    def _check_end(self) -> None:
        """Make sure that the zeros are the end of the archive, and not a part of it that was zeroed.

        The stream is read to its end: the program that writes into a pipe is not done yet, and a checksum may stand there.
        """
        if not self._count:
            raise NotAnArchive(f"it begins with zeros, {_ZEROS}")
        if any(self._exactly(_BLOCK)):
            raise self._damaged(f"here are zeros, {_ZEROS}, and more behind them")
        if self._is_announced:
            raise self._damaged(f"here are zeros, {_ZEROS}: the last member, which counts the messages, is missing")
        padding = 0
        while padding < max(_RECORDS) and (data := self._stream.read(_RECORD)):
            if any(data):
                raise self._damaged("the archive ends here, and something stands behind its end")
            padding += len(data)
        length = self._length + padding
        if padding >= _RECORD and not any(padding < record and not length % record for record in _RECORDS):
            raise self._damaged(f"more zeros than the end of a tar has, {_ZEROS}: {padding} bytes, or more")


def _where(member: tarfile.TarInfo) -> str:
    return f"member {member.name[:300]!a}"


def _path_of(member: tarfile.TarInfo) -> tuple[str, ...] | None:
    """A member's name as directory and name; None if it leads out of the queue."""
    parts = member.name.split("/")
    if parts[0] == ".":
        del parts[0]
    while parts and not parts[-1]:  # a directory may end with a slash
        parts.pop()
    return None if {"", ".", ".."} & set(parts) or "\0" in member.name else tuple(parts)


def _time_of(member: tarfile.TarInfo) -> int:
    found = _PAX_TIME.fullmatch(member.pax_headers.get("mtime", ""))
    return int(found[1]) * NS + int((found[2] or "").ljust(9, "0")) if found else max(0, int(member.mtime)) * NS


def _pax(data: bytes) -> dict[str, str]:
    """The records of a pax header; anything else ends them."""
    records = {}
    while (found := _PAX_LENGTH.match(data)) is not None and (length := int(found[1])) > found.end():
        key, _, value = data[found.end() : length].removesuffix(b"\n").partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return records
