"""A push: the writes, syncs and renames by which new messages come into a queue.

A message is written into ``tmp/`` and renamed into ``new/`` or ``later/``. Where a finished push must survive a
power cut, its bytes are synced before the rename, in a journal or one by one, and the directory after it.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from mailq import policy
from mailq.engines.maildir import names
from mailq.engines.maildir.disk import can_syncfs
from mailq.engines.maildir.files import BATCH
from mailq.engines.maildir.journal import Staged
from mailq.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mailq.engines.maildir.files import Store
    from mailq.engines.maildir.journal import File
    from mailq.engines.maildir.names import MessageName
    from mailq.message import NewMessage, State


class Writer:
    """Writes new messages into one queue."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._layout = store.layout
        self._disk = store.disk

    def push(self, messages: Sequence[NewMessage]) -> list[Staged]:
        """Store new messages: durable, if the settings promise that, when they are returned.

        All or nothing on return; whatever a failure may have left is named by it.
        """
        placed = [self._place(message) for message in messages]
        one = len(placed) == 1

        def store(journal: File | None = None) -> list[Staged]:
            at_the_end = self._restamp_with_id if journal is None else self._restamp
            return self._write_and_rename("push", placed, (lambda message: message) if one else at_the_end, journal)

        return self._store.journal.reserve(placed, self._store.settings, store) if self._store.durable else store()

    def restore(self, messages: Sequence[tuple[State, MessageName, bytes]]) -> list[str]:
        """Store messages that have an id, a place and a story already. Returns their paths; else as ``push``.

        The caller has made sure that no message with such an id is in the queue:
        rename replaces in silence.
        """
        # What a killed import has left in tmp/ must not be in the way of the next.
        claim = os.urandom(4).hex()
        placed = [
            Staged(e.id, names.format_name(e._replace(claim=claim)), self._layout.directory(state), data)
            for state, e, data in messages
        ]
        final = {e.id: names.format_name(e) for _, e, _ in messages}
        stored = self._write_and_rename("import", placed, lambda message: message._replace(name=final[message.id]))
        return [f"{message.directory}/{message.name}" for message in stored]

    def _write_and_rename(
        self, verb: str, placed: Sequence[Staged], named: Callable[[Staged], Staged], journal: File | None = None
    ) -> list[Staged]:
        """Write each message, then rename it to the name that it gets only then."""
        written: list[Staged] = []
        renamed: list[Staged] = []

        def rename() -> None:
            for message in placed:
                target = named(message)
                renamed.append(target)
                self._disk.rename(f"{self._layout.tmp}/{message.name}", f"{target.directory}/{target.name}")

        try:
            if journal:  # durable there before the files get names; they are not synced
                self._write(placed, written, sync=False)
                journal.append(placed)
                rename()
                if not journal.mark_applied():
                    self._store.journal.checkpoint_and_remove()
            elif self._store.durable:
                self._store_synced(placed, written, rename)
            else:
                self._write(placed, written, sync=False)
                rename()
        except BaseException as error:
            maybe = self._withdraw(written, renamed)
            if journal and not self._store.journal.checkpoint_and_remove():
                maybe = [message.id for message in placed]
            if isinstance(error, OSError):
                raise StorageError(verb, error, maybe_pushed=maybe) from error
            if maybe:
                error.add_note(f"mailq: these may be in the queue all the same: {', '.join(maybe)}")
            raise
        return renamed

    def _store_synced(self, placed: Sequence[Staged], written: list[Staged], rename: Callable[[], None]) -> None:
        """The files are synced before they get their names; then, after the renames, the directories are."""
        together = len(placed) >= BATCH and can_syncfs()
        # syncfs reports the write errors since its descriptor was opened: so before the first write.
        fd = self._store.open_for_syncfs() if together else None
        try:
            self._write(placed, written, sync=not together)
            if fd is not None:
                self._disk.syncfs(fd)
        finally:
            if fd is not None:
                self._disk.drop(fd)
        self._store.synced({message.directory for message in placed}, rename)

    def _write(self, placed: Sequence[Staged], written: list[Staged], *, sync: bool) -> None:
        mode = self._store.mode
        for message in placed:
            written.append(message)
            self._disk.write_file(f"{self._layout.tmp}/{message.name}", message.data, mode=mode, sync=sync)

    def _restamp(self, message: Staged) -> Staged:
        """Give a message of a batch its place in line when it comes there, not when the batch began to be written.

        A consumer takes what is older than its listing for complete. A batch of which
        it sees the second message, and by bad luck not the first, must look younger.
        """
        if message.directory != self._layout.new:
            return message
        name = names.with_time(message.name, self._store.ids.next())
        return Staged(message.id, name, message.directory, message.data)

    def _restamp_with_id(self, message: Staged) -> Staged:
        """The same with the id too, which no journal has yet: it carries the time of the push, where a retry stands again."""
        if message.directory != self._layout.new:
            return message
        now = self._store.ids.next()
        id = self._store.ids.new_id(now)
        return Staged(id, names.with_time_and_id(message.name, now, id), message.directory, message.data)

    def _place(self, message: NewMessage) -> Staged:
        now = self._store.ids.next()
        data, ext, header_bytes, delay, priority, lease, max_retries, ttl = message
        id = self._store.ids.new_id(now)
        step = policy.pushed(now, now=self._store.clock(), delay=delay)
        name = names.MessageName(
            step.visible_at,
            id,
            ext,
            len(data),
            names.checksum(data),
            header_bytes,
            "",
            priority,
            lease,
            max_retries,
            ttl,
        )
        return Staged(id, names.format_name(name), self._layout.directory(step.state), data)

    def _withdraw(self, written: Sequence[Staged], renamed: Sequence[Staged]) -> list[str]:
        """Take back what a failed push wrote. Returns the ids that may be in the queue all the same."""
        maybe = []
        for message, target in itertools.zip_longest(written, renamed):
            try:
                self._disk.unlink(f"{self._layout.tmp}/{message.name}")
            except OSError:
                # A rename that reported an error may have happened all the same.
                if target is not None and not self._unlinked(f"{target.directory}/{target.name}"):
                    maybe.append(target.id)
        return maybe

    def _unlinked(self, path: str) -> bool:
        try:
            self._disk.unlink(path)
        except OSError:
            return False
        return True
