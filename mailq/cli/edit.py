"""edit: mend a message by hand."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile

import click

from mailq.cli.options import open_queue, queue_argument
from mailq.cli.output import note
from mailq.errors import MailqError
from mailq.message import safe_ext


@click.command()
@queue_argument
@click.argument("id", metavar="ID")
def edit(queue: str, id: str) -> None:
    """Edit a message in $EDITOR and seal it again.

    It may be ready, delayed or dead; headers stay as they are. If a consumer takes the
    message meanwhile, it stays as it was, and your text is kept in a file.

    \b
        EDITOR=nano mailq edit jobs 01936f0c2b7d7a3e9c41b6d07f52e811
        mailq redrive jobs 01936f0c2b7d7a3e9c41b6d07f52e811
    """
    with open_queue(queue) as target:
        message = target.get(id)
        if message.state == "leased":
            raise click.ClickException(f"message {id} is leased; edit it when it is ready or dead")
        suffix = "." + safe_ext(message.location)  # the file may have any name, and a long one
        handle, path = tempfile.mkstemp(prefix="mailq-", suffix=suffix)
        with open(handle, "wb") as file:
            file.write(message.raw)
        body = _edited(path)
        if body == message.raw and not _is_torn(message.reason):
            os.unlink(path)
            note("nothing changed")
            return
        try:
            target.edit(message, body)
        except MailqError as error:
            raise click.ClickException(f"{error}; your text is kept in {path}") from error
        os.unlink(path)


def _is_torn(reason: str) -> bool:
    """A torn message is sealed also without a change: its reader has accepted it."""
    return reason == "torn"


def _edited(path: str) -> bytes:
    """What the user's editor makes of a file."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        code = subprocess.run([*shlex.split(editor), path], check=False).returncode  # noqa: S603 - the user's own editor
    except (OSError, ValueError) as error:  # ValueError: a quotation without an end
        os.unlink(path)
        why = error.strerror if isinstance(error, OSError) else str(error).lower()
        raise click.ClickException(f"cannot start the editor {editor!a}: {why}; set EDITOR") from error
    try:
        with open(path, "rb") as file:
            body = file.read()
    except FileNotFoundError:
        raise click.ClickException(f"the editor {editor!a} removed the file; nothing was changed") from None
    if code != 0:
        raise click.ClickException(f"the editor ended with {code}; nothing was changed, your text is kept in {path}")
    return body
