from __future__ import annotations

import os
import re
import uuid

import pytest
from envelopes import (
    CENTURY,
    claims,
    crcs,
    died,
    envelopes,
    file_names,
    instants,
    milliseconds,
    sizes,
    tell,
    tokens,
)
from hypothesis import example, given
from hypothesis import strategies as st

from mailq.engines.maildir import names
from mailq.engines.maildir.names import MAX_NAME, MessageName
from mailq.ids import NS, id_time, new_id
from mailq.message import safe_ext

NOW = 1_795_225_925_123_456_789
ID = "01936f0c2b7d7a3e9c41b6d07f52e811"
CHARSET = re.compile(r"[A-Za-z0-9.,=_+-]+")

HEAD = f"20261121T013205.123456789Z,{ID}"


# Round trips


@given(envelopes())
def test_every_envelope_comes_back_from_its_name(envelope: MessageName) -> None:
    assert names.parse(names.format_name(envelope)) == envelope


@given(envelopes())
def test_every_name_is_plain_and_short_enough_for_any_disk(envelope: MessageName) -> None:
    name = names.format_name(envelope)
    assert CHARSET.fullmatch(name)
    assert len(name) <= MAX_NAME
    assert names.looks_ours(name)


@given(file_names, instants, sizes)
@example("x" * 255, NOW, 0)
@example("," * 255, NOW, 0)
@example("=.=.", NOW, 0)
@example("\udcff.\udcff", NOW, 0)
@example("Größe.JSON", NOW, 0)
@example(HEAD + ",why=.json", NOW, 0)
def test_a_file_of_any_name_is_adopted_under_a_good_one(name: str, place: int, size: int) -> None:
    envelope = names.from_dropped_file(name, visible_at=place, size=size, number=2)
    adopted = names.format_name(envelope)
    assert names.parse(adopted) == envelope
    assert (envelope.visible_at, envelope.pushed_at, envelope.size, envelope.crc) == (place, place, size, None)
    assert names.from_dropped_file(name, visible_at=place, size=size, number=2).id == envelope.id


def test_an_adopted_file_keeps_what_can_be_kept_of_its_name() -> None:
    envelope = names.from_dropped_file("holiday photo, 2026.JPG", visible_at=NOW, size=7, number=2)
    assert (envelope.file_name, envelope.ext) == ("holiday_photo__2026.JPG", "jpg")


@pytest.mark.parametrize(
    ("name", "ext"),
    [
        ("a.json", "json"),
        ("a.PNG", "png"),
        ("a.tar.gz", "gz"),
        ("a", "bin"),
        ("a.", "bin"),
        (".hidden", "hidden"),
        ("a.download", "bin"),
        ("a.c++", "bin"),
        ("a.é", "bin"),
        ("a.٣", "bin"),
    ],
)
def test_an_extension_is_kept_if_a_name_can_carry_it(name: str, ext: str) -> None:
    assert safe_ext(name) == ext


def test_two_files_adopted_at_the_same_instant_have_two_ids() -> None:
    ids = {
        names.from_dropped_file(f"job{n}", visible_at=NOW, size=0, number=number).id
        for n in range(500)
        for number in (11, 12)
    }
    assert len(ids) == 1000


# Lengths


def longest_tries() -> str:
    """A million attempts in a row of lives, none of them the same as the last."""
    return tell(["X999999", *["ER"[n % 2] + "r" for n in range(9)], *["ENTK"[n % 4] for n in range(99)]])


