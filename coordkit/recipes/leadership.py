"""Leadership: what whoever was elected has, until it resigns or is told that it was lost.

Status: stable.
Source: etcd's concurrency/election.go, `Proclaim` and `Resign`.
Keys: the leader's own, `<prefix><lease>-<nonce>`; its value is what it proclaims.
Cost: proclaim 1 commit, resign 1; who was elected without a wait, and leads longer than WATCH_AFTER_S, has
its key watched: 1 message and 1 read.
Fence: the create revision of the key; it strictly grows from leader to leader.
Invariant: a proclamation takes effect only on top of the one that its writer had seen, so that a late copy
never undoes a newer one.
"""

from __future__ import annotations

import threading
import types
import typing

from coordkit import errors, forks, keys, waitlist
from coordkit import ticket as tickets
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import kv, watch
from coordkit.observation import Candidate, candidates
from coordkit.recipes import hold as holds

#: A term whose key no other watch covers has its own from then on: a shorter one has no need to be told that
#: somebody deleted its key.
WATCH_AFTER_S = 0.1


class Leadership:
    """One term of office.  Made by `Election.campaign`; as a context manager it resigns in the end."""

    def __init__(self, name: str, line: waitlist.Line, ticket: tickets.Ticket) -> None:
        self._line = line
        self._ticket = ticket
        self._session = ticket.session
        self._term = _Term(self._session, f"the leadership of {name!r}", ticket.key, ticket.create_revision)
        self._lock = threading.Lock()
        self._resigned = False
        self._proclaiming = threading.Lock()
        self._proclaimed = ticket.create_revision  # the revision of the last proclamation that we know of
        #: The revision at which we resigned; None when the reply to that was lost.
        self.resigned_revision: int | None = None
        try:
            line.hold(ticket, self._term.lose)
            self._own = _OwnKey(self._term, line, ticket)
        except BaseException:
            self._term.end()  # nobody will ever have it
            raise

    # What every hold has.

    @property
    def fence(self) -> int:
        """The fencing token: refuse work that comes with a smaller one than the largest seen."""
        return self._term.fence

    @property
    def key(self) -> bytes:
        """The key that stands for it."""
        return self._term.key

    @property
    def lost(self) -> threading.Event:
        """Set when it is lost, by whatever cause: the session's end, or somebody who deleted the key."""
        return self._term.lost

    @property
    def is_lost(self) -> bool:
        """Whether it is known to be lost."""
        return self._term.is_lost

    def check(self) -> None:
        """Raise unless we certainly still lead.  No I/O.

        Raises:
            NotHeld: We resigned.
            LockLost: It was lost.
        """
        if self._resigned and not self._term.is_lost:
            raise errors.NotHeld(f"{self._term.name} was resigned")
        self._term.check()

    def remaining(self) -> float:
        """Seconds for which we certainly lead if nothing more is heard; 0 when it is over."""
        return 0.0 if self._resigned else self._term.remaining()

    def guard(self) -> list[kv.Compare]:
        """Compares that make a transaction of yours fail once this leadership is over."""
        return self._term.guard()

    def txn(self) -> kv.Txn:
        """A transaction that carries the guard already."""
        return kv.Txn(self._session.client, self.guard())

    def contenders(self) -> list[Candidate]:
        """The leader, then the other candidates, in order.  Cost: 1 round trip."""
        return candidates(self._session.client, self._line.prefix)[0]

    # What a leader does.

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until it is time to stop leading.

        Args:
            timeout: Seconds; None or -1 for ever.

        Returns:
            True when it was lost, was resigned, or `Election.cancel` was called; False when the time ran out.

        Cost: none.
        """
        deadline = Deadline.after(timeout)
        while not self._term.over.wait(deadline.wait_s()):
            if deadline.expired:
                return False
        return True

    def proclaim(self, value: bytes | str, timeout: float | None = None) -> int:
        """Say something else to all who observe.

        Args:
            value: What to proclaim.
            timeout: Seconds; None takes the coordinator's.

        Returns:
            The revision of the proclamation.

        Raises:
            LockLost, NotHeld: We do not lead any more; nothing was proclaimed.
            Unavailable, DeadlineExceeded: With the outcome.  One that is UNKNOWN may still take effect, until
                the next proclamation; never after it.

        Cost: 1 commit; 1 more whenever a reply was lost.
        """
        stored = keys.to_bytes(value)
        deadline = self._session.client.deadline(timeout)
        if not self._proclaiming.acquire(timeout=deadline.wait_s()):
            raise errors.DeadlineExceeded(f"{self._term.name}: another thread is still proclaiming")
        try:
            return self._proclaim(stored, deadline)
        finally:
            self._proclaiming.release()

    def resign(self) -> None:
        """Step down, verified; the next in line leads.

        Raises:
            NotHeld: It was resigned before.
            LockLost: It had been lost before; nothing else was done.

        Cost: 1 commit.
        """
        with self._lock:
            if self._resigned:
                raise errors.NotHeld(f"{self._term.name} was resigned before")
            self._resigned = True
        self._own.hush()
        self._term.end()
        try:
            if self._term.is_lost:
                self._line.leave(self._ticket)
                self._term.check()
            self.resigned_revision = self._line.release(self._ticket)
        except errors.LockLost as error:
            self._term.lose(error.since)
            raise
        finally:
            self._own.cancel()  # not before the next leader may have it

    def stop_waiting(self) -> None:
        """Let `wait` return, from any thread."""
        self._term.stop()

    def __enter__(self) -> Leadership:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if self._resigned:
            return
        try:
            self.resign()
        except errors.CoordError as loss:
            if error is None:
                raise
            holds.attach(loss, error)

    def __repr__(self) -> str:
        state = "lost" if self.is_lost else "resigned" if self._resigned else "held"
        return f"<Leadership {self.key!r} {state}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError("a Leadership owns a connection and cannot be pickled")

    # How.

    def _proclaim(self, stored: bytes, deadline: Deadline) -> int:
        session = self._session
        in_doubt = False
        while True:
            self.check()
            request = kv.txn_request(
                # What we saw last is what is there: whoever comes late with an older value is refused.
                [kv.mod(self.key) == self._proclaimed],
                [kv.put(self.key, stored, lease=session.lease_id)],
                [kv.get(self.key)],
            )
            result, doubtful = session.insist(request, deadline.sooner(self.remaining()))
            in_doubt = in_doubt or doubtful
            if result.succeeded:
                self._proclaimed = result.revision
                return result.revision
            found = result.found(0).first
            if found is None or found.create_revision != self.fence:
                self._term.lose(f"its key was gone at revision {result.revision}")
                continue
            # An earlier proclamation, whose outcome nobody knew, took effect after all: this very one, or one
            # that this one follows.  All its copies compare what is over, so there is nothing else to come.
            self._proclaimed = found.mod_revision
            if in_doubt and found.value == stored:
                return found.mod_revision


class _Term(holds.Hold):
    """A hold that also tells when it is time to stop."""

    _is_over = False

    @property
    def over(self) -> threading.Event:
        """Set when it is."""
        event = forks.event_in(vars(self), "_over")
        if self._is_over:
            event.set()
        return event

    def stop(self) -> None:
        """It is time."""
        self._is_over = True
        if "_over" in vars(self):
            self.over.set()

    def lose(self, since: str) -> None:
        super().lose(since)
        self.stop()

    def end(self) -> None:
        super().end()
        self.stop()


class _OwnKey:
    """Watches the leader's own key: whoever deletes it deposes the leader, and the session lives on.

    Where the line's watch has stood since the election, that one tells, until it misses something.
    """

    def __init__(self, term: _Term, line: waitlist.Line, ticket: tickets.Ticket) -> None:
        self._term = term
        self._cancelled = False
        self._watch: watch.Watch | None = None
        ticket.on_missed = self._begin_soon  # set before we look whether it is needed
        if not line.covers(ticket.snapshot_revision):
            term.session.link.attendant.after(WATCH_AFTER_S, self._begin_soon)

    def _begin_soon(self) -> None:
        """Quick: it may run on a reader."""
        if not self._cancelled:
            self._term.session.defer(self._begin)

    def _begin(self) -> None:
        if self._cancelled or self._term.is_lost or self._watch is not None:
            return
        watcher = self._term.session.link.watcher
        # Set before the flag is looked at, as the flag is set before this is: one of the two sees the other.
        self._watch = watcher.watch(self._term.key, self, filters=(watch.NO_PUTS,))
        if self._cancelled:
            self._watch.cancel()

    def hush(self) -> None:
        """From now on it is we who delete it."""
        self._cancelled = True

    def cancel(self) -> None:
        """Watch it no longer.  After `hush`."""
        if self._watch is not None:
            self._watch.cancel()

    def on_created(self, revision: int) -> None:
        if not self._term.is_lost:
            self._term.session.defer(self._confirm)  # it may have been deleted before the watch stood

    def on_events(self, events: list[watch.Event]) -> None:
        if not self._cancelled and events[-1].mod_revision > self._term.fence:
            self._term.lose(f"its key was deleted at revision {events[-1].mod_revision}")

    def on_gap(self, compacted: int) -> None:
        self._watch = None
        self._begin()

    def on_refused(self, error: errors.CoordError) -> None:
        """Then only the session tells of losses, as for a lock."""

    def _confirm(self) -> None:
        """Read the key.  Cost: 1 round trip, in the background."""
        if self._cancelled or self._term.is_lost:
            return
        session = self._term.session
        limit = NEVER.sooner(max(0.1, session.remaining()))
        try:
            result = session.client.look([kv.get(self._term.key)], limit)
        except errors.CoordError:
            return  # then the session is at its end, too
        found = result.found(0).first
        there = found is not None and found.create_revision == self._term.fence
        if not there and not self._cancelled and result.revision >= self._term.fence:
            self._term.lose(f"its key was gone at revision {result.revision}")
