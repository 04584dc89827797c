from __future__ import annotations

import pytest
from envelopes import died, durations, instants
from hypothesis import given
from hypothesis import strategies as st

from mailq import policy
from mailq.engines.maildir import names
from mailq.engines.maildir.names import MessageName
from mailq.ids import NS, new_id
from mailq.settings import Backoff, Settings

PUSHED = 1_795_225_925_123_456_789
NOW = PUSHED + 1000 * NS


def held(**fields: object) -> MessageName:
    """A message pushed at PUSHED, standing in line a little later, and leased."""
    envelope = MessageName(PUSHED + 5, new_id(PUSHED))._replace(**fields)  # type: ignore[arg-type]
    return envelope.claimed(until=NOW, owner="ab", claim="cd")


def test_a_push_goes_to_the_end_of_the_line() -> None:
    assert policy.pushed(NOW + 5, now=NOW, delay=0.0) == ("ready", NOW + 5, "", "", 0.0)


def test_a_delayed_push_waits_under_its_due_time_and_keeps_the_time_of_its_push() -> None:
    step = policy.pushed(NOW + 5, now=NOW, delay=1.5)
    assert step == ("delayed", NOW + 1_500_000_000, "", "", 1.5)
    assert MessageName(NOW + 5, new_id(NOW)).after(step).pushed_at == NOW


# Failed


def test_a_failed_message_goes_to_its_first_place() -> None:
    step = policy.failed(held(), "nack", Settings(), now=NOW, end=NOW, delay=0)
    moved = held().after(step)
    assert (step.state, moved.visible_at, moved.tries) == ("ready", PUSHED, "N")
    assert (moved.until, moved.owner, moved.claim) == (None, "", "")


def test_a_failed_message_goes_to_the_end_if_so_set() -> None:
    step = policy.failed(held(), "nack", Settings(retry_order="back"), now=NOW, end=NOW, delay=0)
    assert (step.state, step.visible_at) == ("ready", NOW)


@pytest.mark.parametrize("order", ["front", "back"])
def test_a_failed_message_waits_out_its_delay(order: str) -> None:
    step = policy.failed(held(), "error", Settings(retry_order=order), now=NOW, end=NOW, delay=2.0)
    assert (step.state, step.visible_at, held().after(step).tries) == ("delayed", NOW + 2 * NS, "E")


@pytest.mark.parametrize(
    ("of_the_queue", "of_the_message", "tries", "state"),
    [
        (3, None, "", "ready"),
        (3, None, "EN", "ready"),
        (3, None, "ENT", "dead"),
        (0, None, "", "dead"),
        (5, 0, "", "dead"),
        (0, 1, "", "ready"),
        (0, 1, "K", "dead"),
        (1, None, "EErE", "dead"),
        (1, None, "EEr", "ready"),
    ],
)
def test_a_message_dies_when_its_retries_are_used_up(
    of_the_queue: int, of_the_message: int | None, tries: str, state: str
) -> None:
    message = held(tries=tries, max_retries=of_the_message)
    step = policy.failed(
        message,
        "nack",
        Settings(max_retries=of_the_queue),
        now=NOW,
        end=NOW,
        delay=0,
    )
    assert step.state == state
    moved = message.after(step)
    assert moved.dead == (state == "dead")
    if state == "dead":
        assert moved.reason == step.reason == "retries"
        assert moved.tries == names.add_letters(tries, "Nr")


@given(st.integers(0, 20), st.lists(st.sampled_from("ENTK"), min_size=25, max_size=25))
def test_a_message_is_delivered_once_and_once_a_retry(most: int, letters: list[str]) -> None:
    envelope = MessageName(PUSHED, new_id(PUSHED))
    for deliveries, letter in enumerate(letters, start=1):
        outcome = names.ATTEMPTS[letter]
        step = policy.failed(envelope, outcome, Settings(max_retries=most), now=NOW, end=NOW, delay=0)
        envelope = envelope.after(step)
        if step.state == "dead":
            assert deliveries == most + 1
            return
    assert most >= 25


# Released


def test_a_released_message_stands_where_it_stood() -> None:
    step = policy.released(held(tries="E"), now=NOW, delay=0)
    moved = held(tries="E").after(step)
    assert (step.state, moved.visible_at, moved.tries) == ("ready", PUSHED + 5, "E")
    assert (moved.until, moved.owner, moved.claim) == (None, "", "")


def test_a_released_message_waits_out_its_delay() -> None:
    step = policy.released(held(), now=NOW, delay=2.0)
    assert (step.state, step.visible_at, held().after(step).tries) == ("delayed", NOW + 2 * NS, "")


# Due


