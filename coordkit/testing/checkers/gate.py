"""Gates: nobody passes while it is certainly closed.

Certainly closed is it from the end of a call of `close` until the next call of `open` begins, by whomever.
As with barriers, the notes of a call never make it shorter than it was, so the clock may judge.

Source: Herlihy and Wing, "Linearizability" (TOPLAS 1990), for a register with two values.
Cost: n log n in the operations.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from coordkit.testing.history import Kind, Operation, Result, Rule, Verdict, Violation


def check_gate(history: Iterable[Operation]) -> Verdict:
    """Judge one gate; the verdict counts those who passed."""
    operations = list(history)
    # Whatever an `open` was told, it may have opened the gate from its beginning on; until it ended, or for
    # as long as nobody knows how it ended.
    opened = [each for each in operations if each.kind is Kind.OPEN]
    endless = float("inf")
    openings = sorted(each.invoked_ns for each in opened)
    violations = []
    closes = sorted(
        (each for each in operations if each.kind is Kind.CLOSE and each.result is Result.OK),
        key=lambda each: each.completed_ns or 0,
    )
    ends = [each.completed_ns or 0 for each in closes]
    passed = [each for each in operations if each.kind is Kind.WAIT and each.result is Result.OK]
    for wait in passed:
        at = bisect.bisect_right(ends, wait.invoked_ns) - 1
        if at < 0:
            continue  # nobody had closed it before
        closed = closes[at]
        overlapping = any(
            each.invoked_ns <= closed.invoked_ns
            and (endless if each.result is not Result.OK else each.completed_ns or 0) >= closed.invoked_ns
            for each in opened
        )
        after = bisect.bisect_left(openings, closed.invoked_ns)
        next_open = openings[after] if after < len(openings) else endless
        if not overlapping and next_open > (wait.completed_ns or 0):
            why = "one passed although it was closed before, and nobody had begun to open it"
            violations.append(Violation(Rule.SHUT, why, (closed, wait)))
    return Verdict(len(passed), tuple(violations))
