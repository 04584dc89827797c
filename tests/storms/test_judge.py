"""The judge is not blind: each kind of fault, made up, is named; and what only looks like one is not."""

from __future__ import annotations

from typing import Any

import pytest
from history import Event, Log, read
from judge import Verdict, judge, told

PRODUCER, ONE, OTHER, CONDUCTOR = 1, 11, 12, 99


def ms(milliseconds: int) -> int:
    return milliseconds * 1_000_000


def at(milliseconds: int, who: int, what: str, **facts: Any) -> Event:
    return Event(ms(milliseconds), who, what, facts)


def pushed(*keys: str, start: int = 0, plain: bool = True) -> list[Event]:
    """A push of each, asked for and acknowledged."""
    events = []
    for n, key in enumerate(keys):
        events += [
            at(start + 2 * n, PRODUCER, "push?", keys={key: 7}, plain=plain),
            at(start + 2 * n + 1, PRODUCER, "push!", ids={key: f"id-{key}"}),
        ]
    return events


def got(milliseconds: int, who: int, key: str, receipt: str, **facts: Any) -> Event:
    """A delivery that was asked for 5 ms before, under a lease of 100 ms."""
    given = {
        "id": f"id-{key}",
        "key": key,
        "digest": 7,
        "receipt": receipt,
        "attempt": 1,
        "deadline": ms(milliseconds + 100),
        "since": ms(milliseconds - 5),
        "detached": False,
        "group": who,
    }
    return at(milliseconds, who, "got", **{**given, **facts})


def acked(milliseconds: int, who: int, receipt: str) -> list[Event]:
    return [at(milliseconds, who, "ack?", receipt=receipt), at(milliseconds + 1, who, "ack!", receipt=receipt)]


def verdict(*parts: Event | list[Event]) -> Verdict:
    events = [event for part in parts for event in (part if isinstance(part, list) else [part])]
    return judge(sorted(events, key=lambda event: event.at))


def done(milliseconds: int, key: str, receipt: str, who: int = ONE, **facts: Any) -> list[Event]:
    return [got(milliseconds, who, key, receipt, **facts), *acked(milliseconds + 1, who, receipt)]


NACKED = at(15, ONE, "back?", receipt="r1")
KILLED = at(15, CONDUCTOR, "kill?", group=ONE)
AGAIN = done(30, "a", "r2", OTHER)
LATE = done(120, "a", "r2", OTHER)
STOPPED = at(15, CONDUCTOR, "stop?", group=ONE)


def mortal(key: str, **deaths: int | None) -> list[Event]:
    """A push of what may die of these."""
    asked, answered = pushed(key)
    return [asked._replace(facts={**asked.facts, "deaths": deaths}), answered]


def failing(milliseconds: int, receipt: str, *words: str, becomes: str = "error", attempt: int = 1) -> list[Event]:
    """An attempt after those that ended so, and how it is to be counted."""
    return [
        got(milliseconds, ONE, "a", receipt, words=list(words), attempt=attempt),
        at(milliseconds + 1, ONE, "back?", receipt=receipt, words=[becomes] if becomes else []),
    ]


def dead(*words: str, reason: str = "retries") -> Event:
    return at(500, ONE, "dead", id="id-a", key="a", reason=reason, words=list(words))


