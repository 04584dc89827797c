"""Queues and archives that tests make, and what is in them."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import mailq
from mailq import transfer
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import names
from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.names import checksum
from mailq.ids import NS, new_id
from mailq.message import RestingState
from mailq.transfer.items import Format, Item

BORN = 1_795_000_000 * NS


def exported(path: Path | str, form: Format = "tar", **options: Any) -> bytes:
    """The archive of a queue, nothing left out."""
    stream = io.BytesIO()
    done = transfer.export(path, stream, format=form, **options)
    assert (done.left_out, done.certain) == (0, True)
    return stream.getvalue()


def rows(path: Path | str, **options: Any) -> dict[str, dict[str, Any]]:
    """What the lines of a queue's export say, by id; each is there once."""
    lines = [json.loads(line) for line in exported(path, "jsonl", **options).splitlines()]
    found = {line["id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def imported(path: Path | str, data: bytes, **options: Any) -> transfer.Imported:
    return transfer.import_(path, io.BytesIO(data), **options)


def sealed(number: int, data: bytes = b"body", **fields: Any) -> names.MessageName:
    """An envelope for these bytes."""
    at = BORN + number
    return names.MessageName(at, new_id(at, number), "txt", len(data), checksum(data), **fields)


def plain(number: int, data: bytes = b"body", state: RestingState = "ready", **fields: Any) -> Item:
    """A message with these bytes."""
    return Item(state, sealed(number, data, **fields), data, BORN if state == "dead" else None)


def make(path: Path | str, **settings: Any) -> str:
    """An empty queue that syncs nothing: these tests are not about power cuts."""
    layouts.create(layouts.Layout(str(path)), mailq.Settings(durability="process-crash").changed(settings), Disk())
    return str(path)


def lay(path: Path | str, item: Item) -> str:
    """Put a message into a queue by hand."""
    directory = {"ready": "new", "delayed": "later", "dead": "dead"}[item.state]
    file = f"{path}/{directory}/{names.format_name(item.envelope)}"
    Path(file).write_bytes(item.data)
    for number, data, at in item.texts:
        text = f"{path}/errors/{item.envelope.id}.{number}.txt"
        Path(text).write_bytes(data)
        os.utime(text, ns=(at, at))
    if item.at is not None:
        os.utime(file, ns=(item.at, item.at))
    return file


def tar(*members: tuple[str, bytes] | tarfile.TarInfo, end: bool = True) -> bytes:
    """A tar with these members, made by Python's own writer."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            file.addfile(info, io.BytesIO(member[1]))
        size = file.offset
    return stream.getvalue() if end else stream.getvalue()[:size]


def ids_on_disk(path: Path | str) -> list[str]:
    """The id of every file that is a message, as often as it is there."""
    found = [names.parse(name) for state in ("new", "later", "cur", "dead") for name in os.listdir(f"{path}/{state}")]
    return sorted(envelope.id for envelope in found if envelope is not None)
