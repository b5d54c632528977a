"""Permits: whoever is granted one has fewer keys before its own than the limit then was.

An acquire's `revision` is any at which it was held; a resize has the new limit as `number`.

Source: Hunt et al., ZooKeeper (ATC 2010) section 2.4, with n in place of one.
Cost: n log n in the operations, times how often the limit was changed.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Iterable, Iterator

from coordkit.testing.checkers.lock import holds_of
from coordkit.testing.history import Hold, Kind, Operation, Result, Rule, Verdict, Violation


def check_semaphore(history: Iterable[Operation], limit: int) -> Verdict:
    """Judge the permits of each name; `limit` is what they began with."""
    by_name: dict[str, list[Operation]] = collections.defaultdict(list)
    for operation in history:
        by_name[operation.name].append(operation)

    count = 0
    violations: list[Violation] = []
    for operations in by_name.values():
        resizes = [each for each in operations if each.kind is Kind.RESIZE]
        holds = holds_of(each for each in operations if each.kind is not Kind.RESIZE)
        count += len(holds)
        violations += [*_too_early(holds, resizes, limit), *_crowds(holds, resizes, limit)]
    return Verdict(count, tuple(violations))


def _most(resizes: list[Operation], limit: int, first: int, last: int) -> int:
    """The largest limit that may have been in force from one revision to another."""
    known = sorted(
        (each.revision, each.number or 0)
        for each in resizes
        if each.result is Result.OK and each.revision is not None
    )
    before = [number for revision, number in known if revision <= first]
    within = [number for revision, number in known if first < revision <= last]
    certain = [each for each in resizes if each.result is Result.FAIL]
    doubtful = [
        each.number or 0
        for each in resizes
        if each not in certain and (each.result is not Result.OK or each.revision is None)
    ]
    return max([before[-1] if before else limit, *within, *doubtful])


def _too_early(holds: list[Hold], resizes: list[Operation], limit: int) -> Iterator[Violation]:
    """Too many that were before it were still there when it held, and so when it was granted."""
    ends: list[int] = []  # the revisions at which those with older keys were released
    for hold in holds:
        if hold.revisions is not None:
            held = hold.revisions[0]
            before = len(ends) - bisect.bisect_right(ends, held)
            most = _most(resizes, limit, hold.fence, held)
            if before >= most:
                why = f"fence {hold.fence} held at revision {held} with {before} before it, of {most}"
                yield Violation(Rule.LIMIT, why, hold.operations)
        end = hold.release.revision if hold.release else None
        if end is not None:
            bisect.insort(ends, end)


def _crowds(holds: list[Hold], resizes: list[Operation], limit: int) -> Iterator[Violation]:
    """More than the largest limit of all held at one moment."""
    most = max([limit, *(each.number or 0 for each in resizes)])
    standing: list[tuple[int, Hold]] = []
    for hold in sorted(holds, key=lambda each: each.clock):
        start, end = hold.clock
        standing = [(until, other) for until, other in standing if until > start]
        standing.append((end, hold))
        if len(standing) > most:
            why = f"{len(standing)} held at {start} ns, and the limit was never above {most}"
            yield Violation(Rule.CLOCK, why, hold.operations)
