"""Turns: who is told that it is his turn is right, whose turn it is learns of it, and nobody loses his place.

Judged by what one saw who only looked on (`attendance.py`): when each place came, when it was its turn by
etcd's own order, when it went; and when the cluster did not answer, for then nobody can learn anything.

Cost: linear in the operations and places; the silences of a wait are looked for one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from coordkit.testing.history import Kind, Operation, Result, Rule, Verdict, Violation

GRANTS = (Kind.ACQUIRE, Kind.CAMPAIGN)
RELEASES = (Kind.RELEASE, Kind.RESIGN)


@attrs.define
class Stay:
    """One place in a line; times are `clock_ns`, None: not seen."""

    key: str
    #: Of the lock or election, as its calls are noted; several lines may get a place at one revision.
    name: str
    #: Its create revision.
    fence: int
    came_ns: int
    turn_ns: int | None = None
    gone_ns: int | None = None
    #: It went with its session.
    lapsed: bool = False
    #: Some of what happened to it was missed.
    partial: bool = False

    @property
    def place(self) -> tuple[str, int]:
        """As calls name it."""
        return self.name, self.fence


@attrs.frozen
class Silence:
    """A time in which the cluster did not answer."""

    begun_ns: int
    ended_ns: int

    def within(self, begun_ns: int, ended_ns: int) -> int:
        """How much of that time it was, in nanoseconds."""
        return max(0, min(self.ended_ns, ended_ns) - max(self.begun_ns, begun_ns))


def silent_ns(silences: Iterable[Silence], begun_ns: int, ended_ns: int) -> int:
    """For how long of that time the cluster did not answer."""
    return sum(each.within(begun_ns, ended_ns) for each in silences)


@attrs.frozen
class Idle:
    """A time in which it was somebody's turn and nobody held."""

    stay: Stay
    told: tuple[Operation, ...]  # the grant and the release, as far as there were any
    #: For how long, while the cluster answered.
    answered_ns: int


def _by_place(operations: Iterable[Operation], kinds: tuple[Kind, ...]) -> dict[tuple[str, int], Operation]:
    """Of each place, by its line's name and its fence, the call of one of these kinds."""
    return {(each.name, each.fence): each for each in operations if each.kind in kinds and each.fence}


def idle(history: Iterable[Operation], stays: Iterable[Stay], silences: Sequence[Silence]) -> Iterator[Idle]:
    """All those times: nobody had been told of the turn, or it had been given back."""
    operations = list(history)
    granted = _by_place((each for each in operations if each.result is Result.OK), GRANTS)
    released = _by_place(operations, RELEASES)
    for stay in stays:
        if stay.turn_ns is None or stay.lapsed:
            continue  # who was first and died is waited for until its lease is over
        grant, release = granted.get(stay.place), released.get(stay.place)
        told = tuple(each for each in (grant, release) if each is not None)
        spans = [(stay.turn_ns, grant.completed_ns if grant else stay.gone_ns)]
        spans += [(release.completed_ns, stay.gone_ns)] if release and release.completed_ns else []
        for begun_ns, ended_ns in spans:
            if ended_ns is not None and ended_ns > begun_ns:
                silent = silent_ns(silences, begun_ns, ended_ns)
                yield Idle(stay, told, ended_ns - begun_ns - silent)


def check_turns(
    history: Iterable[Operation], stays: Iterable[Stay], silences: Sequence[Silence], due_ns: int
) -> Verdict:
    """Judge grants by the line as it was, the time until they were told, and what became of places.

    Args:
        history: What the contenders were told.
        stays: All places in their lines.
        silences: When the cluster did not answer.
        due_ns: How long a turn may go unnoticed while it does.
    """
    operations, places = list(history), list(stays)
    granted = _by_place((each for each in operations if each.result is Result.OK), GRANTS)
    violations = []
    for stay in places:
        if stay.turn_ns is None and not stay.partial and stay.place in granted:
            why = f"{stay.key} with fence {stay.fence} was granted, and it never was its turn"
            violations.append(Violation(Rule.ORDER, why, (granted[stay.place],)))
    for each in idle(operations, places, silences):
        if each.answered_ns > due_ns:
            whose = f"{each.stay.key} with fence {each.stay.fence}"
            why = f"for {each.answered_ns / 1e9:.1f} s it was the turn of {whose}, and nobody held"
            violations.append(Violation(Rule.IDLE, why, each.told))
    struck = _by_place((each for each in operations if each.result is not Result.FAIL), (Kind.STRIKE,))
    for told in operations:
        if told.kind is Kind.EVICTED and (told.name, told.fence) not in struck:
            why = f"one was told that its place {told.fence} is gone, and nobody had deleted it"
            violations.append(Violation(Rule.EVICTED, why, (told,)))
    return Verdict(len(granted), tuple(violations))
