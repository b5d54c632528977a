"""When to ask a silent peer whether it lives, and when to take it for dead.  Pure: it is told the time.

A peer that vanished without a word looks like one that has nothing to say.  TCP finds out after a quarter of
an hour; we ask with a PING.  Never without streams and never more often than every 5 s: etcd ends connections
that are asked more (`too_many_pings`).
"""

from __future__ import annotations

import enum

SILENCE_S = 10.0  # without a byte while streams are open: ask
SHORT_SILENCE_S = 5.5  # the same where another server can be asked instead


class Verdict(enum.Enum):
    """What is to be done."""

    WAIT = enum.auto()
    ASK = enum.auto()
    DEAD = enum.auto()


class Watchdog:
    """The silence of one connection.

    Attributes:
        heard_at_s: When bytes last came.
        silence_s: When to ask; half as long without an answer, and the peer is taken for dead.
    """

    def __init__(self, now_s: float) -> None:
        self.heard_at_s = now_s
        self.silence_s = SILENCE_S
        self._silent_since_s = now_s
        self._unanswered = False  # something was asked since bytes last came
        self._pinged_at_s: float | None = None

    def heard(self, now_s: float) -> None:
        """Bytes came: any are as good as an answer."""
        self.heard_at_s = self._silent_since_s = now_s
        self._unanswered = False
        self._pinged_at_s = None

    def asked(self, now_s: float) -> None:
        """A request goes out and no stream is open: the first one begins the silence.

        The next ones do not begin it anew, or impatient callers would never find out.
        """
        if not self._unanswered:
            self._unanswered = True
            self._silent_since_s = now_s

    def patience_s(self, now_s: float, open_streams: int) -> float:
        """Seconds until `judge` should be asked again."""
        if self._pinged_at_s is not None:
            return max(0.0, self._pinged_at_s + self.silence_s / 2 - now_s)
        if not open_streams:
            return self.silence_s
        return max(0.0, self._silent_since_s + self.silence_s - now_s)

    def judge(self, now_s: float, open_streams: int) -> Verdict:
        """The verdict; ASK is given once, and begins the wait for the answer."""
        if self._pinged_at_s is not None:
            return Verdict.DEAD if now_s - self._pinged_at_s >= self.silence_s / 2 else Verdict.WAIT
        if open_streams and now_s - self._silent_since_s >= self.silence_s:
            self._pinged_at_s = now_s
            return Verdict.ASK
        return Verdict.WAIT