FAULTY: dict[str, tuple[str, list[Event]]] = {
    "never delivered": ("lost", pushed("a")),
    "delivered, and never settled": ("lost", [*pushed("a"), got(10, ONE, "a", "r1")]),
    "its only ack was refused": (
        "lost",
        [
            *pushed("a"),
            got(10, ONE, "a", "r1"),
            at(120, ONE, "ack?", receipt="r1"),
            at(121, ONE, "gone", receipt="r1"),
        ],
    ),
    "nobody pushed it": ("unexpected", done(10, "a", "r1")),
    "its push was refused": (
        "unexpected",
        [
            at(0, PRODUCER, "push?", keys={"a": 7}, plain=True),
            at(1, PRODUCER, "push-", keys=["a"]),
            *done(10, "a", "r1"),
        ],
    ),
    "under another id": ("unexpected", [*pushed("a"), *done(10, "a", "r1", id="strange")]),
    "another body": ("changed", [*pushed("a"), *done(10, "a", "r1", digest=8)]),
    "torn": ("changed", [*pushed("a"), *done(10, "a", "r1", digest=None)]),
    "two hold it at once": ("uncaused", [*pushed("a"), got(10, ONE, "a", "r1"), *AGAIN]),
    "given to another before it was nacked": (
        "uncaused",
        [*pushed("a"), got(10, ONE, "a", "r1"), *AGAIN, at(40, ONE, "back?", receipt="r1")],
    ),
    "the death of a holder of a detached lease": (
        "uncaused",
        [*pushed("a"), got(10, ONE, "a", "r1", detached=True), KILLED, *AGAIN],
    ),
    "the death of somebody else": (
        "uncaused",
        [*pushed("a"), got(10, ONE, "a", "r1"), at(15, CONDUCTOR, "kill?", group=OTHER + 1), *AGAIN],
    ),
    "an extended lease that ended at its first deadline": (
        "uncaused",
        [*pushed("a"), got(10, ONE, "a", "r1"), at(50, ONE, "extend!", receipt="r1", deadline=ms(200)), *LATE],
    ),
    "delivered after its ack, late enough": ("uncaused", [*pushed("a"), *done(10, "a", "r1"), *LATE]),
    "acked twice": ("uncaused", [*pushed("a"), got(10, ONE, "a", "r1"), NACKED, *AGAIN, *acked(50, ONE, "r1")]),
    "dead after its ack": ("uncaused", [*pushed("a"), *done(10, "a", "r1"), at(500, ONE, "dead", id="id-a", key="a")]),
    "acked when it was another's": (
        "stale",
        [*pushed("a"), got(10, ONE, "a", "r1"), got(120, OTHER, "a", "r2"), *acked(130, ONE, "r1")],
    ),
    "lost before its deadline": (
        "robbed",
        [*pushed("a"), got(10, ONE, "a", "r1"), at(50, ONE, "gone", receipt="r1"), *LATE],
    ),
    "out of order": ("disordered", [*pushed("a", "b"), *done(10, "b", "r1"), *done(20, "a", "r2")]),
    "dead of what it cannot die of": (
        "wrongly dead",
        [*mortal("a", rejected=None), *failing(10, "r1"), dead("error", reason="retries")],
    ),
    "dead, which it cannot be": ("wrongly dead", [*mortal("a"), *failing(10, "r1"), dead("error")]),
    "dead too early": ("wrongly dead", [*mortal("a", retries=2), *failing(10, "r1"), dead("error")]),
    "tried too often": (
        "miscounted",
        [*mortal("a", retries=1), *failing(10, "r1"), *failing(20, "r2", "error", attempt=2), dead("error")],
    ),
    "an attempt is not counted": ("miscounted", [*pushed("a"), *failing(10, "r1"), *failing(20, "r2", attempt=2)]),
    "an attempt is told of in two ways": (
        "miscounted",
        [*pushed("a"), *failing(10, "r1"), *failing(20, "r2", "error", attempt=2), dead("timeout", "error")],
    ),
    "counted as what it was not": ("mistold", [*pushed("a"), *failing(10, "r1", becomes="timeout"), dead("error")]),
    "counted as killed, and nobody was": ("mistold", [*pushed("a"), *failing(10, "r1"), dead("killed")]),
    "counted as killed, and another was": (
        "mistold",
        [*pushed("a"), *failing(10, "r1"), KILLED._replace(facts={"group": OTHER}), dead("killed")],
    ),
    "counted, although it was given back": (
        "mistold",
        [*pushed("a"), *failing(10, "r1", becomes=""), dead("error")],
    ),
    "counted as killed, when it was told to stop": (
        "mistold",
        [*pushed("a"), got(10, ONE, "a", "r1", words=[]), STOPPED, dead("killed")],
    ),
    "counted as run out, before its deadline": (
        "mistold",
        [*pushed("a"), got(10, ONE, "a", "r1", deadline=ms(9000)), dead("timeout")],
    ),
    "nobody had it, and it is counted as failed": ("mistold", [*pushed("a"), dead("error")]),
}


@pytest.mark.parametrize("case", FAULTY)
def test_a_fault_is_named(case: str) -> None:
    fault, events = FAULTY[case]
    found = verdict(events)
    assert fault in found.faults, told(found)
    assert fault in told(found)


