"""Coordinator: one place to get recipes from.  They share its connection, its session and its watches."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import sys
import threading
import time
import types
import typing
import weakref

import attrs

from coordkit import codecs, errors, keys, settings, terms
from coordkit import session as sessions
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import kv, watch
from coordkit.recipes import barrier as barriers
from coordkit.recipes import counter as counters
from coordkit.recipes import double_barrier as double_barriers
from coordkit.recipes import election as elections
from coordkit.recipes import gate as gates
from coordkit.recipes import latch as latches
from coordkit.recipes import lock as locks
from coordkit.recipes import locking
from coordkit.recipes import once as onces
from coordkit.recipes import queue as queues
from coordkit.recipes import standing as standings
from coordkit.recipes import topic as topics
from coordkit.recipes import value as values
from coordkit.wire import channel as channels

if typing.TYPE_CHECKING:
    from coordkit.etcd import facade

P = typing.ParamSpec("P")
T = typing.TypeVar("T")

EXIT_S = 2.0  # what closing may take when the process ends


def connect(
    url: str | typing.Iterable[str] | None = None,
    *,
    ttl: float | None = None,
    namespace: str | None = None,
    identity: str | None = None,
    timeout: float | None = None,
    user: str | None = None,
    password: str | None = None,
    cacert: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    max_hold: float | None = None,
    on_lost: str | None = None,
) -> Coordinator:
    """Connect to etcd.

    Args:
        url: `etcd://user:pw@h1:2379,h2:2379/namespace?ttl=10`, `etcds://` for TLS, or several endpoints.
        ttl: Seconds after which the locks of a dead process are free; 10 by default, 2 at least.
        namespace: The first segment of all keys; `coordkit` by default.
        identity: Who we are in `contenders()`; `host:pid` by default.
        timeout: Seconds for dialling, and for each request whose caller names none; 5 by default.
        user: For etcd's authentication.
        password: The same.
        cacert: File of the certificate authority.
        cert: File of our certificate.
        key: File of its key.
        max_hold: Seconds after which a session that still holds something is no longer renewed.
        on_lost: "exit" ends the process with status 76 when the session is lost.

    What is not given comes from the URL, then from `COORDKIT_*`, then from `ETCDCTL_*`, then from defaults.

    Raises:
        Unavailable: Nobody answered in time; names each endpoint's trouble.
        Unauthenticated: Wrong user or password.
        InvalidValue: A setting makes no sense.

    Cost: a dial.  The session is opened on first use.
    """
    given = {
        "ttl": ttl,
        "namespace": namespace,
        "identity": identity,
        "timeout": timeout,
        "user": user,
        "password": password,
        "cacert": cacert,
        "cert": cert,
        "key": key,
        "max_hold": max_hold,
        "on_lost": on_lost,
    }
    coordinator = Coordinator(settings.resolve(url, given))
    del url, user, password, given  # some tools show the locals of a traceback
    try:
        coordinator.client.connect()
    except BaseException:
        coordinator.close()
        raise
    return coordinator


class Coordinator(locking.Locking):
    """A connection to etcd, and the recipes on it.  A context manager; safe to share between threads."""

    def __init__(self, chosen: settings.Settings) -> None:
        self.settings = chosen
        self.client = clients.Client(chosen.options)
        self._link = sessions.Link(self.client, watch.Watcher(self.client), chosen.namespace, chosen.identity)
        self._pid = os.getpid()
        self._opening = threading.Lock()
        self._guard = threading.Lock()  # of `_extra`, `_births`, `_etcd` and `_standings`
        self._shared: dict[int, sessions.Session] = {}  # by TTL: our own, and those of etcd3's locks
        self._extra: weakref.WeakSet[sessions.Session] = weakref.WeakSet()
        self._births: set[threading.Lock] = set()  # each held while one of them is opened
        self._etcd: facade.Client | None = None
        self._standings: dict[str, standings.Standing] = {}
        self._closed = False
        _prepare_exit()

    # Sessions.

    @property
    def session(self) -> sessions.Session:
        """The shared session, opened on first use; another one after a loss.

        Raises:
            Unavailable: It could not be opened.
            Closed: This coordinator was closed, or belongs to another process.

        Cost: 2 commits when it is opened.
        """
        return self._session_by(NEVER)

    def _session_by(self, deadline: Deadline, ttl_s: int | None = None) -> sessions.Session:
        wanted = self.settings.terms if ttl_s is None else attrs.evolve(self.settings.terms, ttl_s=ttl_s)
        session = self._shared.get(wanted.ttl_s)
        if session is not None and session.alive:
            return session
        self._check_open()
        limit = deadline.sooner(self.settings.options.timeout_s)
        if not self._opening.acquire(timeout=limit.wait_s()):
            raise errors.Unavailable("another caller is still opening the session")
        try:
            session = self._shared.get(wanted.ttl_s)
            if session is None or not session.alive:
                self._shared[wanted.ttl_s] = session = sessions.Session.open(self._link, wanted, limit)
                self._keep(session)
            return session
        finally:
            self._opening.release()

    def new_session(
        self, ttl: float | None = None, max_hold: float | None = None, on_lost: str | None = None
    ) -> sessions.Session:
        """A session of its own, for work whose life should not hang on the others'.

        Args:
            ttl: Seconds; the coordinator's by default.
            max_hold: Seconds; past them a session that still holds something is no longer renewed.
            on_lost: "exit" ends the process when it is lost.

        Cost: 2 commits.
        """
        self._check_open()
        chosen = self.settings.terms.ttl_s if ttl is None else ttl
        with self._birth():
            session = sessions.Session.open(self._link, terms.Terms.of(chosen, max_hold, on_lost))
            with self._guard:
                self._extra.add(session)
            self._keep(session)
        return session

    @contextlib.contextmanager
    def _birth(self) -> typing.Iterator[None]:
        """While a session is opened: `close` waits for the end of it."""
        birth = threading.Lock()
        with birth:
            with self._guard:
                self._births.add(birth)
            try:
                yield
            finally:
                with self._guard:
                    self._births.discard(birth)

    def _keep(self, session: sessions.Session) -> None:
        """From now on there is something to give back at the end."""
        _OPEN.add(self)
        if self._closed:  # meanwhile, by somebody who did not know of this session
            _OPEN.discard(self)
            session.close()
            self._check_open()

    # Recipes.

    @property
    def kv(self) -> kv.KV:
        """Raw keys and transactions."""
        return self.client.kv

    @property
    def etcd(self) -> facade.Client:
        """The etcd3 package's client on this connection; another one after it was closed.

        Raises:
            Closed: This coordinator was closed, or belongs to another process.

        Cost: 0.2 s and 10 MB at its first use in a process, for etcd3 and grpc are imported.
        """
        from coordkit.etcd import facade

        with self._guard:
            self._check_open()
            if self._etcd is None or self._etcd.closed:
                self._etcd = facade.Client(self.client, self._etcd3_lock)
            return self._etcd

    def _etcd3_lock(self, name: str, ttl: float) -> locks.Lock:
        """A lock on a session that all locks of this TTL share; etcd grants no shorter ones than 2 s."""
        ttl_s = terms.Terms.of(max(ttl, terms.LEAST_TTL_S)).ttl_s
        return locks.Lock(lambda deadline: self._session_by(deadline, ttl_s), name)

    def election(self, name: str) -> elections.Election:
        """One leader at a time, and everybody may watch who it is.  Cost: none until it is used."""
        return elections.Election(self._session_by, name, self._link)

    def standing(self, name: str, value: bytes | str | None = None) -> standings.Standing:
        """This process's candidate in the election `name`, in the background; one for all who ask.

        Args:
            name: Of the election.
            value: What to proclaim, if it does not stand yet; by default the identity.

        Cost: as `Standing.start` when it does not stand yet.
        """
        with self._guard:
            self._check_open()
            standing = self._standings.get(name)
            if standing is None or standing.closed:
                self._standings[name] = standing = standings.Standing(self.election(name), value)
        return standing.start()

    def leader_only(
        self, name: str
    ) -> typing.Callable[[typing.Callable[P, T]], typing.Callable[P, T | None]]:
        """A decorator: calls run in the process that leads the election `name`; elsewhere they return None.

        The process stands from its first call on.  A call that led when it began, and not until it ended,
        raises LockLost.

        Cost: none for a call, but that `standing` begins with the first.
        """
        keys.segment(name)
        return standings.leader_only(lambda: self.standing(name))

    def once(
        self,
        name: str,
        slot: str | datetime.timedelta,
        retention: float = onces.RETENTION_S,
        attempts: int = 1,
    ) -> onces.Once:
        """One slot of a job, of which all replicas together make one run.

        Args:
            name: Of the job.
            slot: A period, as "5m", "1d" or a timedelta: the current one; or any text that names the run and
                does not look like a period.
            retention: Seconds for which the slot is remembered, at least 1 and below 1e9.
            attempts: How often a slot that failed, or whose process died, may be taken in all.

        Cost: none until it is used.
        """
        return onces.Once(self._session_by, name, slot, retention, attempts, self._link)

    def barrier(
        self,
        name: str,
        parties: int,
        action: typing.Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> barriers.Barrier:
        """A point that nobody passes before `parties` have arrived.  Cost: none until it is used."""
        return barriers.Barrier(self._session_by, name, parties, action, timeout, link=self._link)

    def double_barrier(self, name: str, parties: int) -> double_barriers.DoubleBarrier:
        """Work that `parties` enter and leave together.  Cost: none until it is used."""
        return double_barriers.DoubleBarrier(self._session_by, name, parties, link=self._link)

    def gate(self, name: str) -> gates.Gate:
        """A gate, open until somebody closes it.  Cost: none until it is used."""
        return gates.Gate(self._link, name)

    def latch(self, name: str, count: int) -> latches.Latch:
        """A countdown from `count`.  Cost: none until it is used."""
        return latches.Latch(self._session_by, name, count)

    def counter(self, name: str) -> counters.Counter:
        """A number that many add to.  Cost: none until it is used."""
        return counters.Counter(self._session_by, name)

    def value(self, name: str, codec: codecs.Codec = codecs.BYTES) -> values.Value:
        """A value with versions, which can be followed.  Cost: none until it is used."""
        return values.Value(self._link, name, codec)

    def queue(
        self,
        name: str,
        codec: codecs.Codec = codecs.BYTES,
        *,
        max_deliveries: int = 5,
        ack_wait: float | None = None,
        max_length: int | None = None,
        max_bytes: int | None = None,
        dedup_window: float = 300,
    ) -> queues.Queue:
        """A queue of jobs.  Cost: none until it is used.

        Args:
            name: Any text of at most 255 bytes.
            codec: How values become bytes: `coordkit.codecs.JSON`, for one.
            max_deliveries: How often an item is delivered before it goes to the dead letters.
            ack_wait: Seconds after which a job that was neither acked nor nacked is another's; None: never,
                as long as its consumer lives.  The same for all consumers of a queue.
            max_length: Items that it holds before `put` waits, roughly.
            max_bytes: The same in bytes, estimated.
            dedup_window: Seconds for which a `dedup_id` is remembered, at least.

        Raises:
            InvalidName, InvalidValue
        """
        chosen = queues.Terms.of(codec, max_deliveries, ack_wait, max_length, max_bytes, dedup_window)
        return queues.Queue(self._session_by, name, chosen, self._link)

    def topic(
        self,
        name: str,
        retain: topics.Retain | None = None,
        partitions: int = 1,
        codec: codecs.Codec = codecs.BYTES,
    ) -> topics.Topic:
        """A topic, live or retained: see `Topic`.  Cost: none until it is used; groups need a session."""
        return topics.Topic(self._link, name, retain, partitions, codec, self._session_by)

    # The end.

    def statistics(self) -> channels.Statistics:
        """Counters of the connection: calls, bytes, calls in flight, round trips."""
        return self.client.statistics()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self, timeout: float = EXIT_S) -> None:
        """Release what this thread holds, revoke the sessions' leases, disconnect; idempotent.

        Args:
            timeout: Seconds for all of it.

        Cost: 1 commit for each session.
        """
        already, self._closed = self._closed, True
        _OPEN.discard(self)
        if already or self._pid != os.getpid():
            return
        limit = Deadline.after(timeout)
        with self._guard:
            births = [self._opening, *self._births]
        for birth in births:  # who opens a session right now still needs the connection, to give it back
            if birth.acquire(timeout=limit.sooner(limit.remaining() / 2).wait_s()):
                birth.release()
        with self._guard:
            open_sessions = [*self._extra, *self._shared.values()]
            facade = self._etcd
            candidates = list(self._standings.values())
        for candidate in candidates:
            candidate.close(limit.remaining() / 2)
        if facade is not None:
            facade.close()
        for session in open_sessions:
            session.close(limit.remaining())
        self._link.watcher.close()
        self._link.attendant.close()
        self.client.close()

    def _forget(self) -> None:
        """After a fork, in the child: closed, without any I/O; the parent's leases are not ours to revoke."""
        self._closed = True

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = ",".join(map(str, self.settings.options.endpoints))
        return f"<Coordinator {where}/{self.settings.namespace}{' closed' if self._closed else ''}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            "a Coordinator owns a connection and cannot be pickled: connect in the other process"
        )

    def _check_open(self) -> None:
        if self._pid != os.getpid():
            raise errors.Closed(
                f"this coordinator was made before a fork, by process {self._pid}: connect anew"
            )
        if self._closed:
            raise errors.Closed("this coordinator was closed")


#: Those that have, or had, a session and were not closed.  Not weakly: one that the program dropped holds
#: what it holds all the same, and gives it back when the process ends.
_OPEN: set[Coordinator] = set()
_prepared: set[int] = set()  # the processes of which the end is taken care of


def _prepare_exit() -> None:
    """See to it that those which nobody has closed by then are closed when this process ends."""
    pid = os.getpid()
    if pid in _prepared:
        return
    _prepared.add(pid)
    atexit.register(_close_all)
    if "multiprocessing" in sys.modules:
        # Its children run no atexit functions on Python 3.10 to 3.12.
        from multiprocessing import util

        util.Finalize(None, _close_all, exitpriority=10)


def _close_all() -> None:
    """Nothing is dialled anew, and all of it is bounded."""
    started = time.monotonic()
    for coordinator in list(_OPEN):
        coordinator.client.stop_dialling()
        coordinator.close(max(0.0, EXIT_S - (time.monotonic() - started)))


def _after_fork_in_child() -> None:
    for coordinator in list(_OPEN):
        coordinator._forget()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
