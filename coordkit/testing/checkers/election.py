"""Elections: one leader at a time, in the order of the candidates, and observers who are told the truth.

A leadership is judged as a lock is, and a proclamation as a guarded write.  Of an observer's leaders each
must be younger than the one before, or the same one with a newer value; and none may be told while an older
candidate certainly led, for then the younger one cannot have.

Source: etcd issue 18163, for what observers were told.
Cost: n log n in the operations.
"""

from __future__ import annotations

import bisect
import collections
import itertools
from collections.abc import Iterable, Iterator

import attrs

from coordkit.testing.checkers.lock import check_lock, holds_of
from coordkit.testing.history import Hold, Kind, Operation, Result, Rule, Verdict, Violation

_AS_LOCK = {
    Kind.CAMPAIGN: Kind.ACQUIRE,
    Kind.RESIGN: Kind.RELEASE,
    Kind.PROCLAIM: Kind.WRITE,
    Kind.WRITE: Kind.WRITE,
}


def check_election(history: Iterable[Operation]) -> Verdict:
    """Judge elections, each by its name."""
    by_name: dict[str, list[Operation]] = collections.defaultdict(list)
    for operation in history:
        if operation.kind in _AS_LOCK or operation.kind is Kind.OBSERVE:
            by_name[operation.name].append(operation)
    count = 0
    violations: list[Violation] = []
    for operations in by_name.values():
        terms = [attrs.evolve(o, kind=_AS_LOCK[o.kind]) for o in operations if o.kind in _AS_LOCK]
        verdict = check_lock(terms)
        count += verdict.holds
        violations += [*verdict.violations, *_observers(operations, holds_of(terms))]
    return Verdict(count, tuple(violations))


def _observers(operations: list[Operation], terms: list[Hold]) -> Iterator[Violation]:
    proclaimed = {
        (o.fence, o.fence if o.kind is Kind.CAMPAIGN else o.revision): o
        for o in operations
        if o.kind in (Kind.CAMPAIGN, Kind.PROCLAIM) and o.result is Result.OK
    }
    observers: dict[tuple[int, str], list[Operation]] = collections.defaultdict(list)
    for operation in operations:
        if operation.kind is Kind.OBSERVE and operation.result is Result.OK:
            observers[operation.process, operation.contender].append(operation)
    verified = [term for term in terms if term.release]  # in the order of their fences
    fences = [term.fence for term in verified]
    longest = list(itertools.accumulate(verified, _longer))  # of all up to each
    for told in observers.values():
        told.sort(key=lambda operation: operation.index)
        yield from _order(told)
        for each in told:
            if each.fence is not None:
                older = bisect.bisect_left(fences, each.fence)
                yield from _wrong_leader(each, longest[older - 1] if older else None)
                yield from _wrong_value(each, proclaimed.get((each.fence, each.revision)))


def _order(told: list[Operation]) -> Iterator[Violation]:
    latest: Operation | None = None
    left = False  # nobody led since
    for each in told:
        if each.fence is None:
            left = True
            continue
        if latest is not None:
            before, now = (latest.fence or 0, latest.revision or 0), (each.fence, each.revision or 0)
            if now <= before or (left and each.fence == latest.fence):
                why = f"an observer was told of fence {now[0]} at {now[1]} after {before[0]} at {before[1]}"
                yield Violation(Rule.LEADER, why, (latest, each))
        latest, left = each, False


def _longer(one: Hold, other: Hold) -> Hold:
    return other if other.clock[1] > one.clock[1] else one


def _wrong_leader(each: Operation, older: Hold | None) -> Iterator[Violation]:
    """`older` is the term that ended last of all those with smaller fences."""
    if older is not None and older.clock[1] > (each.completed_ns or 0):
        why = f"an observer was told of fence {each.fence} while {older.fence} led"
        yield Violation(Rule.LEADER, why, (each, *older.operations))


def _wrong_value(each: Operation, proclaimed: Operation | None) -> Iterator[Violation]:
    if proclaimed is not None and proclaimed.subject != each.subject:
        why = f"an observer was told of a value that fence {each.fence} did not proclaim at {each.revision}"
        yield Violation(Rule.LEADER, why, (each, proclaimed))
