"""CohortLock: the lock of that name, for many threads of one process, which hand it on among themselves.

Status: stable.
Source: Dice, Marathe and Shavit, "Lock cohorting" (PPoPP 2012): a local lock below a global one, and a bound
on the local hand-overs so that no other cohort starves.
Keys: those of `lock`, one for each session of a process, however many of its threads wait; the same lock.
Cost: a local hand-over costs no message; a turn of the process 1 commit to join and 1 to release.  After
`MOST` hand-overs it looks whether anybody else stands in line, 1 round trip, and goes on if nobody does; 1
more before the first hand-over of a turn that began before anybody waited.
Fence: the create revision of the process's key, which its holders of one turn share; `handoff` counts them.
The pair (fence, handoff) strictly grows from holder to holder; the fence alone does so from turn to turn.
Invariant: a session has at most one key in line, at most one thread of it leads or holds, and a hold ends
before the next one begins; whoever joins the line waits for `MOST` more hand-overs of a cohort at most.
"""

from __future__ import annotations

import collections
import enum
import functools
import threading
import weakref

from coordkit import errors, waitlist
from coordkit import ticket as tickets
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import kv
from coordkit.recipes import hold as holds
from coordkit.recipes import locklike
from coordkit.session import Session

MOST = 64  # local hand-overs of one turn


class Role(enum.Enum):
    """What a thread is in its cohort.  Changed under the cohort's lock."""

    # QUEUED: it waits for those before it, in this process.
    QUEUED = 1
    # LEADING: it stands in etcd's line for all of them; there is no other leader, and no holder.
    LEADING = 2
    # HOLDING: the lock is its own; there is no leader, and no other holder.
    HOLDING = 3
    # OUT: it has nothing to do with it any more.
    OUT = 4


class Local:
    """One acquire of one thread."""

    def __init__(self) -> None:
        self.role = Role.OUT
        self.handoff = 0
        self._gate = threading.Lock()
        self._gate.acquire()

    def wake(self) -> None:
        """Let it look again."""
        try:
            self._gate.release()
        except RuntimeError:
            pass  # it has been woken and has not looked yet: it will

    def sleep(self, deadline: Deadline) -> None:
        """Until it is woken."""
        self._gate.acquire(timeout=deadline.wait_s())


