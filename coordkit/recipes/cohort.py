"""CohortLock: the lock of that name, for many threads of one process, which hand it on among themselves.

Status: stable.
Source: Dice, Marathe and Shavit, "Lock cohorting" (PPoPP 2012): a local lock below a global one, and a bound
on the local hand-overs so that no other cohort starves.
Keys: those of `lock`, one for each session of a process, however many of its threads wait; the same lock.
Cost: a local hand-over costs no message; a turn of the process 1 commit to join and 1 to release.  Before
`MOST` hand-overs are through, who has just handed it on looks whether anybody else stands in line, 1 round
trip, and they go on if nobody does; 1 more before the first hand-over of a turn that began before anybody
waited.
Fence: the create revision of the process's key, which its holders of one turn share; `handoff` counts them.
The pair (fence, handoff) strictly grows from holder to holder; the fence alone does so from turn to turn.
Invariant: a session has at most one key in line, at most one thread of it leads or holds, and a hold ends
before the next one begins; whoever joins the line waits for `MOST` more hand-overs of a cohort at most.
"""

from __future__ import annotations

import collections
import enum
import threading
import weakref

from coordkit import errors, outages, waitlist
from coordkit import ticket as tickets
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import kv
from coordkit.recipes import hold as holds
from coordkit.recipes import locklike
from coordkit.session import Session

MOST = 64  # local hand-overs of one turn
EARLY = 16  # so many before the last of them is the time to see whether anybody else waits


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


# Up to Python 3.11 each `Role.QUEUED` calls functions, and a hand-over looks at many.
_QUEUED, _LEADING, _HOLDING, _OUT = Role
_READY, _GONE = tickets.Phase.READY, tickets.Phase.GONE


