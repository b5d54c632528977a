"""Gates: nobody passes while it is certainly closed.

Certainly closed is it from the end of a call of `close` until the next call of `open` begins, by whomever.
As with barriers, the notes of a call never make it shorter than it was, so the clock may judge.

Source: Herlihy and Wing, "Linearizability" (TOPLAS 1990), for a register with two values.
Cost: the closings times the openings, and n log n in the waits.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable

from coordkit.testing.history import Kind, Operation, Result, Rule, Verdict, Violation


def check_gate(history: Iterable[Operation]) -> Verdict:
    """Judge one gate; the verdict counts those who passed."""
    operations = list(history)
    openings = [each for each in operations if each.kind is Kind.OPEN]
    closings = sorted(
        (each for each in operations if each.kind is Kind.CLOSE and each.result is Result.OK),
        key=lambda each: each.completed_ns or 0,
    )
    ends = [each.completed_ns or 0 for each in closings]
    until = [_closed_until(each, openings) for each in closings]
    passed = [each for each in operations if each.kind is Kind.WAIT and each.result is Result.OK]
    violations = []
    for wait in passed:
        last = bisect.bisect_right(ends, wait.invoked_ns) - 1
        if last >= 0 and until[last] > (wait.completed_ns or 0):
            why = "one passed although it was closed before, and nobody had begun to open it"
            violations.append(Violation(Rule.SHUT, why, (closings[last], wait)))
    return Verdict(len(passed), tuple(violations))


def _closed_until(closing: Operation, openings: list[Operation]) -> float:
    """When the first that may have opened it after this closing began; one that overlapped it may have."""
    may_follow = (each for each in openings if _latest(each) >= closing.invoked_ns)
    return min((each.invoked_ns for each in may_follow), default=math.inf)


def _latest(opening: Operation) -> float:
    """Until when it may have taken effect: for as long as nobody knows how it ended."""
    return math.inf if opening.result is not Result.OK else opening.completed_ns or 0
