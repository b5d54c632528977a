"""What the heart knows of a lease: until when it lives, what was sent, what etcd has answered.  Pure.

The deadline rule: a renewal's time is taken *before* it is sent.  etcd restarts the lease when it gets the
renewal, which is later; so our deadline comes before etcd's, whatever the network does.
"""

from __future__ import annotations

import collections
import math
import threading

from coordkit.wire import channel as channels
from coordkit.wire import messages

DRIFT = 0.01  # how much faster than ours etcd's clock may run
MARGIN_S = 0.2  # for what a deadline's reader still does with the answer
RENEWALS_PER_TTL = 3
ANSWERS_PER_TTL = 6  # a renewal unanswered for this part of the TTL is overdue
RETRIES_PER_TTL = 20  # how often to dial while nobody answers
LONGEST_RETRY_S = 0.3


def deadline_of(sent_s: float, ttl_s: float) -> float:
    """Until when a lease certainly lives that was granted or renewed by a request sent at `sent_s`."""
    return sent_s + ttl_s * (1 - DRIFT) - MARGIN_S


class Pulse:
    """One lease, as the heart and its session see it.  Every field has one writer and is swapped whole."""

    def __init__(self, lease_id: int, ttl_s: float, granted_s: float, news: News) -> None:
        self.lease_id = lease_id
        self.ttl_s = ttl_s
        self.news = news
        # Written by the heart:
        self.deadline_s = deadline_of(granted_s, ttl_s)  # boottime; only ever grows
        self.overdue = False  # a renewal was not answered in time, or there will be none
        self.ended = ""  # why the lease is gone, by etcd's own word
        self.trouble = ""  # what kept the last renewal from being answered
        # Written by the session:
        self.stop_at_s = math.inf  # boottime after which it must not be renewed: max_hold
        # The heart's own:
        self.due_s = granted_s + ttl_s / RENEWALS_PER_TTL
        self.sent_s: float | None = None  # when the oldest unanswered renewal was sent
        self.look_at_s = math.inf  # when the heart looks at it next
        self.lane: Lane | None = None

    @property
    def patience_s(self) -> float:
        """How long an answer may take."""
        return self.ttl_s / ANSWERS_PER_TTL

    @property
    def retry_s(self) -> float:
        """Between two attempts to reach anybody."""
        return min(LONGEST_RETRY_S, self.ttl_s / RETRIES_PER_TTL)

    def note_sent(self, sent_s: float) -> None:
        """A renewal went out."""
        if self.sent_s is None:
            self.sent_s = sent_s
        self.due_s = sent_s + self.ttl_s / RENEWALS_PER_TTL

    def note_answer(self, sent_s: float, ttl_s: float) -> None:
        """The renewal that was sent at `sent_s` was answered: the lease was given so many seconds."""
        self.deadline_s = max(self.deadline_s, deadline_of(sent_s, ttl_s))
        self.due_s = max(self.due_s, sent_s + self.ttl_s / RENEWALS_PER_TTL)
        self.sent_s = None


class News:
    """How the heart tells the process that a pulse changed its state, or that it stumbled itself."""

    def __init__(self) -> None:
        self.changed: collections.deque[Pulse] = collections.deque()
        self.stumbles: collections.deque[Exception] = collections.deque(maxlen=10)
        self.bell = threading.Event()

    def tell(self, pulse: Pulse) -> None:
        """From the heart."""
        self.changed.append(pulse)
        self.bell.set()


class Lane:
    """One keep-alive stream, and the send times of what it has not answered: per lease, in order."""

    def __init__(self, opened_s: float, own: bool = False) -> None:
        self.opened_s = opened_s
        self.own = own  # one lease's alone
        self.riders = 0  # how many pulses are to be renewed on it
        self.stream: channels.Stream | None = None
        self.ended = False
        self._sent: dict[int, collections.deque[float]] = {}

    def renew(self, pulse: Pulse, now: float) -> None:
        """Send a renewal; `now` is a time before that."""
        assert self.stream is not None
        self._sent.setdefault(pulse.lease_id, collections.deque()).append(now)
        pulse.note_sent(now)
        self.stream.send(messages.LeaseKeepAliveRequest(ID=pulse.lease_id).SerializeToString())

    def answered(self, lease_id: int) -> float | None:
        """When the renewal was sent that is answered now; None when there was none."""
        waiting = self._sent.get(lease_id)
        if not waiting:
            return None
        sent_s = waiting.popleft()
        if not waiting:
            del self._sent[lease_id]
        return sent_s

    def end(self) -> None:
        """Nothing is answered on it any more."""
        self.ended = True
        self._sent.clear()

    @property
    def channel(self) -> channels.Channel | None:
        """The connection that it is on."""
        return None if self.stream is None else self.stream.channel

    @property
    def alive(self) -> bool:
        """Whether a renewal that is sent on it has a chance."""
        channel = self.channel
        return not self.ended and channel is not None and channel.usable
