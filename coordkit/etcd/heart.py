"""The heart: a native thread that renews all leases of one cluster on one stream.

It has a connection of its own, and under gevent a native thread with a hub of its own: so a critical
section that computes for minutes, or a blocked hub, does not cost the lease.

What passes between the heart and the rest of the process is only what is safe between a native thread and
greenlets (a contended lock, or a queue, is not): swaps of immutable values, a `deque`, and a
`threading.Event`.  So the heart never logs, and never touches a lock, condition or queue that others use.

Cost: one message each way for each lease and third of its TTL; a heap of due times, so that many leases
cost no more than their renewals.
"""

from __future__ import annotations

import atexit
import collections
import heapq
import itertools
import os
import random
import sys
import threading
import time
import typing

from coordkit import errors
from coordkit.deadline import LONGEST_WAIT_S, NEVER, Deadline, boottime
from coordkit.etcd import client as clients
from coordkit.etcd import lease as leases
from coordkit.etcd import options as opts
from coordkit.etcd import pulse as pulses
from coordkit.wire import channel as channels
from coordkit.wire import grpc, messages

SLACK_S = 0.02  # what is due within this goes along
LATE_S = 0.1  # who wakes up so much later than he meant to was stopped, or starved
CATCH_UP_S = 0.05  # then what has arrived meanwhile is read first
LEAST_DIAL_S = 0.5
STOP_S = 1.0  # what waiting for its end may take at exit


