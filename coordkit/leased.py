"""Keys that hang on a session's lease: how they are created, and how doubts about that are settled.

A request that was sent can be applied long after its deadline, its cancel, or its connection's end.  So every
create compares the session's **epoch**, the mod revision of the session key.  Whoever doubts what became of a
create puts the session key once more: from then on each copy that is still on its way compares an epoch that
is over, and fails; what there is by then is all there will be.

Invariant: a create takes effect only in the epoch in which it was sent.
"""

from __future__ import annotations

import abc
import itertools
import logging
import threading
import time
import typing

import attrs

from coordkit import errors, groups, worker
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import kv
from coordkit.wire import messages

MOST_WITHDRAWN = 100  # keys in a transaction: etcd allows 128 operations

_log = logging.getLogger("coordkit")


@attrs.frozen
class Created:
    """A leased key that is ours."""

    create_revision: int
    #: The results of the operations that went along; None when an earlier copy of the request had made it.
    result: kv.TxnResult | None
    #: Whether the first request was answered, so that no copy of it can be on its way.
    at_once: bool = False


@attrs.frozen
class Deleted:
    """A key of ours that is gone by our own hand."""

    result: kv.TxnResult
    #: Whether the first request was answered, so that no copy of it can be on its way.
    at_once: bool


@attrs.frozen
class Written:
    """What a transaction with leased puts did, or, where its reply was lost, what was found to be done."""

    result: kv.TxnResult
    #: The index of the first result: those of `then`, or those of `look`.
    first: int
    #: Whether they are those of `look`.
    looked: bool


