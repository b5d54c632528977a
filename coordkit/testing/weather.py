"""Bad weather between the clients of this process and etcd: replies lost, requests late, and some twice.

What is lost here is lost as on a real network: the caller is told that the outcome is unknown, and the
request may have been applied, or may yet be, long after its caller has given up.  What was answered is over:
no copy of it comes later, for nobody on the way repeats what was answered.  Nor does any of a request without
compares: such a one is never sent again.  It is seeded: the same seed rolls
the same dice, though threads may come to them in another order.

Cost: one roll of dice a call.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import random
import threading
import types
from collections.abc import Callable

import attrs

from coordkit import errors
from coordkit.deadline import NEVER, Deadline, boottime
from coordkit.etcd import watch
from coordkit.wire import channel as channels
from coordkit.wire import grpc, messages

READ = "/etcdserverpb.KV/Range"
GRANT = "/etcdserverpb.Lease/LeaseGrant"
TXN = "/etcdserverpb.KV/Txn"
WRITES = (TXN, "/etcdserverpb.KV/Put", "/etcdserverpb.KV/DeleteRange")


@attrs.frozen
class Forecast:
    """How often, of 1, a request meets with what."""

    lost: float = 0.01  # it never arrives
    unanswered: float = 0.02  # it is applied, and the reply is lost
    late: float = 0.02  # it arrives later than its caller waits
    twice: float = 0.01  # it is applied, the reply is lost, and a copy arrives later
    slow: float = 0.05  # it takes a while
    slow_grant: float = 0.2  # a lease is granted, and the reply takes its time
    slow_watch: float = 0.05  # what a watch tells comes late, and what follows waits behind it
    latest_s: float = 1.0  # how late is late
    silence_s: float = 0.1  # how long callers wait for nothing before the connection is known to be gone
    slowest_grant_s: float = 1.5
    slowest_s: float = 0.05
    slowest_watch_s: float = 0.2


#: What a busy cluster does on a good day.
FAIR = Forecast(lost=0.0, unanswered=0.0, late=0.0, twice=0.0)
#: What must be survived.
FOUL = Forecast()


class Weather:
    """Makes weather for all clients of this process, for as long as a `with` lasts."""

    def __init__(self, forecast: Forecast = FOUL, seed: int = 0) -> None:
        self._forecast = forecast
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._bell = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._deliver, name="weather", daemon=True)
        self._call = channels.Channel.call
        self._tell = watch.Watcher._on_message
        self._untold: dict[watch.Watcher, collections.deque[tuple[int, bytes]]] = {}
        #: How many requests met with what.
        self.counts: collections.Counter[str] = collections.Counter()

    def __enter__(self) -> Weather:
        weather = self

        def call(
            channel: channels.Channel,
            method: str,
            request: bytes,
            deadline: Deadline = NEVER,
            metadata: grpc.Metadata = (),
        ) -> bytes:
            return weather._meet(channel, method, request, deadline, metadata)

        def on_message(watcher: watch.Watcher, generation: int, payload: bytes) -> None:
            weather._hear(watcher, generation, payload)

        self._thread.start()
        channels.Channel.call = call  # type: ignore[assignment,method-assign]
        watch.Watcher._on_message = on_message  # type: ignore[assignment,method-assign]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        channels.Channel.call = self._call  # type: ignore[method-assign]
        watch.Watcher._on_message = self._tell  # type: ignore[method-assign]
        self._over = True
        self._bell.set()
        self._thread.join()

    def _roll(self, method: str) -> tuple[str, float]:
        forecast = self._forecast
        with self._lock:
            roll, much = self._dice.random(), self._dice.random()
        fates = {"slow": forecast.slow, "lost": forecast.lost}
        if method in WRITES:
            fates |= {"unanswered": forecast.unanswered, "late": forecast.late, "twice": forecast.twice}
        elif method == GRANT:
            fates = {"slow_grant": forecast.slow_grant}
        elif method != READ:
            return "fair", much
        for fate, chance in fates.items():
            roll -= chance
            if roll < 0:
                self.counts[fate] += 1
                return fate, much
        return "fair", much

    def _meet(
        self,
        channel: channels.Channel,
        method: str,
        request: bytes,
        deadline: Deadline,
        metadata: grpc.Metadata,
    ) -> bytes:
        fate, much = self._roll(method)
        if fate == "twice" and not _compares(method, request):
            fate = "unanswered"

        def send(limit: Deadline) -> bytes:
            return self._call(channel, method, request, limit, metadata)

        if fate == "slow":
            threading.Event().wait(min(much * self._forecast.slowest_s, deadline.wait_s()))
        if fate in ("late", "twice"):
            self._plan(much * self._forecast.latest_s, lambda: _ignored(send))
            _LATE[threading.get_ident()] += 1
        if fate in ("lost", "late"):
            raise self._nothing_comes(method, deadline)
        try:
            reply = send(deadline)
        except grpc.CallFailed:
            if fate == "twice":  # whatever is known of the original, its copy is on its way
                raise self._nothing_comes(method, deadline) from None
            raise
        if fate in ("unanswered", "twice"):
            raise self._nothing_comes(method, deadline)
        if method == GRANT:
            _note_grant(reply)
            if fate == "slow_grant":
                threading.Event().wait(min(much * self._forecast.slowest_grant_s, deadline.wait_s()))
        return reply

    def _nothing_comes(self, method: str, deadline: Deadline) -> grpc.CallFailed:
        """The caller waits in vain: until its own time is up, or the connection breaks."""
        if deadline.remaining() <= self._forecast.silence_s:
            threading.Event().wait(deadline.wait_s())
        return _unknown(method)

    def _hear(self, watcher: watch.Watcher, generation: int, payload: bytes) -> None:
        """What a watch tells: now, or later and in order."""
        with self._lock:
            late = self._dice.random() < self._forecast.slow_watch
            delay_s = self._dice.random() * self._forecast.slowest_watch_s
            behind = watcher in self._untold
            if behind or late:
                self._untold.setdefault(watcher, collections.deque()).append((generation, payload))
        if late and not behind:
            self.counts["slow_watch"] += 1
            self._plan(delay_s, lambda: self._catch_up(watcher))
        elif not behind:
            self._tell(watcher, generation, payload)

    def _catch_up(self, watcher: watch.Watcher) -> None:
        while True:
            with self._lock:
                queue = self._untold[watcher]
                if not queue:
                    del self._untold[watcher]
                    return
                generation, payload = queue.popleft()
            self._tell(watcher, generation, payload)

    # What comes later.

    def _plan(self, delay_s: float, action: Callable[[], None]) -> None:
        with self._lock:
            heapq.heappush(self._later, (boottime() + delay_s, next(self._numbers), action))
        self._bell.set()

    def _deliver(self) -> None:
        while True:
            self._bell.wait(self._nap_s())
            self._bell.clear()
            for action in self._due():
                action()
            if self._over and not self._later:
                return

    def _nap_s(self) -> float:
        with self._lock:
            return max(0.0, self._later[0][0] - boottime()) if self._later else 1.0

    def _due(self) -> list[Callable[[], None]]:
        """What is due; at the end everything is."""
        due = []
        with self._lock:
            while self._later and (self._over or self._later[0][0] <= boottime()):
                due.append(heapq.heappop(self._later)[2])
        return due


#: When the replies to grants were there, by lease: an upper bound of when the leases began.
_GRANTED_S: dict[int, float] = {}


#: How many copies come late of what each thread has sent.
_LATE: collections.Counter[int] = collections.Counter()


def late_copies() -> int:
    """How many of this thread's requests had a copy that comes up to a second late, so far."""
    return _LATE[threading.get_ident()]


def granted_s(lease_id: int) -> float | None:
    """The time of `deadline.boottime` at which a lease had certainly been granted, if there was weather."""
    return _GRANTED_S.get(lease_id)


def _compares(method: str, request: bytes) -> bool:
    """Whether it has conditions of its own: only then is it sent again when its outcome is unknown."""
    return method == TXN and bool(messages.TxnRequest.FromString(request).compare)


def _note_grant(reply: bytes) -> None:
    _GRANTED_S[messages.LeaseGrantResponse.FromString(reply).ID] = boottime()


def _unknown(method: str) -> grpc.CallFailed:
    status = grpc.Status(grpc.Code.UNAVAILABLE, "bad weather", outcome=errors.Outcome.UNKNOWN)
    return grpc.CallFailed(method, status)


def _ignored(send: Callable[[Deadline], bytes]) -> None:
    """A copy arrives; nobody waits for its reply."""
    try:
        send(Deadline.after(5))
    except (grpc.CallFailed, errors.CoordError):
        return  # it arrived at nobody: the connection is gone
