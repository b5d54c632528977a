"""Once: of all replicas exactly one runs each slot, and all may see how it went.

Status: stable.
Source: none that we know; it is what APScheduler issue 160 and redbeat issues 127, 230 and 240 lack: a mutex
lets a short job run twice when clocks differ, for nothing is left when it is released.
Keys: `/<namespace>/once/<name>/<slot>`, on a lease of its own, the retention; the value is a `Slot`.
Cost: 1 round trip for those who come late; 1 more and 2 commits for whoever takes the slot; 1 for the result.
Fence: the revision of the claim; it grows from attempt to attempt.
Invariant: a slot is claimed by creating its key, or on top of the very record that says that its last attempt
is over; whoever claims knows its own record by a nonce.  So each attempt has one winner at most, within the
retention.
"""

from __future__ import annotations

import datetime
import math
import secrets
import threading
import types
import typing

import attrs

from coordkit import errors, keys
from coordkit import session as sessions
from coordkit import ticket as tickets
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import kv
from coordkit.etcd import lease as leases
from coordkit.recipes import hold as holds
from coordkit.recipes import slots
from coordkit.recipes.slots import Slot, SlotState
from coordkit.session import Link, Session

RETENTION_S = 86_400.0
RETRY_S = 1.0  # between attempts of the background to take a claim back
_AGAIN = (SlotState.FAILED, SlotState.ABANDONED)  # may be taken again, if more attempts are allowed

T = typing.TypeVar("T")


