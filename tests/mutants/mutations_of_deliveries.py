"""Who holds a message, what is delivered and what is not."""

from __future__ import annotations

from typing import Final

from mutant import Mutant

_CONTRACT: Final = "tests/contract/test_engines.py::TestMaildir::"
_UNIT_DISK: Final = "tests/unit/test_disk.py::"
_GARBAGE: Final = "tests/hostile/test_garbage.py::"
_ROOT: Final = "tests/hostile/test_root.py::"
_DEATH: Final = "tests/processes/test_death.py::"
_TEST_OWNERS: Final = "tests/processes/test_owners.py::"
_ELSEWHERE: Final = f"{_TEST_OWNERS}test_a_lease_of_a_process_that_may_live_elsewhere_is_left_to_it"
_DEADLINES: Final = "tests/unit/test_deadlines.py::"
_LINKS: Final = "tests/clocks/test_hard_links.py::"
_STANDING: Final = "tests/unit/test_standing_in.py::"
_HARDNESS: Final = "tests/hand/test_hardness.py::"
_STORE: Final = "mailq/engines/maildir/files.py"
_ENGINE: Final = "mailq/engines/maildir/engine.py"
_DISK: Final = "mailq/engines/maildir/disk.py"
_LAYOUT: Final = "mailq/engines/maildir/layout.py"
_OWNERS: Final = "mailq/engines/maildir/leases.py"
_MESSAGE: Final = "mailq/message.py"
_QUEUE: Final = "mailq/queue.py"

