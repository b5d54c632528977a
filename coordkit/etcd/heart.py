"""The heart: a native thread that renews all leases of one cluster on one stream.

It has a connection of its own, and under gevent a native thread with a hub of its own: so a critical
section that computes for minutes, or a blocked hub, does not cost the lease.

What passes between the heart and the rest of the process is only what is safe between a native thread and
greenlets (a contended lock, or a queue, is not): swaps of immutable values, a `deque`, and a
`threading.Event`.  So the heart never logs, and never touches a lock, condition or queue that others use.

The deadline rule: a renewal's time is taken *before* it is sent.  etcd restarts the lease when it gets the
renewal, which is later; so our deadline comes before etcd's, whatever the network does.
"""

from __future__ import annotations

import collections
import math
import os
import threading

from coordkit import errors
from coordkit.deadline import LONGEST_WAIT_S, Deadline, boottime
from coordkit.etcd import client as clients
from coordkit.etcd import lease as leases
from coordkit.etcd import mapping
from coordkit.etcd import options as opts
from coordkit.wire import channel as channels
from coordkit.wire import grpc, messages

DRIFT = 0.01  # how much faster than ours etcd's clock may run
MARGIN_S = 0.2  # for what a deadline's reader still does with the answer
RENEWALS_PER_TTL = 3
ANSWERS_PER_TTL = 6  # a renewal unanswered for this part of the TTL is overdue
RETRY_S = 0.3


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
        self.overdue = False  # a renewal was not answered in time
        self.ended = ""  # why the lease is gone, by etcd's own word
        # Written by the session:
        self.stop_at_s = math.inf  # boottime after which it must not be renewed: max_hold
        # The heart's own:
        self.due_s = granted_s + ttl_s / RENEWALS_PER_TTL
        self.sent_s: float | None = None  # when the oldest unanswered renewal was sent
        self.lane: _Lane | None = None


class News:
    """How the heart tells the process that a pulse changed its state."""

    def __init__(self) -> None:
        self.changed: collections.deque[Pulse] = collections.deque()
        self.bell = threading.Event()

    def tell(self, pulse: Pulse) -> None:
        """From the heart."""
        self.changed.append(pulse)
        self.bell.set()


class _Lane:
    """One keep-alive stream, and the send times of what it has not answered: per lease, in order."""

    def __init__(self) -> None:
        self.stream: channels.Stream | None = None
        self.sent: dict[int, collections.deque[float]] = {}
        self.ended = False

    def renew(self, pulse: Pulse, now: float) -> None:
        self.sent.setdefault(pulse.lease_id, collections.deque()).append(now)
        assert self.stream is not None
        self.stream.send(messages.LeaseKeepAliveRequest(ID=pulse.lease_id).SerializeToString())


