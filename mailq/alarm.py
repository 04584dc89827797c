"""What ends the wait of a thread.

Not a Condition or an Event of ``threading``: those are written in Python around a lock. An exception from
outside that arrives within them leaves that lock behind, and every other thread waits for it.
"""

from __future__ import annotations

import threading


class Alarm:
    """Ends the wait of one thread: the one under way, or the next."""

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """End the wait. From any thread or signal handler; to ring once more does nothing."""
        try:
            self._silence.release()
        except RuntimeError:  # it rings already
            pass

    def wait(self, timeout: float) -> None:
        """Wait until it rings, at most for ``timeout`` seconds. For one thread at a time."""
        self._silence.acquire(timeout=timeout)

    def close(self) -> None:
        """Let go of it in a forked child: the thread that waited did not come along."""
