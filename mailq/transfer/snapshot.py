"""Finds every message that stays in a live queue while somebody looks through it.

A listing is no snapshot, and several even less: a message that is claimed and given
back can be in ``cur/`` while ``new/`` is listed, and in ``new/`` while ``cur/`` is.
So the directories are watched from before the first listing. A message that no listing
of a whole pass has shown was moved during that pass, and then its arrival was heard,
with its new name. Passes go on until two in a row have missed nothing.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from mailq.engines.maildir import layout as layouts
from mailq.ids import id_time
from mailq.transfer import watch as watching
from mailq.transfer.ids import Ids

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mailq.engines.maildir.names import MessageName
    from mailq.message import State
    from mailq.transfer.watch import Watch

    Take = Callable[[State, str, MessageName], bool]

_SORTED: Final = 10_000
"""So many names of a listing are put in line at a time: short queues come in order, long ones take no memory."""

_ENOUGH: Final = 2
"""Passes in a row that must miss nothing. One would do, if the kernel told of a rename in the same instant."""

_ENOUGH_UNHEARD: Final = 4
"""So many without a watch, each the other way round: then it is likely, and no more."""

_MOST: Final = 60
"""Passes, then what is still missed is given up on: it moves whenever somebody reaches for it."""


class Survey:
    """One look through a queue.

    ``take(state, path, envelope)`` is called for each message; it returns False if
    the file is not there any more, and is called again where it turns up. A message that is taken
    is not shown again. ``seen`` are the ids of those that were taken. ``missed`` are, in the end, messages
    that were heard of and never found where they had just been; ``certain`` is False if the
    passes never came to an agreement.
    """

    def __init__(self, directories: Mapping[str, State], take: Take, *, now: Callable[[], int]) -> None:
        self._directories = dict(directories)
        self._take = take
        self._now = now
        self._begun = now()
        self._late = False
        self.seen = Ids()
        self.missed: set[str] = set()
        self.certain = False

    def run(self, *, hear: bool = True) -> None:
        """Look until nothing can have been missed. ``hear=False`` does without the watch, as other systems have to."""
        watch = watching.watch(self._directories) if hear else None
        if watch is None:
            self._run(None)
            return
        with watch:
            self._run(watch)

    def _run(self, watch: Watch | None) -> None:
        clean = 0
        order = list(self._directories)
        for _ in range(_MOST):
            self._late = False
            self.missed.clear()  # what was acked is not seen any more; what was not will be
            for directory in order:
                self._list(directory, watch)
            self._listen(watch)
            disturbed = watch is not None and watch.missed
            if watch is not None:
                watch.missed = False
            late = self._late and watch is None  # if one turns up late, others may
            clean = 0 if self.missed or disturbed or late else clean + 1
            if clean == (_ENOUGH if watch else _ENOUGH_UNHEARD):
                self.certain = True
                return
            order.reverse()

    def _list(self, directory: str, watch: Watch | None) -> None:
        entries = layouts.entries(directory)
        while some := list(islice(entries, _SORTED)):
            keys = (layouts.sort_key(directory, entry.name) for entry in some)
            for number, key in enumerate(sorted(key for key in keys if key is not None)):
                self._visit(directory, layouts.name_of(key))
                if number % 16 == 0 or self.missed:
                    self._listen(watch)

    def _listen(self, watch: Watch | None) -> None:
        """Look after what was moved."""
        for directory, name in watch.read() if watch is not None else ():
            if name[0] != ".":
                self._visit(directory, name)

    def _visit(self, directory: str, name: str) -> None:
        envelope = layouts.envelope_of(directory, name)
        if envelope is None or (id := envelope.id) in self.seen:
            return
        # What was pushed since the beginning may be missed: whoever pushes for ever must not keep us for ever.
        old = self._was_there(envelope)
        if self._take(self._directories[directory], f"{directory}/{name}", envelope):
            self.seen.add(id)
            self.missed.discard(id)
            self._late |= old
        elif old:
            self.missed.add(id)

    def _was_there(self, envelope: MessageName) -> bool:
        """Whether it may have been in the queue when this began: not if its id says that it was pushed since."""
        pushed = id_time(envelope.id)
        # An id from the future is older than the step of a clock.
        return pushed is None or pushed <= self._begun or pushed > self._now()
