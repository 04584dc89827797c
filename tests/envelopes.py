"""Strategies for names and what they say."""

from __future__ import annotations

import os
from functools import reduce

from hypothesis import strategies as st

from mailq.engines.maildir import names
from mailq.engines.maildir.names import MessageName
from mailq.ids import NS, new_id
from mailq.policy import Step
from mailq.settings import LONGEST, MAX_RETRIES

CENTURY = 4_102_444_800 * NS  # 1 January 2100

instants = st.integers(0, CENTURY)
milliseconds = st.integers(0, CENTURY // 1_000_000).map(lambda ms: ms * 1_000_000)
durations = st.one_of(
    st.sampled_from((0.001, 0.5, 60.0, 999.999, 1000.0, LONGEST)),
    st.integers(1, 999_999).map(lambda ms: ms / 1000),
    st.integers(1000, round(LONGEST)).map(float),
)
exts = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=7)
sizes = st.sampled_from((0, 9_999_999_999)) | st.integers(0, 2**21)
crcs = st.integers(0, 2**32 - 1)
tokens = st.integers(0, 2**32 - 1).map(lambda n: f"{n:08x}")
claims = st.integers(0, 2**24 - 1).map(lambda n: f"{n:06x}")

# What happens to a message: an attempt's letter, or a letter and a death, or a death alone.
letters = st.sampled_from("ENTKR")
deaths = st.sampled_from(sorted(names.DEATHS))
events = st.one_of(letters, deaths, st.tuples(letters, deaths).map("".join))
stories = st.lists(events, max_size=60)

# What a directory can hold: any bytes but NUL and the slash.
file_names = (
    st.binary(min_size=1, max_size=255)
    .filter(lambda raw: not {0, 47} & set(raw) and raw not in (b".", b".."))
    .map(os.fsdecode)
)


def tell(story: list[str]) -> str:
    """Spell a story as the name of its message would have it."""
    return reduce(names.add_letters, story, "")


@st.composite
def pushed(draw: st.DrawFn) -> MessageName:
    """A message as a push names it, any option given or not."""
    place = draw(instants)
    return MessageName(
        place,
        new_id(place, draw(st.integers(0, 2**54 - 1))),
        draw(exts),
        draw(sizes),
        draw(crcs),
        draw(st.integers(0, 65_536)),
        priority=draw(st.integers(0, 9)),
        lease=draw(st.none() | durations),
        max_retries=draw(st.none() | st.integers(0, MAX_RETRIES)),
        ttl=draw(st.none() | durations),
    )


@st.composite
def adopted(draw: st.DrawFn) -> MessageName:
    """A file dropped in by hand."""
    return names.from_dropped_file(draw(file_names), visible_at=draw(instants), size=draw(sizes), number=2)


def died(message: MessageName, reason: str, letter: str = "") -> MessageName:
    """Its name when it is given up on, after an attempt of this letter, if there was one."""
    return message.after(Step("dead", message.visible_at, names.ATTEMPTS.get(letter, ""), reason))


def returned(message: MessageName, visible_at: int, letter: str = "") -> MessageName:
    """Its name when it is given back."""
    return message.after(Step("ready", visible_at, names.ATTEMPTS.get(letter, "")))


@st.composite
def envelopes(draw: st.DrawFn) -> MessageName:
    """A message anywhere in its life."""
    envelope = draw(st.one_of(pushed(), adopted()))
    for event in draw(st.lists(events, max_size=12)):
        if event[-1] in names.DEATHS:
            envelope = died(envelope, names.DEATHS[event[-1]], event[:-1])
        else:
            envelope = returned(envelope, draw(instants), event)
    match draw(st.sampled_from(("as it is", "leased", "being edited", "sent to a shared queue", "redriven"))):
        case "leased":
            owner = draw(st.just("") | tokens)
            envelope = envelope.claimed(until=draw(milliseconds), owner=owner, claim=draw(claims))
        case "being edited":
            edited = envelope._replace(size=None, crc=None, edit=draw(st.sampled_from(("ready", "delayed", "dead"))))
            envelope = edited._replace(until=draw(milliseconds), owner=draw(tokens), claim=draw(claims), dead=False)
        case "sent to a shared queue":
            envelope = envelope._replace(source_queue=draw(tokens))
        case "redriven":
            envelope = envelope.redriven(visible_at=draw(instants))
    return envelope
