"""Locks: one holder at a time, in the order in which the keys were created.

Source: Hunt et al., ZooKeeper (ATC 2010) section 2.4 for the order; the Jepsen report on etcd 3.4.3 for why a
lock is judged by what was written under it.
Cost: n log n in the operations.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator

from coordkit.testing.history import Hold, Kind, Operation, Result, Rule, Verdict, Violation


def check_lock(history: Iterable[Operation]) -> Verdict:
    """Judge exclusive locks: one holder at a time, in the order in which their keys were created."""
    by_name: dict[str, list[Operation]] = collections.defaultdict(list)
    for operation in history:
        by_name[operation.name].append(operation)

    count = 0
    violations: list[Violation] = []
    for operations in by_name.values():
        holds = holds_of(operations)
        count += len(holds)
        violations += [*_overlaps(holds), *_inversions(holds), *_repeated_fences(holds)]
        violations += [*_clock_overlaps(holds), *_clock_fences(holds), *stale_writes(operations)]
    return Verdict(count, tuple(violations))


def holds_of(history: Iterable[Operation]) -> list[Hold]:
    """Every hold of one lock, in the order of their fences."""
    calls: dict[tuple[int, str], list[Operation]] = collections.defaultdict(list)
    for operation in history:
        if operation.kind in (Kind.ACQUIRE, Kind.RELEASE):
            calls[operation.process, operation.contender].append(operation)

    holds = []
    for own in calls.values():
        own.sort(key=lambda operation: operation.index)
        for operation, following in itertools.zip_longest(own, own[1:]):
            if operation.kind is Kind.ACQUIRE and operation.result is Result.OK:
                holds.append(Hold(operation, _verified_release(following)))
    return sorted(holds, key=_place)


def _place(hold: Hold) -> tuple[int, int]:
    """Its fence, and which hand-over of that fence it is, where threads of a process hand a lock on."""
    return hold.fence, hold.acquire.number or 0


def _verified_release(operation: Operation | None) -> Operation | None:
    if operation and operation.kind is Kind.RELEASE and operation.result is Result.OK:
        return operation
    return None


def _overlaps(holds: list[Hold]) -> Iterator[Violation]:
    for earlier, later, revision in _meeting([(*hold.revisions, hold) for hold in holds if hold.revisions]):
        if earlier.fence == later.fence and _place(earlier) != _place(later):
            continue  # a hand-over within a process makes no revision: there the clock judges
        why = f"fences {earlier.fence} and {later.fence} both held at revision {revision}"
        yield Violation(Rule.OVERLAP, why, earlier.operations + later.operations)


def _clock_overlaps(holds: list[Hold]) -> Iterator[Violation]:
    for earlier, later, moment in _meeting([(*hold.clock, hold) for hold in holds]):
        why = f"fences {earlier.fence} and {later.fence} both held at {moment} ns"
        yield Violation(Rule.CLOCK, why, earlier.operations + later.operations)


def _meeting(spans: list[tuple[int, int, Hold]]) -> Iterator[tuple[Hold, Hold, int]]:
    """Each hold that starts within earlier ones, beside that of them which ends last."""
    last_end, last = -1, None
    for start, end, hold in sorted(spans, key=lambda span: span[:2]):
        if last is not None and start < last_end:
            yield last, hold, start
        if end > last_end:
            last_end, last = end, hold


def _inversions(holds: list[Hold]) -> Iterator[Violation]:
    latest, youngest = -1, None
    for hold in holds:
        start = hold.revisions[0] if hold.revisions else latest
        if youngest and start < latest:
            why = f"fence {hold.fence} held at revision {start}, {youngest.fence} at {latest} already"
            yield Violation(Rule.ORDER, why, youngest.operations + hold.operations)
        elif hold.revisions:
            latest, youngest = start, hold


def _repeated_fences(holds: list[Hold]) -> Iterator[Violation]:
    for hold, following in itertools.pairwise(holds):
        if _place(hold) == _place(following):
            why = f"two holds with fence {hold.fence}"
            yield Violation(Rule.FENCE, why, hold.operations + following.operations)


def _clock_fences(holds: list[Hold]) -> Iterator[Violation]:
    for hold, following in itertools.pairwise(sorted(holds, key=lambda hold: hold.clock)):
        if _place(following) < _place(hold):
            why = f"fence {following.fence} was granted after {hold.fence} by the clock"
            yield Violation(Rule.CLOCK, why, hold.operations + following.operations)


def stale_writes(operations: list[Operation]) -> Iterator[Violation]:
    """Guarded writes that were accepted after one with a larger fence."""
    accepted = [o for o in operations if o.kind is Kind.WRITE and o.result is Result.OK]
    newest: Operation | None = None
    for write in sorted(accepted, key=lambda write: write.revision or 0):
        if newest and (write.fence or 0) < (newest.fence or 0):
            why = f"a write with fence {write.fence} was accepted after one with {newest.fence}"
            yield Violation(Rule.WRITE, why, (newest, write))
        else:
            newest = write
