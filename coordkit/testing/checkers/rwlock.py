"""Readers and writers: at each revision one writer or any readers, in the order of their keys.

`subject` of an acquire says "read" or "write"; its `revision` is any at which it was held.

Source: Courtois et al., "Concurrent control with readers and writers" (CACM 1971), the second problem.
Cost: n log n in the operations, times how many hold at once.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator

from coordkit.testing.checkers.lock import holds_of, stale_writes
from coordkit.testing.history import Hold, Operation, Rule, Verdict, Violation

WRITE = "write"


def check_rwlock(history: Iterable[Operation]) -> Verdict:
    """Judge readers and writers of each name."""
    by_name: dict[str, list[Operation]] = collections.defaultdict(list)
    for operation in history:
        by_name[operation.name].append(operation)

    count = 0
    violations: list[Violation] = []
    for operations in by_name.values():
        holds = holds_of(operations)
        count += len(holds)
        violations += _meetings(holds, Rule.OVERLAP, "revision", lambda hold: hold.revisions)
        violations += _meetings(holds, Rule.CLOCK, "time", lambda hold: hold.clock)
        violations += [*_overtakers(holds), *stale_writes(operations)]
    return Verdict(count, tuple(violations))


def _writes(hold: Hold) -> bool:
    return hold.acquire.subject == WRITE


def _meetings(
    holds: list[Hold], rule: Rule, unit: str, span_of: Callable[[Hold], tuple[int, int] | None]
) -> Iterator[Violation]:
    """A writer beside anybody else."""
    spans = [(*span, hold) for hold in holds if (span := span_of(hold)) is not None]
    standing: list[tuple[int, Hold]] = []
    for start, end, hold in sorted(spans, key=lambda span: span[:2]):
        standing = [(until, other) for until, other in standing if until > start]
        for _, other in standing:
            if _writes(hold) or _writes(other):
                why = f"a writer was not alone: fences {other.fence} and {hold.fence} at {unit} {start}"
                yield Violation(rule, why, other.operations + hold.operations)
        standing.append((end, hold))


def _overtakers(holds: list[Hold]) -> Iterator[Violation]:
    """Somebody held it before an older one had left whom it had to wait for."""
    last: Hold | None = None  # of those with older keys, who left last: of all, and of the writers
    last_writer: Hold | None = None
    for hold in holds:
        if hold.revisions is None:
            continue
        older = last if _writes(hold) else last_writer
        if older and older.revisions and hold.revisions[0] < older.revisions[1] - 1:
            why = f"fence {hold.fence} held at revision {hold.revisions[0]}, {older.fence} after it"
            yield Violation(Rule.ORDER, why, older.operations + hold.operations)
        last = _later(last, hold)
        last_writer = _later(last_writer, hold) if _writes(hold) else last_writer


def _later(one: Hold | None, other: Hold) -> Hold:
    if one is None or one.revisions is None or other.revisions is None:
        return other
    return max(one, other, key=lambda hold: (hold.revisions or (0, 0))[1])
