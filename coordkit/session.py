"""Sessions: one lease, our honest belief about it, and the session key that settles doubts.

The lease lives as long as the heart renews it.  What "held" means rests on three things:

- the **deadline**, counted from before each renewal was sent (`etcd/heart.py`);
- the **session key**, `/<namespace>/session/<lease>`, which hangs on the lease and is watched: its deletion
  is the end, whatever the deadline says;
- the **epoch**, the session key's mod revision, which every leased create compares (`leased.py`).

The argument is written out in ARCHITECTURE.md, "Sessions".
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
import socket
import threading
import typing
import weakref

import attrs

from coordkit import attendant as attendants
from coordkit import errors, forks, groups, keys, leased, worker
from coordkit.deadline import NEVER, Deadline, boottime
from coordkit.etcd import client as clients
from coordkit.etcd import heart as hearts
from coordkit.etcd import kv, watch
from coordkit.etcd import lease as leases
from coordkit.etcd import pulse as pulses
from coordkit.terms import State, Terms
from coordkit.wire import messages

_log = logging.getLogger("coordkit")

# Up to Python 3.11 each `State.ACTIVE` calls functions, and these are looked at all the time.
_ACTIVE, _OVER = State.ACTIVE, (State.LOST, State.CLOSED)


@attrs.frozen(eq=False)
class Link:
    """What the sessions of one coordinator share."""

    client: clients.Client
    watcher: watch.Watcher
    namespace: str  # as it stands in keys
    identity: str
    attendant: attendants.Attendant = attrs.field(factory=attendants.Attendant)
    group: groups.Group = attrs.field()

    @group.default
    def _group(self) -> groups.Group:
        return groups.Group(self.client)


class Wakeable(typing.Protocol):
    """Who waits, or stands for several who do."""

    def wake(self) -> None:
        """Let it look again.  Quick, and without a lock that somebody may hold while a process forks."""


class Session(leased.LeasedKeys):
    """One lease and everything that hangs on it.  Made by `Session.open`."""

    def __init__(self, link: Link, terms: Terms, lease_id: int, ttl_s: int, granted_s: float) -> None:
        super().__init__(link.client, link.group, lease_id, key_of(link, lease_id), _describe(link.identity))
        self.link = link
        self.ttl_s = ttl_s
        #: Set, once and for ever, when the session is lost.
        self.lost = forks.event()
        self._terms = terms
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._state = State.ACTIVE
        self._reason = ""
        self._watched_from = 0  # 0: the watch does not stand yet
        self._waiters: dict[Wakeable, None] = {}
        # Whose each is, since when by boottime, and whom to tell of its loss; the oldest first.
        self._holds: dict[object, tuple[threading.Thread, float, typing.Callable[[str], None]]] = {}
        self._is_limited = terms.max_hold_s != math.inf
        self._runs_out = False  # closed, but not revoked: another thread is inside a critical section
        self._listeners: list[typing.Callable[[State], None]] = []
        self._announcer = worker.Worker(f"coordkit-listeners-{lease_id:x}")
        self._chores = worker.Worker(f"coordkit-chores-{lease_id:x}")
        self.identity_json = json.dumps(link.identity).encode()
        self._pulse = pulses.Pulse(lease_id, ttl_s, granted_s, link.attendant.news)
        self._heart = hearts.heart_for(link.client.options)
        self._watch: watch.Watch | None = None
        _SESSIONS.add(self)

    @classmethod
    def open(cls, link: Link, terms: Terms, deadline: Deadline | None = None) -> Session:
        """Grant a lease, put the session key, begin to renew.

        Raises:
            Unavailable: Not within the deadline (by default the client's request timeout).

        Cost: 2 commits, and 1 message for the watch.
        """
        deadline = deadline or link.client.deadline(None)
        while True:
            granted_s = boottime()  # before it is sent
            lease_id, ttl_s = leases.grant(link.client, terms.ttl_s, deadline)
            session = cls(link, terms, lease_id, ttl_s, granted_s)
            try:
                session._begin(deadline)
                return session
            except BaseException as error:
                session._discard()
                # A grant's reply can take longer than the lease lasts; one that was ended is another matter.
                ran_out = isinstance(error, errors.LeaseNotFound) and session._pulse.deadline_s <= boottime()
                if not ran_out or deadline.expired:
                    raise

    def _discard(self) -> None:
        self._end(State.CLOSED, "it could not be opened", revoke=False)
        # In the background: the caller's time may be up.
        self.defer(lambda: self._revoke(NEVER.sooner(self.client.options.timeout_s)))

    def _begin(self, deadline: Deadline) -> None:
        self._heart.order("add", self._pulse)
        # Watched before it is put: then the watch stands at an older revision, and no read must confirm it.
        self._watch = self.link.watcher.watch(self.key, _KeyWatch(self), filters=(watch.NO_PUTS,))
        txn = kv.txn_request(
            [kv.create(self.key) == 0],
            [kv.put(self.key, self._value, lease=self.lease_id)],
            [kv.get(self.key)],
        )
        pause_s, patience_s = clients.FIRST_PAUSE_S, clients.PATIENCE_S
        while True:
            try:
                result = self.client.txn(txn, deadline.sooner(patience_s))
                break
            except errors.OUTAGE as error:
                # Repeatable: the key's name was drawn at random, and the compare holds once.
                pause_s, patience_s = clients.pause(pause_s, deadline, error), patience_s * 2
        created = epoch = result.revision
        if not result.succeeded:
            mine = result.found(0).first
            if mine is None:
                raise errors.SessionLost(f"{self}: its lease ended before it began")
            created, epoch = mine.create_revision, mine.mod_revision
        self._enter_epoch(epoch)
        with self._lock:
            self.key_created = created
            watched_from = self._watched_from
        self._watch_stands(watched_from)
        self.link.attendant.add(self, self._pulse)
        if self.is_over:
            self.link.attendant.remove(self._pulse)  # it ended before it was there to be removed

    # State.

    @property
    def state(self) -> State:
        """What we believe, now."""
        self.look()
        return self._state

    @property
    def alive(self) -> bool:
        """Whether the state is ACTIVE or SUSPENDED; cheap."""
        if self._state is _ACTIVE and self._pulse.deadline_s > boottime() and self._pid == os.getpid():
            return True
        return self.state in (State.ACTIVE, State.SUSPENDED)

    def remaining(self) -> float:
        """Seconds for which the lease certainly lives, seen from here; 0 when lost, and from then on."""
        if self._pid != os.getpid() or self._state is State.LOST:
            return 0.0
        if self._state is State.CLOSED and not self._runs_out:
            return 0.0
        while (left_s := self._pulse.deadline_s - boottime()) <= 0:
            self.look()  # who is told that its time is up drops what it held: an answer now comes too late
            if self.is_over:
                return 0.0
        return left_s

    def check(self) -> None:
        """Raise unless the lease certainly lives.  No I/O: cheap enough for an inner loop.

        Raises:
            SessionLost: It is gone, or must be taken as gone.
            Closed: This program closed it.
        """
        if self.alive:
            return
        if self._state is State.CLOSED:
            raise errors.Closed(f"{self} was closed: {self._reason}")
        if self._state is State.LOST:
            raise errors.SessionLost(f"{self} was lost: {self._reason}")

    @property
    def is_over(self) -> bool:
        """Whether it was lost or closed, as far as was noticed."""
        return self._state in _OVER

    def lose(self, reason: str) -> None:
        """It is gone, whatever the clock says."""
        self._finish(State.LOST, reason)

    @property
    def reason(self) -> str:
        """Why it ended; empty while it lives."""
        return self._reason

    def add_listener(self, listener: typing.Callable[[State], None]) -> None:
        """Call `listener(state)` at each change, in order, on a thread of its own.

        A slow listener delays the next news, never the lease.
        """
        self._listeners.append(listener)

    def __repr__(self) -> str:
        return f"<Session {self.lease_id:016x} {self._state.value}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            "a Session owns a connection and cannot be pickled: connect in the other process"
        )

    def look(self) -> None:
        """Let the state follow what the heart has found, and the clock."""
        if self._pid != os.getpid():
            self._orphan()
            return
        pulse = self._pulse
        if pulse.ended:
            self._finish(State.LOST, pulse.ended)
        elif boottime() >= pulse.deadline_s:
            why = f": {pulse.trouble}" if pulse.trouble else ""
            self._finish(State.LOST, f"no renewal was answered for its TTL of {self.ttl_s} s{why}")
        else:
            self._turn(State.SUSPENDED if pulse.overdue else State.ACTIVE)

    def _turn(self, state: State) -> None:
        with self._lock:
            if self.is_over or self._state is state:
                return
            assert {self._state, state} == {State.ACTIVE, State.SUSPENDED}
            self._state = state
            self._announce(state)

    def _finish(self, state: State, reason: str) -> None:
        """LOST or CLOSED: once.  Quick: it may run on a reader."""
        with self._lock:
            if self.is_over:
                return
            self._state = state
            self._reason = reason
            waiters = list(self._waiters)
            holds = list(self._holds.values())
            self._announce(state)
        if state is State.LOST:
            self.lost.set()
        for owner, _, on_lost in holds:
            if state is State.LOST or not (self._runs_out and _is_foreign(owner)):
                on_lost(reason)
        for waiter in waiters:
            waiter.wake()
        self._heart.order("remove", self._pulse)
        self.link.attendant.remove(self._pulse)
        if state is State.LOST:
            if self._terms.on_lost == "exit":
                _log.critical("%r: %s; ending the process, as on_lost='exit' asks", self, reason)
                os._exit(76)
            self._chores.submit(self._bury)

    def _bury(self) -> None:
        """What a loss leaves to be done, in the background."""
        _log.warning("%r: %s", self, self._reason)
        if self._watch is not None:
            self._watch.cancel()
        self._revoke(NEVER.sooner(self.client.options.timeout_s))

    def _orphan(self) -> None:
        """LOST, in the child of a fork: no I/O, no listener, no lock that a thread of the parent may hold."""
        if self.is_over:
            return
        self._lock = threading.Lock()
        self._state = State.LOST
        self._reason = f"it belongs to process {self._pid}, which forked"
        self.lost.set()
        for _, _, on_lost in list(self._holds.values()):
            on_lost(self._reason)
        for waiter in list(self._waiters):
            waiter.wake()

    def _announce(self, state: State) -> None:
        for listener in self._listeners:
            self._announcer.submit(lambda listener=listener: listener(state))  # type: ignore[misc]

    def _watch_stands(self, revision: int) -> None:
        """The watch on the session key tells what follows `revision`."""
        with self._lock:
            self._watched_from = revision
            created = self.key_created
        # Before the key is put there is nothing to miss, and a read would take it for gone.
        if created and revision > created:
            self.defer(self._confirm_key)

    def _confirm_key(self) -> None:
        """Read the session key, because the watch may have missed its end."""
        request = messages.RangeRequest(key=self.key, count_only=True)
        try:
            reply = self.client.read(request, Deadline.after(max(0.1, self.remaining())))
        except errors.CoordError:
            return  # the deadline rules
        if reply.count == 0 and reply.header.revision >= self.key_created:
            self._finish(State.LOST, f"its session key was gone at revision {reply.header.revision}")

    # What hangs on it.

    def hold(self, hold: object, owner: threading.Thread, on_lost: typing.Callable[[str], None]) -> None:
        """Note that something is held from now on; max_hold counts from here."""
        with self._lock:
            self._holds[hold] = (owner, boottime(), on_lost)
            if self._is_limited:
                self._time_limit()
            ended = self._state in _OVER
        if ended:
            on_lost(self._reason)  # it ended between the grant and this note, and told those it knew of

    def unhold(self, hold: object) -> None:
        """The end of `hold`."""
        with self._lock:
            self._holds.pop(hold, None)
            if self._is_limited:
                self._time_limit()

    def _time_limit(self) -> None:
        """The session is renewed until its oldest hold is max_hold old.  Under the lock."""
        oldest_s = next((since_s for _, since_s, _ in self._holds.values()), math.inf)
        self._pulse.stop_at_s = oldest_s + self._terms.max_hold_s

    def enlist(self, waiter: Wakeable) -> None:
        """Wake this waiter when the session ends."""
        with self._lock:
            self._waiters[waiter] = None
        if self.is_over:
            waiter.wake()

    def delist(self, waiter: Wakeable) -> None:
        """The end of `enlist`."""
        with self._lock:
            self._waiters.pop(waiter, None)

    def defer(self, job: worker.Job) -> None:
        """Let the background finish what a caller has no time for."""
        self._chores.submit(job)

    def defer_after(self, delay_s: float, job: worker.Job) -> None:
        """The same, in a while: the background's other jobs have their turn meanwhile."""
        self.link.attendant.after(delay_s, lambda: self.defer(job))

    # The end.

    def close(self, timeout: float = 2.0) -> None:
        """Give back what is held and revoke the lease; idempotent, and never longer than `timeout` seconds.

        If another thread is still inside a critical section the lease is left to run out instead.

        Cost: 1 commit.
        """
        already = self.is_over
        if not already:
            self._runs_out = any(_is_foreign(owner) for owner, _, _ in list(self._holds.values()))
        revoke = not already and not self._runs_out
        self._end(State.CLOSED, "closed by this program", revoke, timeout)

    def _end(self, state: State, reason: str, revoke: bool = True, timeout: float = 2.0) -> None:
        if self._pid != os.getpid():
            return
        self._finish(state, reason)
        if self._watch is not None:
            self._watch.cancel()
        if revoke:
            self._revoke(NEVER.sooner(timeout))

    def _revoke(self, deadline: Deadline) -> None:
        """Best effort: what is not revoked runs out."""
        try:
            leases.revoke(self.client, self.lease_id, deadline)
        except (errors.CoordError, OSError) as error:
            _log.debug("%r: not revoked, it will run out: %s", self, error)


class _KeyWatch:
    """Watches the session key for its deletion."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_created(self, revision: int) -> None:
        self._session._watch_stands(revision)

    def on_events(self, events: list[watch.Event]) -> None:
        revision = events[-1].mod_revision
        self._session._finish(State.LOST, f"its session key was deleted at revision {revision}")

    def on_gap(self, compacted: int) -> None:
        session = self._session
        session._watch = session.link.watcher.watch(session.key, self, filters=(watch.NO_PUTS,))

    def on_refused(self, error: errors.CoordError) -> None:
        _log.warning("%r: its key cannot be watched: %s", self._session, error)


def _is_foreign(owner: threading.Thread) -> bool:
    """Whether it is another thread, or greenlet, that may be inside a critical section now."""
    return owner is not threading.current_thread() and owner in threading.enumerate()


def key_of(link: Link, lease_id: int) -> bytes:
    """The key of the session that has this lease; there as long as it lives."""
    return b"%s%016x" % (keys.prefix(link.namespace, "session"), lease_id)


def _describe(identity: str) -> bytes:
    """The session key's value: for people, and `contenders()`."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    words = {"identity": identity, "host": socket.gethostname(), "pid": os.getpid(), "start": now}
    return json.dumps(words, separators=(",", ":")).encode()


_SESSIONS: weakref.WeakSet[Session] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for session in list(_SESSIONS):
        session._orphan()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
