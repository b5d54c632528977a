"""Election: one leader at a time, who says something, and everybody may watch who it is.

Status: stable.
Source: etcd's concurrency/election.go; Hunt et al., ZooKeeper (USENIX ATC 2010), section 2.4.
Keys: `/<namespace>/election/<name>/<lease>-<nonce>`, see `waitlist.py`; the value: what it proclaims.
Cost: campaign 1 commit; a change of leaders is the resignation's commit and 1 event; see `leadership.py`.
Fence: the create revision of the leader's key; it strictly grows from leader to leader.
Invariant: the leader has the oldest key of the line and a session that lives; so at each revision there is
one at most.
"""

from __future__ import annotations

import random
import threading
import time
import typing
import weakref

from coordkit import errors, forks, keys, outages, waitlist
from coordkit import ticket as tickets
from coordkit.deadline import NEVER, Deadline
from coordkit.observation import Candidate, Observation, candidates
from coordkit.recipes import hold as holds
from coordkit.recipes.leadership import Leadership
from coordkit.session import Link, Session

FIRST_PAUSE_S = 0.1  # after a loss, before the next campaign of `run`; doubled with each
LONGEST_PAUSE_S = 5.0
SETTLED_S = 30.0  # a leadership that lasted so long starts the pauses anew

T = typing.TypeVar("T")


