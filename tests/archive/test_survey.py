"""Messages that move while they are looked for."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from making import exported, ids_on_disk, imported, lay, make, plain, rows, sealed

import mailq
from mailq import transfer
from mailq.engines.maildir import layout as layouts
from mailq.engines.maildir import names
from mailq.engines.maildir.disk import Disk
from mailq.ids import new_id
from mailq.transfer import snapshot as surveys
from mailq.transfer.snapshot import ArrivalWatch, IdSet, watch

COUNT = 20


class Mover:
    """Claims and gives back every message of a queue, by renames, as consumers do."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.claims = 0

    def to(self, wanted: str) -> None:
        """Have them all in ``new`` or in ``cur``."""
        other = "cur" if wanted == "new" else "new"
        for name in os.listdir(f"{self.path}/{other}"):
            envelope = names.parse(name)
            assert envelope is not None
            self.claims += 1
            moved = envelope.claimed(until=2**60, owner="", claim=f"{self.claims:08x}")
            target = names.format_name(moved if wanted == "cur" else envelope.at_rest("ready"))
            os.rename(f"{self.path}/{other}/{name}", f"{self.path}/{wanted}/{target}")


@pytest.fixture
def mover(tmp_path: Path) -> Mover:
    """A queue with some messages."""
    path = make(tmp_path / "jobs")
    for number in range(COUNT):
        lay(path, plain(number))
    return Mover(path)


def before_each_listing(monkeypatch: pytest.MonkeyPatch, act: Callable[[str], None]) -> None:
    real = layouts.entries

    def entries(directory: str) -> Iterator[os.DirEntry[str]]:
        act(os.path.basename(directory))
        yield from list(real(directory))

    monkeypatch.setattr(layouts, "entries", entries)


