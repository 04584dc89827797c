"""The line from a child to its supervisor."""

from __future__ import annotations

import json
import signal
import socket
import threading
from multiprocessing.connection import Connection
from typing import Any

import pytest
from together import Child

import mailq
from mailq.workers.child import ChildProcess
from mailq.workers.job_input import JobInput
from mailq.workers.outcomes import Interrupted

LONG = 2_000_000
"""More than a socket takes at once."""


def speak(pipe: Connection[Any, Any], speaker: str) -> None:
    """Be a child that is interrupted in the middle of a line; tell what the supervisor heard."""
    ours, theirs = socket.socketpair()
    child = ChildProcess(theirs)
    queue = mailq.open("memory://")
    queue.push("x")
    given = JobInput(queue.pop_many(1)[0])
    heard = bytearray()

    def hear() -> None:
        heard.extend(ours.recv(1000))  # it has begun, and cannot go on
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
        while data := ours.recv(65_536):
            heard.extend(data)

    listener = threading.Thread(target=hear)
    listener.start()
    if speaker == "command":
        signal.signal(signal.SIGUSR2, lambda _number, _frame: child._send({"said": "by the handler of the signal"}))
    interrupted = False
    try:
        with child._interrupter.arm(None, given):
            child._send({"said": "x" * LONG})
    except Interrupted:
        interrupted = True
    child._lines.close()
    theirs.close()
    listener.join()
    lines = heard.decode().splitlines()
    pipe.send((interrupted, [_length(line) for line in lines]))


def _length(line: str) -> int:
    try:
        return len(json.loads(line)["said"])
    except ValueError:
        return -1


@pytest.mark.parametrize(
    ("speaker", "interrupted", "lengths"), [("function", True, [LONG]), ("command", False, [LONG, 28])]
)
def test_an_interruption_waits_for_the_end_of_a_line(speaker: str, interrupted: bool, lengths: list[int]) -> None:  # noqa: FBT001 - a parameter
    with Child(speak, speaker) as child:
        assert child.hear() == (interrupted, lengths)
        child.join()
