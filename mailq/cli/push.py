"""push: messages in."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from mailq import codecs
from mailq.cli.options import DURATION, message_options, parse_headers, queue_argument
from mailq.cli.output import note
from mailq.cli.streams import standard_input
from mailq.errors import MessageTooLarge
from mailq.message import read_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mailq.queue import Queue

_CHUNK: Final = 65_536
"""The number of bytes of lines that are pushed with one flush."""

_INSTEAD: Final = "pass BODY, or redirect something to it"


@click.command()
@queue_argument
@click.argument("bodies", metavar="[BODY]...", nargs=-1)
@click.option(
    "--file", "files", type=click.Path(), multiple=True, help="Push a file's content; keeps its extension. Repeatable."
)
@click.option("--lines", is_flag=True, help="A message a line of standard input; empty lines are skipped.")
@click.option("--text", is_flag=True, help="Text, even if it would parse as JSON.")
@click.option("--content-type", metavar="TYPE", help="What the body is, such as image/png.")
@click.option("--no-create", is_flag=True, help="Fail if there is no queue: for one on a disk that may be unmounted.")
@message_options
@click.option("--timeout", type=DURATION, help="A worker ends the job after this long [default: the queue's].")
def push(
    queue: str,
    bodies: tuple[str, ...],
    files: tuple[str, ...],
    *,
    lines: bool,
    text: bool,
    content_type: str | None,
    no_create: bool,
    headers: tuple[str, ...],
    **options: Any,  # noqa: ANN401 - the message options, checked by push
) -> None:
    """Push messages; print their ids.

    Each BODY is one message: JSON if it parses as JSON, else text. Without BODY, or
    with - (also as a file), standard input is one message; without BODY it must not
    be empty. What is printed is stored, as safely as the queue's durability says: by
    default a power cut does not take it. The queue is created if there is none.

    \b
        mailq push jobs '{"resize": "cat.jpg"}' '{"resize": "dog.jpg"}'
        mailq push jobs --file cat.jpg --priority 5
        convert cat.jpg png:- | mailq push jobs - --content-type image/png
        seq 1000 | mailq push jobs --lines --delay 5m
    """
    if lines and (bodies or files):
        raise click.UsageError("--lines reads standard input: leave out BODY and --file")
    if (*bodies, *files).count("-") > 1:
        raise click.UsageError("standard input can be read once: pass - once")
    if text and content_type:
        raise click.UsageError("--text and --content-type exclude each other: choose one")
    from mailq.connect import open as open_queue  # noqa: PLC0415 - help needs no engine

    options["headers"] = parse_headers(headers)
    with open_queue(queue, create=not no_create) as target:
        pushed: Iterable[list[str]]
        if lines:
            pushed = _push_lines(target, text=text, content_type=content_type, options=options)
        elif bodies or files:
            pushed = _push_each(target, bodies, files, text=text, content_type=content_type, options=options)
        else:
            pushed = [[push_one(target, given(target, None), text=text, content_type=content_type, options=options)]]
        for ids in pushed:
            _print(ids)


def _print(ids: list[str]) -> None:
    try:
        click.echo("\n".join(ids))
    except OSError as error:  # a full disk under > ids.txt: a user who only sees a failure would push them again
        stored = ids[0] if len(ids) == 1 else f"{len(ids)} messages, {ids[0]} to {ids[-1]}"
        text = f"stored {stored}, but cannot print that: {error.strerror}; nothing more was pushed"
        raise click.ClickException(text) from error


def _push_each(
    queue: Queue,
    bodies: tuple[str, ...],
    files: tuple[str, ...],
    *,
    text: bool,
    content_type: str | None,
    options: dict[str, Any],
) -> Iterator[list[str]]:
    for body in bodies:
        yield [push_one(queue, given(queue, body), text=text, content_type=content_type, options=options)]
    for path in files:
        if path == "-":
            yield [push_one(queue, given(queue, path), text=text, content_type=content_type, options=options)]
        elif content_type or text:
            with open(path, "rb") as file:
                raw = read_body(file, queue.settings.max_message_bytes)
            yield [push_one(queue, raw, text=text, content_type=content_type, options=options)]
        else:
            yield [queue.push_file(path, **options)]


def push_one(queue: Queue, raw: bytes, *, text: bool, content_type: str | None, options: dict[str, Any]) -> str:
    """Push a body as it was given."""
    return queue.push(raw, content_type=content_type or kind_of(raw, text=text), **options)


def _push_lines(queue: Queue, *, text: bool, content_type: str | None, options: dict[str, Any]) -> Iterator[list[str]]:
    """Push a message a line."""
    rest = b""
    fd = standard_input(_INSTEAD).fileno()
    while chunk := os.read(fd, _CHUNK):  # what there is: a slow producer's lines are stored as they come
        *lines, rest = (rest + chunk).split(b"\n")
        yield from _push_batch(queue, lines, text=text, content_type=content_type, options=options)
        limit = queue.settings.max_message_bytes
        if len(rest) > limit + 1:  # it may have no end; the one is a carriage return, which is not pushed
            raise MessageTooLarge(len(rest), limit, or_more=True)
    yield from _push_batch(queue, [rest], text=text, content_type=content_type, options=options)


def _push_batch(
    queue: Queue, lines: list[bytes], *, text: bool, content_type: str | None, options: dict[str, Any]
) -> Iterator[list[str]]:
    run: list[bytes] = []
    kind = ""
    for line in (line.rstrip(b"\r") for line in lines):
        if line:
            this = content_type or kind_of(line, text=text)
            if run and this != kind:
                yield queue.push_many(run, content_type=kind, **options)
                run = []
            kind = this
            run.append(line)
    if run:
        yield queue.push_many(run, content_type=kind, **options)


def kind_of(raw: bytes, *, text: bool) -> str:
    """The content type of a body given as it is: JSON if it parses, else text, else bytes."""
    try:
        decoded = raw.decode()
    except UnicodeDecodeError:
        return codecs.BYTES
    if text:
        return codecs.TEXT
    try:
        codecs.read_json(decoded)
    except (ValueError, RecursionError):
        return codecs.TEXT
    return codecs.JSON


def given(queue: Queue, body: str | None) -> bytes:
    """A body as the command line has it: - and None are standard input. Raises MessageTooLarge and UsageError.

    With None it must not be empty: under cron it is, and that is not meant as a message.
    """
    if body is not None and body != "-":
        return os.fsencode(body)
    file = standard_input(_INSTEAD)
    if sys.stdin.isatty():
        note("mailq: type the message; Ctrl-D ends it")
    raw = read_body(file, queue.settings.max_message_bytes)
    if body is None and not raw:
        raise click.UsageError("standard input is empty; pass BODY, or - if the message is to be empty")
    return raw
