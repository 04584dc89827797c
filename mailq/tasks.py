"""Named tasks: functions that are pushed by calling ``.push`` on them, and run by a worker."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, overload

from mailq.connect import open as open_queue
from mailq.errors import UsageError, shown
from mailq.queue import Queue
from mailq.settings import seconds
from mailq.workers.callables import require_function
from mailq.workers.outcomes import Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailq.reply import Reply

P = ParamSpec("P")
R = TypeVar("R")

_UNKNOWN_DELAY: Final = 30.0
"""Seconds for which a message is released whose task is not known here: a deploy may be half way."""


class App:
    """Tasks over one or more queues.

    >>> app = App("/var/spool/jobs")
    >>> @app.task(max_retries=3, timeout=90)
    ... def resize(path: str, width: int = 200) -> None: ...

    ``resize.push("cat.jpg", width=300)`` pushes ``{"task": "resize", "args":
    ["cat.jpg"], "kwargs": {"width": 300}}`` to the first queue, and so may anybody
    by hand. ``resize("cat.jpg")`` calls it here. ``mailq work pkg.module:app`` runs
    them. Queues are opened, and created, when they are first used; relative paths
    are relative to where the App is made.
    """

    def __init__(self, *queues: str | os.PathLike[str] | Queue) -> None:
        if not queues:
            raise UsageError("an App needs a queue: App('jobs')")
        self._opened: dict[str, Queue] = {}
        self._names = [self._name(queue) for queue in queues]
        self._tasks: dict[str, Task[..., Any]] = {}
        self._has_limits = False

    def _name(self, queue: str | os.PathLike[str] | Queue) -> str:
        if isinstance(queue, Queue):
            self._opened[queue.location] = queue
            return queue.location
        text = os.fspath(queue).removeprefix("maildir://")
        return text if "://" in text else os.path.abspath(os.path.expanduser(text))

    @property
    def queues(self) -> list[str]:
        """Where its queues are."""
        return list(self._names)

    @property
    def tasks(self) -> dict[str, Task[..., Any]]:
        """Its tasks by name."""
        return dict(self._tasks)

    def queue(self, name: str | os.PathLike[str] | None = None) -> Queue:
        """One of its queues, opened; the first by default."""
        wanted = self._names[0] if name is None else self._name(name)
        if wanted not in self._names:
            raise UsageError(f"{wanted!r} is no queue of this App; it has {', '.join(self._names)}")
        if wanted not in self._opened:
            self._opened[wanted] = open_queue(wanted)
        return self._opened[wanted]

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        queue: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        **options: Any,  # noqa: ANN401 - those of Queue.push
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        queue: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Make a function a task, named like the function.

        ``queue`` is one of the App's, its first by default. The time limits hold for
        this task's jobs, in seconds. ``options`` are those of Queue.push
        (``max_retries``, ``lease``, ``priority``, ``delay``, ``ttl``, ``headers``), for each
        push of it.
        """
        limits = _limit(soft_timeout, "soft_timeout"), _limit(timeout, "timeout")

        def make(function: Callable[..., Any]) -> Task[..., Any]:
            require_function(function, "task")
            known = name or getattr(function, "__name__", "")
            if not known:
                raise UsageError(f"{shown(function)} has no name to be known by as a task; give it one with name=")
            task: Task[..., Any] = Task(self, function, known, queue, limits, options)
            if self._tasks.get(task.name, task).function is not function:
                raise UsageError(f"there is a task {task.name!r} already; give one of them a name=")
            self._tasks[task.name] = task
            self._has_limits |= limits != (None, None)
            return task

        return make if function is None else make(function)

    # For the worker

    def _find(self, body: Any) -> Task[..., Any] | None:  # noqa: ANN401 - any JSON value is a body
        """The task that a message names. Raises UsageError if it names none."""
        if not isinstance(body, dict) or not isinstance(body.get("task"), str):
            raise UsageError('the message names no task; push {"task": "name", "args": [...], "kwargs": {...}}')
        return self._tasks.get(body["task"])

    @property
    def has_limits(self) -> bool:
        """Whether any task has a time limit."""
        return self._has_limits

    def limits(self, body: Any) -> tuple[float | None, float | None]:  # noqa: ANN401 - any JSON value is a body
        """The soft and the hard time limit of the message's task."""
        try:
            task = self._find(body)
        except UsageError:  # it names none: for handle to say
            task = None
        return (None, None) if task is None else task.limits

    def handle(self, body: Any) -> Any:  # noqa: ANN401 - any JSON value is a body; tasks return what they like
        """Run the task that a message names."""
        task = self._find(body)
        if task is None:
            return Result("release", delay=_UNKNOWN_DELAY, error=f"no task is named {body['task']!r} here")
        return task.function(*body.get("args", ()), **body.get("kwargs", {}))


class Task(Generic[P, R]):
    """A function that can be pushed. Calling it calls the function, here and now."""

    def __init__(
        self,
        app: App,
        function: Callable[P, R],
        name: str,
        queue: str | os.PathLike[str] | None,
        limits: tuple[float | None, float | None],
        options: dict[str, Any],
    ) -> None:
        functools.update_wrapper(self, function)
        self._app = app
        self._queue = queue
        self._options = options
        self.function = function
        self.name = name
        self.limits = limits

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function."""
        return self.function(*args, **kwargs)

    def push(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Push a call of it; return the message's id. Arguments must be JSON. Raises what Queue.push does."""
        return self._app.queue(self._queue).push(self._body(args, kwargs), **self._options)

    def request(self, *args: P.args, **kwargs: P.kwargs) -> Reply:
        """Push a call of it, and return the reply to come: what the function will return, as JSON."""
        return self._app.queue(self._queue).request(self._body(args, kwargs), **self._options)

    def using(self, **options: Any) -> Task[P, R]:  # noqa: ANN401 - those of Queue.push
        """The same task with other options of Queue.push: ``resize.using(delay=60).push("cat.jpg")``."""
        return Task(self._app, self.function, self.name, self._queue, self.limits, {**self._options, **options})

    def _body(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"task": self.name, "args": list(args), "kwargs": kwargs}


def _limit(value: float | None, what: str) -> float | None:
    return None if value is None else seconds(value, what, least=0.001)
