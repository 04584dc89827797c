"""What archives, the doctor and the command promise."""

from __future__ import annotations

from typing import Final

from mutant import Mutant

_TEST_SURVEY: Final = "tests/archive/test_survey.py::"
_TEST_IMPORT: Final = "tests/archive/test_import.py::"
_LIVE: Final = "tests/archive/test_live.py::"
_TEST_DUPLICATES: Final = "tests/doctor/test_doctor_duplicates.py::"
_IMPORT: Final = "mailq/transfer/import_.py"
_SURVEY: Final = "mailq/transfer/snapshot.py"
_DUPLICATES: Final = "mailq/engines/maildir/doctor/duplicates.py"
_TEST_STREAMS: Final = "tests/shell/test_streams.py::"
_STREAMS: Final = "mailq/cli/streams.py"

ARCHIVES: Final = (
    Mutant(
        "an export takes one listing for the truth",
        _SURVEY,
        "            if clean == enough:\n",
        "            if True:\n",
        (
            f"{_TEST_SURVEY}test_what_the_kernel_had_no_room_to_tell_is_found_by_listing_again",
            f"{_TEST_SURVEY}test_messages_that_slip_away_when_they_are_reached_for_are_caught_later",
        ),
    ),
    Mutant(
        "an export does not hear what is moved",
        _SURVEY,
        "        self._watch = watch(self._directories) if hear else None\n",
        "        self._watch = None\n",
        (f"{_TEST_SURVEY}test_messages_that_are_always_where_nobody_lists_are_found",),
    ),
    Mutant(
        "an import does not look whether a message is there",
        _IMPORT,
        "        if isinstance(item, Item) and item.envelope.id in self._known:\n",
        "        if False:\n",
        (f"{_TEST_IMPORT}test_a_second_import_finds_everything_there",),
    ),
    Mutant(
        "two imports run at a time",
        _IMPORT,
        "            with _alone(store, tell):\n",
        "            if True:\n",
        (f"{_LIVE}test_imports_of_one_archive_at_the_same_time_give_each_message_once",),
    ),
    Mutant(
        "what came before the damage of an archive is not stored",
        _IMPORT,
        """        finally:
            self._store_batch()
""",
        """        finally:
            pass
        self._store_batch()
""",
        ("tests/archive/test_import_stopped.py::test_an_archive_that_goes_mad_in_the_middle_is_read_up_to_there",),
    ),
    Mutant(
        "zeros up to the end of an export pass for its end",
        "mailq/transfer/tar.py",
        "        if self._is_announced:\n",
        "        if False:\n",
        ("tests/archive/test_import_stopped.py::test_no_block_of_an_export_can_be_zeroed_in_silence",),
    ),
    Mutant(
        "a torn message is exported as whole",
        "mailq/transfer/export.py",
        "            torn = error.text\n",
        '            torn = ""\n',
        ("tests/archive/test_round_trip.py::test_a_torn_message_is_dead_in_the_archive_and_told_of",),
    ),
)

