"""The log-linear histogram and Jain's index."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit.cli.bench.histogram import Histogram, jain

durations = st.integers(0, 2**45)


def nearest_rank(values: list[int], percent: float) -> int:
    """The percentile by its definition, on all values."""
    return sorted(values)[max(1, math.ceil(len(values) * percent / 100 - 1e-9)) - 1]


class TestPercentiles:
    @given(st.lists(durations, min_size=1), st.floats(0, 100))
    def test_a_percentile_is_at_most_one_bucket_above_the_truth(self, values, percent):
        """
        The answer is never below the nearest rank, and less than 1/128 above it.
        """
        truth = nearest_rank(values, percent)

        assert truth <= Histogram(values).percentile(percent) <= truth + truth / 128

    @given(st.lists(st.integers(0, 255), min_size=1), st.floats(0, 100))
    def test_small_values_are_exact(self, values, percent):
        """
        Below twice the number of buckets nothing is rounded.
        """
        assert Histogram(values).percentile(percent) == nearest_rank(values, percent)

    def test_the_largest_value_is_exact(self):
        """
        The maximum is kept beside the buckets.
        """
        histogram = Histogram([5, 1_000_003])

        assert histogram.largest == histogram.percentile(100) == 1_000_003

    def test_nothing_counted_is_zero(self):
        """
        An empty histogram answers, so that a table can be drawn of it.
        """
        assert (Histogram().count, Histogram().percentile(99), Histogram().largest) == (0, 0, 0)

    def test_what_is_no_duration_and_no_percentage_is_refused(self):
        """
        A negative duration is a mistake in the measurement, not a value.
        """
        with pytest.raises(ValueError, match="-1"):
            Histogram([-1])
        with pytest.raises(ValueError, match="101"):
            Histogram().percentile(101)


class TestMerging:
    @given(st.lists(durations), st.lists(durations))
    def test_merged_halves_equal_the_whole(self, left, right):
        """
        Processes that record alone lose nothing.
        """
        merged = Histogram(left)

        merged.merge(Histogram(right))

        assert merged == Histogram(left + right)
        assert merged.count == len(left) + len(right)

    @given(st.lists(durations))
    def test_the_json_form_comes_back(self, values):
        """
        A histogram survives the pipe between two processes.
        """
        histogram = Histogram(values)

        assert Histogram.from_json(json.loads(json.dumps(histogram.as_json()))) == histogram

    @given(st.lists(durations))
    def test_the_json_form_names_the_end_of_each_bucket(self, values):
        """
        A reader needs no knowledge of the buckets to plot them.
        """
        fields = Histogram(values).as_json()

        assert [end for end, _ in fields["buckets"]] == sorted({end for end, _ in fields["buckets"]})
        assert sum(count for _, count in fields["buckets"]) == fields["count"] == len(values)


class TestJain:
    def test_equal_shares_are_one(self):
        """
        Perfect fairness is 1.
        """
        assert jain([7, 7, 7]) == pytest.approx(1)

    def test_one_taker_of_n_is_one_nth(self):
        """
        The worst case is 1/n.
        """
        assert jain([9, 0, 0, 0]) == pytest.approx(1 / 4)

    def test_it_is_the_known_value_in_between(self):
        """
        (1+2+3)^2 / (3 * (1+4+9)).
        """
        assert jain([1, 2, 3]) == pytest.approx(36 / 42)

    def test_nothing_to_share_is_fair_and_nobody_is_an_error(self):
        """
        The two corners where the formula divides by zero.
        """
        assert jain([0, 0]) == 1
        with pytest.raises(ValueError, match="nobody"):
            jain([])
