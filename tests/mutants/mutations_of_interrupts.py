"""What an exception from outside would leave behind."""

from __future__ import annotations

from typing import Final

from mutant import Mutant

_STEPS: Final = "tests/interrupts/test_each_step.py::test_an_exception_at_any_step_leaves_a_queue_that_can_be_used"

INTERRUPTS: Final = (
    Mutant(
        "the lock of a journal is taken a step before that is written down",
        "mailq/engines/maildir/journal.py",
        "                held.extend(map(lock.acquire, (True,)))\n",
        "                lock.acquire()\n                held.append(True)\n",
        (f"{_STEPS}[journaled]",),
        stalls=True,
    ),
    Mutant(
        "a file is opened a step before its descriptor is kept",
        "mailq/engines/maildir/disk.py",
        "        (fd,) = map(os.open, (path,), (flags,), (mode,))\n        return fd\n",
        "        return os.open(path, flags, mode)\n",
        (f"{_STEPS}[unsynced]",),
    ),
    Mutant(
        "what an interrupted pop has claimed stays leased",
        "mailq/queue.py",
        "        except BaseException:  # interrupted, or closed: nobody has them\n            self._give_back(claimed.claims)\n",
        "        except BaseException:\n",
        (f"{_STEPS}[unsynced]",),
    ),
    Mutant(
        "a message that was renamed for an interrupted claim stays leased",
        "mailq/engines/maildir/claim.py",
        "            if not (is_unfit and isinstance(error, StorageError)):",
        "            if not is_unfit and isinstance(error, Exception):",
        (f"{_STEPS}[unsynced]",),
    ),
    Mutant(
        "an interrupted clearing leaves a window that looks whole and holds nothing",
        "mailq/engines/maildir/ready_index.py",
        '            self.mark_incomplete()\n            # Without a call in between: what is held no more must not look as if it were.\n            self._bound = self._heard_bound = ""\n            self._heap = []\n',
        '            self._heap = []\n            self._bound = ""\n            self.mark_incomplete()\n',
        (f"{_STEPS}[unsynced]",),
    ),
    Mutant(
        "a message in memory is nowhere for a step",
        "mailq/engines/memory.py",
        "        self._messages[envelope.id] = _Message(step.state, envelope, message.data, history, died)\n",
        "        self._messages.pop(envelope.id)\n        self._messages[envelope.id] = _Message(step.state, envelope, message.data, history, died)\n",
        (f"{_STEPS}[memory]",),
    ),
)
