"""An exception that arrives from outside at a chosen step of Python.

A signal handler or another thread may raise in a thread whenever that looks whether anybody wants something of it: after
most calls, where a function begins, and where a loop turns, and nowhere else. So each of these steps is tried, and
the interpreter itself raises the exception. (To raise it in a trace function would try steps at which none can
arrive, as between the taking of a lock by ``with`` and its block.)
"""

from __future__ import annotations

import ctypes
import dis
import functools
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Final

_LOOKS: Final = ("RESUME", "CALL", "JUMP_BACKWARD", "POP_JUMP_BACKWARD", "SEND", "YIELD")
"""How the instructions begin at which a thread looks, in all versions of CPython."""

_raise_in: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc
_raise_in.argtypes = (ctypes.c_ulong, ctypes.py_object)


class Arrived(BaseException):
    """The exception from outside."""


def send(thread: int) -> None:
    """Have it arrive in a thread, at the next step of that."""
    _raise_in(thread, Arrived)


@functools.cache
def _steps(code: CodeType) -> frozenset[int]:
    return frozenset(step.offset for step in dis.get_instructions(code) if step.opname.startswith(_LOOKS))


class _Arrival:
    """One exception, which is sent before a step of this thread."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.thread = threading.get_ident()

    def is_now(self, code: CodeType, offset: int) -> bool:
        if offset not in _steps(code) or code is _end.__code__:
            return False
        self.left -= 1
        return self.left < 0


if sys.version_info >= (3, 12):
    _TOOL: Final = 4

    def _begin(arrival: _Arrival) -> None:
        def step(code: CodeType, offset: int) -> Any:
            if offset not in _steps(code):
                return sys.monitoring.DISABLE
            if threading.get_ident() == arrival.thread and arrival.is_now(code, offset):
                sys.monitoring.set_events(_TOOL, 0)
                # Unpacked, so that C calls it: it must not arrive in here.
                (*_,) = map(_raise_in, (arrival.thread,), (Arrived,))
            return None

        sys.monitoring.use_tool_id(_TOOL, "arriving")
        sys.monitoring.register_callback(_TOOL, sys.monitoring.events.INSTRUCTION, step)
        sys.monitoring.set_events(_TOOL, sys.monitoring.events.INSTRUCTION)

    def _end() -> None:
        if sys.monitoring.get_tool(_TOOL) is not None:
            sys.monitoring.set_events(_TOOL, 0)
            sys.monitoring.free_tool_id(_TOOL)

else:

    def _begin(arrival: _Arrival) -> None:
        def trace(frame: FrameType, event: str, _: object) -> Any:
            if event == "call":
                frame.f_trace_opcodes, frame.f_trace_lines = True, False
            elif event == "opcode" and arrival.is_now(frame.f_code, frame.f_lasti):
                sys.settrace(None)
                (*_,) = map(_raise_in, (arrival.thread,), (Arrived,))  # as above
                return None
            return trace

        sys.settrace(trace)

    def _end() -> None:
        sys.settrace(None)


def arrive_at(number: int, act: Callable[[], object]) -> str | None:
    """Call ``act``, with an exception at one of its steps in this thread. Where it arrived; None if it has fewer steps.

    One that arrives where Python lets no exception out, as in a finalizer, is swallowed there: then the place is empty.
    """
    arrival = _Arrival(number)
    try:
        _begin(arrival)
        act()
        _end()
        for _ in range(3):  # if it was on its way at the end, it arrives here
            pass
    except Arrived as error:
        return place_of(error)
    finally:
        _end()
    return "" if arrival.left < 0 else None


def steps_of(act: Callable[[], object]) -> int:
    """How many steps a call of ``act`` has in this thread."""
    arrival = _Arrival(sys.maxsize)
    try:
        _begin(arrival)
        act()
    finally:
        _end()
    return sys.maxsize - arrival.left


def place_of(error: BaseException) -> str:
    """Where an exception was raised: file, line, function, and instruction."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    assert trace is not None
    code = trace.tb_frame.f_code
    return f"{code.co_filename}:{trace.tb_lineno} {code.co_qualname}+{trace.tb_lasti}"
