"""Counters: nothing that was acknowledged is lost, and nothing is added twice.

For counters that begin at zero and to which only positive amounts are added.  Then every addition has an
interval of its own, from the value before it to the value that it was told.

Source: Jepsen's counter checker for the bounds; the intervals judge each addition by itself.
Cost: n log n in the operations.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from coordkit.testing.history import Kind, Operation, Result, Rule, Verdict, Violation


def check_counter(history: Iterable[Operation], value: int) -> Verdict:
    """Judge one counter.

    Args:
        history: All additions to it; `number` is the amount, `subject` the value that was told.
        value: What it was in the end, when no request was on its way any more.
    """
    adds = [operation for operation in history if operation.kind is Kind.ADD]
    done = [operation for operation in adds if operation.result is Result.OK]
    doubtful = [each for each in adds if each.result in (Result.UNKNOWN, Result.INVOKED)]
    violations = [*_sum(done, doubtful, value), *_totals(done, value), *_stale(done)]
    return Verdict(len(done), tuple(violations))


def _amount(operation: Operation) -> int:
    assert operation.number is not None and operation.number > 0, "only positive amounts can be judged"
    return operation.number


def _told(operation: Operation) -> int:
    return int(operation.subject)


def _sum(done: list[Operation], doubtful: list[Operation], value: int) -> Iterator[Violation]:
    least = sum(map(_amount, done))
    most = least + sum(map(_amount, doubtful))
    if not least <= value <= most:
        why = f"the value is {value}, and should be from {least} to {most}"
        yield Violation(Rule.SUM, why, tuple(doubtful))


def _totals(done: list[Operation], value: int) -> Iterator[Violation]:
    ordered = sorted(done, key=_told)
    for earlier, later in itertools.pairwise(ordered):
        if _told(later) - _amount(later) < _told(earlier):
            why = f"{_told(later)} was told after an addition of {_amount(later)} to {_told(earlier)} or more"
            yield Violation(Rule.TOTAL, why, (earlier, later))
    for operation in (*ordered[:1], *ordered[-1:]):
        if not _amount(operation) <= _told(operation) <= value:
            why = f"{_told(operation)} was told, after {_amount(operation)} was added, and before {value}"
            yield Violation(Rule.TOTAL, why, (operation,))


def _stale(done: list[Operation]) -> Iterator[Violation]:
    """By the clock: who began after another had ended comes after it."""
    ended = sorted(done, key=lambda operation: operation.completed_ns or 0)
    newest: Operation | None = None
    at = 0
    for operation in sorted(done, key=lambda operation: operation.invoked_ns):
        while at < len(ended) and (ended[at].completed_ns or 0) < operation.invoked_ns:
            if newest is None or _told(ended[at]) > _told(newest):
                newest = ended[at]
            at += 1
        if newest is not None and _told(operation) <= _told(newest):
            why = f"{_told(operation)} was told to an addition that began after {_told(newest)} had been told"
            yield Violation(Rule.STALE, why, (newest, operation))
