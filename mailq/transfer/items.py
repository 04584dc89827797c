"""What an archive holds: messages, and what is wrong with those that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from mailq.engines.maildir import names
from mailq.engines.maildir.names import checksum, is_intact
from mailq.errors import MailqError, MessageTooLarge
from mailq.message import MAX_HEADERS, RestingState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailq.engines.maildir.names import MessageName
    from mailq.settings import Settings

Format = Literal["tar", "jsonl"]
Kept = RestingState
"""The states in an archive: nobody there holds a message."""

MAX_TEXT: Final = 65_536
"""An error text takes at most this many bytes, as in the queue."""


class ArchiveDamaged(MailqError, ValueError):
    """The archive cannot be read on from ``where``: it was cut off, or is none. What came before is whole."""

    def __init__(self, where: str, why: str) -> None:
        self.where = where
        self.why = why
        super().__init__(f"{where}: {why}")


class NoArchive(ArchiveDamaged):
    """This is no archive at all."""

    def __init__(self, why: str) -> None:
        super().__init__("this is no archive", f"{why}; 'mailq push --file' takes a file as a message")


class Text(NamedTuple):
    """The error text of an attempt; ``at`` is when it was written, in nanoseconds."""

    number: int
    data: bytes
    at: int


class Item(NamedTuple):
    """A message in an archive. ``at`` is the time of death in nanoseconds, ``where`` its place in the archive."""

    state: Kept
    envelope: MessageName
    data: bytes
    at: int | None = None
    texts: tuple[Text, ...] = ()
    where: str = ""


class Flaw(NamedTuple):
    """Something in the archive that is refused, and why."""

    where: str
    why: str


class Writer(Protocol):
    """A format, written: ``begin``, each message, ``end``."""

    def begin(self, text: str, settings: Settings, at: int) -> None:
        """What comes before the messages; ``text`` is the queue's mailq.toml, written ``at`` that time."""

    def add(self, item: Item) -> None:
        """One message."""

    def end(self) -> None:
        """Say that this was all."""


class Reader(Protocol):
    """A format, read as a stream."""

    strays: int
    """How many error texts had no message with them, so far."""

    def settings(self) -> str | None:
        """The mailq.toml that the archive begins with, if it does. Before ``items``."""

    def items(self, most: int) -> Iterator[Item | Flaw]:
        """The messages; one of more than ``most`` bytes is a flaw. Raises ArchiveDamaged."""


def is_torn(item: Item) -> bool:
    """Whether it is known as torn: kept among the dead as evidence, whatever its bytes are."""
    return item.state == "dead" and item.envelope.reason == names.DEATHS["t"]


def checked(item: Item, most: int) -> Item | Flaw:
    """An item fit to be stored, sealed, with an envelope that a name can spell; else why not."""
    envelope = item.envelope
    if len(item.data) > most:
        return Flaw(item.where, str(MessageTooLarge(len(item.data), most)))
    if not is_torn(item):
        if not is_intact(envelope, item.data):
            return Flaw(item.where, f"its {len(item.data)} bytes are not what its size and checksum say")
        if envelope.header_bytes > MAX_HEADERS:
            return Flaw(
                item.where, f"its headers take {envelope.header_bytes} bytes, at most {MAX_HEADERS} are allowed"
            )
        envelope = envelope._replace(size=len(item.data), crc=checksum(item.data))
    name = names.format_name(envelope.at_rest(item.state))
    read = names.parse(name)
    if read is None:
        return Flaw(item.where, f"{name[: names.MAX_NAME]!a} is not a name of this format")
    # The longest that a claim makes it: ``until`` with its milliseconds.
    claimed = read.claimed(until=1, owner="f" * 8, claim="f" * 8)
    if len(names.format_name(claimed)) > names.MAX_NAME:
        return Flaw(item.where, "its name would be too long when it is claimed")
    return item._replace(envelope=read)
