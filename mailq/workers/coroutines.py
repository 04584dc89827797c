"""The event loop for the coroutines of one thread. Loaded late: asyncio is slow to load."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mailq.workers.job_input import JobInput


class Loop:
    """One event loop for all jobs of a thread, so that connections bound to it last."""

    def __init__(self) -> None:
        self._loop = asyncio.Runner().get_loop()

    def run(self, awaitable: Any, given: JobInput) -> Any:  # noqa: ANN401 - any awaitable of anything
        """Await it to its end, and return the value. Tasks that an interrupted job has left running are cancelled."""
        earlier = asyncio.all_tasks(self._loop)
        try:
            return self._loop.run_until_complete(_value_of(awaitable))
        finally:
            if given.interruption is not None:
                self._end(asyncio.all_tasks(self._loop) - earlier)

    def _end(self, tasks: set[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks))

    def close(self) -> None:
        """Cancel all tasks and close the loop, when the thread ends."""
        self._end(asyncio.all_tasks(self._loop))
        self._loop.close()


async def _value_of(value: Any) -> Any:  # noqa: ANN401 - any awaitable of anything
    while inspect.isawaitable(value):
        value = await value
    return value
