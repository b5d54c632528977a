"""Double barriers: nobody is inside before all have called, or told that all have left while one has not.

As with barriers, the notes of a call never make it shorter than it was, so the clock may judge.

Source: the contract of ZooKeeper's recipe: enter when enough have joined, leave when all have left.
Cost: n log n in the operations, and n in the members of a generation.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Collection, Iterable, Iterator

from coordkit.testing.history import Kind, Operation, Result, Rule, Verdict, Violation

Who = tuple[int, str]


def check_double_barrier(
    history: Iterable[Operation], parties: int, lost: Collection[int] = frozenset()
) -> Verdict:
    """Judge one double barrier; the verdict counts those who entered.

    Args:
        history: All calls of `enter` and `leave`; `subject` is the generation, where it is known.
        parties: How many enter together.
        lost: The processes that died: whoever of theirs was inside has left without a word.
    """
    operations = list(history)
    entered = [each for each in operations if each.kind is Kind.ENTER and each.result is Result.OK]
    violations = [*_early(operations, entered, parties), *_left(operations, entered, lost)]
    return Verdict(len(entered), tuple(violations))


def _early(operations: list[Operation], entered: list[Operation], parties: int) -> Iterator[Violation]:
    """Each generation takes as many calls as there are parties; so the n-th to be inside needs so many."""
    called = sorted(each.invoked_ns for each in operations if each.kind is Kind.ENTER)
    for number, operation in enumerate(sorted(entered, key=lambda each: each.completed_ns or 0)):
        needed = (number // parties + 1) * parties
        count = bisect.bisect_right(called, operation.completed_ns or 0)
        if count < needed:
            why = f"number {number + 1} was inside when {count} had called, of {needed}"
            yield Violation(Rule.EARLY, why, (operation,))


def _left(
    operations: list[Operation], entered: list[Operation], lost: Collection[int]
) -> Iterator[Violation]:
    """When one was told that all have left, the others of its generation had called `leave`, or were lost."""
    inside: dict[str, list[Operation]] = collections.defaultdict(list)
    for operation in entered:
        inside[operation.subject].append(operation)
    leaving = {
        (_who(each), each.subject): each.invoked_ns for each in operations if each.kind is Kind.LEAVE
    }
    for operation in operations:
        if operation.kind is not Kind.LEAVE or operation.result is not Result.OK:
            continue
        ended = operation.completed_ns or 0
        for other in inside[operation.subject]:
            if other.process in lost or leaving.get((_who(other), other.subject), ended + 1) <= ended:
                continue
            why = f"all had left generation {operation.subject}, and one was inside"
            yield Violation(Rule.LEFT, why, (operation, other))


def _who(operation: Operation) -> Who:
    return operation.process, operation.contender
