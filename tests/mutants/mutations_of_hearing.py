"""What a consumer may believe of the kernel's word, and what it must not."""

from __future__ import annotations

from typing import Final

from mutant import Mutant

_HEARING: Final = "tests/processes/test_hearing.py::"
_WINDOW: Final = "tests/unit/test_window.py::"

HEARING: Final = (
    Mutant(
        "it is not noticed when the kernel had no room for all arrivals",
        "mailq/engines/inotify.py",
        """            if mask & _OVERFLOW:
                self.missed = True
""",
        """            if mask & _OVERFLOW:
                pass
""",
        (f"{_HEARING}test_what_the_kernel_had_no_room_for_is_told_to_be_missed",),
    ),
    Mutant(
        "the kernel's word is believed where other hosts push",
        "mailq/engines/maildir/watcher.py",
        "        return self._is_all_here and not missed\n",
        "        return not missed\n",
        (f"{_HEARING}test_where_others_may_be_behind_the_disk_the_word_is_never_all",),
    ),
    Mutant(
        "what was read of the kernel's word in an interrupted moment is forgotten",
        "mailq/engines/maildir/watcher.py",
        "                listener.on_overflow()\n                raise\n",
        "                raise\n",
        (f"{_HEARING}test_who_is_interrupted_in_hearing_has_missed_some",),
    ),
    Mutant(
        "what could not be taken beside another is not tried again",
        "mailq/engines/maildir/claim.py",
        "                self._ready.mark_incomplete()  # another claim must find them again\n",
        "                pass\n",
        (f"{_HEARING}test_what_could_not_be_taken_beside_another_is_tried_again_by_the_next_pop",),
    ),
    Mutant(
        "a listing is taken for whole though meanwhile something was missed",
        "mailq/engines/maildir/ready_index.py",
        "            self._heard_bound = self._bound\n            self._miss()\n",
        "            self._heard_bound = self._bound\n",
        (f"{_WINDOW}test_a_listing_during_which_all_was_forgotten_is_not_whole",),
    ),
    Mutant(
        "a listing that was cut short is taken for whole when the window has grown meanwhile",
        "mailq/engines/maildir/ready_index.py",
        "        is_longer = len(keys) > since.size\n",
        "        is_longer = len(keys) > self.size\n",
        (f"{_WINDOW}test_a_listing_that_was_cut_short_is_not_whole_though_another_has_let_the_window_grow",),
    ),
    Mutant(
        "a listing that was begun before there was anything to hear is taken for whole",
        "mailq/engines/maildir/listing.py",
        "        if hear() and hears:\n",
        "        if hear():\n",
        (f"{_HEARING}test_what_came_to_a_listing_before_another_thread_began_to_hear_is_found",),
    ),
    Mutant(
        "a thread that waits does not listen to the kernel while another does",
        "mailq/engines/maildir/notify.py",
        "        alarm = Alarm() if watch is None else watch.alarm()\n",
        "        alarm = Alarm() if watch is None or self._waiting else watch.alarm()\n",
        (f"{_HEARING}test_when_one_thread_gives_up_waiting_another_hears_all_the_same",),
    ),
    Mutant(
        "a queue that was closed believes in what stood in line before",
        "mailq/engines/maildir/engine.py",
        "        self._ready.clear()  # it does not get what arrives from now on\n",
        "",
        (f"{_HEARING}test_what_came_while_it_was_closed_is_found_behind_what_was_heard_before",),
    ),
    Mutant(
        "what was pushed here hides the kernel's word of it",
        "mailq/engines/maildir/ready_index.py",
        "                self.add(key, heard=was_heard)\n",
        "                known.add(key)\n                self.add(key, heard=was_heard)\n",
        ("tests/unit/test_window.py",),
    ),
    Mutant(
        "bells are rung under the lock of those who hear",
        "mailq/engines/maildir/watcher.py",
        "        if came or missed:\n            listener.on_wakeup()\n",
        "            if came or missed:\n                listener.on_wakeup()\n",
        (f"{_HEARING}test_a_bell_may_wait_for_somebody_who_is_about_to_hear",),
    ),
)