class LeasedKeys(abc.ABC):
    """The part of a session that creates keys."""

    def __init__(
        self, client: clients.Client, group: groups.Group, lease_id: int, key: bytes, value: bytes
    ) -> None:
        self.client = client
        self._group = group
        self.lease_id = lease_id
        #: The session key, its value, and its create revision: the same for as long as the session lives.
        self.key = key
        self._value = value
        self.key_created = 0
        self.read_key = kv.get(key)
        self._nonces = itertools.count(1)
        self._spare_nonces: list[str] = []
        self._epoch_lock = threading.Lock()
        self._epoch = 0
        self._doubts: list[bytes] = []  # keys that are to be withdrawn
        self._in_epoch = kv.mod(key) == 0  # the compare of the epoch, kept because it is sent so often

    # What a session must be able to do.

    @abc.abstractmethod
    def check(self) -> None:
        """Raise unless the lease certainly lives."""

    @abc.abstractmethod
    def remaining(self) -> float:
        """Seconds for which it certainly does."""

    @abc.abstractmethod
    def lose(self, reason: str) -> None:
        """It is gone."""

    @property
    @abc.abstractmethod
    def is_over(self) -> bool:
        """Whether it was lost or closed."""

    @property
    @abc.abstractmethod
    def reason(self) -> str:
        """Why."""

    def why_over(self) -> str:
        """The same, after a look at the clock."""
        try:
            self.check()
        except errors.CoordError as error:
            return self.reason or str(error)
        return "its time ran out"

    @abc.abstractmethod
    def defer(self, job: worker.Job) -> None:
        """Let the background do it."""

    @abc.abstractmethod
    def defer_after(self, delay_s: float, job: worker.Job) -> None:
        """The same, in a while."""

    # Names.

    def return_nonce(self, nonce: str) -> None:
        """Let a name be used again: its key was deleted, and no request for it was ever in doubt.

        etcd remembers every deleted name until it compacts, and each read of a line walks over all of them.
        """
        self._spare_nonces.append(nonce)

    def nonce(self) -> str:
        """A name for a key that no other key of this session has, or will have."""
        try:
            return self._spare_nonces.pop()
        except IndexError:
            return f"{next(self._nonces):x}"

    # Creating, changing, and settling doubts.

    def create(
        self,
        key: bytes,
        value: bytes,
        deadline: Deadline,
        when: list[kv.Compare],
        then: list[kv.Op],
        together: bool = False,
    ) -> Created | None:
        """Create a key that hangs on this session.

        Args:
            key: Its name; this session's alone, and not in doubt: its existence proves that we made it.
            value: What to store.
            deadline: For the caller; what is in doubt afterwards is withdrawn in the background.
            when: Further conditions.
            then: Further operations of the same transaction, after the put.
            together: Whether others of this process may travel along (`groups.py`).

        Returns:
            The key, or None when one of `when` did not hold: nothing was written.

        Raises:
            SessionLost: Nothing will ever be written.
            DeadlineExceeded, Unavailable, Rejected: Not created as far as the caller is concerned.

        Cost: 1 commit; 1 more whenever a reply was lost.
        """
        send = self._group.txn if together else self.client.txn
        at_once = True
        patience_s = clients.PATIENCE_S
        while True:
            self.check()
            with self._epoch_lock:
                epoch, in_epoch = self._epoch, self._in_epoch
            request = kv.txn_request(
                [kv.create(key) == 0, in_epoch, *when],
                [kv.put(key, value, lease=self.lease_id), *then],
                [kv.get(key), self.read_key],
            )
            try:
                result = send(request, deadline.sooner(min(self.remaining(), patience_s)))
            except errors.LeaseNotFound as error:
                self.lose("etcd says that its lease is gone")
                raise errors.SessionLost(f"{self} was lost: {self.reason}") from error
            except BaseException as error:
                patience_s *= 2
                if not _certainly_nothing(error):
                    at_once = False
                    found = self._resolve(key, epoch, deadline, error)
                    if found is not None:
                        return Created(found.create_revision, None)
                elif not isinstance(error, errors.OUTAGE) or deadline.expired:
                    raise
                continue
            if result.succeeded:
                return Created(result.revision, result, at_once)
            mine = result.found(0).first
            if mine is not None:
                return Created(mine.create_revision, None)  # an earlier copy of this very request
            if self._see_key(result.found(1).first) == epoch:
                return None  # the epoch is right, the key was free: one of `when` failed
            # Our epoch was over: the refusal is certain, and the next try compares the new one.

    def insist(self, request: kv.TxnRequest, deadline: Deadline) -> tuple[kv.TxnResult, bool]:
        """Send a transaction until it is answered: one whose compares let it take effect once at most.

        Returns:
            The answer, and whether an earlier copy may have taken effect: a refusal may then be its doing.

        Raises:
            DeadlineExceeded, Unavailable: The outcome is UNKNOWN if any copy may have been applied.

        Cost: 1 commit; 1 more whenever a reply was lost.
        """
        doubtful = False
        pause_s = clients.FIRST_PAUSE_S
        while True:
            try:
                return self.client.txn(request, deadline), doubtful
            except errors.OUTAGE as error:
                doubtful = doubtful or error.outcome is errors.Outcome.UNKNOWN
                if doubtful:
                    error.outcome = errors.Outcome.UNKNOWN
                pause_s = clients.pause(pause_s, deadline, error)

    def _resolve(
        self, key: bytes, epoch: int, deadline: Deadline, doubt: BaseException
    ) -> kv.KeyValue | None:
        """After a create that may have been applied: what came of it, if the caller has time for that.

        If not, `doubt` is raised, and the background makes sure that nothing is left behind.
        """
        try:
            if not isinstance(doubt, errors.OUTAGE) or deadline.expired:
                raise doubt
            return self._find_out(key, epoch, deadline)
        except BaseException as error:
            if isinstance(error, errors.OUTAGE):
                error.outcome = errors.Outcome.UNKNOWN  # of the create: a question not asked settles nothing
            with self._epoch_lock:
                self._doubts.append(key)
            self.defer(self.withdraw)
            raise

    def _see_key(self, session_key: kv.KeyValue | None) -> int:
        """Take the epoch from a read of the session key.

        Raises:
            SessionLost: It is gone, or another's.
        """
        if session_key is None or session_key.create_revision != self.key_created:
            self.lose("its session key is gone")
            raise errors.SessionLost(f"{self} was lost: {self.reason}")
        self._enter_epoch(session_key.mod_revision)
        return session_key.mod_revision

    def _enter_epoch(self, epoch: int) -> None:
        with self._epoch_lock:
            if epoch > self._epoch:
                self._epoch = epoch
                self._in_epoch = kv.mod(self.key) == epoch

    def _find_out(self, key: bytes, epoch: int, deadline: Deadline) -> kv.KeyValue | None:
        """End the epoch, and read what the creates that compared it have made.  None: nothing, for good."""
        result, first = self._look([kv.get(key)], epoch, deadline)
        return result.found(first).first

    def _look(self, look: list[kv.Op], epoch: int, deadline: Deadline) -> tuple[kv.TxnResult, int]:
        """End the epoch, and run `look` at the same revision; the index of its first result."""
        request = kv.txn_request(
            [kv.mod(self.key) == epoch],
            [kv.put(self.key, self._value, lease=self.lease_id), self.read_key, *look],
            [self.read_key, *look],
        )
        pause_s, patience_s = clients.FIRST_PAUSE_S, clients.PATIENCE_S
        while True:
            self.check()
            try:
                result = self.client.txn(request, deadline.sooner(min(self.remaining(), patience_s)))
            except errors.OUTAGE as error:
                pause_s, patience_s = clients.pause(pause_s, deadline, error), patience_s * 2
                continue
            offset = 1 if result.succeeded else 0
            self._see_key(result.found(offset).first)
            return result, offset + 1

    def write(
        self,
        then: list[kv.Op],
        look: typing.Callable[[], list[kv.Op]],
        deadline: Deadline,
        when: typing.Sequence[kv.Compare] = (),
    ) -> Written | None:
        """A transaction of several leased puts, in this session's epoch; meant for the background.

        Args:
            then: What to do: mostly nested transactions, each with its own compares.
            look: Called if its reply was lost: reads that find out what it did, which is all that it ever
                will do.
            deadline: If it comes before an answer, nobody knows.
            when: Further conditions.

        Returns:
            None when one of `when` did not hold: nothing was written.

        Raises:
            SessionLost: What was put is gone, or will never be.
            DeadlineExceeded, Unavailable, Rejected: `outcome` says whether it may have been applied.

        Cost: 1 commit; 1 more if its reply was lost.
        """
        while True:
            self.check()
            with self._epoch_lock:
                epoch, in_epoch = self._epoch, self._in_epoch
            request = kv.txn_request([in_epoch, *when], then, [self.read_key])
            try:
                result = self.client.txn(request, deadline.sooner(self.remaining()))
            except errors.LeaseNotFound as error:
                self.lose("etcd says that its lease is gone")
                raise errors.SessionLost(f"{self} was lost: {self.reason}") from error
            except errors.OUTAGE as error:
                if deadline.expired:
                    raise
                if not _certainly_nothing(error):
                    return Written(*self._look(look(), epoch, deadline), looked=True)
                continue
            if result.succeeded:
                return Written(result, 0, looked=False)
            if self._see_key(result.found(0).first) == epoch:
                return None
            # The epoch was over: the refusal is certain.

    def withdraw(self, pause_s: float = clients.FIRST_PAUSE_S) -> None:
        """Delete the keys in doubt and end the epoch that their creates compared, until that is certain.

        Runs in the background, an attempt at a time, for all that are in doubt by then; ends at the latest
        with the session, whose lease takes the keys.
        """
        with self._epoch_lock:
            doubts, epoch = self._doubts[:MOST_WITHDRAWN], self._epoch  # none of them compared a later one
            del self._doubts[:MOST_WITHDRAWN]
        if self.is_over or not doubts:
            return
        deletes = [kv.delete(key) for key in doubts]
        bump = kv.txn_request(
            [kv.mod(self.key) == epoch],
            [kv.put(self.key, self._value, lease=self.lease_id), *deletes, self.read_key],
            [*deletes, self.read_key],  # the epoch was over already: no copy can come any more
        )
        limit = NEVER.sooner(self.client.options.timeout_s)
        try:
            result = self.client.txn(bump, limit)
            self._see_key(result.found(len(doubts) + result.succeeded).first)
            return
        except errors.QuotaExceeded:
            # Out of space no put passes, but deletes do: keep deleting, until a bump ends the doubt.
            self._try_txn(kv.txn_request([], deletes), limit, doubts)
        except errors.SessionLost:
            return
        except errors.CoordError as error:
            _log.debug("%r: withdrawing %r: %s", self, doubts, error)
        self._defer_again(lambda next_s: self._withdraw_again(doubts, next_s), pause_s)

    def _withdraw_again(self, doubts: list[bytes], pause_s: float) -> None:
        with self._epoch_lock:
            self._doubts[:0] = doubts
        self.withdraw(pause_s)

    def deletion(self, key: bytes, create_revision: int, then: typing.Sequence[kv.Op] = ()) -> kv.TxnRequest:
        """What `delete_verified` sends: deletes a key of ours, if its create revision is this one still."""
        return kv.txn_request([kv.create(key) == create_revision], [kv.delete(key), *then], [self.read_key])

    def delete_verified(
        self, key: bytes, create_revision: int, request: kv.TxnRequest, together: bool = False
    ) -> Deleted | None:
        """Delete a key of ours, and say for certain whether it was ours to the end.

        Args:
            key: Which.
            create_revision: Of the key that is meant: names come back.
            request: The `deletion` of both.
            together: Whether others of this process may travel along (`groups.py`).

        Returns:
            The transaction, or None when an attempt did it whose reply was lost.

        Raises:
            LockLost: It was gone before; or the session's time ran out without an answer.

        Cost: 1 commit.
        """
        send = self._group.txn if together else self.client.txn
        attempted = False  # an earlier attempt may have been applied
        full = False  # the server is out of space
        pause_s, patience_s = clients.FIRST_PAUSE_S, clients.PATIENCE_S
        while True:
            left_s = self.remaining()
            if not left_s:
                raise _lost(key, self.why_over())
            try:
                if full:
                    self._delete_when_full(key, create_revision, NEVER.sooner(left_s))
                    return None
                result = send(request, NEVER.sooner(min(left_s, patience_s)))
                break
            except errors.QuotaExceeded:
                full = True
                continue
            except errors.OUTAGE as error:
                attempted |= error.outcome is errors.Outcome.UNKNOWN
            patience_s *= 2
            time.sleep(min(pause_s, self.remaining()))
            pause_s = min(pause_s * 2, clients.LONGEST_PAUSE_S)
        if result.succeeded:
            return Deleted(result, not attempted)
        session_key = result.found(0).first
        alive = session_key is not None and session_key.create_revision == self.key_created
        if attempted and alive:
            return None  # our own earlier attempt deleted it
        raise _lost(key, f"its key was gone at revision {result.revision}")

    def _delete_when_full(self, key: bytes, create_revision: int, limit: Deadline) -> None:
        """The same on a server that is out of space, which may have applied what it refused."""
        deleted = self._delete_plainly(key, limit)
        if any(was.create_revision == create_revision for was in deleted.prev_kvs):
            return
        session_key = self.client.read(messages.RangeRequest(key=self.key), limit).kvs
        if not session_key or session_key[0].create_revision != self.key_created:
            raise _lost(key, f"its key was gone at revision {deleted.header.revision}")

    def _delete_plainly(self, key: bytes, limit: Deadline) -> messages.DeleteRangeResponse:
        """Out of space, etcd up to 3.4.19 and 3.5.6 refuses transactions that only delete; not these."""
        request = messages.DeleteRangeRequest(key=key, prev_kv=True)
        return self.client.unary(kv.DELETE, request, messages.DeleteRangeResponse, limit)

    def delete_mine(self, key: bytes, create_revision: int, pause_s: float = clients.FIRST_PAUSE_S) -> None:
        """Delete a key whose create is certain, until that is certain too; in the background."""
        if self.is_over:
            return
        request = kv.txn_request([kv.create(key) == create_revision], [kv.delete(key)])
        if not self._try_txn(request, NEVER.sooner(self.client.options.timeout_s), [key]):
            self._defer_again(lambda next_s: self.delete_mine(key, create_revision, next_s), pause_s)

    def _defer_again(self, job: typing.Callable[[float], None], pause_s: float) -> None:
        next_s = min(pause_s * 2, clients.LONGEST_PAUSE_S)
        self.defer_after(pause_s, lambda: job(next_s))

    def _try_txn(self, request: kv.TxnRequest, limit: Deadline, deletes: list[bytes]) -> bool:
        """A transaction that deletes keys, whose names nobody else uses: they may be deleted plainly, too."""
        try:
            try:
                self.client.txn(request, limit)
            except errors.QuotaExceeded:
                for key in deletes:
                    self._delete_plainly(key, limit)
            return True
        except errors.CoordError as error:
            _log.debug("%r: %s", self, error)
            return False


def _lost(key: bytes, since: str) -> errors.LockLost:
    return errors.LockLost(
        f"{key.decode(errors='backslashreplace')} was lost before its release: {since}", since
    )


def _certainly_nothing(error: BaseException) -> bool:
    """Whether a create that failed with this cannot be applied, now or later."""
    if isinstance(error, errors.OUTAGE):
        return error.outcome is errors.Outcome.NONE
    # Out of space is answered although the write may have been committed.
    return isinstance(error, errors.CoordError) and not isinstance(error, errors.QuotaExceeded)
