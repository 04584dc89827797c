"""gzip and xz around an archive: written by the ending of a file's name, read by the first bytes."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import zlib
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, cast

from mailq.transfer.items import ArchiveDamaged

if TYPE_CHECKING:
    from collections.abc import Iterator


DAMAGE: Final = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
"""What decompressing raises when the data ends too early, or is damaged."""


class Peekable(Protocol):
    """A binary stream that lets its next bytes be seen."""

    def peek(self, size: int = 0, /) -> bytes:
        """The next bytes, at least one before the end; they stay."""

    def read(self, size: int = -1, /) -> bytes:
        """So many bytes; fewer only at the end."""

    def readline(self, size: int | None = -1, /) -> bytes:
        """A line with its end, or so many bytes of it."""


@contextlib.contextmanager
def reading(stream: BinaryIO) -> Iterator[Peekable]:
    """The archive without its compression. Raises ArchiveDamaged where that is damaged."""
    if not hasattr(stream, "peek"):
        buffered = io.BufferedReader(cast("io.RawIOBase", stream))
        try:
            with reading(buffered) as plain:
                yield plain
        finally:
            buffered.detach()  # or it would close the stream, which is not ours
        return
    given = cast("Peekable", stream)
    try:
        first = given.peek(1)[:1]
        if first == b"\x1f":
            with gzip.GzipFile(fileobj=cast("BinaryIO", given), mode="rb") as unzipped:
                yield cast("Peekable", unzipped)
        elif first == b"\xfd":
            with lzma.LZMAFile(cast("BinaryIO", given)) as unpacked:
                yield cast("Peekable", unpacked)
        else:
            yield given
    except DAMAGE as error:
        raise ArchiveDamaged("in the compression", f"{error}; the archive was cut off or damaged") from error


@contextlib.contextmanager
def writing(stream: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """The stream, or one in front of it that compresses as the file's name asks for."""
    ending = name.lower().rpartition(".")[2]
    if ending in {"gz", "tgz"}:
        with gzip.GzipFile("", "wb", 6, stream, mtime=0) as zipped:
            yield cast("BinaryIO", zipped)
    elif ending in {"xz", "txz"}:
        with lzma.LZMAFile(stream, "wb") as packed:
            yield cast("BinaryIO", packed)
    else:
        yield stream
