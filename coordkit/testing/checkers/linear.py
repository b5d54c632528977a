"""Linearizability of short histories: is there one order of all calls that explains what everybody was told?

Each call takes effect at one moment between its beginning and its end.  One whose outcome nobody knows may
take effect at any moment after its beginning, or never.  The search tries every order that the clock allows,
and remembers which sets of calls, with which state behind them, led nowhere.

It needs no revisions and knows no primitive, as `check_lock` and the others do, which judge thousands of
calls: what an object does is a function from state to state.

Source: Wing and Gong, "Testing and verifying concurrent objects" (JPDC 1993); Lowe, "Testing for
linearizability" (2017), for what is remembered.
Cost: exponential in how many calls overlap; `MOST_CALLS` bounds it.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Hashable, Sequence

import attrs

MOST_CALLS = 64


class _Impossible:
    """What no order explains."""


IMPOSSIBLE: typing.Final = _Impossible()

State = Hashable
Effect = Callable[[State], State]


@attrs.frozen
class Call:
    """One call, and what it does; `IMPOSSIBLE` where what was told does not go with the state."""

    invoked_ns: int
    completed_ns: int | None  # None: nobody knows whether it was applied, or when
    effect: Effect


def linearize(calls: Sequence[Call], initial: State = None) -> list[int] | None:
    """An order that explains them all.

    Args:
        calls: In any order; at most `MOST_CALLS`.
        initial: The object's state before all of them.

    Returns:
        The indexes of those that took effect, in their order; None when no order explains them.

    Raises:
        ValueError: There are too many.
    """
    if len(calls) > MOST_CALLS:
        raise ValueError(f"{len(calls)} calls are too many: a search takes {MOST_CALLS} at most")
    certain = sum(1 << index for index, call in enumerate(calls) if call.completed_ns is not None)
    dead_ends: set[tuple[int, State]] = set()
    path: list[int] = []

    def search(done: int, state: State) -> bool:
        if done & certain == certain:
            return True
        if (done, state) in dead_ends:
            return False
        # The next one began before any of the others had ended.
        left = [index for index in range(len(calls)) if not done >> index & 1]
        first_end = min(_ended_ns(calls[index]) for index in left)
        for index in left:
            if calls[index].invoked_ns <= first_end:
                after = calls[index].effect(state)
                if after is not IMPOSSIBLE:
                    path.append(index)
                    if search(done | 1 << index, after):
                        return True
                    path.pop()
        dead_ends.add((done, state))
        return False

    return path if search(0, initial) else None


def _ended_ns(call: Call) -> float:
    return math.inf if call.completed_ns is None else call.completed_ns


# A register.


def reads(value: State) -> Effect:
    """A read that was told this value."""
    return lambda state: state if state == value else IMPOSSIBLE


def writes(value: State) -> Effect:
    """A write."""
    return lambda state: value


def swaps(old: State, new: State, done: bool | None = True) -> Effect:
    """A compare-and-set that was told whether it was done; None: it was told nothing."""

    def effect(state: State) -> State:
        if done is None or (state == old) is done:
            return new if state == old else state
        return IMPOSSIBLE

    return effect


# A lock; its state is who holds it.


def acquires(who: State) -> Effect:
    """An acquire that was told that it holds."""
    return lambda state: who if state is None else IMPOSSIBLE


def releases(who: State) -> Effect:
    """A release that was told that it held until then."""
    return lambda state: None if state == who else IMPOSSIBLE