class Once:
    """One slot.  The next slot is another object's."""

    def __init__(
        self,
        session: holds.Source,
        name: str,
        slot: str | datetime.timedelta,
        retention: float = RETENTION_S,
        attempts: int = 1,
        link: Link | None = None,
    ) -> None:
        """Args:
        session: Whose life tells that whoever took the slot is still there; or a function that gives it.
        name: Of the job.
        slot: Which run of it: a period, "5m" or a timedelta, which stands for the current one by the wall
            clock; or any other text, but for what looks like a period and is none, as "5min" and "1.5h".
        retention: Seconds for which the slot is remembered, from its first claim on: longer than the job
            takes, and than clocks differ; at least 1, below 1e9.
        attempts: How often it may be taken in all: 1 is at most once; with more, a slot that failed or was
            abandoned is taken again by whoever asks next.
        link: With what to look, which needs no session; by default the session's.
        """
        self.name = name
        self.slot = slots.name_of(slot)
        self._segments = f"{keys.segment(name)}/", keys.segment(self.slot, "slot")
        self._retention_s = _seconds(retention)
        self._attempts = _count(attempts)
        self._source = session
        self._link = link
        self._lock = threading.Lock()
        self._claim: _Claim | None = None
        self._ended = False

    # To run.

    def run(self, fn: typing.Callable[[], T], timeout: float | None = None) -> T | None:
        """Call `fn` if nobody has taken the slot, and keep how it went.

        Returns:
            What `fn` returned; None when the slot is another's: then `won` is False.

        Raises:
            As `claim` and `done`; and what `fn` raised, after the slot was marked as failed.
        """
        if not self.claim(timeout):
            return None
        try:
            result = fn()
        except BaseException as error:
            self._fail(error)
            raise
        self.done()
        return result

    def claim(self, timeout: float | None = None) -> bool:
        """Take the slot, unless somebody has.

        Args:
            timeout: Seconds; None takes the coordinator's.

        Returns:
            True, once, when it is ours to run: then `done` or `failed` must follow.

        Raises:
            Unavailable, DeadlineExceeded: Not ours; what may have been written is being taken back.
            SessionLost, Rejected: Not ours.

        Cost: 1 round trip when it is taken; else 1, and 2 commits.
        """
        if self._claim is not None:
            return False
        deadline = Deadline.after(timeout)
        session = holds.current(self._source, deadline)
        if timeout is None:
            deadline = session.client.deadline(None)
        before = self._look(session.link, deadline)
        if before is None:
            claim = self._take_first(session, deadline)
        elif before.slot.attempt < self._attempts and before.slot.state in _AGAIN:
            claim = self._take_next(session, before, deadline)
        else:
            return False
        with self._lock:
            self._claim = claim
        return claim is not None

    def done(self, timeout: float | None = None) -> None:
        """It went well.

        Raises:
            NotHeld: The slot is not ours, or its result is known.
            ClaimLost: The slot is another's by now, or forgotten: its retention is over.
            Unavailable, DeadlineExceeded: The job has run, and nobody may ever know.

        Cost: 1 commit.
        """
        self._end(SlotState.DONE, "", timeout)

    def failed(self, error: str = "", timeout: float | None = None) -> None:
        """It did not; `error` says of what kind it was, and must hold no secret.  As `done`."""
        self._end(SlotState.FAILED, error, timeout)

    def __enter__(self) -> bool:
        """Claim it: whether it is ours to run."""
        return self.claim()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        claim = self._claim
        if claim is None or claim.owner != threading.get_ident() or self._ended:
            return  # another's slot, or its result is known already
        if error is None:
            self.done()
        else:
            self._fail(error)

    # While it runs.

    @property
    def won(self) -> bool:
        """Whether this object took the slot."""
        return self._claim is not None

    @property
    def attempt(self) -> int:
        """Which attempt of the slot is ours, from 1 on.  Raises NotHeld."""
        return self._mine().slot.attempt

    @property
    def fence(self) -> int:
        """The revision of the claim.  Raises NotHeld."""
        return self._mine().hold.fence

    @property
    def key(self) -> bytes:
        """The slot's key.  Raises NotHeld."""
        return self._mine().hold.key

    @property
    def lost(self) -> threading.Event:
        """Set when the session is lost: the slot counts as abandoned from then on.  Raises NotHeld."""
        return self._mine().hold.lost

    def check(self) -> None:
        """Raise unless the slot is certainly ours: NotHeld, LockLost.  No I/O."""
        self._mine().hold.check()

    def remaining(self) -> float:
        """Seconds for which nobody can take the slot for abandoned; 0 when it is not ours."""
        claim = self._claim
        return 0.0 if claim is None or self._ended else claim.hold.remaining()

    def guard(self) -> list[kv.Compare]:
        """Compares that make a transaction of yours fail once this attempt is over.  Raises NotHeld."""
        return self._mine().hold.guard()

    def txn(self) -> kv.Txn:
        """A transaction that carries the guard already.  Raises NotHeld."""
        hold = self._mine().hold
        return kv.Txn(hold.session.client, hold.guard())

    # To look.

    def state(self) -> Slot | None:
        """Who has the slot, and how it went; None when nobody took it.

        Cost: 1 round trip, 1 more while it is running, 2 more when it was abandoned.
        """
        link = self._looking()
        found = self._look(link, link.client.deadline(None))
        return found.slot if found else None

    def contenders(self) -> list[tickets.Contender]:
        """Who runs the slot, if anybody does; `mine` when it is this object.  Nobody waits for a slot.

        Cost: as `state`.
        """
        link = self._looking()
        found = self._look(link, link.client.deadline(None))
        if found is None or found.slot.state is not SlotState.RUNNING:
            return []
        slot, place, claim = found.slot, found.place, self._claim
        mine = claim is not None and claim.slot.nonce == slot.nonce
        return [tickets.Contender(place.key, slot.session, place.mod_revision, slot.by, slot.began, mine)]

    def history(self) -> list[Slot]:
        """All slots of this name that are remembered, the newest first.

        Cost: 1 round trip, and as `state` for each that is running.
        """
        link = self._looking()
        deadline = link.client.deadline(None)
        request = kv.range_request(self._prefix(link), oldest_first=True)
        places = [kv.KeyValue.of(each) for each in link.client.read(request, deadline).kvs]
        found = [self._resolve(link, place, deadline) for place in reversed(places)]
        return [each.slot for each in found if each]

    def __repr__(self) -> str:
        return f"<Once {self.name!r} {self.slot!r}{' ours' if self.won else ''}>"

    # How.

    def _looking(self) -> Link:
        return self._link or holds.current(self._source, NEVER).link

    def _prefix(self, link: Link) -> bytes:
        return keys.prefix(link.namespace, "once") + self._segments[0].encode()

    def _key(self, link: Link) -> bytes:
        return self._prefix(link) + self._segments[1].encode()

    def _look(self, link: Link, deadline: Deadline) -> _Found | None:
        place = _get(link, self._key(link), deadline)
        return None if place is None else self._resolve(link, place, deadline)

    def _resolve(self, link: Link, place: kv.KeyValue, deadline: Deadline) -> _Found | None:
        """What a record means: whoever runs the slot may be gone."""
        while True:
            name = keys.unsegment(place.key.rpartition(b"/")[2].decode(errors="replace"))
            slot = Slot.decode(name, place.value)
            owner = sessions.key_of(link, slot.session)
            if slot.state is not SlotState.RUNNING or _get(link, owner, deadline):
                return _Found(slot, place)
            # Its session is over, for good.  If it has said nothing until now it will not be believed later.
            again = _get(link, place.key, deadline)
            if again is None:
                return None
            if again.mod_revision == place.mod_revision:
                return _Found(attrs.evolve(slot, state=SlotState.ABANDONED), place)
            place = again

    def _take_first(self, session: Session, deadline: Deadline) -> _Claim | None:
        """Create the key, on a lease of its own: to revoke that settles what became of a lost request."""
        key, mine = self._key(session.link), self._mark(session, 1)
        lease = 0
        try:
            lease, _ = leases.grant(session.client, self._retention_s, deadline)
            when = [kv.create(key) == 0, _alive(session)]
            request = kv.txn_request(when, [kv.put(key, mine.encode(), lease=lease)], [kv.get(key)])
            claim = _claimed(session, key, mine, session.insist(request, deadline)[0], lease)
        except BaseException:
            if lease:
                _revoke(session, lease)
            raise
        if claim is None:
            _revoke(session, lease)  # somebody was quicker
        return claim

    def _take_next(self, session: Session, before: _Found, deadline: Deadline) -> _Claim | None:
        """Write the next attempt on top of a record that says that the last one is over."""
        key, mine, place = before.place.key, self._mark(session, before.slot.attempt + 1), before.place
        when = [kv.mod(key) == place.mod_revision, _alive(session)]
        request = kv.txn_request(when, [kv.put(key, mine.encode(), lease=place.lease)], [kv.get(key)])
        try:
            result, _ = session.insist(request, deadline)
            return _claimed(session, key, mine, result, place.lease, place.mod_revision)
        except errors.LeaseNotFound:
            return None  # its retention is over: it is forgotten at this moment
        except BaseException:
            _put_back(session, place, mine.nonce)
            raise

    def _mark(self, session: Session, attempt: int) -> Slot:
        identity, now = session.link.identity, _now()
        nonce = secrets.token_hex(8)
        return Slot(
            self.slot, SlotState.RUNNING, identity, attempt, now, session=session.lease_id, nonce=nonce
        )

    def _mine(self) -> _Claim:
        claim = self._claim
        if claim is None or self._ended:
            raise errors.NotHeld(f"slot {self.slot!r} of {self.name!r} is not run through this object")
        return claim

    def _fail(self, error: BaseException) -> None:
        """As `failed`, for an exception that is on its way."""
        try:
            self.failed(type(error).__name__)
        except errors.CoordError as loss:
            holds.attach(loss, error)

    def _end(self, state: SlotState, error: str, timeout: float | None) -> None:
        with self._lock:
            claim = self._mine()
            self._ended = True
        hold = claim.hold
        hold.end()
        session = hold.session
        stored = attrs.evolve(claim.slot, state=state, error=error, ended=_now()).encode()
        request = kv.txn_request(
            hold.guard(), [kv.put(hold.key, stored, lease=claim.lease)], [kv.get(hold.key)]
        )
        try:
            result, _ = session.insist(request, session.client.deadline(timeout))
        except errors.LeaseNotFound:
            raise errors.ClaimLost(f"{hold.name} is forgotten already: its retention is over") from None
        if not result.succeeded:
            found = result.found(0).first
            if found is None or found.value != stored:  # else a copy of this very request was quicker
                raise errors.ClaimLost(f"{hold.name} is not ours any more at revision {result.revision}")