class Local(locklike.Held):
    """One acquire of one thread: its wait, and then its hold."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self.role = _OUT
        self.handoff = 0
        self._gate = threading.Lock()
        self._gate.acquire()

    def wake(self) -> None:
        """Let it look again."""
        try:
            self._gate.release()
        except RuntimeError:
            pass  # it has been woken and has not looked yet: it will

    def sleep(self, longest_s: float) -> None:
        """Until it is woken."""
        self._gate.acquire(timeout=longest_s)

    def rouse(self) -> None:
        """Let it look at its deadline."""
        self.wake()
        ticket = self.cohort.ticket
        if ticket is not None and self.role is _LEADING:
            ticket.waiter.wake()

    def give_back(self) -> int | None:
        """See `Held`.  What stays in this process is verified by what is known here, without a message."""
        hold = self.hold
        hold.end()
        try:
            hold.check()
        except errors.LockLost:
            self.cohort.leave(self)
            raise
        try:
            return self.cohort.hand_on(self)
        except errors.LockLost as error:
            hold.lose(error.since)
            raise

    def give_up(self) -> None:
        """See `Held`."""
        self.hold.end()
        self.cohort.leave(self)


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
        self._until = MOST  # the holder who hands it to another process, if one waits
        self._is_crowded = False  # one did when we last looked
        #: A revision of this turn at which the place was there.
        self._seen_at = 0

    # Acquiring.

    def take(self, local: Local, title: str, deadline: Deadline) -> None:
        """Wait until this thread holds it.

        Raises:
            AcquireTimeout, SessionLost: It does not.
        """
        with self._lock:
            if self._active is None:
                self._begin(local)
            else:
                local.role = _QUEUED
                self._queue.append(local)
        try:
            if local.role is _QUEUED:
                self._await_role(local, deadline)
            if local.role is _LEADING:
                self._lead(local, deadline)
            self._begin_hold(local, title)
        except BaseException:
            self.leave(local)
            raise

    def try_take(self, local: Local, title: str) -> bool:
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
                self._begin_hold(local, title)
                return True
        except BaseException:
            self.leave(local)
            raise
        self.leave(local)
        return False

    def _begin(self, local: Local) -> None:
        self.session.enlist(self)  # an end of the session wakes the queue
        local.role = _LEADING
        self._active = local

    def _await_role(self, local: Local, deadline: Deadline) -> None:
        """Until those before us in this process are through."""
        self.line.listen()  # hand-overs ask nobody: so be told if somebody deletes the key
        while local.role is _QUEUED:
            if self.session.is_over:
                self.session.check()  # who comes after its end was told to the queue
            left_s = deadline.wait_s()
            if not left_s:
                raise errors.AcquireTimeout(f"{self.line.prefix!r} was not acquired in time")
            local.sleep(left_s)

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
        self._until = MOST
        self._is_crowded = False
        self._seen_at = ticket.snapshot_revision
        local.role = _HOLDING

    # Holding.

    def _begin_hold(self, local: Local, title: str) -> None:
        """The hold of who has just become the holder."""
        ticket = self.ticket
        assert ticket is not None and local.role is _HOLDING
        hold = holds.Hold(self.session, title, ticket.key, ticket.create_revision)
        self._hold = local.hold = hold
        if ticket.phase is _GONE:
            hold.lose("its key was deleted as it was handed over")

    def _lose(self, since: str) -> None:
        """Somebody deleted the key.  Quick: it runs on a reader."""
        hold = self._hold
        if hold is not None:
            hold.lose(since)

    def wake(self) -> None:
        """The session is over: everybody in the queue looks at it.  No lock: it may run in a fork's child."""
        for local in list(self._queue):
            local.wake()

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
        if self._queue and local.handoff == self._until and not self._is_crowded:
            self._look_around(local, ticket)  # too few waited to do so earlier, or the answer is late
        # Whether a deletion of the place would have been told: the watch stood before it was last seen.
        is_followed = self.line.covers(self._seen_at)
        if self._queue and not is_followed:
            is_followed = self._look_for(local, ticket)
        with self._lock:
            local.role = _OUT
            self._hold = heir = None
            if self._queue and local.handoff < self._until and is_followed and ticket.phase is _READY:
                heir = self._active = self._queue.popleft()
                heir.handoff = local.handoff + 1
                heir.role = _HOLDING
            else:
                self.ticket = None
                self._next_leader()
        if heir is None:
            return self.line.release(ticket)
        heir.wake()
        if local.handoff + EARLY == self._until and self._queue:
            self._look_around(local, ticket)  # while others take their turns
        return None

    def _look_around(self, local: Local, ticket: tickets.Ticket) -> None:
        """Count anew from this holder if nobody else stands in line: who joins from now on waits for `MOST`.

        Cost: 1 round trip.
        """
        try:
            is_alone = self.line.is_alone(ticket, NEVER.sooner(self.session.remaining()))
        except errors.CoordError:
            return  # then it is released in time, which takes longer
        except BaseException:
            self.leave(local)
            raise
        with self._lock:
            if self.ticket is not ticket:
                return  # it is another turn by now
            self._is_crowded = not is_alone
            if is_alone:
                self._until = max(self._until, local.handoff + MOST)

    def _look_for(self, local: Local, ticket: tickets.Ticket) -> bool:
        """See that the place is there, for the watch began after we took it; whether it is followed now.

        Raises:
            LockLost: Somebody has deleted it.

        Cost: 1 round trip; once a turn, where the first one waits for a lock that was free.
        """
        if self.line._covered_from is None:
            return False  # what is deleted from now on would not be told either
        try:
            found = self.session.client.look(
                [kv.get(ticket.key)], NEVER.sooner(max(0.1, self.session.remaining()))
            )
        except errors.OUTAGE:
            return False
        except BaseException:
            self.leave(local)
            raise
        place = found.found(0).first
        if place is None or place.create_revision != ticket.create_revision:
            self.leave(local)
            since = f"its key was gone at revision {found.revision}"
            raise errors.LockLost(f"{ticket.key!r} was lost: {since}", since)
        self._seen_at = found.revision
        return self.line.covers(found.revision)

    def leave(self, local: Local) -> None:
        """Stop waiting, leading or holding, without a word; the others go on."""
        with self._lock:
            role, local.role = local.role, _OUT
            if role is _QUEUED:
                self._queue.remove(local)
            if role in (_QUEUED, _OUT):
                return
            ticket = self.ticket
            if role is _HOLDING or not self._queue:
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
            leader.role = _LEADING
            leader.wake()
        else:
            self._active = None
            self.session.delist(self)


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
        assert isinstance(held, Local)
        return held.handoff

    def _cohort(self, deadline: Deadline) -> Cohort:
        cohort = self._latest
        if cohort is None or not cohort.session.alive:  # else it is the current one
            session = holds.current(self._source, deadline)
            cohort = self._latest = _cohort_at(session, self._line(deadline)[0])
        return cohort

    def _take(self, deadline: Deadline) -> locklike.Held:
        try:
            cohort = self._cohort(deadline)
        except errors.OUTAGE:
            cohort = outages.outlast(lambda: self._cohort(deadline), deadline)
        local = Local(cohort)
        self._waits[local] = local.rouse
        try:
            cohort.take(local, self._title, deadline)
        finally:
            self._waits.pop(local, None)
        return local

    def _try(self) -> locklike.Held | None:
        cohort = self._cohort(NEVER)
        local = Local(cohort)
        return local if cohort.try_take(local, self._title) else None


Cohorts = weakref.WeakValueDictionary[bytes, Cohort]

_COHORTS: weakref.WeakKeyDictionary[Session, Cohorts] = weakref.WeakKeyDictionary()


def _cohort_at(session: Session, line: waitlist.Line) -> Cohort:
    """The cohort of a session in a line: handles share it."""
    cohorts = _COHORTS.get(session)
    if cohorts is None:
        cohorts = _COHORTS.setdefault(session, weakref.WeakValueDictionary())
    cohort = cohorts.get(line.prefix)
    return cohort if cohort is not None else cohorts.setdefault(line.prefix, Cohort(session, line))
