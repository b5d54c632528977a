"""A log-linear histogram of durations, and Jain's index of fairness.

Below 2^7 each value has a bucket of its own; above, every power of two is cut in 128 equal buckets, so a
percentile is at most 0.8 % above the truth, at any scale, in a few hundred integers. Two histograms add up
bucket by bucket, so processes record alone and are merged afterwards.

Source: Gil Tene's HdrHistogram; Jain, Chiu and Hawe, "A Quantitative Measure of Fairness" (DEC-TR-301, 1984).
Cost: one dictionary update per value.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Any

_BITS = 7
_LINEAR = 1 << _BITS


class Histogram:
    """Counts whole numbers that are not negative, such as nanoseconds."""

    def __init__(self, values: Iterable[int] = ()) -> None:
        self._counts: collections.Counter[int] = collections.Counter()
        self._largest = 0
        for value in values:
            self.record(value)

    def record(self, value: int) -> None:
        """Count one value; one below zero is the mistake of whoever measured it."""
        if value < 0:
            raise ValueError(f"{value} is not a duration")
        self._counts[_bucket(value)] += 1
        self._largest = max(self._largest, value)

    def merge(self, other: Histogram) -> None:
        """Add what another has counted."""
        self._counts.update(other._counts)
        self._largest = max(self._largest, other._largest)

    @property
    def count(self) -> int:
        return self._counts.total()

    @property
    def largest(self) -> int:
        """The largest value, exactly; 0 when nothing was counted."""
        return self._largest

    def percentile(self, percent: float) -> int:
        """The least value that `percent` of all values do not exceed, rounded up to its bucket's end."""
        if not 0 <= percent <= 100:
            raise ValueError(f"{percent} is not a percentage")
        left = max(1.0, self.count * percent / 100)
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 1e-9:
                return min(_end(bucket), self._largest)
        return self._largest

    def as_json(self) -> dict[str, Any]:
        """`buckets` lists [largest value of the bucket, count], in order."""
        buckets = [[_end(bucket), self._counts[bucket]] for bucket in sorted(self._counts)]
        return {"count": self.count, "largest": self._largest, "buckets": buckets}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Histogram:
        histogram = cls()
        histogram._counts.update({_bucket(end): count for end, count in fields["buckets"]})
        histogram._largest = fields["largest"]
        return histogram

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return (self._counts, self._largest) == (other._counts, other._largest)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Histogram of {self.count}, p50 {self.percentile(50)}, largest {self._largest}>"


def jain(shares: Sequence[float]) -> float:
    """1.0 when all got the same, 1/n when one got all; nothing shared out at all is fair."""
    if not shares:
        raise ValueError("fairness among nobody")
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def _bucket(value: int) -> int:
    # Values of one power of two share `doubling`; their upper 7 bits after the first number the bucket.
    doubling = max(0, value.bit_length() - _BITS - 1)
    return (doubling << _BITS) + (value >> doubling)


def _end(bucket: int) -> int:
    doubling = max(0, (bucket >> _BITS) - 1)
    mantissa = bucket - (doubling << _BITS)
    return ((mantissa + 1) << doubling) - 1