@attrs.frozen
class _Found:
    """A slot that was taken, and its key as it was read."""

    slot: Slot
    place: kv.KeyValue


@attrs.frozen
class _Claim:
    """A slot that is ours."""

    hold: _SlotHold
    slot: Slot
    lease: int
    owner: int  # the thread that took it


class _SlotHold(holds.Hold):
    """Held until the next change of the record, whoever makes it."""

    def guard(self) -> list[kv.Compare]:
        return [kv.mod(self.key) == self.fence]


def _alive(session: Session) -> kv.Compare:
    """True as long as its lease lives: who is gone already must not take a slot."""
    return kv.create(session.key) == session.key_created


def _claimed(
    session: Session, key: bytes, mine: Slot, result: kv.TxnResult, lease: int, before: int = 0
) -> _Claim | None:
    """Whether the record is ours: by this transaction, or by a copy of it whose reply was lost.

    Raises:
        SessionLost: The record is what it was `before`: so it was the session that is gone.
    """
    revision = result.revision
    if not result.succeeded:
        found = result.found(0).first
        revision = 0 if found is None else found.mod_revision
        if revision == before:
            session.lose("its session key is gone")
            raise errors.SessionLost(f"{session} was lost: {session.reason}")
        if found is None or Slot.decode(mine.name, found.value).nonce != mine.nonce:
            return None
    hold = _SlotHold(session, f"slot {key.decode(errors='backslashreplace')}", key, revision)
    return _Claim(hold, mine, lease, threading.get_ident())