def test_the_longest_name_of_a_pushed_message_is_within_the_limit() -> None:
    envelope = MessageName(
        NOW,
        new_id(NOW),
        "parquet",
        9_999_999_999,
        2**32 - 1,
        65_536,
        priority=9,
        lease=315_360_000.0,
        max_retries=99_999,
        ttl=315_360_000.0,
        tries=longest_tries(),
        source_queue="ffffffff",
    )
    for state in (
        envelope,
        envelope.claimed(until=NOW // 10**6 * 10**6, owner="ffffffff", claim="ffffff"),
        envelope.claimed(until=NOW // 10**6 * 10**6, owner="ffffffff", claim="ffffff")._replace(
            size=None, crc=None, edit="delayed"
        ),
        died(envelope, "unreadable", "E")._replace(source_queue="ffffffff", ttl=315_360_000.0),
    ):
        name = names.format_name(state)
        assert len(name) <= MAX_NAME
        assert names.parse(name) == state


def test_the_longest_name_of_an_adopted_file_is_within_the_limit() -> None:
    envelope = names.from_dropped_file("x" * 247 + ".parquet", visible_at=NOW, size=9_999_999_999, number=2)._replace(
        crc=2**32 - 1, tries=longest_tries(), source_queue="ffffffff"
    )
    for state in (
        envelope,
        envelope.claimed(until=NOW // 10**6 * 10**6, owner="ffffffff", claim="ffffff"),
        died(envelope, "unreadable", "E")._replace(source_queue="ffffffff"),
    ):
        name = names.format_name(state)
        assert len(name) <= MAX_NAME
        assert names.parse(name) == state


# Names that are not ours, or nearly


fields = st.one_of(
    st.builds(
        "{}={}".format, st.sampled_from(sorted(names._FIELDS)), st.text("0123456789abcdefERNTXrj.Z-", max_size=9)
    ),
    st.builds("size={}".format, sizes),
    st.builds("crc={:08x}".format, crcs),
    st.builds("tries={}".format, st.text("ENTKRXrjx123", min_size=1, max_size=9)),
    st.builds("why={}".format, st.sampled_from(("retries", "torn", "boredom"))),
    st.builds("until={}".format, instants.map(names.format_instant)),
    st.builds("claim={:x}".format, st.integers(0, 2**33)),
    st.text("=,az09", max_size=4),
)
near_names = st.builds(
    "{},{}{}.{}".format,
    st.sampled_from(
        (HEAD[:26], "20261341T013205.123456789Z", "20261121T013299.123456789Z", "20261121T013205.12345678Z")
    ),
    st.just(ID) | st.text("0123456789abcdef", min_size=31, max_size=33),
    st.lists(fields, max_size=5).map(lambda parts: "".join("," + part for part in parts)),
    st.text("abz09J", max_size=9),
)


@given(st.text() | file_names | near_names)
@example("")
@example(HEAD)
@example(HEAD + ",prio=")
@example(HEAD + ",prio=x.json")
@example(HEAD + ",why=.json")
@example(HEAD + ",why=torn.json")
@example(HEAD + ",until=20261399T000000Z.json")
@example(HEAD + ",tries=E0.json")
@example("\uff12" + HEAD[1:] + ".json")
@example(HEAD[:15].replace("0", "\u0660") + HEAD[15:] + ".json")
@example(HEAD + ",size=\u0663.json")
def test_no_name_makes_the_reading_fail_and_what_is_read_is_never_lost_again(name: str) -> None:
    names.sort_key(name)
    names.looks_ours(name)
    envelope = names.parse(name)
    if envelope is not None:
        assert CHARSET.fullmatch(name)
        assert names.parse(names.format_name(envelope)) == envelope


@pytest.mark.parametrize(
    "name",
    [
        "",
        "hello.txt",
        HEAD,
        HEAD + ".JSON",
        HEAD + ".toolongx",
        HEAD + ",size=1,size=1.json",
        HEAD + ",colour=red.json",
        HEAD + ",size=.json",
        HEAD + ",size=-1.json",
        HEAD + ",size=12345678901.json",
        HEAD + ",crc=1.json",
        HEAD + ",prio=10.json",
        HEAD + ",tries=Q.json",
        HEAD + ",by=me.json",
        HEAD + ",until=tomorrow.json",
        HEAD + ",edit=leased.json",
        HEAD + ",until=20261121T013205.12Z.json",
        HEAD + ",lease=1.2345.json",
        HEAD + "\n.json",
        HEAD + ".json\n",
        HEAD.upper() + ".json",
        "20261131T013205.123456789Z," + ID + ".json",
        HEAD + ",file=" + "x" * MAX_NAME + ".json",
    ],
)
def test_a_name_that_is_not_quite_ours_is_not_ours(name: str) -> None:
    assert names.parse(name) is None


def test_the_fields_stand_in_one_fixed_order_and_are_read_in_any() -> None:
    name = HEAD + ",size=18,crc=1a2b3c4d,head=5,prio=2,lease=1.5,max=3,ttl=60,tries=E2N,until=20261121T013335Z.json"
    envelope = names.parse(name)
    assert envelope is not None
    assert names.format_name(envelope) == name
    first, id, *parts = name.removesuffix(".json").split(",")
    assert names.parse(",".join([first, id, *reversed(parts)]) + ".json") == envelope


def test_a_name_says_what_the_specification_says() -> None:
    assert names.parse(
        "20261121T013205.123456789Z,01936f0c2b7d7a3e9c41b6d07f52e811,size=18,crc=1a2b3c4d,tries=E,"
        "until=20261121T013335Z,by=7f3a9c01,claim=51d2.json"
    ) == MessageName(
        visible_at=1_795_224_725_123_456_789,
        id=ID,
        ext="json",
        size=18,
        crc=0x1A2B3C4D,
        tries="E",
        until=1_795_224_815_000_000_000,
        owner="7f3a9c01",
        claim="51d2",
    )


# Order


@given(st.lists(envelopes(), max_size=20))
def test_names_sort_by_priority_and_then_by_time(listed: list[MessageName]) -> None:
    by_key = sorted((names.format_name(envelope) for envelope in listed), key=names.sort_key)
    found = [names.parse(name) for name in by_key]
    order = [(-envelope.priority, envelope.visible_at) for envelope in found if envelope is not None]
    assert len(order) == len(listed)
    assert order == sorted(order)


@given(st.lists(st.integers(0, CENTURY), min_size=2, max_size=20))
def test_times_sort_as_text(times: list[int]) -> None:
    spelled = [names.format_time(ns) for ns in times]
    assert sorted(spelled) == [names.format_time(ns) for ns in sorted(times)]
    assert {len(text) for text in spelled} == {26}


@given(instants)
@example(999_999_999)
@example(NOW // NS * NS + 999_000_001)
def test_an_instant_in_a_field_is_rounded_up_to_the_millisecond(ns: int) -> None:
    assert 0 <= names.parse_instant(names.format_instant(ns)) - ns < 1_000_000


@pytest.mark.parametrize("text", ["", "20261121", "20261121T013205", "20261121T013205.1Z", "20260230T000000Z"])
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        names.parse_instant(text)


# Ids


@given(instants, st.none() | st.integers(0, 2**60))
@example(0, 0)
@example(CENTURY, 2**54 - 1)
@example(NOW // 10**6 * 10**6 + 999_999, None)
def test_an_id_carries_the_exact_time_and_is_a_uuid_of_version_7(ns: int, salt: int | None) -> None:
    id = new_id(ns, salt)
    assert id_time(id) == ns
    assert len(id) == 32
    assert (uuid.UUID(id).version, uuid.UUID(id).variant) == (7, uuid.RFC_4122)
    assert int(id[:12], 16) == ns // 1_000_000


@given(instants, instants)
def test_ids_sort_by_time(one: int, other: int) -> None:
    if one != other:
        assert (new_id(one) < new_id(other)) == (one < other)


def test_an_id_that_was_made_otherwise_carries_no_time() -> None:
    foreign = uuid.UUID("c232ab00-9414-41ec-b3c8-9f6bdeced846").hex
    assert id_time(foreign) is None
    assert MessageName(NOW, foreign).pushed_at == NOW


def test_an_id_is_not_drawn_twice() -> None:
    assert len({new_id(NOW) for _ in range(10_000)}) == 10_000


def test_a_non_utf8_name_is_adopted_like_any_other() -> None:
    envelope = names.from_dropped_file(os.fsdecode(b"caf\xe9.txt"), visible_at=NOW, size=1, number=2)
    assert (envelope.file_name, envelope.ext) == ("caf_.txt", "txt")


held = st.builds(
    lambda envelope, until, owner, claim: envelope.claimed(until=until, owner=owner, claim=claim),
    envelopes(),
    milliseconds,
    st.just("") | tokens,
    claims,
)


@given(held.map(names.format_name) | st.from_regex(names._PLAINLY_HELD, fullmatch=True))
def test_what_is_plainly_held_is_what_parsing_says(name: str) -> None:
    plain, envelope = names.plainly_held(name), names.parse(name)
    if plain is not None:
        assert envelope is not None
        assert envelope.until is not None
        assert plain == (envelope.until // NS * NS, envelope.owner)


def test_nearly_every_lease_is_plain() -> None:
    name = (
        f"20261121T013205.123456789Z,{ID},size=18,crc=1a2b3c4d,until=20261121T013335.500Z,by=7f3a9c01,claim=51d2.json"
    )
    assert names.plainly_held(name) == (names.parse_instant("20261121T013335Z"), "7f3a9c01")
    assert names.plainly_held(name.replace("T013335", "T256161")) is None
    assert names.plainly_held(name.replace(",claim=51d2", "")) is None
    assert names.plainly_held(name.replace("size=18", "size=18,tries=E")) is None
