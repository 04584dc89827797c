from __future__ import annotations

from collections.abc import Callable

import pytest
from envelopes import died, events, returned, stories, tell
from hypothesis import example, given
from hypothesis import strategies as st

from mailq.engines.maildir import names
from mailq.engines.maildir.names import MessageName
from mailq.ids import new_id
from mailq.message import RestingState

ID = new_id(0)


def letters_of(story: list[str]) -> str:
    return "".join(story)


def attempts_in(letters: str) -> str:
    return "".join(letter for letter in letters if letter in names.ATTEMPTS)


@given(stories)
@example(["E"] * 40)
@example(["E", "N"] * 40)
@example(["Er"] * 40)
@example(["Er", "Nj", "x", "t"] * 20)
@example(["x"] * 40)
@example(["E", "N", "T", "K"] * 20 + ["r"] + ["E", "N", "T", "K"] * 20)
def test_a_story_of_any_length_keeps_both_counts_and_the_last_death(story: list[str]) -> None:
    envelope = MessageName(0, ID, tries=tell(story))
    told = letters_of(story)
    deaths = [letter for letter in told if letter in names.DEATHS]
    since = told if not deaths else told[told.rindex(deaths[-1]) + 1 :]
    assert envelope.total_attempts == len(attempts_in(told))
    assert envelope.attempts == len(attempts_in(since))
    assert envelope.reason == (names.DEATHS[deaths[-1]] if deaths else "")


@given(stories)
@example(["E", "N"] * 200 + ["r"] + ["E", "N"] * 200)
def test_a_story_stays_short_enough_for_a_name(story: list[str]) -> None:
    tries = tell(story)
    assert len(tries) <= names._TRIES_LENGTH
    if tries:
        assert names.parse(names.format_name(MessageName(0, ID, tries=tries))) == MessageName(0, ID, tries=tries)


@given(
    st.sampled_from(("X99999", "X99999r", "X99999rX99999", "X999999rE99999", "E99999")), st.lists(events, max_size=30)
)
def test_a_story_that_was_long_already_keeps_its_counts(before: str, story: list[str]) -> None:
    tries = before
    for event in story:
        tries = names.add_letters(tries, event)
    assert names.parse(names.format_name(MessageName(0, ID, tries=tries))) == MessageName(0, ID, tries=tries)
    more = len(attempts_in(letters_of(story)))
    assert MessageName(0, ID, tries=tries).total_attempts == MessageName(0, ID, tries=before).total_attempts + more


@given(stories)
@example(["E", "N", "T", "K"] * 10)
def test_what_is_told_of_an_attempt_is_true(story: list[str]) -> None:
    happened = attempts_in(letters_of(story))
    told = names.list_attempts(tell(story))
    assert told == sorted(told)
    assert all(names.ATTEMPTS[happened[number - 1]] == outcome for number, outcome in told)
    if told:
        assert told[-1] == (len(happened), names.ATTEMPTS[happened[-1]])


@given(st.lists(events, max_size=6))
def test_a_short_story_is_told_whole(story: list[str]) -> None:
    happened = attempts_in(letters_of(story))
    assert names.list_attempts(tell(story)) == [
        (n, names.ATTEMPTS[letter]) for n, letter in enumerate(happened, start=1)
    ]


@pytest.mark.parametrize(
    ("story", "spelled"),
    [
        ([], ""),
        (["E"], "E"),
        (["E", "E", "E"], "E3"),
        (["E", "N", "N", "T"], "EN2T"),
        (["E", "E", "Er"], "E3r"),
        (["E", "Er", "E"], "E2rE"),
        (["Rj", "Rj"], "RjRj"),
        (["x"], "x"),
    ],
)
def test_a_story_is_spelled_as_a_person_reads_it(story: list[str], spelled: str) -> None:
    assert tell(story) == spelled


# The state changes of an envelope


def claimed() -> MessageName:
    return MessageName(5, ID, tries="E", ttl=60.0, source_queue="ab").claimed(until=7, owner="cd", claim="ef")


def test_a_claim_adds_the_lease_and_nothing_else() -> None:
    assert claimed() == MessageName(5, ID, tries="E", ttl=60.0, source_queue="ab", until=7, owner="cd", claim="ef")


def test_a_claim_of_a_dead_letter_in_a_shared_queue_is_a_claim() -> None:
    dead = died(claimed(), "rejected", "R")
    assert dead.claimed(until=7, owner="", claim="ef").dead is False


def test_giving_back_takes_the_lease_away() -> None:
    assert returned(claimed(), 9) == MessageName(9, ID, tries="E", ttl=60.0, source_queue="ab")
    assert returned(claimed(), 9, "N") == MessageName(9, ID, tries="EN", ttl=60.0, source_queue="ab")


def test_giving_up_ends_the_time_to_live_and_begins_the_count_again() -> None:
    dead = died(claimed(), "retries", "T")
    assert dead == MessageName(5, ID, tries="ETr", source_queue="ab", dead=True)
    assert (dead.attempts, dead.total_attempts, dead.reason) == (0, 2, "retries")


@pytest.mark.parametrize("state", ["ready", "delayed", "dead"])
def test_a_message_that_is_edited_is_afterwards_what_it_was(state: RestingState) -> None:
    before = died(claimed(), "rejected") if state == "dead" else returned(claimed(), 9)
    held = before.claimed(until=7, owner="cd", claim="ef")._replace(edit=state)
    assert held.at_rest(state) == before


@pytest.mark.parametrize(
    "settled",
    [
        lambda held: held.claimed(until=7, owner="cd", claim="ef"),
        lambda held: returned(held, 9),
        lambda held: died(held, "torn"),
        lambda held: held.redriven(visible_at=11),
    ],
)
def test_what_happens_to_a_message_ends_its_being_edited(settled: Callable[[MessageName], MessageName]) -> None:
    """Somebody may have moved it out of ``cur/`` by hand."""
    assert settled(claimed()._replace(edit="dead")).edit == ""


def test_a_redriven_message_is_one_of_this_queue_again() -> None:
    again = died(claimed(), "retries", "T").redriven(visible_at=11)
    assert again == MessageName(11, ID, tries="ETr")


@pytest.mark.parametrize("why", names.DEATHS.values())
def test_every_death_has_its_word(why: str) -> None:
    assert died(MessageName(5, ID), why).reason == why
    assert f",why={why}." in names.format_name(died(MessageName(5, ID), why))