@pytest.mark.parametrize(
    ("order", "tries", "place"),
    [("front", "", NOW), ("front", "E", PUSHED), ("front", "Er", NOW), ("back", "", NOW), ("back", "E", NOW)],
)
def test_a_retry_comes_due_in_its_first_place_if_so_set_and_all_else_by_its_due_time(
    order: str, tries: str, place: int
) -> None:
    delayed = MessageName(NOW, new_id(PUSHED), tries=tries)
    step = policy.came_due(delayed, Settings(retry_order=order))
    assert (step.state, delayed.after(step)) == ("ready", delayed._replace(visible_at=place))


# Expiry


@pytest.mark.parametrize(
    ("of_the_queue", "of_the_message", "ends_after"),
    [(None, 10.0, 10), (10.0, None, 10), (99.0, 10.0, 10), (10.0, 99.0, 99)],
)
def test_a_message_expires_at_the_end_of_its_time_to_live_and_not_before(
    of_the_queue: float | None, of_the_message: float | None, ends_after: int
) -> None:
    envelope = MessageName(NOW, new_id(PUSHED), ttl=of_the_message)
    settings = Settings(ttl=of_the_queue)
    assert not policy.has_expired(envelope, settings, PUSHED + ends_after * NS - 1)
    assert policy.has_expired(envelope, settings, PUSHED + ends_after * NS)


def test_a_message_without_a_time_to_live_never_expires() -> None:
    assert not policy.has_expired(MessageName(PUSHED, new_id(PUSHED)), Settings(), PUSHED + 10**18)


@pytest.mark.parametrize("why", names.DEATHS.values())
def test_a_message_that_died_once_never_expires_again(why: str) -> None:
    envelope = died(MessageName(PUSHED, new_id(PUSHED), ttl=1.0), why).redriven(visible_at=NOW)
    assert not policy.has_expired(envelope, Settings(ttl=1.0), PUSHED + 10**18)


# Leases


@pytest.mark.parametrize(
    ("of_the_call", "of_the_message", "seconds"),
    [(None, None, 60), (None, 30.0, 30), (10.0, None, 10), (10.0, 30.0, 10)],
)
def test_the_calls_lease_comes_first_then_the_messages_then_the_queues(
    of_the_call: float | None, of_the_message: float | None, seconds: int
) -> None:
    now = PUSHED // 1_000_000 * 1_000_000
    envelope = MessageName(PUSHED, new_id(PUSHED), lease=of_the_message)
    assert policy.lease_end(envelope, Settings(), now=now, lease=of_the_call) == now + seconds * NS


@given(instants, durations)
def test_a_lease_is_never_shorter_than_asked_for_and_its_end_can_be_spelled(now: int, lease: float) -> None:
    end = policy.lease_end(MessageName(0, new_id(0)), Settings(), now=now, lease=lease)
    assert 0 <= end - (now + policy.ns(lease)) < 1_000_000
    assert names.parse_instant(names.format_instant(end)) == end


# Back-off


def test_a_delay_doubles_from_the_first_to_the_longest() -> None:
    assert [Backoff(1.0, 10.0).delay(attempt, 0.0) for attempt in (1, 2, 3, 4, 5, 6)] == [1, 2, 4, 8, 10, 10]


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_chance_takes_off_up_to_a_half_and_no_attempt_is_too_many(attempt: int, chance: float) -> None:
    full = Backoff(0.5, 600.0).delay(attempt, 0.0)
    assert full / 2 <= Backoff(0.5, 600.0).delay(attempt, chance) <= full <= 600


def test_no_backoff_is_no_delay() -> None:
    assert Backoff(0.0, 0.0).delay(7, 0.5) == 0.0


# The back-off


@pytest.mark.parametrize(("tries", "longest"), [("", 10), ("E", 20), ("E2", 40), ("E3", 60), ("E3rE", 20)])
def test_without_a_delay_a_failed_message_waits_for_the_back_off_of_its_attempt(tries: str, longest: int) -> None:
    settings = Settings(backoff=Backoff(10, 60), max_retries=9)
    step = policy.failed(held(tries=tries), "error", settings, now=NOW, end=NOW, delay=None)
    assert longest / 2 <= step.delay <= longest
    assert (step.state, step.visible_at) == ("delayed", NOW + policy.ns(step.delay))


@pytest.mark.parametrize("outcome", ["error", "nack", "timeout", "killed"])
def test_a_step_says_how_the_attempt_ended(outcome: str) -> None:
    assert policy.failed(held(), outcome, Settings(), now=NOW, end=NOW).outcome == outcome
    assert policy.rejected(held()).outcome == "rejected"
    assert (policy.undeliverable(held(), "torn").outcome, policy.undeliverable(held(), "torn").reason) == ("", "torn")
