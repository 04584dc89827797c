"""What an archive holds: messages, and what is refused."""

from __future__ import annotations

from typing import Literal, NamedTuple

from mailq.engines.maildir import names
from mailq.errors import MailqError, MessageTooLarge, UsageError
from mailq.message import MAX_HEADERS, RestingState

Format = Literal["tar", "jsonl"]


def format_of(path: str) -> Format:
    """Return the format that a file's name asks for. Raises UsageError for JSON that is not of lines."""
    plain = path.lower().removesuffix(".gz").removesuffix(".xz")
    if plain.endswith(".json"):
        raise UsageError(f"{path!a}: JSON is written as lines; end the name in .jsonl, or choose a format")
    return "jsonl" if plain.endswith((".jsonl", ".ndjson")) else "tar"


class ArchiveDamaged(MailqError, ValueError):
    """The archive was cut off or damaged. What came before is intact."""


class NotAnArchive(ArchiveDamaged):
    """This is not an archive at all."""

    def __init__(self, why: str) -> None:
        super().__init__(f"this is not an archive: {why}; 'mailq push --file' takes a file as a message")


class ErrorText(NamedTuple):
    """The error text of an attempt; ``at`` is when it was written, in nanoseconds."""

    number: int
    data: bytes
    at: int


class Item(NamedTuple):
    """A message in an archive. ``at`` is the time of death, in nanoseconds."""

    state: RestingState
    envelope: names.MessageName
    data: bytes
    at: int | None = None
    texts: tuple[ErrorText, ...] = ()

    @property
    def is_torn(self) -> bool:
        """Whether it is known as torn: kept among the dead as evidence, whatever its bytes are."""
        return self.state == "dead" and self.envelope.reason == "torn"

    def sealed(self) -> Item | None:
        """Return the item with the size and checksum of its bytes; None if its name says others."""
        if not names.is_intact(self.envelope, self.data):
            return None
        return self._replace(envelope=self.envelope._replace(size=len(self.data), crc=names.checksum(self.data)))


def checked(item: Item, most: int) -> Item | str:
    """Return the item as it can be stored, or why it cannot be; it may have at most ``most`` bytes."""
    if len(item.data) > most:
        return str(MessageTooLarge(len(item.data), most))
    sealed = item if item.is_torn else item.sealed()
    if sealed is None:
        return f"its {len(item.data)} bytes are not what its size and checksum say"
    length = sealed.envelope.header_bytes
    if length > MAX_HEADERS and not item.is_torn:
        return f"its headers take {length} bytes, at most {MAX_HEADERS} are allowed"
    rests = sealed.envelope.at_rest(item.state)
    try:
        name = names.format_name(rests)
    except (ValueError, OverflowError):
        name = ""
    if names.parse(name) != rests:
        return f"no name of the format can say this: {name[: names.MAX_NAME]!a}"
    # The longest that a claim makes it: ``until`` with its milliseconds.
    claimed = rests.claimed(until=1, owner="f" * 8, claim="f" * 8)
    if len(names.format_name(claimed)) > names.MAX_NAME:
        return "its name would be too long when it is claimed"
    return item._replace(envelope=rests)
