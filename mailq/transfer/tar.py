"""The archive as a tar: a queue's directory, so that a plain ``tar xf`` makes a queue of it.

Written in the pax format, one member a message under its name of the disk format, in
front of each message its error texts. Read as a stream, with bounded memory; no
name in it ever becomes a path.

tarfile reads the headers. The walk from member to member is not TarFile's: it keeps every member, and takes a damaged
header for the end of the archive, as well as a cut between two members. Nor has it a limit of what a header may have.
"""

from __future__ import annotations

import re
import tarfile
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from mailq.engines.maildir import error_texts, names
from mailq.engines.maildir.layout import DIRECTORIES, MARKER, directory_mode
from mailq.ids import NS
from mailq.transfer.items import ArchiveDamaged, ErrorText, Item, NotAnArchive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailq.message import RestingState
    from mailq.settings import Settings

_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK
_RECORDS: Final = (_RECORD, *(_BLOCK << power for power in range(5, 12)))
"""The end is filled up to one of these: the default of each tar, or what ``tar -b`` asks for on a tape."""

_MOST_SETTINGS: Final = 65_536
_MOST_HEADERS: Final = 65_536
"""The bytes that the headers of one member may have: a path has at most 4096."""

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
_TIME: Final = re.compile(r"([0-9]{1,40})(?:\.([0-9]{1,9})[0-9]*)?")


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
    """Reads a tar, written by an export or of a queue's directory. It is also the file that tarfile reads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._members = self._read_members()
        self._length = self._may_read = self._count = self._messages = 0
        self._is_announced = False
        self._texts: dict[str, list[ErrorText]] = {}
        self._held = self.strays = 0

    def settings(self) -> str | None:
        """Return the settings, if they come before any message."""
        for member in self._members:
            if _path_of(member) == (MARKER,) and member.isreg():
                if member.size > _MOST_SETTINGS:
                    raise self._damaged(f"mailq.toml has {member.size} bytes, settings have {_MOST_SETTINGS} at most")
                return self._data(member).decode(errors="replace")
            if not member.isdir():
                self._members = chain((member,), self._members)
                break
        return None

    def items(self, most: int) -> Iterator[tuple[str, Item | str]]:
        """Yield where each message stands, and it, or why it is refused."""
        for member in self._members:
            found = self._item(member, most)
            if found is not None:
                yield f"member {member.name[:300]!a}", found
        self._let_go()

    def _item(self, member: tarfile.TarInfo, most: int) -> Item | str | None:  # noqa: PLR0911 - one a reason
        """None for an error text, which is kept, and for the other files of a queue: all dot-names belong to these."""
        path = _path_of(member)
        if path is None:
            return "this is not a path within a queue"
        if member.isdir() or len(path) < 2 or path[0] in _ELSEWHERE or path[-1].startswith("."):  # noqa: PLR2004 - a directory and a name
            return None
        if len(path) > 2 or path[0] not in {*_STATES, "errors"}:  # noqa: PLR2004 - as above
            return "there is nothing of that name in a queue"
        if not member.isreg() or member.issparse():
            return "this is not a regular file; links, devices and FIFOs are not messages"
        if path[0] == "errors":
            found = _TEXT_NAME.fullmatch(path[1])
            if found is None or member.size > error_texts.LONGEST:
                return "this is not an error text of a message"
            self._hold(found[1], ErrorText(int(found[2]), self._data(member), _time_of(member)))
            return None
        envelope = names.parse(path[1])
        if envelope is None:
            return "this is not a name of the format; 'mailq push --file' makes a message of any file"
        if member.size > most:
            return f"it has {member.size} bytes, the queue takes {most}; raise max_message_bytes"
        state = (path[0] == "cur" and envelope.edit) or _STATES[path[0]]
        texts = tuple(self._texts.pop(envelope.id, ()))
        self._held -= sum(len(text.data) + _BLOCK for text in texts)
        return Item(state, envelope, self._data(member), _time_of(member) if state == "dead" else None, texts)

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

    def _read_members(self) -> Iterator[tarfile.TarInfo]:
        """Yield each member, with all that the headers in front of it say. What is not read of its data is skipped."""
        archive = tarfile.TarFile(fileobj=cast("Any", self), mode="w")  # "r" would read a header by itself
        while True:
            self._may_read = _MOST_HEADERS
            try:
                member = tarfile.TarInfo.fromtarfile(archive)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # typeshed has its parent only
                return self._check_end()
            except ArchiveDamaged:
                raise
            except (tarfile.HeaderError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
                if not self._count:
                    raise NotAnArchive("it begins neither like a tar nor like JSON lines") from None
                raise self._damaged(f"a header is damaged: {error}") from None
            archive.pax_headers = {}  # what a global header says of all that follow
            self._count += 1
            self._check_count(member)
            yield member
            while (left := archive.offset - self._length) > 0:
                self._may_read = _RECORD
                self.read(min(left, _RECORD))

    def _data(self, member: tarfile.TarInfo) -> bytes:
        self._may_read = member.size
        return self.read(member.size)

    def read(self, size: int) -> bytes:
        """Read exactly this many bytes; all headers of one member have only a few. Raises ArchiveDamaged."""
        if not 0 <= size <= self._may_read:
            raise self._damaged(f"a header or a size of {size} bytes; at most {self._may_read} are read")
        data = self._stream.read(size)
        self._length += size
        self._may_read -= size
        if len(data) < size:
            raise self._damaged("the archive ends here, before its end: it was cut off")
        return data

    def tell(self) -> int:
        """Return the number of bytes that were read."""
        return self._length

    def _damaged(self, why: str) -> ArchiveDamaged:
        return ArchiveDamaged(f"after {self._count} members: {why}")

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
        self._may_read = _BLOCK
        if any(self.read(_BLOCK)):
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


def _path_of(member: tarfile.TarInfo) -> tuple[str, ...] | None:
    """A member's name as directory and name; None if it leads out of the queue."""
    parts = member.name.split("/")
    if parts[0] == ".":
        del parts[0]
    while parts and not parts[-1]:  # a directory may end with a slash
        parts.pop()
    return None if {"", ".", ".."} & set(parts) or "\0" in member.name else tuple(parts)


def _time_of(member: tarfile.TarInfo) -> int:
    found = _TIME.fullmatch(member.pax_headers.get("mtime", str(member.mtime)))
    return int(found[1]) * NS + int((found[2] or "").ljust(9, "0")) if found else 0
