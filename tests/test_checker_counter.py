"""The counter's checker on hand-written histories, good and bad."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit.testing import checkers
from coordkit.testing.history import Kind, Operation, Result, Rule


def add(index: int, amount: int, told: int | None, result=Result.OK, when=None) -> Operation:
    start, end = when or (index * 10, index * 10 + 5)
    return Operation(
        Kind.ADD, result, 1, "a", index, start, end, number=amount, subject="" if told is None else str(told)
    )


def rules(history: list[Operation], value: int) -> set[Rule]:
    return {violation.rule for violation in checkers.check_counter(history, value).violations}


class TestGood:
    def test_additions_one_after_the_other(self):
        """
        Each is told the sum so far.
        """
        verdict = checkers.check_counter([add(0, 2, 2), add(1, 3, 5), add(2, 1, 6)], 6)

        assert verdict.clean and verdict.holds == 3

    @pytest.mark.parametrize("value", [5, 9])
    @pytest.mark.parametrize("told", [Result.UNKNOWN, Result.INVOKED])
    def test_what_is_in_doubt_may_be_there_or_not(self, value, told):
        """
        Both are as they should be.
        """
        assert rules([add(0, 5, 5), add(1, 4, None, told)], value) == set()

    def test_additions_at_the_same_time_may_be_told_in_any_order(self):
        """
        The clock orders only those that did not overlap.
        """
        assert rules([add(0, 1, 2, when=(0, 100)), add(1, 1, 1, when=(50, 90))], 2) == set()

    @given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["ok", "fail", "in", "out"]))))
    def test_legal_histories_are_clean(self, steps):
        """
        The checker has no false alarm.
        """
        value, history = 0, []
        for index, (amount, fate) in enumerate(steps):
            value += amount if fate in ("ok", "in") else 0
            result = {"ok": Result.OK, "fail": Result.FAIL}.get(fate, Result.UNKNOWN)
            history.append(add(index, amount, value if fate == "ok" else None, result))

        assert rules(history, value) == set()


class TestBad:
    def test_a_lost_addition(self):
        """
        Less is there than was acknowledged.
        """
        assert Rule.SUM in rules([add(0, 5, 5), add(1, 4, 9)], 5)

    def test_an_addition_that_counts_twice(self):
        """
        More is there than anybody asked for.
        """
        assert rules([add(0, 5, 5), add(1, 4, None, Result.UNKNOWN)], 13) == {Rule.SUM}

    def test_an_addition_that_failed_for_certain_and_counts(self):
        """
        What was told to have failed is not in doubt.
        """
        assert rules([add(0, 5, 5), add(1, 4, None, Result.FAIL)], 9) == {Rule.SUM}

    def test_two_that_are_told_the_same_total(self):
        """
        Their intervals overlap, though the sum is right.
        """
        both = [add(0, 1, 2, when=(0, 100)), add(1, 1, 2, when=(0, 100))]

        assert rules(both, 2) == {Rule.TOTAL}

    def test_a_total_that_is_too_small_or_too_large(self):
        """
        Below what was added, or above the end.
        """
        assert rules([add(0, 5, 4)], 5) == {Rule.TOTAL}
        assert rules([add(0, 5, 6)], 5) == {Rule.TOTAL}

    def test_a_value_from_the_past(self):
        """
        A later addition was told a smaller total.
        """
        assert rules([add(0, 1, 2), add(1, 1, 1)], 2) == {Rule.STALE}
