"""One absolute, monotonic deadline per call, handed down and never restarted.

A timeout that is passed down and restarted at each retry or wake-up lets a call last many times what
its caller allowed.  A `Deadline` cannot be restarted; it can be cut short.
"""

from __future__ import annotations

import functools
import math
import sys
import time
import typing

from coordkit import errors

#: The longest single sleep that we ask of the operating system; longer waits loop.
LONGEST_WAIT_S = 3600.0


class Deadline:
    """A point in monotonic time, or never."""

    __slots__ = ("at_s",)

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s

    @classmethod
    def after(cls, timeout_s: float | None, what: str = "timeout") -> Deadline:
        """The deadline `timeout_s` seconds from now.

        Args:
            timeout_s: Seconds; None or -1 is never.
            what: The argument's name, for the error.

        Raises:
            InvalidValue: Negative (but not -1), NaN, or no number.
        """
        if timeout_s is None or timeout_s == -1:
            return NEVER
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)):
            raise errors.InvalidValue(f"{what} must be a number of seconds, None or -1, not {timeout_s!r}")
        if not timeout_s >= 0:
            raise errors.InvalidValue(f"{what} must not be negative or NaN: {timeout_s!r}")
        return cls(time.monotonic() + timeout_s)

    def remaining(self) -> float:
        """Seconds left, never negative; `math.inf` for never."""
        if self.at_s == math.inf:
            return math.inf
        return max(0.0, self.at_s - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self.at_s != math.inf and self.at_s <= time.monotonic()

    def wait_s(self) -> float:
        """Seconds to sleep at most in one go: finite, as locks and pollers need it."""
        left_s = self.at_s - time.monotonic()
        if left_s <= 0:
            return 0.0
        return left_s if left_s < LONGEST_WAIT_S else LONGEST_WAIT_S

    def sooner(self, timeout_s: float) -> Deadline:
        """This deadline, or `timeout_s` from now if that comes first."""
        return Deadline(min(self.at_s, time.monotonic() + timeout_s))

    def expire(self) -> None:
        """It is over now: nobody wants to wait any longer.  Not for `NEVER`, which is shared."""
        assert self is not NEVER
        self.at_s = 0.0

    def __repr__(self) -> str:
        return f"Deadline(remaining={self.remaining():.3f})"


NEVER = Deadline(math.inf)


def _boottime_clock() -> int | None:
    """The clock that runs through suspend: a suspended machine's lease runs out too."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.CLOCK_BOOTTIME
    if sys.platform == "darwin":
        return time.CLOCK_MONOTONIC  # there it counts through sleep; time.monotonic() does not
    return None


_CLOCK = _boottime_clock()

#: Seconds on a clock that no one steps and that runs while the machine sleeps, where there is one.
#: It does not see a paused virtual machine: only fencing covers that.
boottime: typing.Callable[[], float] = (
    time.monotonic if _CLOCK is None else functools.partial(time.clock_gettime, _CLOCK)
)
