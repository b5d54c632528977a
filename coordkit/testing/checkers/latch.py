"""Latches: the count falls by exactly what was counted, to zero and no further, and opens for nobody before.

Counting down is adding up, until the end: so the counter's rules judge it, with totals counted from zero.

Source: as `counter.py`; `java.util.concurrent.CountDownLatch` for who may pass.
Cost: n log n in the operations, and the waits times the counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from coordkit.testing.checkers.counter import check_counter
from coordkit.testing.history import Kind, Operation, Result, Rule, Verdict, Violation


def check_latch(history: Iterable[Operation], count: int, remaining: int) -> Verdict:
    """Judge one latch.

    Args:
        history: All calls; of an ADD `number` was counted down and `subject` remained, a WAIT is OK for who
            passed.
        count: Where it began.
        remaining: What was left in the end, when no request was on its way any more.
    """
    history = list(history)
    counts = [each for each in history if each.kind is Kind.ADD]
    ends = [each for each in counts if each.result is Result.OK and each.subject == "0"]
    # What was told zero may have been counted in part, or not at all: as if it were in doubt.
    judged = [
        attrs.evolve(each, result=Result.UNKNOWN, subject="") if each in ends else _upwards(each, count)
        for each in counts
    ]
    verdict = check_counter(judged, count - remaining)
    passed = [each for each in history if each.kind is Kind.WAIT and each.result is Result.OK]
    violations = [
        *verdict.violations,
        *_early(passed, counts, count),
        *_reopened(counts, [*ends, *passed], remaining),
    ]
    return Verdict(verdict.holds + len(ends), tuple(violations))


def _upwards(operation: Operation, count: int) -> Operation:
    if operation.result is not Result.OK:
        return operation
    return attrs.evolve(operation, subject=str(count - int(operation.subject)))


def _early(passed: list[Operation], counts: list[Operation], count: int) -> Iterator[Violation]:
    for operation in passed:
        ended = operation.completed_ns or 0
        possible = [
            each for each in counts if each.invoked_ns <= ended and each.result is not Result.FAIL
        ]
        called = sum(each.number or 0 for each in possible)
        if called < count:
            yield Violation(Rule.EARLY, f"passed when {called} of {count} had been called for", (operation,))


def _reopened(counts: list[Operation], zeros: list[Operation], remaining: int) -> Iterator[Violation]:
    """Once it is zero it stays so; by the clock, for calls that followed each other."""
    if not zeros:
        return
    first = min(zeros, key=lambda each: each.completed_ns or 0)
    if remaining:
        yield Violation(Rule.SUM, f"{remaining} remain, and it had been zero", (first,))
    for each in counts:
        if each.result is Result.OK and each.subject != "0" and each.invoked_ns > (first.completed_ns or 0):
            yield Violation(Rule.STALE, f"{each.subject} was told after zero", (first, each))
