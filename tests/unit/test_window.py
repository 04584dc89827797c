from __future__ import annotations

import heapq
import threading

from hypothesis import example, given
from hypothesis import strategies as st

from mailq.engines.maildir.ready_index import ReadyIndex

keys = st.text("abcdef", min_size=1, max_size=3)
listings = st.lists(keys, max_size=20, unique=True)

LAST = "~"
"""A key that sorts behind every other here: a listing that holds it covers all of them."""


def taken(window: ReadyIndex) -> list[str]:
    keys = []
    while (key := window.pop_first()) is not None:
        keys.append(key)
    return keys


def fill(window: ReadyIndex, listed: list[str], *, heard: bool = False) -> None:
    window.load(listed, window.begin(), heard=heard)


def test_a_new_window_is_dry_and_takes_nothing_before_the_first_listing() -> None:
    window = ReadyIndex()
    window.add("a")
    assert window.pop_first() is None


@given(listings)
def test_a_listing_comes_out_in_order(listed: list[str]) -> None:
    window = ReadyIndex()
    fill(window, list(listed))
    assert taken(window) == sorted(listed)


@given(listings, listings)
def test_arrivals_before_the_end_of_the_listing_come_out_in_their_place(listed: list[str], arrived: list[str]) -> None:
    window = ReadyIndex()
    fill(window, [*listed, LAST])
    for key in arrived:
        window.add(key)
    assert sorted(set(taken(window))) == sorted({*listed, *arrived, LAST})


@given(listings, listings)
def test_arrivals_behind_the_listing_wait_for_the_next_one(listed: list[str], arrived: list[str]) -> None:
    """Between the two may stand what others pushed, of which this window has not heard."""
    window = ReadyIndex()
    fill(window, list(listed))
    for key in arrived:
        window.add(key)
    assert set(taken(window)) == {*listed, *(key for key in arrived if listed and key < max(listed))}


@given(listings, listings, st.integers(1, 8))
@example(["a", "c"], ["a", "b", "aa"], 2)
def test_a_small_window_leaves_out_the_end_of_the_line_and_nothing_in_the_middle(
    listed: list[str], arrived: list[str], size: int
) -> None:
    window = ReadyIndex(size)
    fill(window, list(listed))
    for key in arrived:
        window.add(key)
    out = taken(window)
    assert out == sorted(out)
    assert set(out) == {key for key in (*listed, *arrived) if out and key <= out[-1]}


@given(st.lists(keys, min_size=1, max_size=30, unique=True), st.integers(1, 10))
def test_a_long_listing_is_kept_as_far_as_it_fits(listed: list[str], size: int) -> None:
    window = ReadyIndex(size)
    fill(window, list(listed))
    assert taken(window) == heapq.nsmallest(size, listed)


@given(listings, st.lists(st.tuples(keys, st.booleans()), max_size=20))
@example(["a"], [("b", False), ("c", False), ("b", True)])
def test_behind_a_listing_that_the_kernel_told_of_since_only_what_it_tells_is_taken(
    listed: list[str], arrived: list[tuple[str, bool]]
) -> None:
    window = ReadyIndex()
    since = window.begin()
    for key, heard in arrived[::2]:
        window.add(key, heard=heard)
    window.load(list(listed), since, heard=True)
    for key, heard in arrived[1::2]:
        window.add(key, heard=heard)
    within = {key for key, heard in arrived if heard or (listed and key < max(listed))}
    assert set(taken(window)) == {*listed, *within}


def test_what_is_heard_behind_a_listing_that_did_not_fit_waits_for_the_next() -> None:
    window = ReadyIndex(2)
    fill(window, ["a", "b", "c"], heard=True)
    window.add("d", heard=True)
    assert taken(window) == ["a", "b"]


def test_a_listing_during_which_all_was_forgotten_is_not_whole() -> None:
    """Another thread has heard that the kernel had no room for all."""
    window = ReadyIndex()
    since = window.begin()
    window.load([], window.begin(), heard=True)
    assert window.is_complete
    window.clear()
    window.load([], since, heard=True)
    assert not window.is_complete


def test_a_listing_during_which_too_much_came_is_not_whole() -> None:
    window = ReadyIndex(2)
    since = window.begin()
    for key in "abc":
        window.add(key, heard=True)
    window.load([], since, heard=True)
    assert not window.is_complete
    assert window.pop_first() is None


def test_a_listing_that_was_cut_short_is_not_whole_though_another_has_let_the_window_grow() -> None:
    """Two threads listed a line that was longer than both thought."""
    window = ReadyIndex(2, most=9)
    first, second = window.begin(), window.begin()
    window.load(["a", "b", "c"], first, heard=True)
    window.load(["a", "b", "c"], second, heard=True)
    assert not window.is_complete
    window.add("d", heard=True)
    assert [window.pop_first() for _ in range(4)] == ["a", "b", "c", None]


def test_a_window_that_a_longer_line_has_filled_holds_more_of_the_next_listing() -> None:
    window = ReadyIndex(2, most=4)
    fill(window, ["a", "b"])
    assert window.size == 2
    fill(window, ["a", "b", "c"])
    assert taken(window) == ["a", "b"]
    assert window.size == 4
    fill(window, ["c", "d", "e", "f", "g"])
    assert taken(window) == ["c", "d", "e", "f"]


def test_arrivals_cannot_grow_it_without_end() -> None:
    window = ReadyIndex(10)
    fill(window, [LAST])
    for n in range(1000):
        window.add(f"{n:04}")
    out = taken(window)
    assert len(out) <= 21
    assert out[:10] == [f"{n:04}" for n in range(10)]


def test_a_cleared_window_waits_for_a_listing() -> None:
    window = ReadyIndex()
    fill(window, ["a", LAST])
    window.clear()
    window.add("b")
    assert window.pop_first() is None
    fill(window, ["a", "b"])
    assert taken(window) == ["a", "b"]


def test_a_forked_child_begins_with_nothing_and_a_free_lock() -> None:
    window = ReadyIndex()
    fill(window, ["a"])
    holder = threading.Thread(target=window._lock.acquire)
    holder.start()
    holder.join()
    window.after_fork()
    assert window.pop_first() is None


def test_several_threads_take_each_key_once() -> None:
    window = ReadyIndex()
    fill(window, [*(f"{n:04}" for n in range(2000)), LAST])
    out: list[str] = []

    threads = [threading.Thread(target=lambda: out.extend(taken(window))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(2000, 2500):
        window.add(f"{n:04}")
    for thread in threads:
        thread.join(30)
    out.extend(taken(window))
    assert sorted(out) == [*(f"{n:04}" for n in range(2500)), LAST]
