"""Directories listed as an examination needs it: what is not there, or no directory, holds nothing."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from mailq.engines.maildir import layout as layouts

if TYPE_CHECKING:
    from collections.abc import Iterator


def messages(directory: str) -> Iterator[os.DirEntry[str]]:
    """The files that can be messages. That the directory is missing is another check's to say."""
    if os.path.isdir(directory):
        yield from layouts.entries(directory)


def everything(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry by name, with what lstat says of it. Raises OSError for a link: what is there is not the queue's."""
    if os.path.islink(directory):
        raise OSError(errno.ELOOP, "a symbolic link is in the place of a directory", directory)
    try:
        scan = os.scandir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    with scan:
        for entry in scan:
            try:
                yield entry.name, entry.stat(follow_symlinks=False)
            except OSError:  # somebody took it meanwhile
                continue