class Heart:
    """Renews the leases that were added; without any it sleeps, and its connection goes."""

    def __init__(self, options: opts.Options) -> None:
        self._options = options
        self._pid = os.getpid()
        # From the process to the heart:
        self._orders: collections.deque[tuple[str, Pulse]] = collections.deque()
        self._bell = threading.Event()
        # The heart's own:
        self._pulses: dict[int, Pulse] = {}
        self._arrived: collections.deque[tuple[_Lane, bytes | grpc.Status]] = collections.deque()
        self._common: _Lane | None = None
        self._client: clients.Client | None = None
        self._dial_at_s = 0.0

    def start(self) -> None:
        """Begin, on a native thread whatever was patched."""
        if type(threading.Lock()).__module__ != "_thread":
            from gevent import threadpool

            self._pool = threadpool.ThreadPool(1)
            self._pool.spawn(self._beat)
        else:
            threading.Thread(target=self._beat, name="coordkit-heart", daemon=True).start()

    def order(self, what: str, pulse: Pulse) -> None:
        """Tell the heart to "add" or "remove" a pulse."""
        self._orders.append((what, pulse))
        self._bell.set()

    # On the heart's thread.

    def _beat(self) -> None:
        while os.getpid() == self._pid:
            self._bell.wait(self._nap_s())
            self._bell.clear()
            self._obey()
            self._hear()
            self._renew()
            if not self._pulses and self._client is not None:
                self._client.close()
                self._client = self._common = None

    def _nap_s(self) -> float:
        """Seconds until something is due; finite, for to a hub without any timer that is a deadlock."""
        if not self._pulses:
            return LONGEST_WAIT_S
        due = min(self._next_look(pulse) for pulse in self._pulses.values())
        return max(due - boottime(), 0.005)

    def _next_look(self, pulse: Pulse) -> float:
        if pulse.sent_s is None:
            return max(pulse.due_s, self._dial_at_s)
        return min(max(pulse.due_s, self._dial_at_s), pulse.sent_s + pulse.ttl_s / ANSWERS_PER_TTL)

    def _obey(self) -> None:
        while self._orders:
            what, pulse = self._orders.popleft()
            if what == "add":
                self._pulses[pulse.lease_id] = pulse
            else:
                self._drop(pulse)

    def _drop(self, pulse: Pulse) -> None:
        self._pulses.pop(pulse.lease_id, None)
        lane = pulse.lane
        if lane is not None and lane is not self._common and lane.stream is not None:
            lane.stream.cancel()

    def _hear(self) -> None:
        while self._arrived:
            lane, news = self._arrived.popleft()
            if isinstance(news, grpc.Status):
                self._on_lane_end(lane, news)
            else:
                self._on_reply(lane, messages.LeaseKeepAliveResponse.FromString(news))

    def _on_reply(self, lane: _Lane, reply: messages.LeaseKeepAliveResponse) -> None:
        waiting = lane.sent.get(reply.ID)
        pulse = self._pulses.get(reply.ID)
        if not waiting:
            return
        sent_s = waiting.popleft()
        if not waiting:
            del lane.sent[reply.ID]
        if pulse is None:
            return
        if reply.TTL <= 0:
            pulse.ended = "etcd says that the lease has ended"
            self._drop(pulse)
            pulse.news.tell(pulse)
            return
        pulse.deadline_s = max(pulse.deadline_s, deadline_of(sent_s, reply.TTL))
        pulse.due_s = max(pulse.due_s, sent_s + pulse.ttl_s / RENEWALS_PER_TTL)
        pulse.sent_s = None
        if pulse.overdue:
            pulse.overdue = False
            pulse.news.tell(pulse)

    def _on_lane_end(self, lane: _Lane, status: grpc.Status) -> None:
        lane.ended = True
        lane.sent.clear()
        if self._common is lane:
            self._common = None
        if mapping.is_stale_token(status) and self._client is not None:
            self._client.drop_channel("the token went stale")
        now = boottime()
        for pulse in self._pulses.values():
            if pulse.lane is lane:
                pulse.lane = None
                pulse.due_s = now  # what was on its way may be lost: again, elsewhere
                self._set_overdue(pulse)

    def _set_overdue(self, pulse: Pulse) -> None:
        if not pulse.overdue:
            pulse.overdue = True
            pulse.news.tell(pulse)

    def _renew(self) -> None:
        now = boottime()
        for pulse in list(self._pulses.values()):
            if now >= pulse.deadline_s or now >= pulse.stop_at_s:
                # Not ours any more by our own rule: the session rules, and a renewal would only confuse.
                self._drop(pulse)
                pulse.news.tell(pulse)
                continue
            patience_s = pulse.ttl_s / ANSWERS_PER_TTL
            if pulse.sent_s is not None and now - pulse.sent_s >= patience_s:
                self._move(pulse, now)
            if now >= pulse.due_s:
                self._send(pulse, now)

    def _move(self, pulse: Pulse, now: float) -> None:
        """Unanswered: etcd blocks a stream on a dead lease, so this one gets a stream of its own.

        If that is not answered either, the connection is the suspect, and goes.
        """
        lane = pulse.lane
        if lane is not None and lane is not self._common:
            if lane.stream is not None:
                lane.stream.cancel()
            if self._client is not None:
                self._client.drop_channel("renewals go unanswered")
        pulse.lane = None if lane is None else self._open(now)
        pulse.sent_s = None
        pulse.due_s = now
        self._set_overdue(pulse)

    def _send(self, pulse: Pulse, now: float) -> None:
        if pulse.lane is None or pulse.lane.ended:
            if self._common is None:
                self._common = self._open(now)
            pulse.lane = self._common
        if pulse.lane is None:
            pulse.due_s = self._dial_at_s
            self._set_overdue(pulse)
            return
        pulse.lane.renew(pulse, boottime())
        pulse.sent_s = pulse.sent_s or now
        pulse.due_s = now + pulse.ttl_s / RENEWALS_PER_TTL

    def _open(self, now: float) -> _Lane | None:
        """A keep-alive stream; None while nobody answers."""
        if now < self._dial_at_s:
            return None
        if self._client is None:
            self._client = clients.Client(self._options)
        lane = _Lane()
        shortest_s = min(pulse.ttl_s for pulse in self._pulses.values())
        try:
            lane.stream = self._client.stream(
                leases.KEEP_ALIVE,
                lambda message: self._arrive(lane, message),
                lambda status: self._arrive(lane, status),
                Deadline(math.inf).sooner(max(0.5, shortest_s / ANSWERS_PER_TTL)),
            )
        except (grpc.CallFailed, errors.CoordError):
            self._dial_at_s = boottime() + min(RETRY_S, shortest_s / ANSWERS_PER_TTL)
            return None
        return lane

    def _arrive(self, lane: _Lane, news: bytes | grpc.Status) -> None:
        """On the reader of the heart's own connection."""
        self._arrived.append((lane, news))
        self._bell.set()


#: The hearts of this process, one for each cluster and user.  They stay: an idle one costs no wake-ups.
_HEARTS: dict[opts.Options, Heart] = {}


def heart_for(options: opts.Options) -> Heart:
    """The heart that renews leases on that cluster, started on first use."""
    heart = _HEARTS.get(options)
    if heart is None:
        made = Heart(options)
        heart = _HEARTS.setdefault(options, made)  # atomic: of two that were made one beats
        if heart is made:
            made.start()
    return heart


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HEARTS.clear)