def _revoke(session: Session, lease: int) -> None:
    """Take a claim back, in the background: what hangs on the lease goes, what is on its way is refused."""

    def revoke() -> None:
        try:
            leases.revoke(session.client, lease, session.client.deadline(None))
        except errors.CoordError:
            if not session.is_over:  # when it is, the slot counts as abandoned
                session.defer_after(RETRY_S, revoke)

    session.defer(revoke)


def _put_back(session: Session, place: kv.KeyValue, nonce: str) -> None:
    """Take a later attempt back, in the background: the record becomes again what it was.

    To put it anew changes its mod revision, so that a copy of the claim which is still on its way is refused.
    """
    restore = kv.put(place.key, place.value, lease=place.lease)

    def put_back() -> None:
        try:
            request = kv.txn_request(
                [kv.mod(place.key) == place.mod_revision], [restore], [kv.get(place.key)]
            )
            result, _ = session.insist(request, session.client.deadline(None))
            found = None if result.succeeded else result.found(0).first
            if found is not None and Slot.decode("", found.value).nonce == nonce:
                ours = kv.txn_request([kv.mod(place.key) == found.mod_revision], [restore])
                session.insist(ours, session.client.deadline(None))
        except errors.LeaseNotFound:
            pass  # forgotten meanwhile
        except errors.CoordError:
            if not session.is_over:
                session.defer_after(RETRY_S, put_back)

    session.defer(put_back)


def _get(link: Link, key: bytes, deadline: Deadline) -> kv.KeyValue | None:
    return link.client.kv.get(key, deadline.remaining())


def _now() -> str:
    """For people."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


def _seconds(retention: float) -> int:
    if isinstance(retention, bool) or not isinstance(retention, (int, float)) or not 1 <= retention < 1e9:
        raise errors.InvalidValue(
            f"retention must be a number of seconds, at least 1 and below 1e9, not {retention!r}"
        )
    return math.ceil(retention)


def _count(attempts: int) -> int:
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise errors.InvalidValue(f"attempts must be a whole number above 0, not {attempts!r}")
    return attempts
