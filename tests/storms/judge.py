"""Finds what a queue did wrong in the histories of the processes that used it, in the manner of Jepsen's total-queue.

A pure function from events to a verdict: it looks at no queue, and knows nothing of mailq but what it promises.

An answer that nobody lived to hear is no fault, whichever it was: a push that was not acknowledged may be there or not,
an ack may have happened. Everything else must fit.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from history import Event

_GRACE = 2_000_000_000
"""For so long after one of a worker's processes was killed the others may go on to begin, and be ended in turn."""


class Got(NamedTuple):
    """A delivery, as its holder wrote it down.

    ``since`` is an instant before its claim, ``at`` one after. ``deadline`` is the last that was told. A ``detached``
    one is not ended by the death of its ``group``, the processes that hold it together. ``words`` are the outcomes
    of the attempts before, None where nobody looked. A job that is done only when it has run for its ``limit``, in
    nanoseconds, may have been broken off right after that.
    """

    at: int
    who: int
    id: str
    key: str
    digest: int | None
    receipt: str
    attempt: int
    since: int
    deadline: int
    detached: bool
    group: int
    words: list[str] | None = None
    limit: float = math.inf


class Verdict(NamedTuple):
    """Figures, and the faults by their names, each with what is wrong in a line.

    The sets are of keys: pushes that returned, those of which nobody knows, acks that returned, dead letters.
    """

    figures: dict[str, int]
    faults: dict[str, list[str]]
    acknowledged: frozenset[str]
    open: frozenset[str]
    done: frozenset[str]
    dead: frozenset[str]


def judge(events: Iterable[Event]) -> Verdict:
    """Look at everything that was done, when it is all over and the queue is empty but for dead letters."""
    return _Judge(list(events)).verdict()


