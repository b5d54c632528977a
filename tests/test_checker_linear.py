"""Linearizability of short histories: good, bad, and all small ones; those of a real register and lock."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

import coordkit
from coordkit import errors, kv
from coordkit.testing import history
from coordkit.testing.checkers import linear
from coordkit.testing.checkers.linear import Call, acquires, linearize, reads, releases, swaps, writes

GOOD: dict[str, list[Call]] = {
    "nothing": [],
    "one after the other": [Call(1, 2, writes("a")), Call(3, 4, reads("a"))],
    "a read beside a write sees it": [Call(1, 9, writes("a")), Call(2, 3, reads("a"))],
    "a read beside a write does not see it": [Call(1, 9, writes("a")), Call(2, 3, reads(None))],
    "an unknown write is seen late": [
        Call(1, None, writes("a")),
        Call(2, 3, reads(None)),
        Call(8, 9, reads("a")),
    ],
    "an unknown write is never seen": [Call(1, None, writes("a")), Call(2, 3, reads(None))],
    "a swap and one that came too late": [
        Call(1, 9, swaps(None, "a")),
        Call(2, 9, swaps(None, "b", done=False)),
        Call(10, 11, reads("a")),
    ],
    "a lock is handed on": [
        Call(1, 2, acquires("x")),
        Call(1, 6, acquires("y")),
        Call(4, 5, releases("x")),
    ],
    "who died has released": [
        Call(1, 2, acquires("x")),
        Call(3, None, releases("x")),
        Call(4, 9, acquires("y")),
    ],
}
BAD: dict[str, list[Call]] = {
    "a value that nobody wrote": [Call(1, 2, reads("a"))],
    "a stale read": [Call(1, 2, writes("a")), Call(3, 4, writes("b")), Call(5, 6, reads("a"))],
    "back in time": [
        Call(1, 9, writes("a")),
        Call(2, 3, reads("a")),
        Call(4, 5, reads(None)),
    ],
    "an unknown write is seen before it began": [Call(5, None, writes("a")), Call(1, 2, reads("a"))],
    "two swaps of one value": [Call(1, 9, swaps(None, "a")), Call(2, 8, swaps(None, "b"))],
    "a swap is refused by what nobody wrote": [Call(1, 2, swaps(None, "a", done=False))],
    "two holders": [Call(1, 2, acquires("x")), Call(3, 4, acquires("y")), Call(5, 6, releases("x"))],
    "a release of what another holds": [Call(1, 2, acquires("x")), Call(3, 4, releases("y"))],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_histories(name):
    """
    An order is found, and it explains them.
    """
    calls = GOOD[name]

    order = linearize(calls)

    assert order is not None and explains(calls, order)


@pytest.mark.parametrize("name", BAD)
def test_bad_histories(name):
    """
    There is none.
    """
    assert linearize(BAD[name]) is None


def test_too_many():
    """
    A search that might never end is not begun.
    """
    with pytest.raises(ValueError, match="65 calls"):
        linearize([Call(1, 2, writes("a"))] * 65)


def explains(calls: list[Call], order: tuple[int, ...] | list[int]) -> bool:
    """By the definition: all that are certain, no two against the clock, each possible where it stands."""
    if {index for index, call in enumerate(calls) if call.completed_ns is not None} - {*order}:
        return False
    state: Any = None
    for place, index in enumerate(order):
        if any((calls[later].completed_ns or 99) < calls[index].invoked_ns for later in order[place:]):
            return False
        state = calls[index].effect(state)
        if state is linear.IMPOSSIBLE:
            return False
    return True


EFFECTS = st.one_of(
    st.builds(reads, st.sampled_from([None, "a", "b"])),
    st.builds(writes, st.sampled_from(["a", "b"])),
    st.builds(swaps, st.sampled_from([None, "a"]), st.sampled_from(["a", "b"]), st.booleans()),
)
CALLS = st.builds(
    lambda began, took, effect: Call(began, None if took is None else began + took, effect),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(0, 5)),
    EFFECTS,
)


@hypothesis.settings(max_examples=300, deadline=None, database=None)
@hypothesis.given(st.lists(CALLS, max_size=4))
def test_it_finds_what_trying_everything_finds(calls):
    """
    Against every order of every part of a short history.
    """
    everything = (
        order for size in range(len(calls) + 1) for order in itertools.permutations(range(len(calls)), size)
    )

    expected = any(explains(calls, order) for order in everything)

    order = linearize(calls)
    assert (order is not None) == expected
    assert order is None or explains(calls, order)


class Recording:
    """Calls of several threads, as the checker wants them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def call(self, action: Callable[[], linear.Effect], doubtful: linear.Effect) -> None:
        began = history.clock_ns()
        try:
            effect = action()
        except (errors.Unavailable, errors.DeadlineExceeded) as error:
            if error.outcome is errors.Outcome.UNKNOWN:
                self.calls.append(Call(began, None, doubtful))
            return
        self.calls.append(Call(began, history.clock_ns(), effect))


def in_threads(work: Callable[[int], None], count: int = 4) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.coordkit_leaves("keys")
def test_a_key_is_a_register(coord: coordkit.Coordinator):
    """
    Reads, writes and compare-and-sets of four threads: there is an order that explains them.
    """
    recording = Recording()

    def read() -> bytes | None:
        found = coord.kv.get("/register")
        return None if found is None else found.value

    def work(number: int) -> None:
        chance = random.Random(number)
        for turn in range(10):
            value, old = b"%d.%d" % (number, turn), read()

            def put(value: bytes = value) -> linear.Effect:
                coord.kv.put("/register", value)
                return writes(value)

            def get() -> linear.Effect:
                return reads(read())

            def swap(value: bytes = value, old: bytes | None = old) -> linear.Effect:
                compare = kv.value("/register") == old if old is not None else kv.create("/register") == 0
                done = coord.kv.txn().when(compare).then(kv.put("/register", value)).commit().succeeded
                return swaps(old, value, done)

            pick = chance.choice((put, get, swap))
            recording.call(pick, writes(value) if pick is put else swaps(old, value, None))

    in_threads(work)

    assert len(recording.calls) == 40
    assert linearize(recording.calls) is not None


@pytest.mark.coordkit_leaves("keys")
def test_a_lock_is_a_lock(coord_factory: Callable[[], coordkit.Coordinator]):
    """
    Four threads, two to a process's coordinator; and a release that is left out is missed.
    """
    recording = Recording()
    coords = [coord_factory(), coord_factory()]

    def work(number: int) -> None:
        lock = coords[number % 2].lock("job")
        for _ in range(6):

            def acquire() -> linear.Effect:
                lock.acquire()
                return acquires(number)

            def release() -> linear.Effect:
                lock.release()
                return releases(number)

            recording.call(acquire, acquires(number))
            recording.call(release, releases(number))

    in_threads(work)

    calls = recording.calls
    assert len(calls) == 48
    assert linearize(calls) is not None
    first = next(index for index, call in enumerate(calls) if call.effect(None) is linear.IMPOSSIBLE)
    assert linearize(calls[:first] + calls[first + 1 :]) is None
