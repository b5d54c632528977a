"""Slots that run once: one winner an attempt, none after it was done, and no slot that is nobody's.

Source: what Herlihy and Wing, "Linearizability" (TOPLAS 1990) section 2 asks of a register that is set once.
Cost: n log n in the operations.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator

from coordkit.testing.history import Kind, Operation, Result, Rule, Verdict, Violation


def check_once(history: Iterable[Operation], attempts: int = 1) -> Verdict:
    """Judge slots.

    Args:
        history: Of all who asked; `number` is the attempt, for those that were won.
        attempts: How many were allowed.
    """
    slots: dict[tuple[str, str], list[Operation]] = collections.defaultdict(list)
    for operation in history:
        if operation.kind in (Kind.TAKE, Kind.FINISH):
            slots[operation.name, operation.subject].append(operation)
    count = 0
    violations: list[Violation] = []
    for operations in slots.values():
        takes = [each for each in operations if each.kind is Kind.TAKE]
        won = sorted((each for each in takes if each.result is Result.OK), key=_order)
        count += len(won)
        violations += [*_twice(won, attempts), *_after_the_end(won, operations), *_missed(takes)]
    return Verdict(count, tuple(violations))


def _order(take: Operation) -> tuple[int, int]:
    assert take.number is not None and take.fence is not None, "a slot was taken without attempt or fence"
    return take.number, take.fence


def _twice(won: list[Operation], attempts: int) -> Iterator[Violation]:
    for take, following in itertools.pairwise(won):
        if take.number == following.number or (take.fence or 0) >= (following.fence or 0):
            why = f"slot {take.subject!r}: attempts {take.number} and {following.number} were both taken"
            yield Violation(Rule.TWICE, why, (take, following))
    for take in won:
        if (take.number or 0) > attempts:
            why = f"slot {take.subject!r}: attempt {take.number}, of {attempts} that were allowed"
            yield Violation(Rule.TWICE, why, (take,))


def _after_the_end(won: list[Operation], operations: list[Operation]) -> Iterator[Violation]:
    ends = [each for each in operations if each.kind is Kind.FINISH and each.result is Result.OK]
    for end, take in itertools.product(ends, won):
        if (take.number or 0) > (end.number or 0):
            why = f"slot {take.subject!r}: attempt {take.number} was taken although {end.number} was done"
            yield Violation(Rule.TWICE, why, (end, take))


def _missed(takes: list[Operation]) -> Iterator[Violation]:
    """One was told that it is another's: then somebody, or one who was told nothing, must have it."""
    told = [each for each in takes if not each.error]  # an error that says "not taken" speaks of nobody else
    if told and all(each.result is Result.FAIL for each in takes):
        yield Violation(Rule.MISSED, f"slot {takes[0].subject!r} was nobody's", tuple(takes))