class Heart:
    """Renews the leases that were added; without any it sleeps, and its connection goes."""

    def __init__(self, options: opts.Options) -> None:
        self._options = options
        self._pid = os.getpid()
        self._pool: typing.Any = None  # under gevent, of its one native thread
        # From the process to the heart:
        self._stopping = False
        self._orders: collections.deque[tuple[str, pulses.Pulse]] = collections.deque()
        self._bell = threading.Event()
        # The heart's own:
        self.renewals = 0  # how many were sent
        self._pulses: dict[int, pulses.Pulse] = {}
        # A heap of looks that are due; an entry counts while its pulse agrees.
        self._looks: list[tuple[float, int, pulses.Pulse]] = []
        self._numbers = itertools.count()
        self._arrived: collections.deque[tuple[pulses.Lane, bytes | grpc.Status]] = collections.deque()
        self._common: pulses.Lane | None = None
        self._client: clients.Client | None = None
        self._dial_at_s = 0.0
        self._heard: tuple[channels.Channel | None, float] = (None, 0.0)  # the last answer: on what, and when
        self._trouble = ""
        self._native_id = 0

    def start(self) -> None:
        """Begin, on a native thread whatever was patched."""
        if type(threading.Lock()).__module__ != "_thread":
            from gevent import threadpool

            self._pool = threadpool.ThreadPool(1)
            self._pool.spawn(self._beat)
        else:
            threading.Thread(target=self._beat, name="coordkit-heart", daemon=True).start()

    def stop(self) -> None:
        """Under gevent, before the interpreter ends: wait for the end of the thread.

        Python ends threads that ask for its lock by then, wherever they are: in the middle of a greenlet's
        switch that is a segmentation fault.  A plain thread can be left to it.
        """
        if self._pool is None or os.getpid() != self._pid:
            return
        import gevent

        self._stopping = True
        self._bell.set()
        limit = Deadline.after(STOP_S)
        if self._pool.hub is gevent.get_hub():  # nobody else may touch it
            with gevent.Timeout(limit.remaining(), False):
                self._pool.kill()
            while self._native_id in sys._current_frames() and not limit.expired:
                time.sleep(0.001)

    def order(self, what: str, pulse: pulses.Pulse) -> None:
        """Tell the heart to "add" or "remove" a pulse."""
        self._orders.append((what, pulse))
        self._bell.set()

    # On the heart's thread.

    def _beat(self) -> None:
        if self._pool is not None:
            from gevent import monkey

            self._native_id = monkey.get_original("_thread", "get_ident")()
        while os.getpid() == self._pid and not self._stopping:
            self._sleep()
            try:
                self._turn()
            except Exception as error:  # whatever it is, the other leases must be renewed
                self._stumble(error)
        if self._stopping and self._client is not None:
            self._client.close()

    def _sleep(self) -> None:
        nap_s = self._nap_s()
        until_s = boottime() + nap_s
        self._bell.wait(nap_s)
        self._bell.clear()
        if boottime() > until_s + LATE_S:
            self._bell.wait(CATCH_UP_S)  # or answers that came long ago would count as missing

    def _nap_s(self) -> float:
        """Seconds until something is due; finite, for to a hub without any timer that is a deadlock."""
        if not self._looks:
            return LONGEST_WAIT_S
        return min(max(self._looks[0][0] - boottime(), 0.005), LONGEST_WAIT_S)

    def _turn(self) -> None:
        self._obey()
        self._hear()
        self._renew()
        if not self._pulses and self._client is not None:
            self._client.close()
            self._client = self._common = None

    def _stumble(self, error: Exception) -> None:
        """A mistake of ours must not cost the leases: the attendants report it, and we go on."""
        for pulse in self._pulses.values():
            pulse.news.stumbles.append(error)
            pulse.news.bell.set()
            self._look_at(pulse, boottime() + pulse.retry_s)

    def _obey(self) -> None:
        while self._orders:
            what, pulse = self._orders.popleft()
            if what == "add":
                self._pulses[pulse.lease_id] = pulse
                self._look_at(pulse, pulse.due_s)
            else:
                self._drop(pulse)

    def _drop(self, pulse: pulses.Pulse) -> None:
        self._pulses.pop(pulse.lease_id, None)
        self._board(pulse, None)

    def _board(self, pulse: pulses.Pulse, lane: pulses.Lane | None) -> None:
        """From now on it is renewed there; a stream on which nobody is left goes."""
        left, pulse.lane = pulse.lane, lane
        if lane is not None:
            lane.riders += 1
        if left is not None:
            left.riders -= 1
            if not left.riders and left is not self._common and left.stream is not None:
                left.stream.cancel()

    def _look_at(self, pulse: pulses.Pulse, at_s: float) -> None:
        pulse.look_at_s = at_s
        heapq.heappush(self._looks, (at_s, next(self._numbers), pulse))

    # What etcd says.

    def _hear(self) -> None:
        while self._arrived:
            lane, news = self._arrived.popleft()
            if isinstance(news, grpc.Status):
                self._on_lane_end(lane, news)
            else:
                self._on_reply(lane, messages.LeaseKeepAliveResponse.FromString(news))

    def _on_reply(self, lane: pulses.Lane, reply: messages.LeaseKeepAliveResponse) -> None:
        sent_s = lane.answered(reply.ID)
        pulse = self._pulses.get(reply.ID)
        if sent_s is None or pulse is None or self._is_foreign(lane, reply.header):
            return
        if reply.TTL <= 0:
            pulse.ended = "etcd says that its lease has ended"
            self._drop(pulse)
            pulse.news.tell(pulse)
            return
        self._heard = (lane.channel, boottime())
        pulse.note_answer(sent_s, reply.TTL)
        if pulse.lane is lane and lane.own:
            self._board(pulse, self._common)  # a lease that is renewed blocks nobody
        if pulse.overdue:
            pulse.overdue = False
            pulse.news.tell(pulse)

    def _is_foreign(self, lane: pulses.Lane, header: messages.ResponseHeader) -> bool:
        """Whether another cluster answers than before."""
        client = self._client
        if client is None or not client.is_foreign(header):
            return False
        client.drop_channel("it belongs to another cluster", lane.channel)
        return True

    def _on_lane_end(self, lane: pulses.Lane, status: grpc.Status) -> None:
        now = boottime()
        lane.end()
        self._trouble = status.message
        if self._common is lane:
            self._common = None
        if status.from_server and self._client is not None:
            # This member does not serve: it has no leader, or our token went stale.
            self._client.drop_channel(status.message, lane.channel)
        retry_s = min((pulse.retry_s for pulse in self._pulses.values()), default=pulses.LONGEST_RETRY_S)
        if now < lane.opened_s + pulses.LONGEST_RETRY_S:
            # Not again at once, for it may end just as quickly; nor all clients of a cluster together.
            self._dial_at_s = now + retry_s * random.uniform(0.5, 1.0)
        for pulse in self._pulses.values():
            if pulse.lane is lane:
                self._board(pulse, None)
                pulse.sent_s = None  # what was on its way may be lost: again, elsewhere
                pulse.due_s = now
                self._look_at(pulse, now)

    def _set_overdue(self, pulse: pulses.Pulse) -> None:
        pulse.trouble = self._trouble
        if not pulse.overdue:
            pulse.overdue = True
            pulse.news.tell(pulse)

    # What we say.

    def _renew(self) -> None:
        while self._looks and self._looks[0][0] <= boottime() + SLACK_S:
            at_s, _, pulse = heapq.heappop(self._looks)
            if self._pulses.get(pulse.lease_id) is pulse and pulse.look_at_s == at_s:
                self._look(pulse)

    def _look(self, pulse: pulses.Pulse) -> None:
        now = boottime()
        if now >= pulse.deadline_s or now >= pulse.stop_at_s:
            # Not ours any more by our own rule: the session rules, and a renewal would only confuse.
            self._let_go(pulse, now)
            return
        if pulse.sent_s is not None and now >= pulse.sent_s + pulse.patience_s:
            self._move(pulse)
        if now + SLACK_S >= pulse.due_s:
            self._send(pulse)
        next_s = pulse.due_s
        if pulse.sent_s is not None:
            next_s = min(next_s, pulse.sent_s + pulse.patience_s)
        self._look_at(pulse, max(next_s, now + 2 * SLACK_S))

    def _let_go(self, pulse: pulses.Pulse, now: float) -> None:
        if now < pulse.deadline_s:
            pulse.trouble = "something was held in it for longer than max_hold"
        pulse.overdue = True
        self._drop(pulse)
        pulse.news.tell(pulse)

    def _move(self, pulse: pulses.Pulse) -> None:
        """Unanswered: etcd blocks a stream on a dead lease, so this one gets a stream of its own.

        If that is not answered either, while no other is, the connection is the suspect, and goes.
        """
        lane, sent_s = pulse.lane, pulse.sent_s
        assert sent_s is not None
        self._trouble = f"nobody answered for {pulse.patience_s:.1f} s"
        self._set_overdue(pulse)
        pulse.due_s = boottime()
        pulse.sent_s = None
        if lane is self._common:
            self._common = None  # nobody else is to be held up there
        if lane is None or not lane.alive:
            self._board(pulse, None)
        elif not lane.own:
            self._board(pulse, self._open(pulse, own=True))
        elif self._heard[0] is not lane.channel or self._heard[1] < sent_s:
            self._board(pulse, None)
            if self._client is not None:
                self._client.drop_channel("renewals go unanswered", lane.channel)

    def _send(self, pulse: pulses.Pulse) -> None:
        if pulse.lane is None or not pulse.lane.alive:
            if self._common is None or not self._common.alive:
                self._common = self._open(pulse)
            self._board(pulse, self._common)
        if pulse.lane is None:
            pulse.sent_s = None
            pulse.due_s = self._dial_at_s
            self._set_overdue(pulse)
            return
        pulse.lane.renew(pulse, boottime())  # taken before it is sent: the deadline is counted from there
        self.renewals += 1

    def _open(self, pulse: pulses.Pulse, own: bool = False) -> pulses.Lane | None:
        """A keep-alive stream; None while nobody answers."""
        now = boottime()
        if now < self._dial_at_s:
            return None
        if self._client is None:
            self._client = clients.Client(self._options)
        lane = pulses.Lane(now, own)
        try:
            lane.stream = self._client.stream(
                leases.KEEP_ALIVE,
                lambda message: self._arrive(lane, message),
                lambda status: self._arrive(lane, status),
                NEVER.sooner(max(LEAST_DIAL_S, pulse.patience_s)),
            )
        except (grpc.CallFailed, errors.CoordError) as error:
            self._trouble = error.status.message if isinstance(error, grpc.CallFailed) else str(error)
            self._dial_at_s = boottime() + pulse.retry_s * random.uniform(0.5, 1.0)
            return None
        return lane

    def _arrive(self, lane: pulses.Lane, news: bytes | grpc.Status) -> None:
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


def _stop_all() -> None:
    """At exit; what is closed there was registered later, and so comes before this."""
    hearts = list(_HEARTS.values())
    _HEARTS.clear()  # who opens a session even later gets another one
    for heart in hearts:
        heart.stop()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HEARTS.clear)
