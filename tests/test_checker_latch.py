"""The latch's checker on hand-written histories, good and bad."""

from __future__ import annotations

import itertools

import pytest

from coordkit.testing import checkers
from coordkit.testing.history import Kind, Operation, Result, Rule, Verdict

_indexes = itertools.count()


def call(kind: Kind, when, subject="", number=None, result=Result.OK) -> Operation:
    return Operation(
        kind, result, 1, f"w{next(_indexes)}", 0, when[0], when[1], subject=subject, number=number
    )


def down(when, n: int, remains: int | None, result=Result.OK) -> Operation:
    return call(Kind.ADD, when, "" if remains is None else str(remains), n, result)


def rules(verdict: Verdict) -> set[Rule]:
    return {violation.rule for violation in verdict.violations}


def latch(*history: Operation, remaining: int = 0) -> set[Rule]:
    return rules(checkers.check_latch(history, 5, remaining))


class TestLatch:
    def test_down_to_zero_and_no_further(self):
        """
        The last may count more than there is, and more may be told zero.
        """
        history = [down((0, 1), 2, 3), down((2, 4), 2, 1), down((3, 9), 2, 0), down((10, 11), 1, 0)]

        assert latch(*history, call(Kind.WAIT, (0, 9))) == set()
        assert checkers.check_latch(history, 5, 0).holds == 4

    @pytest.mark.parametrize("remaining", [3, 1])
    @pytest.mark.parametrize("result", [Result.UNKNOWN, Result.INVOKED])
    def test_what_is_in_doubt_counts_or_not(self, remaining, result):
        """
        For the sum, and for who passes.
        """
        assert latch(down((0, 1), 2, 3), down((2, None), 2, None, result), remaining=remaining) == set()
        assert (
            latch(down((0, 1), 2, 3), down((2, None), 3, None, result), call(Kind.WAIT, (0, 9))) == set()
        )

    def test_who_did_not_pass_says_nothing(self):
        """
        Its time was up.
        """
        assert latch(down((0, 1), 5, 0), call(Kind.WAIT, (2, 3), result=Result.FAIL)) == set()

    def test_a_pass_before_all_was_counted(self):
        """
        The last one had not been called for, or certainly failed.
        """
        late = [down((0, 1), 2, 3), down((8, 9), 3, 0)]

        assert latch(*late, call(Kind.WAIT, (0, 7))) == {Rule.EARLY}
        assert Rule.EARLY in latch(
            down((0, 1), 2, 3), down((2, 3), 3, None, Result.FAIL), call(Kind.WAIT, (0, 7)), remaining=3
        )

    def test_counts_that_are_lost_or_doubled(self):
        """
        Told twice the same, missing in the end, or zero too soon.
        """
        assert Rule.TOTAL in latch(down((0, 9), 1, 4), down((0, 9), 1, 4), remaining=3)
        assert latch(down((0, 1), 2, 3), remaining=5) >= {Rule.SUM}
        assert latch(down((0, 1), 2, 3), down((2, 3), 1, 0)) == {Rule.SUM}

    def test_a_count_that_rises(self):
        """
        After zero, or in the end.
        """
        assert Rule.STALE in latch(down((0, 1), 5, 0), down((2, 3), 1, 4))
        assert Rule.SUM in latch(down((0, 1), 5, 0), remaining=5)