FENCES: Final = (
    Mutant(
        "an ack finds its message by id",
        _ENGINE,
        '            self._disk.unlink(f"{self._layout.cur}/{receipt}")',
        """            held = [name for name in os.listdir(self._layout.cur) if envelope.id in name]
            self._disk.unlink(f"{self._layout.cur}/{(held or [receipt])[0]}")""",
        (f"{_CONTRACT}test_a_stale_holder_cannot_touch_the_new_holder[ack]",),
    ),
    Mutant(
        "an ack costs a system call more",
        _ENGINE,
        '            self._disk.unlink(f"{self._layout.cur}/{receipt}")',
        """            os.stat(self._layout.marker)
            self._disk.unlink(f"{self._layout.cur}/{receipt}")""",
        ("tests/processes/test_calls.py::test_each_verb_makes_the_calls_that_it_needs_and_no_others[process-crash]",),
    ),
    Mutant(
        "each claim of a message has the same name",
        "mailq/engines/maildir/claim.py",
        'claim=f"{next(self._numbers) & 0xFFFFFF:06x}"',
        'claim="1"',
        (
            f"{_CONTRACT}test_a_stale_receipt_stays_stale_when_the_message_comes_back_unchanged",
            f"{_CONTRACT}test_receipts_of_one_message_are_never_the_same",
        ),
    ),
    Mutant(
        "a lease that has run out is extended",
        "mailq/engines/maildir/engine.py",
        '        if old is None or now >= old:\n            layout.require_marker(self._layout)\n            raise LeaseLost(receipt, "extend")\n        new = max(now + policy.ns(seconds), old)\n        if new == old:\n            return old\n        try:\n            self._store.set_mtime(path, new, before=old)\n            if self._clock() >= old:\n',
        '        if old is None:\n            layout.require_marker(self._layout)\n            raise LeaseLost(receipt, "extend")\n        new = max(now + policy.ns(seconds), old)\n        if new == old:\n            return old\n        try:\n            self._store.set_mtime(path, new, before=old)\n            if False:\n',
        (f"{_CONTRACT}test_an_extension_after_the_deadline_comes_too_late_even_if_nobody_noticed",),
    ),
    Mutant(
        "a lease that has run out is taken up by its receipt",
        _ENGINE,
        "        if until is None or self._clock() >= until:\n",
        "        if until is None:\n",
        (f"{_CONTRACT}test_a_lease_that_has_run_out_is_not_taken_up",),
    ),
    Mutant(
        "an extension that may have come too late is not taken back",
        _ENGINE,
        "            if self._clock() >= old:\n",
        "            if False:\n",
        (f"{_DEADLINES}test_an_extension_that_took_until_after_the_old_deadline_came_too_late",),
    ),
    Mutant(
        "a copy takes the place of a message that is gone",
        _STORE,
        "            self.disk.exchange(ours, path)\n",
        "            self.disk.rename(ours, path)\n",
        (
            f"{_STANDING}test_an_edit_that_was_stopped_until_its_message_was_reaped_makes_no_second_one[0]",
            f"{_STANDING}test_a_message_that_is_acked_while_its_lease_is_extended_does_not_come_back",
        ),
    ),
    Mutant(
        "an extended deadline stays on the message that is given back",
        "mailq/engines/maildir/files.py",
        "        self.clamp_mtime(path, self.clock() + NS)\n",
        "",
        (f"{_DEADLINES}test_an_extended_deadline_does_not_stay_in_the_file",),
    ),
    Mutant(
        "a consumer that holds nothing leaves what lies in tmp/",
        "mailq/engines/maildir/reaper.py",
        "chain(layouts.entries(layout.cur), _unfinished(layout))",
        "layouts.entries(layout.cur)",
        (
            "tests/hand/test_surroundings.py::test_what_the_dead_left_half_written_is_removed_by_a_consumer_that_holds_nothing",
        ),
    ),
    Mutant(
        "a lease is extended on a file that another queue has too",
        _STORE,
        "        if os.lstat(path).st_nlink <= 1:\n",
        "        if True:\n",
        (
            f"{_LINKS}test_an_extension_in_one_is_none_in_the_other",
            f"{_LINKS}test_a_death_in_one_has_its_time_and_the_other_keeps_its_lease",
        ),
    ),
    Mutant(
        "an extended deadline is taken back from a file that another queue has too",
        _STORE,
        """            if os.lstat(path).st_nlink > 1:
                return  # the claim that reads it makes a copy
""",
        "",
        (f"{_LINKS}test_what_is_settled_in_one_is_held_in_the_other_as_long_as_it_was",),
    ),
    Mutant(
        "two queues share the stamp of a reaping",
        "mailq/engines/maildir/reaper.py",
        "        if status is not None and status.st_nlink > 1:",
        "        if False:",
        (f"{_LINKS}test_each_of_the_two_is_reaped_however_often_the_other_is",),
    ),
    Mutant(
        "an extension does not count",
        "mailq/engines/maildir/reaper.py",
        "        return max(envelope.until, status.st_mtime_ns)\n",
        "        return envelope.until\n",
        (f"{_CONTRACT}test_an_extended_lease_holds_until_its_new_deadline",),
    ),
    Mutant(
        "the error text is written before the rename",
        _STORE,
        "        # A deadline that was extended by mtime would count",
        """        if error is not None:
            texts.write(self.disk, self.layout.errors, envelope.id, number, error, mode=self._mode)
        # A deadline that was extended by mtime would count""",
        (f"{_CONTRACT}test_a_stale_receipt_loses_and_changes_nothing",),
    ),
    Mutant(
        "a process whose lock can be had lives",
        _OWNERS,
        "        return runs_here(layout, disk.read_all(fd, _LONGEST))\n",
        "        return False\n",
        (f"{_DEATH}test_a_fresh_consumer_gives_back_what_a_dead_one_held_at_its_first_look",),
    ),
    Mutant(
        "two machines of one name are taken for one",
        _OWNERS,
        ' and story.get("machine", machine_id()) == machine_id()\n',
        "\n",
        (f"{_ELSEWHERE}[another machine of this name]",),
    ),
    Mutant(
        "a clone of this machine is taken for it",
        "mailq/engines/maildir/leases.py",
        " and (not boot or filesystems.is_all_here(layout.owners))",
        "",
        (f"{_ELSEWHERE}[a machine cloned from this one on a network disk]",),
    ),
    Mutant(
        "who is in another container is taken for one on another machine",
        _OWNERS,
        '    if boot and story.get("boot") == boot:\n        return True\n',
        "",
        (
            f"{_TEST_OWNERS}test_a_lease_of_a_process_that_died_here_is_given_back_at_once[a container under this kernel]",
        ),
    ),
    Mutant(
        "every owner is taken for dead",
        _OWNERS,
        "        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)\n",
        "",
        (f"{_DEATH}test_the_death_of_one_consumer_leaves_its_neighbours_leases_alone",),
    ),
    Mutant(
        "an owner is seen before it is locked",
        _OWNERS,
        """            fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Locked before it can be seen: a sweeper that met it unlocked would take it for dead.
            self._disk.rename(temporary, f"{self._layout.owners}/{token}")
""",
        """            self._disk.rename(temporary, f"{self._layout.owners}/{token}")
            sweep(self._layout, self._disk)
            fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
""",
        (f"{_DEATH}test_the_death_of_one_consumer_leaves_its_neighbours_leases_alone",),
    ),
)

