"""Lock: `threading.Lock`'s contract across processes, first come, first served.

Status: stable.
Source: Hunt et al., ZooKeeper (USENIX ATC 2010), section 2.4; etcd's concurrency/mutex.go.
Keys: `/<namespace>/lock/<name>/<lease>-<nonce>`, see `waitlist.py`.
Cost: uncontended 1 commit to acquire and 1 to release; a hand-over is the release's commit and 1 event.
Fence: the create revision of the held key; it strictly grows from holder to holder.
Invariant: whoever holds it has the oldest key of the line, and a session that lives.
"""

from __future__ import annotations

import threading
import types
import typing

import attrs

from coordkit import errors, keys, waitlist
from coordkit import ticket as tickets
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import kv
from coordkit.recipes import hold as holds
from coordkit.session import Session


@attrs.frozen(eq=False)
class Held:
    """A hold, whose it is, and its place in line."""

    hold: holds.Hold
    line: waitlist.Line
    ticket: tickets.Ticket
    owner: int  # the thread that acquired it


class Lock:
    """A fair mutex.  Threads that share a Lock queue like strangers; it is not reentrant."""

    def __init__(self, session: holds.Source, name: str) -> None:
        """Args:
        session: Whose life the lock hangs on; or a function that gives the current one.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        """
        self.name = name
        self._source = session
        self._prefix: bytes | None = None
        self._segment = keys.segment(name)
        self._lock = threading.Lock()
        # One, or more when some were lost and not released yet; the newest last.
        self._holds: list[Held] = []
        self._last: holds.Hold | None = None
        self._latest_line: waitlist.Line | None = None
        self._waits: dict[tickets.Ticket, waitlist.Line] = {}
        self._cancels = 0
        #: The revision at which the last release took effect; None when the reply to it was lost.
        self.released_revision: int | None = None

    @classmethod
    def at(cls, session: holds.Source, prefix: str) -> Lock:
        """The lock of a prefix that is taken as it is, with a slash behind it, as Go and etcdctl do.

        `Lock.at(session, "foo")` and `etcdctl lock foo` contend.
        """
        if not isinstance(prefix, str) or not prefix:
            raise errors.InvalidName(f"prefix must be a str that is not empty, not {prefix!r}")
        lock = cls(session, "at")
        lock.name = prefix
        try:
            lock._prefix = prefix.encode() + b"/"
        except UnicodeEncodeError as error:
            raise errors.InvalidName(f"prefix {prefix!r} cannot be encoded as UTF-8") from error
        return lock

    # The contract of threading.Lock.

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Stand in line until every older contender has left.

        Args:
            blocking: False tries once, in one transaction that writes nothing when the line is not empty.
            timeout: Seconds for the whole call, every retry included; -1 waits for ever.

        Returns:
            True when held; False when the time ran out: what may still stand in line is being withdrawn.

        Raises:
            SessionLost: Not held; this session can never hold it again.
            Unavailable: Only a try: etcd did not answer within the dial timeout.  A wait rides that out.
            Cancelled: By `cancel`.

        Cost: 1 commit when nobody is before us; otherwise also 1 event per hand-over.
        Source: Hunt et al., ZooKeeper (ATC 2010), section 2.4; etcd concurrency/key.go.
        """
        if not blocking and timeout != -1:
            raise errors.InvalidValue("a timeout makes no sense for an acquire that does not block")
        deadline = Deadline.after(timeout)
        if not blocking or timeout == 0:
            return self._try()
        try:
            self._acquire(deadline)
        except (errors.DeadlineExceeded, errors.Unavailable):
            return False  # an outage, too, was waited out as long as there was time
        return True

    def release(self) -> None:
        """Give it up, verified; any thread may.

        Raises:
            NotHeld: Nobody holds it through this object.
            LockLost: It was lost before; nothing else was done.

        Cost: 1 commit.
        """
        with self._lock:
            held = self._mine()
            self._holds.remove(held)
        hold = held.hold
        hold.end()
        if hold.is_lost:
            held.line.leave(held.ticket)
            hold.check()
        try:
            self.released_revision = held.line.release(held.ticket)
        except errors.LockLost as error:
            hold.lose(error.since)
            raise

    def locked(self) -> bool:
        """Whether anybody holds or awaits it, in any process.  Cost: 1 round trip."""
        line, session = self._line(NEVER)
        return not line.is_empty(session.client, session.client.deadline(None))

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if error is None:
            self.release()
            return
        try:
            self.release()
        except errors.CoordError as loss:
            holds.attach(loss, error)

    # Beyond it.

    def within(self, timeout: float) -> Within:
        """`with lock.within(5):` waits at most so many seconds, then raises AcquireTimeout."""
        return Within(self, timeout)

    def cancel(self) -> None:
        """End all waits on this object: they raise Cancelled."""
        with self._lock:
            self._cancels += 1
            waits = list(self._waits.items())
        for ticket, line in waits:
            line.cancel(ticket)

    def contenders(self) -> list[tickets.Contender]:
        """Who holds it, then who waits, in order.  Cost: 1 round trip."""
        line, session = self._line(NEVER)
        return line.contenders(session, session.client.deadline(None))

    @property
    def held(self) -> bool:
        """Whether this object holds it, as far as is known here."""
        return self.remaining() > 0

    @property
    def fence(self) -> int:
        """The fencing token: refuse work that comes with a smaller one than the largest seen.

        Raises:
            NotHeld: It is not held.
        """
        return self._mine().hold.fence

    @property
    def key(self) -> bytes:
        """The key that stands for this hold."""
        return self._mine().hold.key

    @property
    def lost(self) -> threading.Event:
        """Set when this hold is lost; one event per hold, that of the last one between holds."""
        held = self._newest()
        hold = held.hold if held is not None else self._last
        return threading.Event() if hold is None else hold.lost

    def remaining(self) -> float:
        """Seconds for which it certainly stays held if nothing more is heard; 0 when it is not held."""
        held = self._newest()
        return held.hold.remaining() if held is not None else 0.0

    def check(self) -> None:
        """Raise unless it is certainly still held.  No I/O.

        Raises:
            NotHeld, LockLost
        """
        self._mine().hold.check()

    def guard(self) -> list[kv.Compare]:
        """Compares that make a transaction of yours fail once this hold is over.  Raises NotHeld."""
        return self._mine().hold.guard()

    def txn(self) -> kv.Txn:
        """A transaction that carries the guard already.  Raises NotHeld."""
        hold = self._mine().hold
        return kv.Txn(hold.session.client, hold.guard())

    def __repr__(self) -> str:
        return f"<Lock {self.name!r} {'held' if self.held else 'not held'}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            "a Lock owns a connection and cannot be pickled: make one in the other process"
        )

    # How.

    def _line(self, deadline: Deadline) -> tuple[waitlist.Line, Session]:
        session = holds.current(self._source, deadline)
        line = self._latest_line
        if line is None or line.link is not session.link:
            prefix = self._prefix
            if prefix is None:
                prefix = b"%s%s/" % (keys.prefix(session.link.namespace, "lock"), self._segment.encode())
            line = self._latest_line = waitlist.line_at(session.link, prefix)
        return line, session

    def _mine(self) -> Held:
        """The hold that the calling thread means: its own, or else the newest, for any thread may release.

        A thread whose hold was lost keeps meaning that one, whoever acquired after it through this object.
        """
        held = self._newest()
        if held is None:
            raise errors.NotHeld(f"lock {self.name!r} is not held through this object")
        return held

    def _newest(self) -> Held | None:
        held = list(self._holds)
        me = threading.get_ident()
        # The newest of its own: a thread that lost one and acquired again means the second; and a new thread
        # may have the number of one that died.
        return next((each for each in reversed(held) if each.owner == me), held[-1] if held else None)

    def _try(self) -> bool:
        line, session = self._line(NEVER)
        ticket = line.try_join(session, session.client.deadline(None))
        if ticket is None:
            return False
        self._keep(line, ticket)
        return True

    def _acquire(self, deadline: Deadline) -> None:
        cancels = self._cancels
        while True:
            line, session = waitlist.through_outages(lambda: self._line(deadline), deadline)
            ticket = line.join(session, deadline)
            # WAITING: our key is in line; only older keys stand before us.
            with self._lock:
                self._waits[ticket] = line
                ticket.cancelled = ticket.cancelled or self._cancels != cancels
            try:
                if not line.await_turn(ticket, deadline):
                    raise errors.AcquireTimeout(f"lock {self.name!r} was not acquired in time")
                # HELD: no older key exists and none can appear, for revisions only grow.
                self._keep(line, ticket)
                return
            except errors.LockLost:
                line.leave(ticket)  # somebody deleted our place: take another
            except BaseException:
                line.leave(ticket)
                raise
            finally:
                with self._lock:
                    self._waits.pop(ticket, None)

    def _keep(self, line: waitlist.Line, ticket: tickets.Ticket) -> None:
        hold = holds.Hold(ticket.session, f"lock {self.name!r}", ticket.key, ticket.create_revision)
        with self._lock:
            self._holds.append(Held(hold, line, ticket, threading.get_ident()))
            self._last = hold
        line.hold(ticket, hold.lose)


class Within:
    """A lock that waits for so long and no longer."""

    def __init__(self, lock: Lock, timeout_s: float) -> None:
        Deadline.after(timeout_s)  # refuses silly numbers here, not at `with`
        self._lock = lock
        self._timeout_s = timeout_s

    def __enter__(self) -> Lock:
        if not self._lock.acquire(timeout=self._timeout_s):
            raise errors.AcquireTimeout(
                f"lock {self._lock.name!r} was not acquired within {self._timeout_s} s"
            )
        return self._lock

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._lock.__exit__(kind, error, trace)