FINE: dict[str, list[Event]] = {
    "nothing at all": [],
    "pushed, delivered, acked": [*pushed("a"), *done(10, "a", "r1")],
    "dead": [*pushed("a"), got(10, ONE, "a", "r1"), NACKED, at(99, ONE, "dead", id="id-a", key="a")],
    "a push that nobody heard of, and that is not there": [at(0, PRODUCER, "push?", keys={"a": 7}, plain=True)],
    "a push that nobody heard of, and that is there": [
        at(0, PRODUCER, "push?", keys={"a": 7}, plain=True),
        *done(10, "a", "r1"),
    ],
    "an ack that nobody heard of": [*pushed("a"), got(10, ONE, "a", "r1"), at(12, ONE, "ack?", receipt="r1"), KILLED],
    "again after a nack": [*pushed("a"), got(10, ONE, "a", "r1"), NACKED, *AGAIN],
    "again after a death": [*pushed("a"), got(10, ONE, "a", "r1"), KILLED, *AGAIN],
    "again after a death in the midst of its ack": [
        *pushed("a"),
        got(10, ONE, "a", "r1"),
        at(12, ONE, "ack?", receipt="r1"),
        KILLED,
        *AGAIN,
    ],
    "again after the deadline": [*pushed("a"), got(10, ONE, "a", "r1"), *LATE],
    "too late, and told so": [
        *pushed("a"),
        got(10, ONE, "a", "r1"),
        *LATE,
        at(130, ONE, "ack?", receipt="r1"),
        at(131, ONE, "gone", receipt="r1"),
    ],
    "late, but nobody else had it": [*pushed("a"), got(10, ONE, "a", "r1"), *acked(500, ONE, "r1")],
    "a slow one writes it down when another has had and acked it": [
        *pushed("a"),
        *done(120, "a", "r2", OTHER),
        got(130, ONE, "a", "r1", since=ms(5), deadline=ms(105)),
    ],
    "out of order after a nack": [
        *pushed("a", "b"),
        got(10, ONE, "a", "r1"),
        NACKED,
        *done(20, "b", "r2"),
        *done(30, "a", "r3"),
    ],
    "out of order to two consumers": [*pushed("a", "b"), *done(10, "b", "r1"), *done(20, "a", "r2", OTHER)],
    "given back by those that were told to stop": [*pushed("a"), got(10, ONE, "a", "r1"), STOPPED, *AGAIN],
    "dead as it may be": [
        *mortal("a", retries=2),
        *failing(10, "r1"),
        *failing(20, "r2", "error", attempt=2),
        dead("error", "error"),
    ],
    "counted as killed": [*pushed("a"), got(10, ONE, "a", "r1", words=[]), KILLED, dead("killed")],
    "counted as run out": [*pushed("a"), got(10, ONE, "a", "r1", words=[]), dead("timeout")],
    "counted, and nobody lived to write it down": [
        *pushed("a"),
        KILLED,
        *failing(16, "r1", becomes=""),
        dead("killed"),
    ],
    "given back, and then counted": [
        *pushed("a"),
        *failing(10, "r1", becomes=""),
        *failing(20, "r2", becomes="timeout"),
        dead("timeout"),
    ],
    "out of order by priority": [
        *pushed("a"),
        *pushed("b", start=4, plain=False),
        *done(10, "b", "r1"),
        *done(20, "a", "r2"),
    ],
}


@pytest.mark.parametrize("case", FINE)
def test_what_only_looks_like_a_fault_is_none(case: str) -> None:
    found = verdict(FINE[case])
    assert found.faults == {}, told(found)


def test_the_figures_count_what_happened() -> None:
    found = verdict(
        pushed("a", "b"),
        at(4, PRODUCER, "push?", keys={"c": 7, "d": 7, "e": 7}, plain=True),
        at(6, PRODUCER, "push?", keys={"f": 7}, plain=True),
        at(7, PRODUCER, "push-", keys=["f"]),
        got(10, ONE, "a", "r1"),
        KILLED,
        done(30, "a", "r2", OTHER),
        done(40, "c", "r3", OTHER),
        got(50, OTHER, "d", "r4"),
        at(51, OTHER, "ack?", receipt="r4"),
        at(60, OTHER, "dead", id="id-b", key="b"),
    )
    assert found.faults == {}
    assert found.figures == {
        "attempted": 6,
        "acknowledged": 2,
        "refused": 1,
        "delivered": 4,
        "acked": 2,
        "acked, perhaps": 1,
        "ok": 3,
        "recovered": 2,
        "delivered more than once": 1,
        "too late": 0,
        "dead": 1,
        "killed": 1,
    }
    assert list(map(sorted, (found.acknowledged, found.open))) == [["a", "b"], ["c", "d", "e"]]
    assert list(map(sorted, (found.done, found.dead))) == [["a", "c"], ["b"]]


def test_a_log_is_read_as_it_was_written(tmp_path: Any) -> None:
    logs = [Log(tmp_path / name) for name in ("one", "other")]
    for n in range(3):
        for log in logs:
            log.write("kill?", group=n)
    events = read(tmp_path.iterdir())
    assert [event.facts["group"] for event in events] == [0, 0, 1, 1, 2, 2]
    assert events == sorted(events, key=lambda event: event.at)