DELIVERIES: Final = (
    Mutant(
        "no checksum is checked",
        "mailq/engines/maildir/names.py",
        "    return message.crc is None or message.crc == checksum(data)\n",
        "    return True\n",
        (f"{_GARBAGE}test_a_torn_file_goes_to_the_dead_and_its_neighbours_are_delivered",),
    ),
    Mutant(
        "no size is checked",
        "mailq/engines/maildir/names.py",
        "    if message.size is not None and message.size != len(data):\n        return False\n",
        "",
        (f"{_GARBAGE}test_a_length_without_a_checksum_as_shell_producers_write_it_tells_a_torn_file",),
    ),
    Mutant(
        "a closed queue goes on in silence",
        _QUEUE,
        "        if self._is_closed:\n            raise QueueClosed(self.location)\n        return self._engine\n",
        "        return self._engine\n",
        (f"{_CONTRACT}test_a_closed_queue_refuses_every_verb",),
    ),
    Mutant(
        "what is claimed while the queue is closed stays leased",
        "mailq/queue.py",
        "        except BaseException:  # interrupted, or closed: nobody has them\n            self._give_back(claimed.claims)\n",
        "        except BaseException:\n",
        (f"{_CONTRACT}test_what_is_claimed_while_the_queue_is_closed_goes_back",),
    ),
    Mutant(
        "no bell rings at the close",
        _ENGINE,
        "        self._notifier.notify()  # waiting threads and subscribers look again, and find the queue closed\n",
        "",
        (f"{_CONTRACT}test_a_bell_rings_at_the_close_and_not_after_it",),
    ),
    Mutant(
        "a push that is under way at the close leaves a journal behind",
        "mailq/queue.py",
        "        self._end_if_closed()\n        self._events.pushed(ids, messages)\n",
        "        self._events.pushed(ids, messages)\n",
        ("tests/hand/test_journals.py::test_a_queue_that_is_closed_in_the_midst_of_a_push_has_it_done_first",),
    ),
    Mutant(
        "a worker waits for a queue that was closed",
        "mailq/workers/supervisor.py",
        "            except QueueClosed:  # by this program, and for good: its jobs cannot be settled either\n                raise\n",
        "",
        ("tests/workers/test_outcomes.py::test_a_worker_whose_queue_is_closed_ends_with_that",),
        stalls=True,
    ),
    Mutant(
        "asking whether a message is in the queue takes it",
        "mailq/queue.py",
        "        return bool(self.engine.look(None, ids=[id], limit=1))\n",
        "        return any(delivery.id == id for delivery in self.drain())\n",
        (f"{_CONTRACT}test_asking_whether_a_message_is_in_the_queue_only_looks",),
    ),
    Mutant(
        "what is not JSON is delivered as JSON",
        "mailq/codecs.py",
        "json.JSONDecoder(parse_constant=_refuse, parse_float=_float)",
        "json.JSONDecoder()",
        ("tests/unit/test_codecs.py::test_a_body_that_will_not_decode_keeps_its_bytes",),
    ),
    Mutant(
        "symlinks are followed",
        _DISK,
        '_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)',
        "_NOFOLLOW: Final = 0",
        (f"{_UNIT_DISK}test_a_symlink_is_not_read",),
    ),
    Mutant(
        "a FIFO is waited for",
        _DISK,
        '_READ: Final = os.O_RDONLY | _NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | _BINARY',
        "_READ: Final = os.O_RDONLY | _NOFOLLOW | _BINARY",
        (f"{_UNIT_DISK}test_a_fifo_is_not_waited_for",),
        stalls=True,
    ),
    Mutant(
        "a listing is taken for the truth",
        "mailq/engines/maildir/listing.py",
        "        if older := [key for key in keys if layouts.time_of(key) < begun]:\n            return Listing(older, since, heard=False)\n",
        "        if keys:\n            return Listing(keys, since, heard=False)\n",
        ("tests/unit/test_listing.py",),
    ),
    Mutant(
        "what is unfit is deleted",
        "mailq/engines/maildir/claim.py",
        "                self._store.settle(held, claimed, step, text=verdict.text, buried=buried)\n",
        "                self._store.disk.unlink(held)\n",
        (f"{_GARBAGE}test_a_torn_file_goes_to_the_dead_and_its_neighbours_are_delivered",),
    ),
    Mutant(
        "one message that cannot be moved stops the claim",
        "mailq/engines/maildir/claim.py",
        "                tried.refuse(key, error)\n                claim = None\n",
        "                raise\n",
        (f"{_HARDNESS}test_a_message_that_cannot_be_moved_blocks_no_other",),
    ),
    Mutant(
        "a claim that is interrupted keeps the message",
        "mailq/engines/maildir/claim.py",
        "        except BaseException as error:  # an interrupt too, also right after",
        "        except ZeroDivisionError as error:  # right after",
        (f"{_HARDNESS}test_a_claimed_message_that_cannot_be_read_now_is_ready_again_at_once",),
    ),
    Mutant(
        "a lapsed lease is not counted",
        "mailq/policy.py",
        '        return Step("dead", envelope.visible_at, outcome, "retries")\n',
        '        return Step("dead", envelope.visible_at, outcome, "retries")\n    outcome = outcome if outcome != "timeout" else ""\n',
        (f"{_CONTRACT}test_every_lapse_counts_as_an_attempt",),
    ),
    Mutant(
        "times go backwards with the clock",
        "mailq/ids.py",
        "            self._last = max(self._last + 1, self._clock())\n",
        "            self._last = self._clock()\n",
        (f"{_CONTRACT}test_the_order_holds_when_the_clock_steps_back",),
    ),
    Mutant(
        "without the marker a queue looks empty",
        "mailq/engines/maildir/claim.py",
        "        else:\n            layout.require_marker(self._layout)\n",
        "",
        ("tests/hand/test_surroundings.py::test_a_queue_that_went_away_is_missed_at_the_next_pop",),
    ),
    Mutant(
        "a file is read to its end, wherever that is",
        _DISK,
        "        while left and (data := self.read(fd, left)):\n",
        "        while data := self.read(fd, 1 << 16):\n",
        (f"{_UNIT_DISK}test_a_file_that_is_longer_than_thought_shows_it_and_costs_no_more",),
    ),
    Mutant(
        "a queue is opened through links",
        _LAYOUT,
        """    _refuse_links(layout)
    missing""",
        "    missing",
        ("tests/hostile/test_planted.py::test_a_directory_that_is_a_link_is_refused_at_once[new]",),
    ),
    Mutant(
        "a queue is made through links",
        _LAYOUT,
        """    _refuse_links(layout)
    if MARKER in found:""",
        "    if MARKER in found:",
        ("tests/hostile/test_planted.py::test_a_queue_is_not_made_through_links",),
    ),
    Mutant(
        "a link that takes a directory's place is listed",
        _LAYOUT,
        "        if os.path.islink(directory):",
        "        if False:",
        ("tests/hostile/test_planted.py::test_a_directory_that_becomes_a_link_while_the_queue_runs_is_not_listed",),
    ),
)