DOCTOR: Final = (
    Mutant(
        "the doctor keeps the older state",
        _DUPLICATES,
        "        older, newer = sorted(",
        "        newer, older = sorted(",
        (f"{_TEST_DUPLICATES}test_the_newest_state_stays",),
    ),
    Mutant(
        "the doctor deletes what it should move aside",
        _DUPLICATES,
        "            self.to_sync |= _quarantine(loser.queue, loser.path)\n",
        "            loser.queue.disk.unlink(loser.path)\n",
        (f"{_TEST_DUPLICATES}test_the_newest_state_stays",),
    ),
    Mutant(
        "the doctor takes a message that moves for two",
        _DUPLICATES,
        "        if there is not None:\n",
        "        if False:\n",
        (f"{_TEST_DUPLICATES}test_a_message_that_moves_on_while_it_is_listed_is_one",),
    ),
    Mutant(
        "what the doctor moved is not synced",
        _DUPLICATES,
        "    for path in sorted(contest.to_sync):\n",
        "    for path in ():\n",
        (f"{_TEST_DUPLICATES}test_moves_are_durable",),
    ),
    Mutant(
        "the doctor does not look into the shared dead-letter queue",
        _DUPLICATES,
        "(context,) if home is None else (context, home)",
        "(context,)",
        ("tests/doctor/test_doctor_shared_dead.py",),
    ),
    Mutant(
        "the doctor takes the dead letters of other queues for this one's",
        _DUPLICATES,
        "                elif mark in entry.name:\n",
        "                else:\n",
        ("tests/doctor/test_doctor_shared_dead.py",),
    ),
    Mutant(
        "the doctor replaces what was put aside before",
        _DUPLICATES,
        "    while os.path.lexists(target):",
        "    while False:",
        (f"{_TEST_DUPLICATES}test_what_is_aside_is_never_replaced_delivered_or_purged",),
    ),
    Mutant(
        "the doctor asks what ext4 makes of a sync before there was one",
        "mailq/engines/maildir/doctor/filesystem.py",
        """    Check("fsync", "", _fsync),
    Check("clock-drift", "as far as it could be measured, the disk and this machine agree on the time", _drift),
    # After a sync: only then does ext4 say what it makes of one.
    Check("file-system", "", partial(_judged, check="file-system")),
""",
        """    Check("file-system", "", partial(_judged, check="file-system")),
    Check("fsync", "", _fsync),
    Check("clock-drift", "as far as it could be measured, the disk and this machine agree on the time", _drift),
""",
        (
            "tests/doctor/test_doctor_machine.py::test_whoever_is_the_first_to_sync_since_the_mount_is_told_of_fast_commits_too",
        ),
    ),
    Mutant(
        "the doctor does not name a torn message",
        "mailq/engines/maildir/doctor/messages.py",
        '            return seen._replace(condition="torn")\n',
        "            return seen\n",
        ("tests/doctor/test_doctor_damage.py::test_it_is_named",),
    ),
)

COMMAND: Final = (
    Mutant(
        "the command hides that a lease is lost",
        "mailq/cli/settle.py",
        "            code = code or exit_code(error)\n",
        "            pass\n",
        ("tests/shell/test_settle.py::test_a_stale_receipt_is_exit_code_4_and_leaves_the_new_holder_alone",),
    ),
    Mutant(
        "a run whose lease is lost goes on waking for its heartbeats",
        "mailq/cli/run.py",
        "        return None if self.lost else self._seconds / _BEATS\n",
        "        return self._seconds / _BEATS\n",
        ("tests/shell/test_settle.py::test_run_sleeps_until_the_end_of_a_command_whose_lease_is_lost",),
        stalls=True,
    ),
    Mutant(
        "what is printed to a closed standard output passes for printed",
        _STREAMS,
        '("stdout", "w", os.O_RDONLY)',
        '("stdout", "w", os.O_RDWR)',
        (f"{_TEST_STREAMS}test_what_cannot_be_printed_is_given_back",),
    ),
    Mutant(
        "what was popped and could not be printed stays leased",
        "mailq/cli/pop.py",
        "                    delivery.release()\n",
        "                    pass\n",
        (f"{_TEST_STREAMS}test_what_cannot_be_printed_is_given_back",),
    ),
    Mutant(
        "what could not be written is left for Python's exit",
        "mailq/cli/main.py",
        "        streams.drop_unwritten()\n",
        "        pass\n",
        (f"{_TEST_STREAMS}test_output_that_cannot_be_written_is_a_failure_in_one_line",),
    ),
    Mutant(
        "jobs of a worker without streams fail when they print",
        "mailq/cli/work.py",
        "    open_closed()\n",
        "    pass\n",
        (f"{_TEST_STREAMS}test_handlers_of_a_worker_without_streams_print_to_nobody",),
    ),
    Mutant(
        "an empty standard input is a message",
        "mailq/cli/push.py",
        "    if body is None and not raw:\n",
        "    if False:\n",
        (f"{_TEST_STREAMS}test_an_empty_standard_input_is_a_message_only_for_a_dash",),
    ),
    Mutant(
        "a closed standard input is an empty message",
        _STREAMS,
        "    if _is_closed(0):\n",
        "    if False:\n",
        (f"{_TEST_STREAMS}test_a_closed_standard_input_is_refused",),
    ),
)