class _Judge:
    def __init__(self, events: list[Event]) -> None:
        self.by_kind: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            self.by_kind[event.what].append(event)
        self.digests: dict[str, int] = {}
        self.order: dict[str, tuple[int, int]] = {}
        self.deaths: dict[str, dict[str, int | None]] = {}
        for number, event in enumerate(self.by_kind["push?"]):
            for place, (key, digest) in enumerate(event.facts["keys"].items()):
                self.digests[key] = digest
                if event.facts["plain"]:
                    self.order[key] = (event.who, number * 1_000_000 + place)
                if "deaths" in event.facts:
                    self.deaths[key] = event.facts["deaths"]
        self.ids: dict[str, str] = {k: id for event in self.by_kind["push!"] for k, id in event.facts["ids"].items()}
        self.refused = {key for event in self.by_kind["push-"] for key in event.facts["keys"]}
        self.deadlines: dict[str, int] = {}
        for event in self.by_kind["extend!"]:
            self.deadlines[event.facts["receipt"]] = max(
                event.facts["deadline"], self.deadlines.get(event.facts["receipt"], 0)
            )
        self.back = self._first("back?")
        self.counted: dict[str, set[str]] = defaultdict(set)
        for event in self.by_kind["back?"]:
            self.counted[event.facts["receipt"]].update(event.facts.get("words", ()))
        self.acking = self._first("ack?")
        self.acked = self._first("ack!")
        self.gone = self._first("gone")
        self.kills, self.stops = self._by_group("kill?"), self._by_group("stop?")
        self.got = [self._delivery(event) for event in self.by_kind["got"]]
        self.of: dict[str, list[Got]] = defaultdict(list)
        for got in self.got:
            self.of[got.id].append(got)
        self.faults: dict[str, list[str]] = defaultdict(list)

    def _first(self, what: str) -> dict[str, int]:
        times: dict[str, int] = {}
        for event in self.by_kind[what]:
            times.setdefault(event.facts["receipt"], event.at)
        return times

    def _by_group(self, what: str) -> dict[int, list[int]]:
        times: dict[int, list[int]] = defaultdict(list)
        for event in self.by_kind[what]:
            times[event.facts["group"]].append(event.at)
        return times

    def _delivery(self, event: Event) -> Got:
        got = Got(event.at, event.who, **event.facts)
        return got._replace(deadline=max(got.deadline, self.deadlines.get(got.receipt, 0)))

    def verdict(self) -> Verdict:
        dead = {event.facts["key"]: event.facts["id"] for event in self.by_kind["dead"]}
        sure = {got.key for got in self.got if got.receipt in self.acked}
        maybe = {got.key for got in self.got if got.receipt in self.acking and got.receipt not in self.gone}
        self._contents()
        self._lost(dead.keys(), sure, maybe)
        for deliveries in self.of.values():
            self._exclusive(deliveries)
            self._final(deliveries)
        self._robbed()
        self._order()
        self._deaths()
        words = self._outcomes()
        delivered = {got.key for got in self.got}
        figures = {
            "attempted": len(self.digests),
            "acknowledged": len(self.ids),
            "refused": len(self.refused),
            "delivered": len(self.got),
            "acked": len(self.acked),
            "acked, perhaps": len(maybe - sure),
            "ok": len(delivered & self.digests.keys()),
            "recovered": len((delivered & self.digests.keys()) - self.ids.keys()),
            "delivered more than once": sum(len(deliveries) > 1 for deliveries in self.of.values()),
            "too late": len(self.gone),
            "dead": len(dead),
            "killed": len(self.by_kind["kill?"]),
            **{f"attempts counted as {word}": count for word, count in sorted(words.items())},
        }
        return Verdict(
            figures,
            dict(self.faults),
            acknowledged=frozenset(self.ids),
            open=frozenset(self.digests.keys() - self.ids.keys() - self.refused),
            done=frozenset(sure),
            dead=frozenset(dead),
        )

    # The rules

    def _lost(self, dead: AbstractSet[str], sure: set[str], maybe: set[str]) -> None:
        """What was acknowledged was delivered and acked, or is dead; not both."""
        settled = sure | maybe | dead
        for key, id in self.ids.items():
            if key not in settled:
                self.faults["lost"].append(f"{key} {id}")
        for key in sure & dead:
            self.faults["uncaused"].append(f"{key} is dead, and was acked before")

    def _contents(self) -> None:
        """What is delivered was pushed, not refused, and is what it was."""
        for got in self.got:
            if got.key not in self.digests or got.key in self.refused or self.ids.get(got.key, got.id) != got.id:
                self.faults["unexpected"].append(f"{got.key} {got.id}: nobody pushed that")
            elif got.digest != self.digests[got.key]:
                self.faults["changed"].append(f"{got.key} {got.id}: {got.digest}, not {self.digests[got.key]}")

    def _ended(self, got: Got) -> float:
        """The first instant at which somebody else may have had the message."""
        ends: list[float] = [got.deadline, self.back.get(got.receipt, math.inf)]
        if not got.detached:
            strikes = (*self.kills.get(got.group, ()), *self.stops.get(got.group, ()))
            ends += [max(at, got.since) for at in strikes if at >= got.since - _GRACE]
        if self._was_late(got):
            ends.append(self.acking[got.receipt])
        return min(ends)

    def _was_late(self, got: Got) -> bool:
        """Whether it was done only when it had run for its limit."""
        return self.acking.get(got.receipt, 0) >= got.since + got.limit

    def _exclusive(self, deliveries: list[Got]) -> None:
        """Of two deliveries of a message, one had ended before the other began."""
        for index, one in enumerate(deliveries):
            for other in deliveries[index + 1 :]:
                if self._ended(one) > other.at and self._ended(other) > one.at:
                    self.faults["uncaused"].append(
                        f"{one.key}: {one.receipt} still held, and {other.receipt} delivered"
                    )

    def _final(self, deliveries: list[Got]) -> None:
        """An ack is the end of a message; one whose lease was given to another is refused."""
        acks = [got for got in deliveries if got.receipt in self.acked]
        if len(acks) > 1:
            self.faults["uncaused"].append(f"{acks[0].key}: acked {len(acks)} times")
        for got in acks:
            for other in deliveries:
                if other.since > self.acked[got.receipt]:
                    self.faults["uncaused"].append(f"{got.key}: acked, then delivered as {other.receipt}")
                if other.since >= got.at and other.at <= self.acking[got.receipt]:
                    self.faults["stale"].append(f"{got.key}: {got.receipt} acked, when it was {other.receipt}")

    def _robbed(self) -> None:
        """Nobody is told LeaseLost before his lease has ended."""
        for got in self.got:
            at = self.gone.get(got.receipt)
            if at is not None and at < got.deadline:
                self.faults["robbed"].append(f"{got.key}: {got.receipt} lost {(got.deadline - at) / 1e9:.3f} s early")

    def _order(self) -> None:
        """One consumer gets the messages of one producer in their order, those that come for the first time."""
        last: dict[tuple[int, int], tuple[int, str]] = {}
        seen: set[str] = set()
        for got in self.got:
            first, pushed = got.id not in seen, self.order.get(got.key)
            seen.add(got.id)
            # A detached one's holder is not who asked for it.
            if not first or got.attempt != 1 or pushed is None or got.group != got.who or got.detached:
                continue
            producer, place = pushed
            former = last.get((producer, got.who), (-1, ""))
            if place < former[0]:
                self.faults["disordered"].append(f"{got.key} after {former[1]}, to {got.who}")
            last[producer, got.who] = max(former, (place, got.key))

    def _deaths(self) -> None:
        """A message dies of what it may die of, after as many attempts as that takes, and is not tried more often."""
        for event in self.by_kind["dead"]:
            key, reason, words = event.facts["key"], event.facts.get("reason"), event.facts.get("words", [])
            causes = self.deaths.get(key)
            if causes is not None and (reason not in causes or causes[reason] not in (None, len(words))):
                self.faults["wrongly dead"].append(f"{key}: {reason} after {words}, not {causes}")
        for got in self.got:
            most = self.deaths.get(got.key, {}).get("retries")
            if most is not None and got.attempt > most:
                self.faults["miscounted"].append(f"{got.key}: attempt {got.attempt}, of {most}")

    def _outcomes(self) -> Counter[str]:
        """Each attempt that is counted was one, and is counted as what came of it. Returns how many of each there were."""
        tellings: dict[str, list[tuple[int, list[str]]]] = defaultdict(list)
        for got in self.got:
            if got.words is not None:
                tellings[got.id].append((got.at, got.words))
                if len(got.words) != got.attempt - 1:
                    self.faults["miscounted"].append(f"{got.key}: attempt {got.attempt} after {got.words}")
        for event in self.by_kind["dead"]:
            if "words" in event.facts:
                tellings[event.facts["id"]].append((event.at, event.facts["words"]))
        total: Counter[str] = Counter()
        keys = {got.id: got.key for got in self.got}
        for id, told_of in tellings.items():
            whole = max((words for _, words in told_of), key=len)
            total.update(whole)
            if any(words != whole[: len(words)] for _, words in told_of):
                self.faults["miscounted"].append(f"{keys.get(id)} {id}: {[words for _, words in told_of]}")
            for number, word in enumerate(whole, 1):
                seen = min(at for at, words in told_of if len(words) >= number)
                if not self._may_be(word, [got for got in self.of[id] if got.attempt == number], seen):
                    self.faults["mistold"].append(f"{keys.get(id)} {id}: attempt {number} as {word}")
        return total

    def _may_be(self, word: str, attempts: list[Got], seen: int) -> bool:
        """Whether one of these deliveries may have been counted as that, when it was seen.

        Or another one, whose holder was interrupted or killed before it could write down that it had the message.
        """
        for got in attempts:
            if (
                word in self.counted[got.receipt]
                or (word == "killed" and not got.detached and self._was_struck(self.kills, got, seen))
                or (word == "timeout" and (got.deadline <= seen or self._was_late(got)))
            ):
                return True
        was_unseen = word == "timeout" or (
            word == "killed" and any(min(kills) <= seen for kills in self.kills.values())
        )
        return was_unseen and all(self._is_uncounted(got, seen) for got in attempts)

    def _is_uncounted(self, got: Got, seen: int) -> bool:
        """Whether it may have been given back as if it had never been."""
        is_given_back = got.receipt in self.back and not self.counted[got.receipt]
        return is_given_back or self._was_struck(self.stops, got, seen)

    def _was_struck(self, strikes: Mapping[int, list[int]], got: Got, seen: int) -> bool:
        return any(got.since - _GRACE <= at <= seen for at in strikes.get(got.group, ()))


def told(verdict: Verdict) -> str:
    """The figures, and the first of each kind of fault, for people."""
    lines = [f"{count:8d} {name}" for name, count in verdict.figures.items()]
    for name, found in verdict.faults.items():
        lines += [f"{len(found)} {name}:", *(f"    {line}" for line in found[:5])]
    return "\n".join(lines)