class Election:
    """Candidates of any process, and whoever wants to know.  Safe to share between threads."""

    def __init__(self, session: holds.Source, name: str, link: Link | None = None) -> None:
        """Args:
        session: Whose life candidacies hang on; or a function that gives the current one.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        link: With what to look who leads, which needs no session; by default the session's.
        """
        self.name = name
        self._source = session
        self._link = link
        self._prefix: bytes | None = None
        self._segment = keys.segment(name)
        self._lock = threading.Lock()
        self._latest_line: waitlist.Line | None = None
        self._waits: dict[tickets.Ticket, waitlist.Line] = {}
        self._terms: weakref.WeakSet[Leadership] = weakref.WeakSet()
        self._observations: weakref.WeakSet[Observation] = weakref.WeakSet()
        self._cancel = forks.event()  # of all that waits now; `cancel` puts another in its place

    @classmethod
    def at(cls, session: holds.Source, prefix: str) -> Election:
        """The election of a prefix that is taken as it is, with a slash behind it, as Go and etcdctl do.

        `Election.at(session, "foo")` and `etcdctl elect foo` contend.
        """
        election = cls(session, "at")
        election._prefix = keys.prefix_as_given(prefix)
        election.name = prefix
        return election

    # To lead.

    def campaign(self, value: bytes | str | None = None, timeout: float = -1) -> Leadership:
        """Stand in line until every older candidate has left, then lead.

        Args:
            value: What to proclaim; by default the coordinator's identity.
            timeout: Seconds for the whole call, every retry included; -1 waits for ever, 0 tries once, in one
                transaction that writes nothing when there is another candidate.

        Returns:
            The leadership; `with` resigns in the end.

        Raises:
            AcquireTimeout: Not elected in time; our candidacy is being withdrawn.
            SessionLost: Not elected; this session can never be.
            Unavailable: Only a try: etcd did not answer within the dial timeout.  A wait rides that out.
            Cancelled: By `cancel`.

        Cost: 1 commit when nobody is before us; otherwise also 1 event per change.
        Source: etcd concurrency/election.go, Campaign.
        """
        stored = None if value is None else keys.to_bytes(value)
        deadline = Deadline.after(timeout)
        return self._elected(stored, timeout, deadline, self._cancel)

    def run(
        self, fn: typing.Callable[[Leadership], T], value: bytes | str | None = None, timeout: float = -1
    ) -> T | None:
        """Campaign, call `fn(leadership)`, resign; campaign again after each loss.

        `fn` learns of a loss from `leadership.lost`, `check()` or `wait()`, and should return or let LockLost
        pass.  It is called again until it returns from a leadership that was its own to the end; its other
        exceptions are the caller's.

        Args:
            fn: What a leader does.
            value: As for `campaign`.
            timeout: Seconds after which no campaign is won any more; -1 for ever, 0 tries once each time.

        Returns:
            What `fn` returned from a leadership that was verified; None after `cancel`.

        Raises:
            AcquireTimeout: Not elected in time; an outage, or a server without space, is waited out.
            Unavailable: Only a try: etcd did not answer.
            SessionLost, QuotaExceeded: With a session of the caller's own, which is not replaced.

        Cost: as `campaign` and `resign`.  After a loss it pauses: 0.1 s, doubled up to 5 s, jittered.
        """
        stored = None if value is None else keys.to_bytes(value)
        deadline, cancel = Deadline.after(timeout), self._cancel
        pause_s = FIRST_PAUSE_S
        trouble: errors.CoordError | None = None  # why the last campaign ended before it had begun
        while True:
            try:
                leadership = self._elected(stored, timeout, deadline, cancel)
            except errors.Cancelled:
                return None
            except (errors.SessionLost, errors.QuotaExceeded) as error:
                if isinstance(self._source, Session):
                    raise
                trouble = error  # which may pass
            except errors.AcquireTimeout as late:
                if trouble is None or late.__context__ is None:
                    raise  # it stood in line
                told = f"not elected in {self.name!r} in time: {trouble}"
                raise errors.AcquireTimeout(told, late.outcome) from trouble
            else:
                trouble = None
                elected_s = time.monotonic()
                over, result = _lead(leadership, fn)
                if over:
                    return result
                if time.monotonic() - elected_s > SETTLED_S:
                    pause_s = FIRST_PAUSE_S
            if cancel.wait(deadline.sooner(pause_s * random.uniform(0.5, 1.0)).wait_s()):
                return None
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def cancel(self) -> None:
        """End all that waits on this object, from any thread.

        A campaign raises Cancelled, `run` returns None, an observation ends, and `wait` of a leadership
        returns True; who leads goes on leading until it resigns.
        """
        with self._lock:
            cancelled, self._cancel = self._cancel, forks.event()
            waits, terms = list(self._waits.items()), list(self._terms)
            observations = list(self._observations)
        cancelled.set()
        for ticket, line in waits:
            line.cancel(ticket)
        for leadership in terms:
            leadership.stop_waiting()
        for each in observations:
            each.close()

    # To look.

    def leader(self) -> Candidate | None:
        """Who leads, and what it proclaims; None when nobody does.  Cost: 1 round trip."""
        return next(iter(self._read(1)), None)

    def contenders(self) -> list[Candidate]:
        """The leader, then the other candidates, in order.  Cost: 1 round trip."""
        return self._read(0)

    def observe(self, timeout: float | None = None) -> Observation:
        """Who leads now, and then each change: another leader, another value, or None for nobody.

        What is told is in etcd's order, and the last that is told is what is; who does not keep up with a
        thousand changes misses the oldest of them.  It outlives reconnections and compactions.

        Args:
            timeout: Seconds; then the iteration ends.  None or -1 for ever.

        Returns:
            An iterator of `Candidate` or None; `with` closes it.

        Raises:
            Rejected: While iterating, when etcd does not let us look.

        Cost: 1 read, 1 watch, then 1 event a change.
        """
        deadline = Deadline.after(timeout)
        link = self._looking(deadline)
        observing = Observation(link, self._prefix_in(link), deadline)
        with self._lock:
            self._observations.add(observing)
        return observing

    def __repr__(self) -> str:
        return f"<Election {self.name!r}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            "an Election owns a connection and cannot be pickled: make one in the other process"
        )

    # How.

    def _looking(self, deadline: Deadline) -> Link:
        return self._link or holds.current(self._source, deadline).link

    def _prefix_in(self, link: Link) -> bytes:
        if self._prefix is not None:
            return self._prefix
        return b"%s%s/" % (keys.prefix(link.namespace, "election"), self._segment.encode())

    def _read(self, limit: int) -> list[Candidate]:
        link = self._looking(NEVER)
        return candidates(link.client, self._prefix_in(link), limit)[0]

    def _line(
        self, deadline: Deadline, cancel: threading.Event | None = None
    ) -> tuple[waitlist.Line, Session]:
        if cancel is not None and cancel.is_set():
            raise errors.Cancelled(f"the campaign in {self.name!r} was cancelled")
        session = holds.current(self._source, deadline)
        line = self._latest_line
        if line is None or line.link is not session.link:
            line = waitlist.line_at(session.link, self._prefix_in(session.link))
            self._latest_line = line
        return line, session

    def _elected(
        self, stored: bytes | None, timeout: float, deadline: Deadline, cancel: threading.Event
    ) -> Leadership:
        return self._try(stored) if timeout == 0 else self._campaign(stored, deadline, cancel)

    def _try(self, stored: bytes | None) -> Leadership:
        line, session = self._line(NEVER)
        value = _proclaimed(stored, session)
        ticket = line.try_join(session, session.client.deadline(None), value)
        if ticket is None:
            raise errors.AcquireTimeout(f"not elected in {self.name!r}: there is another candidate")
        try:
            return self._take_office(line, ticket)
        except BaseException:
            line.leave(ticket)
            raise

    def _campaign(self, stored: bytes | None, deadline: Deadline, cancel: threading.Event) -> Leadership:
        while True:
            try:
                line, session = outages.outlast(lambda: self._line(deadline, cancel), deadline)
                ticket = line.join(session, deadline, _proclaimed(stored, session))
            except errors.AcquireTimeout:
                raise
            except errors.OUTAGE as error:
                raise errors.AcquireTimeout(
                    f"not elected in {self.name!r}: {error}", error.outcome
                ) from error
            # CAMPAIGNING: our key is in line; only older keys stand before us.
            with self._lock:
                self._waits[ticket] = line
                ticket.cancelled = ticket.cancelled or cancel.is_set()
            try:
                told = f"not elected in {self.name!r} in time"
                leadership = line.take_turn(ticket, deadline, self._win, told)
                if leadership is not None:
                    with self._lock:
                        cancelled = self._cancel is not cancel
                    if cancelled:
                        leadership.stop_waiting()  # `cancel` may have looked before it was elected
                    return leadership
            finally:
                with self._lock:
                    self._waits.pop(ticket, None)

    def _take_office(self, line: waitlist.Line, ticket: tickets.Ticket) -> Leadership:
        leadership = Leadership(self.name, line, ticket)
        with self._lock:
            self._terms.add(leadership)
        return leadership

    def _win(self, line: waitlist.Line, ticket: tickets.Ticket) -> Leadership:
        leadership = self._take_office(line, ticket)
        if leadership.is_lost:
            leadership.resign()  # raises LockLost: nobody is handed what is lost already
        return leadership


def _lead(leadership: Leadership, fn: typing.Callable[[Leadership], T]) -> tuple[bool, T | None]:
    """One term of `run`: whether it was the last, and what `fn` returned."""
    try:
        with leadership:
            result = fn(leadership)
        return True, result
    except (errors.LockLost, errors.SessionLost):
        if not leadership.is_lost:
            raise  # something else that `fn` held
        return False, None


def _proclaimed(stored: bytes | None, session: Session) -> bytes:
    return session.link.identity.encode() if stored is None else stored


__all__ = ["Candidate", "Election", "Leadership", "Observation"]