class Cohort:
    """The threads of one session that want one lock, and the one place in line that they share."""

    def __init__(self, session: Session, line: waitlist.Line) -> None:
        self.session = session
        self.line = line
        self._lock = threading.Lock()
        self._queue: collections.deque[Local] = collections.deque()
        self._active: Local | None = None  # the leader, or the holder
        #: The place in line: the holder's, the leader's, or left by one who had no time to wait.
        self.ticket: tickets.Ticket | None = None
        self._hold: holds.Hold | None = None  # the holder's
        self._spent = 0  # hand-overs since others last had their chance
        #: A revision of this turn at which the place was there.
        self._seen_at = 0

    # Acquiring.

    def take(self, local: Local, deadline: Deadline) -> None:
        """Wait until this thread holds it.

        Raises:
            AcquireTimeout, SessionLost: It does not.
        """
        self._enter(local)
        try:
            self._await_role(local, deadline)
            if local.role is Role.LEADING:
                self._lead(local, deadline)
        except BaseException:
            self.leave(local)
            raise

    def try_take(self, local: Local) -> bool:
        """Take it if nobody has it or waits for it, here or elsewhere."""
        with self._lock:
            if self._active is not None:
                return False
            self._begin(local)
        try:
            client = self.session.client
            self.ticket = self.line.try_join(self.session, client.deadline(None))
            if self.ticket is not None:
                self._granted(local, self.ticket)
                return True
        except BaseException:
            self.leave(local)
            raise
        self.leave(local)
        return False

    def _enter(self, local: Local) -> None:
        with self._lock:
            if self._active is None:
                self._begin(local)
            else:
                local.role = Role.QUEUED
                self._queue.append(local)

    def _begin(self, local: Local) -> None:
        self.session.enlist(self)  # an end of the session wakes the queue
        local.role = Role.LEADING
        self._active = local

    def _await_role(self, local: Local, deadline: Deadline) -> None:
        """Until those before us in this process are through."""
        if local.role is Role.QUEUED:
            self.line.listen()  # hand-overs ask nobody: so be told if somebody deletes the key
        while local.role is Role.QUEUED:
            self.session.check()
            if deadline.expired:
                raise errors.AcquireTimeout(f"{self.line.prefix!r} was not acquired in time")
            local.sleep(deadline)

    def _lead(self, local: Local, deadline: Deadline) -> None:
        """Stand in etcd's line, in the place that an earlier leader has left, or in a new one."""
        while True:
            if self.ticket is None:
                self.ticket = self.line.join(self.session, deadline)
            ticket = self.ticket
            try:
                if not self.line.await_turn(ticket, deadline):
                    raise errors.AcquireTimeout(f"{self.line.prefix!r} was not acquired in time")
            except errors.LockLost:
                self.ticket = None  # somebody deleted our place: take another
                self.line.leave(ticket)
            else:
                self._granted(local, ticket)
                return

    def _granted(self, local: Local, ticket: tickets.Ticket) -> None:
        self.line.hold(ticket, self._lose)
        self._spent = 0
        self._seen_at = ticket.snapshot_revision
        local.role = Role.HOLDING

    # Holding.

    def begin_hold(self, local: Local, name: str) -> holds.Hold:
        """The hold of who has just become the holder."""
        ticket = self.ticket
        assert ticket is not None and local.role is Role.HOLDING
        hold = self._hold = holds.Hold(self.session, name, ticket.key, ticket.create_revision)
        if ticket.phase is tickets.Phase.GONE:
            hold.lose("its key was deleted as it was handed over")
        return hold

    def _lose(self, since: str) -> None:
        """Somebody deleted the key.  Quick: it runs on a reader."""
        hold = self._hold
        if hold is not None:
            hold.lose(since)

    def wake(self) -> None:
        """The session is over: everybody in the queue looks at it.  No lock: it may run in a fork's child."""
        for local in list(self._queue):
            local.wake()

    def rouse(self, local: Local) -> None:
        """Let it look at its deadline."""
        local.wake()
        ticket = self.ticket
        if ticket is not None and local.role is Role.LEADING:
            ticket.waiter.wake()

    # Leaving.

    def hand_on(self, local: Local) -> int | None:
        """The holder is done: to the next here, or, after so many of them, to whoever is next in etcd's line.

        Returns:
            The revision of the release; None when it stayed in this process.

        Raises:
            LockLost: The key was gone before its release.
        """
        ticket = self.ticket
        assert ticket is not None and self._active is local
        if self._queue and self._spent == MOST:
            self._look_around(local, ticket)
        if self._queue and not self._is_followed:
            self._look_for(local, ticket)
        with self._lock:
            local.role = Role.OUT
            self._hold = heir = None
            goes_on = self._queue and self._spent < MOST and self._is_followed
            if goes_on and ticket.phase is tickets.Phase.READY:
                self._spent += 1
                heir = self._active = self._queue.popleft()
                heir.handoff = local.handoff + 1
                heir.role = Role.HOLDING
            else:
                self.ticket = None
                self._next_leader()
        if heir is None:
            return self.line.release(ticket)
        heir.wake()
        return None

    def _look_around(self, local: Local, ticket: tickets.Ticket) -> None:
        """Begin to count anew if nobody else stands in line: whoever joins from now on waits for `MOST`.

        Cost: 1 round trip.
        """
        try:
            if self.line.is_alone(ticket, NEVER.sooner(self.session.remaining())):
                self._spent = 0
        except errors.OUTAGE:
            pass  # then it is released, which takes longer
        except BaseException:
            self.leave(local)
            raise

    @property
    def _is_followed(self) -> bool:
        """Whether a deletion of the place would have been told: the watch stood before it was last seen."""
        return self.line.covers(self._seen_at)

    def _look_for(self, local: Local, ticket: tickets.Ticket) -> None:
        """See that the place is there, for the watch began after we took it.

        Raises:
            LockLost: Somebody has deleted it.

        Cost: 1 round trip; once a turn, where the first one waits for a lock that was free.
        """
        if self.line._covered_from is None:
            return  # what is deleted from now on would not be told either: then it is released
        try:
            found = self.session.client.look(
                [kv.get(ticket.key)], NEVER.sooner(max(0.1, self.session.remaining()))
            )
        except errors.OUTAGE:
            return  # then it is released
        except BaseException:
            self.leave(local)
            raise
        place = found.found(0).first
        if place is None or place.create_revision != ticket.create_revision:
            self.leave(local)
            since = f"its key was gone at revision {found.revision}"
            raise errors.LockLost(f"{ticket.key!r} was lost: {since}", since)
        self._seen_at = found.revision

    def leave(self, local: Local) -> None:
        """Stop waiting, leading or holding, without a word; the others go on."""
        with self._lock:
            role, local.role = local.role, Role.OUT
            if role is Role.QUEUED:
                self._queue.remove(local)
            if role in (Role.QUEUED, Role.OUT):
                return
            ticket = self.ticket
            if role is Role.HOLDING or not self._queue:
                self.ticket = None
            self._next_leader()
            left = ticket if self.ticket is None else None
        if left is not None:
            self.line.leave(left)

    def _next_leader(self) -> None:
        """Whoever is first in the queue leads.  Under the lock."""
        self._hold = None
        if self._queue:
            self._active = leader = self._queue.popleft()
            leader.role = Role.LEADING
            leader.wake()
        else:
            self._active = None
            self.session.delist(self)


