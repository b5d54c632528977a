"""Semaphore: at most so many holders at once, first come, first served; how many is agreed on in etcd.

Status: stable.
Source: Hunt et al., ZooKeeper (ATC 2010), section 2.4, with n in place of one; kazoo's Semaphore and
Curator's InterProcessSemaphoreV2 for the agreement and the limit that changes.
Keys: `/<namespace>/semaphore/<name>/holders/<lease>-<nonce>`, and `.../limit/<n>`, which hangs on no lease.
Cost: acquire 1 commit when there is room, else 1 event besides; release 1 commit; the first acquire of all
1 commit more, to set the limit.
Fence: the create revision of the held key: it identifies the hold.  Holders overlap, so "refuse a smaller
one" does not apply.
Invariant: at the revision at which somebody is granted, fewer than the limit's keys are before its own.
"""

from __future__ import annotations

from coordkit import errors, keys, outages, sharedline, waitlist
from coordkit import ticket as tickets
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import kv
from coordkit.recipes import hold as holds
from coordkit.recipes import locklike
from coordkit.session import Session

MOST = 999_999


class Semaphore(locklike.LineLock):
    """A number of permits.  Threads that share a Semaphore queue like strangers, and may hold several."""

    _kind = "semaphore"
    _segment = "semaphore"
    _line_kind = sharedline.PermitsLine

    def __init__(self, session: holds.Source, name: str, limit: int | None = None) -> None:
        """Args:
        session: Whose life its permits hang on; or a function that gives the current one.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        limit: How many may hold at once.  The first to acquire sets it for all; whoever names another
            number finds that out at its first use.  None takes what the others agreed on.
        """
        super().__init__(session, name)
        self._wanted = None if limit is None else _checked(limit)
        #: What was agreed on when we last looked; None: we have not looked yet.
        self._agreed: int | None = None

    def available(self) -> int:
        """How many permits nobody holds or awaits.

        Raises:
            LimitMismatch: Its limit is another, or none was set yet and this handle names none.

        Cost: 2 round trips.
        """
        limit, places = self._read()
        return max(0, limit - len(places))

    def holders(self) -> list[tickets.Contender]:
        """Whose turn it is: the oldest places, as many as the limit says.

        Right after it was made smaller more may hold than this shows.  Raises LimitMismatch, as `available`.
        Cost: 2 round trips.
        """
        limit, places = self._read()
        return places[:limit]

    def resize(self, limit: int, timeout: float | None = None) -> int | None:
        """Change the limit for everybody, in use or not.

        Who waits is granted at once what has become free.  Nothing is taken from anybody: a smaller limit
        takes effect as holders leave.  Other handles follow; new ones that name the old limit are refused.

        Args:
            limit: How many may hold at once from now on.
            timeout: Seconds; None takes the client's request timeout, -1 waits for ever.

        Returns:
            The revision at which it was changed; None when it was so already.

        Raises:
            Unavailable, DeadlineExceeded: `outcome` says whether it may have been, or may yet be, changed.

        Cost: 2 round trips and 1 commit.
        """
        wanted = _checked(limit)
        line, session = self._permits(NEVER)
        deadline = session.client.deadline(timeout)
        while True:
            found = _limits(line, session, deadline)
            stale = [each for each in found if each.key != line.limit_key(wanted)]
            if found and not stale:
                self._wanted = self._agreed = wanted
                return None
            changed = kv.txn_request(
                # Each that is there is the one we saw, and there is no other: a late copy of this changes
                # nothing once somebody has changed the limit again.
                [kv.create(each.key) == each.create_revision for each in found] or [_unset(line)],
                [*(kv.delete(each.key) for each in stale), kv.put(line.limit_key(wanted), b"")],
            )
            result = session.client.txn(changed, deadline)
            if result.succeeded:
                self._wanted = self._agreed = wanted
                return result.revision

    def delete(self, timeout: float | None = None) -> bool:
        """Forget the limit, if nobody holds or waits: the next to acquire sets it anew.

        Args:
            timeout: Seconds; None takes the client's request timeout, -1 waits for ever.

        Returns:
            Whether nobody did.

        Cost: 1 commit.
        """
        line, session = self._permits(NEVER)
        nobody = kv.create(line.before, keys.range_end(line.before)) == 0
        forget = kv.txn_request([nobody], [kv.delete(line.limits, line.limits_end)])
        done = session.client.txn(forget, session.client.deadline(timeout))
        if done.succeeded:
            self._agreed = None
        return done.succeeded

    # How.

    def _permits(self, deadline: Deadline) -> tuple[sharedline.PermitsLine, Session]:
        line, session = self._line(deadline)
        assert isinstance(line, sharedline.PermitsLine)
        return line, session

    def _read(self) -> tuple[int, list[tickets.Contender]]:
        """The limit and all places, at one revision."""
        line, session = self._permits(NEVER)
        limits = kv.range(line.limits, keys_only=True)
        everybody = kv.range(line.before, oldest_first=True)
        found = session.client.look([limits, everybody], session.client.deadline(None))
        limit = line.limit_of(found.found(0).kvs)
        places = [tickets.contender(each, session) for each in found.found(1).kvs]
        return self._first_limit() if limit is None else self._agree(limit), places

    def _try(self) -> locklike.InLine | None:
        line, session = self._permits(NEVER)
        if self.available() == 0 and self._agreed is not None:
            return None
        ticket = self._join(line, session, session.client.deadline(None))
        if ticket.phase is tickets.Phase.READY:
            return self._grant(line, ticket)
        line.leave(ticket)  # somebody came between
        return None

    def _join(self, line: waitlist.Line, session: Session, deadline: Deadline) -> tickets.Ticket:
        assert isinstance(line, sharedline.PermitsLine)
        while True:
            if self._agreed is not None:
                ticket = line.join_under(session, deadline, self._agreed)
                if ticket is not None:
                    return ticket
            # It was changed, or never set.
            outages.outlast(lambda: self._settle(line, session, deadline), deadline)

    def _settle(self, line: sharedline.PermitsLine, session: Session, deadline: Deadline) -> None:
        """Learn the limit, or set it if nobody has."""
        found = _limits(line, session, deadline)
        limit = line.limit_of(found)
        if limit is not None:
            self._agree(limit)
            return
        if found:
            strange = found[0].key.decode(errors="backslashreplace")
            raise errors.InvalidValue(f"{strange} is no limit that any of us has put there; resize mends it")
        key = line.limit_key(self._first_limit())
        session.client.txn(kv.txn_request([_unset(line)], [kv.put(key, b"")]), deadline)

    def _first_limit(self) -> int:
        """What we would set, where none is."""
        limit = self._agreed or self._wanted
        if limit is None:
            raise errors.LimitMismatch(f"{self} has no limit yet, and this handle names none")
        return limit

    def _agree(self, limit: int) -> int:
        """Take the limit that is; insist on ours only when we first see it, for later it may be changed."""
        if self._agreed is None and self._wanted not in (None, limit):
            raise errors.LimitMismatch(f"{self} has the limit {limit}, and this handle names {self._wanted}")
        self._agreed = limit
        return limit


def _limits(line: sharedline.PermitsLine, session: Session, deadline: Deadline) -> tuple[kv.KeyValue, ...]:
    return kv.range_result(session.client.read(kv.range_request(line.limits), deadline)).kvs


def _unset(line: sharedline.PermitsLine) -> kv.Compare:
    return kv.create(line.limits, line.limits_end) == 0


def _checked(limit: int) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST:
        raise errors.InvalidValue(f"a limit must be a whole number from 1 to {MOST}, not {limit!r}")
    return limit
