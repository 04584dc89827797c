"""Everything that a user can do with a queue, one after the other, whatever is in it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any, NoReturn

import mailq
from mailq.cli.main import main
from mailq.message import STATES


def look(queue: mailq.Queue) -> None:
    """Whatever reads; each may refuse as documented, and nothing else."""
    queue.stats()
    queue.workers()
    for state in STATES:
        for message in queue.peek(state, limit=None):
            with contextlib.suppress(mailq.MailqError):
                _ = (message.headers, message.content_type, message.history, message.origin, message.body)
            with contextlib.suppress(mailq.MessageNotFound):
                queue.get(message.id)


def drain(queue: mailq.Queue) -> int:
    """Deliver all that is ready; how many there were."""
    count = 0
    for delivery in queue.drain():
        with contextlib.suppress(mailq.CodecError):
            _ = delivery.body
        delivery.ack()
        count += 1
    return count


def run(*arguments: str) -> tuple[int, str, str]:
    """``mailq`` in this process: its exit code, what it printed, and what it said."""
    out, said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
    text = out.buffer.getvalue().decode()
    assert "this is a bug" not in said.getvalue(), said.getvalue()
    return code, text, said.getvalue()


def objects(text: str) -> list[Any]:
    """Lines of JSON, as a strict reader reads them."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
