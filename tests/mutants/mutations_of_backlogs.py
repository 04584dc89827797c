"""What one claim may do, and what must not make a consumer list a long line again."""

from __future__ import annotations

from typing import Final

from mutant import Mutant

_BACKLOGS: Final = "tests/unit/test_backlogs.py::"
_LINES: Final = "tests/processes/test_long_lines.py::"

BACKLOGS: Final = (
    Mutant(
        "one claim does all there is to do",
        "mailq/engines/budget.py",
        "        if self._free > 0 or time.monotonic() < self._until:\n",
        "        if self._until:\n",
        (f"{_BACKLOGS}test_one_claim_moves_few_and_the_next_ones_the_rest",),
    ),
    Mutant(
        "a listing fills the window with expired messages",
        "mailq/engines/maildir/ready.py",
        "            return self.expired.sift(untried if tried.for_good else keys)\n",
        "            return untried\n",
        (f"{_BACKLOGS}test_a_message_behind_many_that_have_expired_is_found_by_the_first_claim",),
    ),
    Mutant(
        "expired messages that there was no room for are forgotten",
        "mailq/engines/maildir/expired.py",
        "            elif is_all := len(expired) < MOST:\n",
        "            elif len(expired) < MOST:\n",
        (f"{_BACKLOGS}test_more_expired_messages_than_are_kept_hide_no_other_and_are_buried_too",),
    ),
    Mutant(
        "a message is buried that has not expired by the settings of today",
        "mailq/engines/maildir/expired.py",
        "        if not policy.has_expired(envelope, store.settings, store.clock()):",
        "        if not envelope:",
        (f"{_BACKLOGS}test_when_messages_shall_live_longer_those_that_were_to_be_buried_are_delivered",),
    ),
    Mutant(
        "each claim that buries expired messages lists the others",
        "mailq/engines/maildir/ready.py",
        "            if self.expired and self._is_fresh():\n",
        "            if self.expired and not self._is_fresh():\n",
        (f"{_BACKLOGS}test_a_backlog_is_not_listed_for_each_of_the_claims_that_bury_it",),
    ),
    Mutant(
        "a claim tries again what the disk has refused the one before",
        "mailq/engines/maildir/claim.py",
        "            self._ready.resume_later(tried)\n",
        "            pass\n",
        (f"{_BACKLOGS}test_a_message_behind_more_that_the_disk_refuses_than_a_window_holds_is_reached",),
    ),
    Mutant(
        "a pop returns nothing when one claim has found nothing to lease in its time",
        "mailq/queue.py",
        "                if not claimed.more:  # else something",
        "                if True:  # else something",
        (f"{_BACKLOGS}test_a_pop_finds_what_is_behind_a_backlog",),
    ),
    Mutant(
        "a consumer waits although something was left to its next claim",
        "mailq/engines/maildir/engine.py",
        "        if self._left_some:\n            return 0.0\n",
        "",
        (f"{_BACKLOGS}test_nobody_waits_while_there_is_something_left",),
    ),
    Mutant(
        "a worker takes a queue for dry whose claim was cut short",
        "mailq/workers/job.py",
        "        self.dry = deliveries is not None and len(deliveries) < limit\n",
        "        self.dry = not deliveries or len(deliveries) < limit\n",
        (f"{_BACKLOGS}test_a_worker_comes_back_at_once_and_is_not_done_before_all_are_buried",),
    ),
    Mutant(
        "a reaping that is cut short is not gone on with",
        "mailq/engines/maildir/reaper.py",
        "                self._suspects = suspects[number - 1 :]\n",
        "",
        (f"{_BACKLOGS}test_leases_that_ran_out_in_masses_come_back_with_the_next_claims",),
    ),
)

LONG_LINES: Final = (
    Mutant(
        "a consumer does not add to its line what it has reaped",
        "mailq/engines/maildir/reaper.py",
        "            self._ready.add(*os.path.split(path))\n",
        "",
        (f"{_LINES}test_leases_that_run_out_and_messages_that_come_due_cost_no_listing",),
    ),
    Mutant(
        "a consumer that missed some lists a long line at once",
        "mailq/engines/maildir/ready.py",
        '        """The kernel has not reported all."""\n        self.mark_incomplete()\n',
        '        """The kernel has not reported all."""\n        self.clear()\n',
        (f"{_LINES}test_what_the_kernel_did_not_tell_costs_no_listing_before_the_line_is_used_up",),
    ),
    Mutant(
        "what is missing from a line is looked for when it is used up, and no sooner",
        "mailq/engines/maildir/ready.py",
        "        self._fresh_until = min(self._fresh_until, self._doubted_until)\n",
        "",
        (
            f"{_LINES}test_what_the_kernel_did_not_tell_is_looked_for_soon",
            f"{_LINES}test_what_the_disk_refused_is_looked_for_soon",
        ),
    ),
    Mutant(
        "in a line of which some is missing nothing is heard any more",
        "mailq/engines/maildir/ready_index.py",
        "            self._heard_bound = self._bound\n            self._miss()",
        '            self._heard_bound = self._bound = ""\n            self._miss()',
        (f"{_LINES}test_in_a_line_of_which_some_is_missing_the_kernel_is_still_heard",),
    ),
    Mutant(
        "what two have told of stands in line twice",
        "mailq/engines/maildir/ready_index.py",
        "        while self._heap and self._heap[0] == key:",
        "        while self._heap and not self._heap[0]:",
        (f"{_LINES}test_a_message_that_two_have_told_of_is_taken_once",),
    ),
    Mutant(
        "a redrive that finds nothing costs a listing",
        "mailq/engines/maildir/engine.py",
        "        if redriven:\n            self._ready.clear()\n",
        "        if redriven is not None:\n            self._ready.clear()\n",
        (f"{_LINES}test_a_redrive_that_finds_nothing_costs_no_listing",),
    ),
)
