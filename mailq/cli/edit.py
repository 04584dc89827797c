"""edit: mend a message by hand."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile

import click

from mailq.cli.options import open_queue, queue_argument
from mailq.errors import MailqError
from mailq.names import safe_ext


@click.command()
@queue_argument
@click.argument("id", metavar="ID")
def edit(queue: str, id: str) -> None:
    """Edit a message in $EDITOR and seal it anew.

    It may be ready, delayed or dead; headers stay as they are. If somebody takes the message meanwhile, it is left as it was and your text is
    kept in a file.

    \b
        EDITOR=nano mailq edit jobs 01936f0c2b7d7a3e9c41b6d07f52e811
        mailq redrive jobs 01936f0c2b7d7a3e9c41b6d07f52e811
    """
    with open_queue(queue) as target:
        message = target.get(id)
        if message.state == "leased":
            raise click.ClickException(f"message {id} is leased; edit it when it is ready or dead")
        suffix = "." + safe_ext(message.name)  # the file may have any name, and a long one
        handle, path = tempfile.mkstemp(prefix="mailq-", suffix=suffix)
        with open(handle, "wb") as file:
            file.write(message.raw)
        _run_editor(path)
        with open(path, "rb") as file:
            body = file.read()
        if body == message.raw and not _is_torn(message.reason):
            os.unlink(path)
            click.echo("nothing changed", err=True)
            return
        try:
            target.edit(message, body)
        except MailqError as error:
            raise click.ClickException(f"{error}; your text is kept in {path}") from error
        os.unlink(path)


def _is_torn(reason: str) -> bool:
    """A torn message is sealed anew even as it stands: whoever edits it has looked."""
    return reason == "torn"


def _run_editor(path: str) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        code = subprocess.run([*shlex.split(editor), path], check=False).returncode  # noqa: S603 - the user's own editor
    except OSError as error:
        os.unlink(path)
        raise click.ClickException(f"cannot start the editor {editor!r}: {error.strerror}; set EDITOR") from error
    if code != 0:
        raise click.ClickException(f"the editor ended with {code}; nothing was changed, your text is kept in {path}")
