"""How a worker logs: one line an event, for a person or for a program."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final

from mailq.cli.output import plain

_FIELDS: Final = ("event", "queue", "id", "attempt")
"""The fields of mailq's own records, besides their text."""


class TextFormatter(logging.Formatter):
    """``2026-11-21T01:32:05.123Z INFO job 01936f0c… attempt 1: ack after 0.026 s (jobs)``"""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback behind it if there is one."""
        # A job's error text is from outside: it must not steer the terminal that shows the log.
        line = f"{_moment(record)} {record.levelname} {plain(record.getMessage())}"
        if queue := getattr(record, "queue", ""):
            line += f" [{queue}]"
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what the event is about."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the text holds."""
        told: dict[str, Any] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info is not None:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


class _OverProgress(logging.StreamHandler[Any]):
    """Logs to a terminal, over the progress line that may stand there; the next change draws that again."""

    def format(self, record: logging.LogRecord) -> str:
        """Back to the beginning of the line, which is cleared."""
        return f"\r\x1b[K{super().format(record)}"


def _moment(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def log_to_stderr(form: str, level: int) -> None:
    """Send what mailq logs to stderr."""
    handler = _OverProgress(sys.stderr) if sys.stderr.isatty() else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logger = logging.getLogger("mailq")
    logger.addHandler(handler)
    logger.setLevel(level)
