"""Barriers: nobody passes before all have arrived, generations do not mix, and one verdict is for all.

A call is written down before it is made and after it has ended.  So its notes never make a wait shorter than
it was, and the clock may judge, whoever was stopped in between.

Source: the contract of `threading.Barrier`; Curator's issues 753 and 838 for what goes wrong.
Cost: n log n in the operations.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Iterable, Iterator

from coordkit.testing.history import Kind, Operation, Result, Rule, Verdict, Violation

Generations = dict[int, list[Operation]]


def check_barrier(history: Iterable[Operation], parties: int) -> Verdict:
    """Judge one barrier; the verdict counts those who passed."""
    waits = [operation for operation in history if operation.kind is Kind.WAIT]
    passed = _by_generation(waits, Result.OK)
    broken = _by_generation(waits, Result.FAIL)
    violations = [
        *_places(passed, parties),
        *_early(waits, passed, parties),
        *_splits(passed, broken),
        *_bleeding(passed),
    ]
    return Verdict(sum(map(len, passed.values())), tuple(violations))


def _by_generation(waits: list[Operation], result: Result) -> Generations:
    found: Generations = collections.defaultdict(list)
    for operation in waits:
        if operation.result is result and operation.subject:
            found[int(operation.subject)].append(operation)
    return dict(sorted(found.items()))


def _places(passed: Generations, parties: int) -> Iterator[Violation]:
    for number, operations in passed.items():
        taken: dict[int | None, Operation] = {}
        for operation in operations:
            place = operation.number
            if place is None or not 0 <= place < parties:
                why = f"generation {number} was passed as number {place} of {parties}"
                yield Violation(Rule.PLACE, why, (operation,))
            elif place in taken:
                why = f"two passed generation {number} as number {place}"
                yield Violation(Rule.PLACE, why, (taken[place], operation))
            taken[place] = operation


def _early(waits: list[Operation], passed: Generations, parties: int) -> Iterator[Violation]:
    """As many as were needed had called, and not ended in another generation, when one passed."""
    for number, operations in passed.items():
        # Who died, or was told nothing certain, may have been one of them.
        possible = [
            each
            for each in waits
            if each.subject == str(number) or (not each.subject and each.result is not Result.FAIL)
        ]
        called = sorted(each.invoked_ns for each in possible)
        for operation in operations:
            ended = operation.completed_ns or 0
            count = bisect.bisect_right(called, ended)
            if count < parties:
                why = f"generation {number} was passed when {count} of {parties} had called"
                yield Violation(Rule.EARLY, why, (operation,))


def _splits(passed: Generations, broken: Generations) -> Iterator[Violation]:
    for number in passed.keys() & broken.keys():
        why = f"generation {number} was passed by {len(passed[number])}, broken for {len(broken[number])}"
        yield Violation(Rule.SPLIT, why, (passed[number][0], broken[number][0]))


def _bleeding(passed: Generations) -> Iterator[Violation]:
    """Who passed a later generation ended after all of the earlier ones had called."""
    latest: Operation | None = None  # to call, of all generations so far
    for number, operations in passed.items():
        for operation in operations:
            if latest is not None and (operation.completed_ns or 0) < latest.invoked_ns:
                why = f"generation {number} was passed before generation {latest.subject} was called for"
                yield Violation(Rule.BLEED, why, (latest, operation))
        newest = max(operations, key=lambda operation: operation.invoked_ns)
        if latest is None or newest.invoked_ns > latest.invoked_ns:
            latest = newest