class Baton(locklike.Held):
    """The hold of one thread of a cohort."""

    def __init__(self, hold: holds.Hold, cohort: Cohort, local: Local) -> None:
        super().__init__(hold)
        self.cohort = cohort
        self.local = local

    def give_back(self) -> int | None:
        """See `Held`.  What stays in this process is verified by what is known here, without a message."""
        hold = self.hold
        hold.end()
        try:
            hold.check()
        except errors.LockLost:
            self.cohort.leave(self.local)
            raise
        try:
            return self.cohort.hand_on(self.local)
        except errors.LockLost as error:
            hold.lose(error.since)
            raise

    def give_up(self) -> None:
        """See `Held`."""
        self.hold.end()
        self.cohort.leave(self.local)


class CohortLock(locklike.OnLine):
    """A mutex that is fair among processes, and fair among the threads of each; it is not reentrant."""

    _kind = "cohort lock"
    _segment = "lock"

    def __init__(self, session: holds.Source, name: str) -> None:
        super().__init__(session, name)
        self._latest: Cohort | None = None

    @property
    def handoff(self) -> int:
        """How many holders of this process there were since it got the lock: 0 for the first.

        Raises:
            NotHeld: It is not held.
        """
        held = self._mine()
        assert isinstance(held, Baton)
        return held.local.handoff

    def _cohort(self, deadline: Deadline) -> Cohort:
        session = holds.current(self._source, deadline)
        cohort = self._latest
        if cohort is None or cohort.session is not session:
            cohort = self._latest = _cohort_at(session, self._line(deadline)[0])
        return cohort

    def _take(self, deadline: Deadline) -> locklike.Held:
        try:
            cohort = self._cohort(deadline)
        except errors.OUTAGE:
            cohort = waitlist.through_outages(lambda: self._cohort(deadline), deadline)
        local = Local()
        self._waits[local] = functools.partial(cohort.rouse, local)
        try:
            cohort.take(local, deadline)
        finally:
            self._waits.pop(local, None)
        return self._baton(cohort, local)

    def _try(self) -> locklike.Held | None:
        cohort, local = self._cohort(NEVER), Local()
        return self._baton(cohort, local) if cohort.try_take(local) else None

    def _baton(self, cohort: Cohort, local: Local) -> Baton:
        try:
            return Baton(cohort.begin_hold(local, str(self)), cohort, local)
        except BaseException:
            cohort.leave(local)
            raise


Cohorts = weakref.WeakValueDictionary[bytes, Cohort]

_COHORTS: weakref.WeakKeyDictionary[Session, Cohorts] = weakref.WeakKeyDictionary()


def _cohort_at(session: Session, line: waitlist.Line) -> Cohort:
    """The cohort of a session in a line: handles share it."""
    cohorts = _COHORTS.get(session)
    if cohorts is None:
        cohorts = _COHORTS.setdefault(session, weakref.WeakValueDictionary())
    cohort = cohorts.get(line.prefix)
    return cohort if cohort is not None else cohorts.setdefault(line.prefix, Cohort(session, line))