def test_messages_that_are_always_where_nobody_lists_are_found(mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    before_each_listing(monkeypatch, lambda listed: mover.to("cur" if listed == "new" else "new"))
    assert sorted(rows(mover.path)) == ids_on_disk(mover.path)
    assert len(ids_on_disk(mover.path)) == COUNT


def test_however_many_move_all_that_is_told_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mover = Mover(make(tmp_path / "jobs"))
    for number in range(1500):
        lay(mover.path, plain(number))
    before_each_listing(monkeypatch, lambda listed: mover.to("cur" if listed == "new" else "new"))
    assert sorted(rows(mover.path)) == ids_on_disk(mover.path)


def test_without_the_watch_they_would_not_be_found(mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above would show nothing."""
    before_each_listing(monkeypatch, lambda listed: mover.to("cur" if listed == "new" else "new"))
    assert rows(mover.path, hear=False) == {}


@pytest.mark.parametrize("turns", [1, 3, 5, 7])
def test_without_the_watch_they_are_found_if_they_rest_for_some_listings(
    mover: Mover, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    listings = []

    def act(listed: str) -> None:
        listings.append(listed)
        if len(listings) <= turns:
            mover.to("cur" if listed == "new" else "new")

    before_each_listing(monkeypatch, act)
    assert sorted(rows(mover.path, hear=False)) == ids_on_disk(mover.path)


def test_without_the_watch_one_that_turns_up_late_has_it_look_for_others(
    mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some are hidden from the first three listings, some from the first six."""
    listings = 0
    real = layouts.entries

    def entries(directory: str) -> Iterator[os.DirEntry[str]]:
        nonlocal listings
        listings += directory.endswith("/new")
        shown = 1 if listings < 4 else COUNT // 2 if listings < 7 else COUNT
        return iter(sorted(real(directory), key=lambda entry: entry.name)[:shown])

    monkeypatch.setattr(layouts, "entries", entries)
    assert sorted(rows(mover.path, hear=False)) == ids_on_disk(mover.path)


class Elusive(Disk):
    """Moves all messages whenever one is about to be opened, so many times."""

    def __init__(self, mover: Mover, times: int) -> None:
        self.mover, self.times = mover, times

    def open_to_read(self, path: str) -> int:
        directory = os.path.basename(os.path.dirname(path))
        if self.times and directory in ("new", "cur"):
            self.times -= 1
            self.mover.to("cur" if directory == "new" else "new")
        return super().open_to_read(path)


@pytest.mark.parametrize("hear", [True, False])
@pytest.mark.parametrize("times", [1, COUNT, 10 * COUNT])
def test_messages_that_slip_away_when_they_are_reached_for_are_caught_later(
    mover: Mover, times: int, *, hear: bool
) -> None:
    assert sorted(rows(mover.path, disk=Elusive(mover, times), hear=hear)) == ids_on_disk(mover.path)


def test_messages_that_slip_away_for_ever_are_told_of(mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveys, "_MOST", 5)
    told: list[str] = []
    done = transfer.export(mover.path, io.BytesIO(), disk=Elusive(mover, -1), tell=told.append)
    assert done == transfer.Exported(0, 0, COUNT)
    assert sorted(line.split()[1] for line in told) == ids_on_disk(mover.path)


def test_a_message_that_is_acked_before_it_is_read_is_not_waited_for(mover: Mover) -> None:
    class Acked(Disk):
        def open_to_read(self, path: str) -> int:
            if "/new/" in path and len(os.listdir(f"{mover.path}/new")) == COUNT:
                os.unlink(path)
            return super().open_to_read(path)

    assert sorted(rows(mover.path, disk=Acked())) == ids_on_disk(mover.path)
    assert len(ids_on_disk(mover.path)) == COUNT - 1


def test_a_producer_that_never_rests_does_not_keep_an_export_for_ever(
    mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = mailq.open(mover.path, create=False)
    ids: list[str] = []
    before_each_listing(monkeypatch, lambda listed: ids.append(queue.push(listed)))
    there = ids_on_disk(mover.path)
    assert set(there) <= set(rows(mover.path))
    assert len(ids_on_disk(mover.path)) < 3 * COUNT
    queue.close()


def test_what_the_kernel_had_no_room_to_tell_is_found_by_listing_again(
    mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While new/ is listed everything is in cur/, and one file makes more noise than the kernel keeps."""
    listings: list[str] = []

    def act(listed: str) -> None:
        listings.append(listed)
        if listed == "new" and len(listings) <= 4:
            noise = Path(f"{mover.path}/dead/{names.format_name(sealed(COUNT + 1))}")
            noise.write_bytes(b"body")
            for _ in range(20_000):
                os.rename(noise, f"{mover.path}/tmp/noise")
                os.rename(f"{mover.path}/tmp/noise", noise)
            noise.unlink()
        if len(listings) <= 4:
            mover.to("cur" if listed == "new" else "new")

    before_each_listing(monkeypatch, act)
    assert sorted(set(rows(mover.path))) == ids_on_disk(mover.path)
    assert len(listings) > 8


def test_a_rename_within_a_directory_has_it_listed_again(mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can hide other files from the listing that is going on."""
    shown: list[str] = []
    real = layouts.entries

    def entries(directory: str) -> Iterator[os.DirEntry[str]]:
        shown.append(directory)
        for number, entry in enumerate(list(real(directory))):
            if len(shown) < 9:  # two whole passes: of all these files only the first is seen
                if number == 0:
                    os.rename(entry.path, f"{directory}/.aside")
                    os.rename(f"{directory}/.aside", entry.path)
                    yield entry
            else:
                yield entry

    monkeypatch.setattr(layouts, "entries", entries)
    assert sorted(rows(mover.path)) == ids_on_disk(mover.path)


def test_an_import_knows_what_moves_while_it_looks(mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    data = exported(mover.path)
    before_each_listing(monkeypatch, lambda listed: mover.to("cur" if listed == "new" else "new"))
    assert imported(mover.path, data) == transfer.Imported(already_there=COUNT)


def test_a_queue_in_which_too_much_moves_is_told_of(mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename within a directory, in every pass, may hide others from every listing."""
    monkeypatch.setattr(surveys, "_MOST", 5)
    data = exported(mover.path)

    def shuffle(listed: str) -> None:
        aside = f"{mover.path}/dead/.aside"
        Path(aside).touch()
        os.rename(aside, f"{mover.path}/dead/.again")

    before_each_listing(monkeypatch, shuffle)
    told: list[str] = []
    done = transfer.export(mover.path, io.BytesIO(), tell=told.append)
    assert done == transfer.Exported(COUNT, certain=False)
    assert "pause the queue" in told[0]
    with pytest.raises(transfer.ImportStopped, match="pause it meanwhile"):
        imported(mover.path, data)


def test_what_disappears_is_no_empty_queue(mover: Mover) -> None:
    class Unmounted(Disk):
        def open_to_read(self, path: str) -> int:
            if not path.endswith("mailq.toml"):
                Path(f"{mover.path}/mailq.toml").unlink(missing_ok=True)
            return super().open_to_read(path)

    with pytest.raises(mailq.QueueNotFound):
        transfer.export(mover.path, io.BytesIO(), disk=Unmounted())


def test_a_million_ids_would_take_little(tmp_path: Path) -> None:
    ids = IdSet()
    some = [new_id(number * 1000) for number in range(20_000)]
    assert all(ids.add(id) for id in some)
    assert not any(ids.add(id) for id in some)
    assert len(ids) == len(some)
    assert all(id in ids for id in some)
    assert new_id(5) not in ids


def test_an_id_that_stands_across_two_others_is_not_among_them() -> None:
    """They lie in one row, since all end alike; the second half of one and the first of the next end so, too."""
    ids = IdSet()
    one, two = "11" * 8 + "22" * 6 + "abcd", "33" * 6 + "abcd" + "44" * 6 + "abcd"
    ids.add(one)
    ids.add(two)
    across = one[16:] + two[:16]
    assert across.endswith("abcd")
    assert across not in ids
    assert ids.add(across)
    assert across in ids


def watching(*directories: Path) -> ArrivalWatch:
    return watch(map(str, directories)) or pytest.fail("there is no inotify here")


def test_the_watch_says_what_came_and_when_it_missed_some(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with closing(watching(one, two)) as heard:
        assert list(heard.arrivals()) == []
        (one / "a").touch()
        (one / "a").rename(two / "b")
        os.link(two / "b", one / "c")
        assert list(heard.arrivals()) == [(str(one), "a"), (str(two), "b"), (str(one), "c")]
        assert not heard.missed
        (one / "c").rename(one / "d")
        assert list(heard.arrivals()) == [(str(one), "d")]
        assert heard.missed


def test_there_is_no_watch_on_what_is_not_there(tmp_path: Path) -> None:
    assert watch([str(tmp_path / "missing")]) is None


def test_the_watch_follows_a_path_to_the_directory_that_is_there_now(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with closing(watching(one)) as heard:
        Disk().exchange(str(one), str(other))
        assert list(heard.arrivals()) == []
        assert heard.missed
        heard.missed = False
        (other / "old").touch()
        (one / "fresh").touch()
        assert list(heard.arrivals()) == [(str(one), "fresh")]
        (other / "old").unlink()
        other.rmdir()
        assert list(heard.arrivals()) == []
        assert not heard.missed


def test_a_directory_that_is_made_anew_meanwhile_hides_nothing(mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    spare = f"{mover.path}/.new.1a2b3c4d"
    exchanges = iter(["once"])

    def act(directory: str) -> None:
        if directory == "new":
            mover.to("cur")
            if next(exchanges, None):
                os.mkdir(spare)
                Disk().exchange(spare, f"{mover.path}/new")
                os.rmdir(spare)
        elif directory == "cur":
            mover.to("new")

    before_each_listing(monkeypatch, act)
    assert len(rows(mover.path)) == COUNT


@pytest.mark.parametrize("state", ["new", "later", "dead"])
def test_what_somebody_left_who_died_re_making_a_directory_is_there(tmp_path: Path, state: str) -> None:
    path = make(tmp_path / "jobs")
    item = plain(1, state={"new": "ready", "later": "delayed", "dead": "dead"}[state])  # type: ignore[arg-type]
    lay(path, item)
    os.rename(f"{path}/{state}", f"{path}/.{state}.1a2b3c4d")
    os.mkdir(f"{path}/{state}")
    data = exported(path)
    assert ids_on_disk(path) == []
    assert imported(path, data) == transfer.Imported(0, already_there=1)
    other = make(tmp_path / "other")
    assert imported(other, data) == transfer.Imported(1)
    assert len(os.listdir(f"{other}/{state}")) == 1


def test_a_directory_that_is_left_half_made_anew_meanwhile_is_told_of(
    mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = f"{mover.path}/.dead.1a2b3c4d"
    before_each_listing(monkeypatch, lambda _: os.makedirs(f"{spare}/something", exist_ok=True))
    told: list[str] = []
    assert not transfer.export(mover.path, io.BytesIO(), tell=told.append).certain
    assert "not certain" in told[0]
