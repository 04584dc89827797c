"""What a journal must not forget, and its replay must not bring back."""

from __future__ import annotations

from typing import Final

from mutant import Mutant

_STATES: Final = "tests/crash/test_journal_states.py::test_no_power_cut_breaks_a_promise"
_HAND: Final = "tests/hand/test_journals.py::"
_REPLAYING: Final = "tests/hand/test_replaying.py::"
_WHOSE: Final = "tests/hand/test_remains.py::"
_JOURNAL: Final = "mailq/engines/maildir/journal.py"
_REPLAY: Final = "mailq/engines/maildir/recovery.py"
_REMAINS: Final = "mailq/engines/maildir/remains.py"
_STORE: Final = "mailq/engines/maildir/files.py"

JOURNALS: Final = (
    Mutant(
        "a journal is not synced",
        _JOURNAL,
        "        self._disk.fdatasync(self._fd)\n",
        "",
        (f"{_STATES}[push]",),
    ),
    Mutant(
        "a journal's mark vouches for names that are not there yet",
        "mailq/engines/maildir/push.py",
        "                rename()\n                if not journal.mark_applied():\n                    self._store.journal.checkpoint_and_remove()\n",
        "                journal.mark_applied()\n                rename()\n",
        (f"{_STATES}[push]",),
    ),
    Mutant(
        "a journal begins anew before everything is synced",
        _JOURNAL,
        "        self._disk.syncfs(self._fd)\n        self._is_sound = was_sound\n",
        "        self._is_sound = was_sound\n",
        (f"{_STATES}[fill]",),
    ),
    Mutant(
        "the directory of journals is not synced",
        _JOURNAL,
        "            disk.sync_directory(layout.journal)\n",
        "",
        (f"{_STATES}[push]",),
    ),
    Mutant(
        "a queue that is closed takes the journal away under a push",
        _JOURNAL,
        "            if not self._desk.is_taken:\n                self.checkpoint_and_remove()\n",
        "            self.checkpoint_and_remove()\n",
        (f"{_HAND}test_a_queue_that_is_closed_in_the_midst_of_a_push_has_it_done_first",),
    ),
    Mutant(
        "the end of the program takes the journal away under a push",
        _JOURNAL,
        "        with self.lock:\n            self.is_over = True\n            if not self.is_taken:\n                self.checkpoint_and_remove()\n",
        "        self.is_over = True\n        self.checkpoint_and_remove()\n",
        (f"{_HAND}test_a_program_that_ends_in_the_midst_of_a_push_has_it_done_first",),
    ),
    Mutant(
        "a sync that failed is asked for again",
        _JOURNAL,
        "        if not self._is_sound:\n",
        "        if not self._disk:\n",
        (f"{_HAND}test_what_could_not_be_synced_stays_in_it_though_the_next_sync_succeeds",),
    ),
    Mutant(
        "a dead letter leaves the queue before it is synced",
        _STORE,
        "self.durable and not self._is_synced(path)",
        "self.durable and not path",
        (f"{_STATES}[dead_letters]",),
    ),
    Mutant(
        "an edit takes a message that is not synced out of its journal's reach",
        "mailq/engines/maildir/admin.py",
        "            store.disk.sync_file(record.location)",
        "            pass",
        (f"{_STATES}[edit]",),
    ),
    Mutant(
        "a replay brings back what was acked",
        _REPLAY,
        "if record.number <= number}",
        "if record.number <= 0}",
        (f"{_REPLAYING}test_nothing_comes_back_from_a_producer_that_was_killed",),
    ),
    Mutant(
        "a replay brings back nothing",
        _REPLAY,
        "if record.number <= number}",
        "if record.number >= 0}",
        (f"{_STATES}[push]",),
    ),
    Mutant(
        "a replay takes whatever is there for whole",
        _REPLAY,
        "and not _is_whole(store, path, envelope)",
        "and not path",
        (f"{_STATES}[push]",),
    ),
    Mutant(
        "a replay sets a mark that another queue has too",
        _REPLAY,
        "    if mark is not None and mark.st_nlink <= 1:\n",
        "    if mark is not None:\n",
        (f"{_REPLAYING}test_of_two_queues_that_share_a_journal_each_gets_its_own_back",),
    ),
    Mutant(
        "a replay undoes edits",
        _REPLAY,
        "if envelope.crc == record.envelope.crc and not",
        "if not",
        (f"{_REPLAYING}test_an_edited_message_that_is_torn_is_not_given_its_old_body",),
    ),
    Mutant(
        "a journal of the living is replayed",
        _REMAINS,
        "file.is_locked(fcntl.LOCK_SH) and os.fstat(file.fd)",
        "os.fstat(file.fd)",
        (f"{_REPLAYING}test_nothing_comes_back_from_a_producer_that_was_killed",),
    ),
    Mutant(
        "two who look at a journal keep each other from seeing that it is a dead producer's",
        _REMAINS,
        "file.is_locked(fcntl.LOCK_SH) and",
        "file.is_locked(fcntl.LOCK_EX) and",
        (f"{_WHOSE}test_two_who_look_at_a_time_both_see_that_a_producer_is_dead",),
    ),
    Mutant(
        "a reaping waits for whoever replays a journal",
        "mailq/engines/maildir/reaper.py",
        "replay(self._store, waits=False)",
        "replay(self._store, waits=True)",
        (f"{_WHOSE}test_one_that_another_is_at_who_is_stopped_is_left_and_others_are_replayed",),
    ),
    Mutant(
        "whoever opens the queue does not wait for whoever replays a journal",
        "mailq/engines/maildir/engine.py",
        "replay(self._store, waits=True)\n",
        "replay(self._store, waits=False)\n",
        (f"{_WHOSE}test_whoever_opens_the_queue_waits_until_another_has_replayed",),
    ),
    Mutant(
        "a child that is forked while a replay takes its locks keeps them",
        "mailq/engines/maildir/locks.py",
        "        with at_fork.no_fork:  # a child that is forked before",
        "        if disk:  # a child that is forked before",
        (f"{_WHOSE}test_a_child_that_is_forked_during_a_replay_keeps_nobody_from_the_next",),
    ),
    Mutant(
        "a forked child keeps the locks of a replay",
        "mailq/engines/maildir/locks.py",
        "    after_fork = close\n",
        "    def after_fork(self) -> None:\n        pass\n",
        (f"{_WHOSE}test_a_child_that_is_forked_during_a_replay_keeps_nobody_from_the_next",),
    ),
    Mutant(
        "whoever meets a torn message does not look into journals",
        "mailq/engines/maildir/claim.py",
        "is_done = self._recovery.is_done()",
        "is_done = True",
        (f"{_REPLAYING}test_what_is_torn_is_mended_where_it_is_by_whoever_meets_it",),
    ),
    Mutant(
        "a forked child pushes into its parent's journal",
        _JOURNAL,
        "        desk.file = None\n",
        "",
        (f"{_HAND}test_a_forked_child_has_one_of_its_own",),
    ),
    Mutant(
        "what is in a journal is not checked",
        "mailq/engines/maildir/journal.py",
        "if names.is_intact(envelope, data) else None",
        "if data is not None else None",
        (f"{_REPLAYING}test_a_journal_that_is_none_restores_nothing",),
    ),
    Mutant(
        "a torn message is given up on though its journal could not be replayed for now",
        "mailq/engines/maildir/claim.py",
        "if is_done or verdict.why",
        "if held or verdict.why",
        (f"{_WHOSE}test_a_torn_message_is_not_given_up_on_as_long_as_its_journal_cannot_be_replayed_for_now",),
    ),
    Mutant(
        "a journal that never can be replayed keeps torn messages for ever",
        _REPLAY,
        "return not isinstance(error, JournalUnreadable) and error.errno not in (errno.EACCES, errno.EPERM)",
        "return bool(error)",
        (f"{_WHOSE}test_a_journal_that_never_can_be_replayed_keeps_no_torn_message",),
    ),
    Mutant(
        "each torn message waits anew for a replay that is stopped",
        _REPLAY,
        "self._rests_until = now + (now - begun) * _SHARE",
        "self._rests_until = now",
        (f"{_WHOSE}test_who_meets_torn_messages_waits_for_a_stopped_replay_but_now_and_then",),
    ),
    Mutant(
        "the doctor gives up on what is torn though its journal could not be replayed",
        "mailq/engines/maildir/doctor/messages.py",
        "if not context.journals_are_done:",
        "if False:",
        (
            "tests/doctor/test_doctor_hostile.py::test_a_torn_message_is_not_moved_as_long_as_its_journal_cannot_be_replayed",
        ),
    ),
    Mutant(
        "a replay removes what is no journal",
        _REMAINS,
        "    return next(decode(token, content), None) is not None\n",
        "    return content is not None\n",
        (f"{_REPLAYING}test_what_may_be_somebodys_own_stays_where_a_journal_would_be",),
    ),
    Mutant(
        "a replay follows a link in the place of the journals' directory",
        _REMAINS,
        "    return [] if os.path.islink(layout.journal) else found\n",
        "    return found\n",
        ("tests/hostile/test_planted.py::test_a_directory_that_becomes_a_link_while_the_queue_runs_is_not_listed",),
    ),
    Mutant(
        "a record may have any number",
        _JOURNAL,
        " or not 0 <= count <= LAST:",
        ":",
        (f"{_REPLAYING}test_a_journal_that_is_none_restores_nothing",),
    ),
    Mutant(
        "a producer counts beyond what its mark can tell",
        _JOURNAL,
        "        if self._number > LAST - SIZE:",
        "        if self._number > LAST + SIZE:",
        (f"{_REPLAYING}test_before_its_numbers_end_a_producer_begins_another_journal",),
    ),
    Mutant(
        "there are journals where names come to disk in any order",
        _JOURNAL,
        "self._disk.keeps_order(self._layout.tmp)",
        "bool(self._layout.tmp)",
        (f"{_HAND}test_there_is_none_where_nothing_needs_it_or_names_come_in_any_order",),
    ),
    Mutant(
        "there are journals where commits are fast, which keep some names and lose others",
        "mailq/engines/maildir/filesystems.py",
        "not is_fast and ",
        "",
        (f"{_HAND}test_where_names_come_to_disk_in_order",),
    ),
    Mutant(
        "what a journal brings back of a batch stands before what had its names already",
        "mailq/engines/maildir/recovery.py",
        'if record.state == "ready" and envelope.visible_at <= last:',
        "if not record.state:",
        ("tests/hand/test_replaying.py::test_a_batch_whose_producer_was_killed_between_its_renames_keeps_its_order",),
    ),
)