AS_ROOT: Final = (
    Mutant(
        "what root makes in the queue of another stays root's",
        _DISK,
        "                self.gives_to = status.st_uid, status.st_gid\n",
        "",
        (f"{_ROOT}test_what_root_does_in_the_queue_of_another_leaves_it_all_to_that_user[push]",),
    ),
    Mutant(
        "the file of a lock that root has made stays root's",
        _LAYOUT,
        "    if disk.gives_to is not None:",
        "    if False:",
        (f"{_ROOT}test_what_root_does_in_the_queue_of_another_leaves_it_all_to_that_user[config]",),
    ),
    Mutant(
        "root gives files away wherever a link leads",
        _DISK,
        "        if os.fstat(place).st_uid in ((to[0], 0) if also_in_roots else (to[0],)):\n",
        "        if True:\n",
        (f"{_ROOT}test_root_gives_away_nothing_in_a_directory_of_its_own_where_a_link_leads",),
    ),
    Mutant(
        "root gives away a directory that it has not made",
        _DISK,
        " and not os.listdir(fd):",
        ":",
        (f"{_ROOT}test_root_gives_away_no_directory_that_was_put_in_the_place_of_a_fresh_one",),
    ),
    Mutant(
        "a process that has ceased to be root cannot push any more",
        _DISK,
        "            except PermissionError:  # this process has ceased",
        "            except ProcessLookupError:  # this process has ceased",
        (f"{_ROOT}test_a_process_that_ceases_to_be_root_goes_on",),
    ),
)
"""What only tests notice that run as root, and become other users."""
