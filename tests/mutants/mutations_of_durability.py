"""What a power cut, a crash or a failed call must not take."""

from __future__ import annotations

from typing import Final

from mutant import Mutant

_CONTRACT: Final = "tests/contract/test_engines.py::TestMaildir::"
_STATES: Final = "tests/crash/test_crash_states.py::test_no_power_cut_breaks_a_promise"
_DEATHS: Final = "tests/faults/test_each_call_is_the_last.py::test_each_call_is_the_last"
_CRASH: Final = "tests/crash/test_crash_states.py::"
_UNIT_DISK: Final = "tests/unit/test_disk.py::"
_STORE: Final = "mailq/engines/maildir/files.py"
_DISK: Final = "mailq/engines/maildir/disk.py"
_ADMIN: Final = "mailq/engines/maildir/admin.py"
_REMAKING: Final = "mailq/engines/maildir/compaction.py"

DURABILITY: Final = (
    Mutant(
        "the directory of a push is not synced",
        _STORE,
        "                one.sync()\n",
        "                pass\n",
        (f"{_STATES}[push]",),
    ),
    Mutant(
        "fast commits are trusted",
        _DISK,
        "            if self._looks_left and self._was_fast(fd):\n",
        "            if False:\n",
        (f"{_UNIT_DISK}test_what_a_fast_commit_may_lose_is_synced_another_way_and_from_then_on_all",),
    ),
    Mutant(
        "the wrong directory is synced: where a push came from",
        _STORE,
        "Held(self.disk, directory, ",
        "Held(self.disk, self.layout.tmp, ",
        (f"{_STATES}[push]",),
    ),
    Mutant(
        "the file of a push is not synced",
        "mailq/engines/maildir/push.py",
        "sync=not together",
        "sync=False",
        (f"{_STATES}[push]",),
    ),
    Mutant(
        "a batch is not synced",
        "mailq/engines/maildir/push.py",
        "            if fd is not None:\n                self._disk.syncfs(fd)\n",
        "",
        ("tests/unit/test_batches.py",),
    ),
    Mutant(
        "a push writes where it is delivered from",
        "mailq/engines/maildir/push.py",
        'write_file(f"{self._layout.tmp}/{message.name}", message.data',
        'write_file(f"{message.directory}/{message.name}", message.data',
        (f"{_CONTRACT}test_a_body_comes_out_as_it_went_in",),
    ),
    Mutant(
        "a dead letter is not synced",
        _STORE,
        "            self.disk.sync_directory(directory)\n",
        "",
        (f"{_STATES}[reject]",),
    ),
    Mutant(
        "many dead letters are not synced",
        _STORE,
        "                    self.disk.syncfs(fd)\n                finally:\n",
        "                    pass\n                finally:\n",
        ("tests/hand/test_dead_letters.py::test_many_that_die_at_once_are_synced_together",),
    ),
    Mutant(
        "what a killed creator left is not synced",
        _STORE,
        "            self._sync_root(self.layout.root)\n",
        "",
        (f"{_CRASH}test_a_queue_whose_first_creator_was_killed_is_as_durable_as_any[jobs]",),
    ),
    Mutant(
        "the marker comes before its directories are synced",
        "mailq/engines/maildir/layout.py",
        "        _sync_with_ancestors(layout.root, disk)  # before",
        "        pass  # before",
        (f"{_STATES}[init_in_directories_to_be_made]",),
    ),
    Mutant(
        "an edit unlinks before it renames",
        _ADMIN,
        "        store.swap_in(temporary, hold)\n",
        "        store.disk.unlink(hold)\n        store.disk.rename(temporary, hold)\n",
        (f"{_STATES}[edit]",),
    ),
    Mutant(
        "a message whose editor died is given back like a claim",
        "mailq/engines/maildir/reaper.py",
        "                if envelope.edit:\n",
        "                if False:\n",
        (f"{_STATES}[edit]", f"{_DEATHS}[edit_ready]", f"{_DEATHS}[edit_delayed]", f"{_DEATHS}[edit_dead]"),
    ),
    Mutant(
        "an edited dead letter gets its time of death only when it is back",
        _ADMIN,
        """            store.disk.utime(temporary, record.at)  # when it died is its mtime
        written""",
        """            pass
        written""",
        (f"{_DEATHS}[edit_dead]",),
    ),
    Mutant(
        "a reply is not synced",
        "mailq/engines/maildir/replies.py",
        "sync=store.durable)\n",
        "sync=False)\n",
        (f"{_STATES}[reply]",),
    ),
    Mutant(
        "a push does not notice that its directory was made anew",
        "mailq/engines/maildir/held.py",
        """            if os.path.samestat(status, os.stat(self._path)):
                return
""",
        "            return\n",
        (f"{_STATES}[remade_meanwhile]",),
    ),
    Mutant(
        "what was in the old directory is not synced before that is removed",
        _REMAKING,
        """                if self._store.durable:
                    disk.sync_directory(path)
""",
        "                pass\n",
        (f"{_STATES}[remake]",),
    ),
    Mutant(
        "what was left in an old directory is not taken over",
        _REMAKING,
        "        for path in retired_directories(self._store.layout):",
        "        for path in ():",
        (f"{_STATES}[remade_by_halves]",),
    ),
    Mutant(
        "the sync of a file is tried again after it failed",
        _DISK,
        """            if sync:
                self.fsync(fd)
""",
        """            if sync:
                try:
                    self.fsync(fd)
                except OSError:
                    self.fsync(fd)
""",
        (f"{_UNIT_DISK}test_a_failed_sync_is_never_tried_again_on_the_same_file",),
    ),
    Mutant(
        "a failed push leaves what it wrote",
        "mailq/engines/maildir/push.py",
        '                self._disk.unlink(f"{self._layout.tmp}/{message.name}")\n            except OSError:\n',
        "                pass\n            except OSError:\n",
        ("tests/faults/test_each_call_fails.py::test_each_call_of_each_verb_fails[push]",),
    ),
    Mutant(
        "a failed push does not say what may be in the queue",
        "mailq/engines/maildir/push.py",
        "                    maybe.append(target.id)\n",
        "                    pass\n",
        ("tests/faults/test_vanished.py::test_a_push_that_may_have_happened_says_so_even_if_the_queue_is_gone",),
    ),
    Mutant(
        "a redrive is not synced",
        _ADMIN,
        "        return _synced(store, store.layout.new, lambda: _redrive(store, ids, limit))\n",
        "        return _redrive(store, ids, limit)\n",
        (f"{_STATES}[redrive]",),
    ),
    Mutant(
        "an edit is not synced",
        _ADMIN,
        "        _synced(store, place, lambda: ",
        "        (lambda exchange: exchange())(lambda: ",
        ("tests/hand/test_remaking.py::test_what_came_to_a_directory_that_was_exchanged_meanwhile_is_synced",),
    ),
    Mutant(
        "the sync of a directory does not ask a failed disk for its status",
        _DISK,
        """            self.sync_names(fd)
        finally""",
        """            self.fsync(fd)
        finally""",
        (f"{_UNIT_DISK}test_a_sync_of_a_directory_asks_for_its_status_too",),
    ),
)
