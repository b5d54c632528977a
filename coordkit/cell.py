"""Cells: a small state in one key, changed by many, each change exactly once.

A change is a function from the state to the next one.  What the threads of a process ask for while a commit
is on its way goes with the next one, all together; a lone change is never delayed.  The commit compares the
key's mod revision; who was too late is told the new state by the same transaction, and tries again at once.

**A lost reply is settled**, not retried blindly.  Each commit also puts a fresh nonce into a leased receipt
of this process.  The same transaction is sent again: it compares the same mod revision, so it takes effect
once at most.  If that revision is over, no copy of it can take effect any more, and the receipt says whether
one did.  Only when the time is up, or the session ends, before an answer comes is nobody any wiser.

Keys: `<prefix>value`, and `<prefix>receipts/<lease>-<process>`, leased.
Invariant: a receipt is written only by its own cell, and only by one commit at a time.
Cost: 1 commit for all changes that wait together; 1 more whenever another process was faster.
"""

from __future__ import annotations

import collections
import secrets
import threading
import typing
import weakref

import attrs

from coordkit import errors, keys
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import kv
from coordkit.session import Link, Session
from coordkit.wire import channel as channels
from coordkit.wire import messages

MOST_TOGETHER = 1_000  # changes in one commit

S = typing.TypeVar("S")
R = typing.TypeVar("R")

#: From the state to the next one and what the caller is told; may raise what the caller is to get.
Change = typing.Callable[[S], "tuple[S, R]"]

#: Gives the session to use now.
Source = typing.Callable[[Deadline], Session]


class Form(typing.Protocol[S]):
    """How a state is stored."""

    def encode(self, state: S) -> bytes:
        """As bytes."""

    def decode(self, stored: bytes | None) -> S:
        """Back; None: the key does not exist.  Raises ValueError when it is nothing of ours."""


class Entry(typing.Generic[S]):
    """One change that somebody waits for."""

    def __init__(self, change: Change[S, typing.Any]) -> None:
        self.change = change
        self.waiter = channels.Waiter()
        self.sent = False  # it may have been applied, or be on its way right now
        self.result: typing.Any = None
        self.failure: BaseException | None = None
        self.over = False

    def end(self, result: typing.Any, failure: BaseException | None) -> None:
        """Tell whoever waits for it."""
        self.result, self.failure, self.over = result, failure, True
        self.waiter.wake()


@attrs.define(eq=False)
class _Flight(typing.Generic[S]):
    """Changes that go together, and their transaction."""

    session: Session
    entries: list[Entry[S]]
    outcomes: list[tuple[typing.Any, BaseException | None]]
    state: S  # that they lead to
    revision: int  # at which it will stand if they change nothing; 0: at the transaction's own
    nonce: bytes
    request: kv.TxnRequest
    doubtful: bool = False  # an attempt got no answer


class Cell(typing.Generic[S]):
    """The state in one key, as one process changes it.  Made by `cell_at`."""

    def __init__(self, link: Link, prefix: bytes, form: Form[S]) -> None:
        self.key = prefix + b"value"
        self._receipts = prefix + b"receipts/"
        self.link = link
        self._form = form
        self._handle = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._queue: collections.deque[Entry[S]] = collections.deque()
        self._led = False  # somebody commits
        self._flight: _Flight[S] | None = None
        #: The state, and the mod revision of the key, when we last saw it.
        self._known: tuple[S, int] | None = None

    def change(self, change: Change[S, R], source: Source, deadline: Deadline) -> R:
        """Apply a change exactly once.

        Args:
            change: What to do; called again whenever another process was faster.
            source: Gives the session that a receipt is to hang on.
            deadline: Outages are waited out until then.

        Returns:
            What the change told.

        Raises:
            Unavailable, DeadlineExceeded: `outcome` says whether it may have been applied.
            Rejected, SessionLost: It was not applied.
            Exception: Whatever the change itself raised; then it did nothing.

        Cost: 1 commit, shared with the others that wait; 1 read at first.
        """
        entry = Entry(change)
        with self._lock:
            self._queue.append(entry)
        pause_s = clients.FIRST_PAUSE_S
        try:
            while not entry.over:
                entry.waiter.done = False
                if self._take_lead():
                    try:
                        trouble = self._commit(source, deadline)
                    finally:
                        self._yield_lead()
                    if trouble is not None and not entry.over:
                        pause_s = clients.pause(pause_s, deadline, trouble)
                elif not entry.over and not self.link.client.wait(entry.waiter, deadline):
                    raise errors.DeadlineExceeded("the time ran out")
        except errors.OUTAGE as error:
            # First of all off the flight: until then another thread may send it.
            if self._abandon(entry):
                raise self._unsettled(entry, error) from error
        finally:
            self._abandon(entry)
        if entry.failure is not None:
            raise entry.failure
        return typing.cast(R, entry.result)

    def get(self, deadline: Deadline) -> S:
        """The state now.  Cost: 1 round trip."""
        return self._read(deadline)[0]

    def delete(self, deadline: Deadline) -> bool:
        """Delete the key as it is now; says whether there was one.  Cost: 1 read, 1 commit."""
        with self._lock:
            self._known = None
        while True:
            revision = self._read(deadline)[1]
            if not revision:
                return False
            request = kv.txn_request([kv.mod(self.key) == revision], [kv.delete(self.key)])
            if self.link.client.txn(request, deadline).succeeded:
                return True

    def state_of(self, stored: kv.KeyValue | None) -> S:
        """The state that the key stands for.

        Raises:
            InvalidValue: Somebody else has put something there.
        """
        try:
            return self._form.decode(None if stored is None else stored.value)
        except ValueError as error:
            raise errors.InvalidValue(f"{self._name} holds what none of us has put there") from error

    # Who commits.

    def _take_lead(self) -> bool:
        with self._lock:
            taken, self._led = not self._led, True
            return taken

    def _yield_lead(self) -> None:
        with self._lock:
            self._led = False
            self._wake_heir()

    def _wake_heir(self) -> None:
        """Whoever waits and is not told yet leads next.  Under the lock."""
        flight = self._flight
        for heir in (flight.entries if flight else []) or self._queue:
            heir.waiter.wake()
            return

    def _abandon(self, entry: Entry[S]) -> bool:
        """Nobody waits for it any more; False if it was over already."""
        with self._lock:
            if entry.over:
                return False
            entry.over = True
            if entry in self._queue:
                self._queue.remove(entry)
            flight = self._flight
            if flight is not None and entry in flight.entries:
                at = flight.entries.index(entry)
                del flight.entries[at], flight.outcomes[at]
                if not flight.entries:
                    self._flight = None  # a copy that comes late compares the same revision as the next one
            if not self._led:
                self._wake_heir()
            return True

    def _unsettled(self, entry: Entry[S], error: errors.CoordError) -> errors.CoordError:
        """What the caller is told whose change is not known to be done."""
        outcome = errors.Outcome.UNKNOWN if entry.sent else errors.Outcome.NONE
        kind = errors.Unavailable if isinstance(error, errors.Unavailable) else errors.DeadlineExceeded
        return kind(f"change {self._name}: {error.args[0]}", outcome)

    @property
    def _name(self) -> str:
        return self.key.decode(errors="backslashreplace")

    # Committing: by one thread at a time.

    def _commit(self, source: Source, deadline: Deadline) -> errors.CoordError | None:
        """One attempt for those that wait.  Returns what went wrong, for now."""
        try:
            flight = self._board(source, deadline)
        except errors.OUTAGE as error:
            return error
        if flight is None:
            return None
        try:
            result = self.link.client.txn(flight.request, deadline)
            self._judge(flight, result)
        except errors.OUTAGE as error:
            if error.outcome is errors.Outcome.UNKNOWN:
                self._doubt(flight)
            elif not flight.doubtful:
                self._disembark(flight)  # one of them may give up: the next request must be without it
            return error
        except errors.LeaseNotFound:
            flight.session.lose("etcd says that its lease is gone")
        except errors.QuotaExceeded as error:
            return self._look_closer(flight, error, deadline)
        except errors.CoordError as error:
            self._land(error)
        except BaseException:
            self._doubt(flight)
            raise
        return None

    def _board(self, source: Source, deadline: Deadline) -> _Flight[S] | None:
        """The flight that is in doubt, or a new one with everybody who waits."""
        flight = self._flight
        if flight is not None and flight.session.alive:
            return flight
        if flight is not None and flight.doubtful:
            # The receipt went with the session: nobody will ever know.
            self._land(
                errors.Unavailable(
                    f"the session ended before it was known what became of a change of {self._name}",
                    errors.Outcome.UNKNOWN,
                )
            )
        elif flight is not None:
            self._disembark(flight)
        session = source(deadline)
        session.check()
        known = self._known
        if known is None:
            self._known = known = self._read(deadline)
        with self._lock:
            count = min(len(self._queue), MOST_TOGETHER)
            entries = [self._queue.popleft() for _ in range(count)]
            if not entries:
                return None
            self._flight = flight = self._plan(session, entries, known)
            for entry in entries:
                entry.sent = True  # from here on: whoever gives up does not see what becomes of the request
        return flight

    def _plan(self, session: Session, entries: list[Entry[S]], known: tuple[S, int]) -> _Flight[S]:
        """One change after the other, from what is known.  Pure."""
        state, revision = known
        outcomes: list[tuple[typing.Any, BaseException | None]] = []
        for entry in entries:
            try:
                state, result = entry.change(state)
                outcomes.append((result, None))
            except Exception as failure:  # it goes to whoever asked for this change
                outcomes.append((None, failure))
        receipt = keys.place(self._receipts, session.lease_id, self._handle)
        nonce = secrets.token_bytes(8)
        puts = [kv.put(self.key, self._form.encode(state)), kv.put(receipt, nonce, lease=session.lease_id)]
        changed = state != known[0]
        request = kv.txn_request(
            # Nobody changed it since we looked.
            [kv.mod(self.key) == revision],
            # The receipt always: a transaction that only reads can end an old server (`Client.look`).
            puts if changed else puts[1:],
            # Somebody did: what is there now, and what became of an earlier copy of this transaction.
            [kv.get(self.key), kv.get(receipt)],
        )
        return _Flight(session, entries, outcomes, state, 0 if changed else revision, nonce, request)

    def _judge(self, flight: _Flight[S], result: kv.TxnResult) -> None:
        """The transaction was answered."""
        if result.succeeded:
            self._known = (flight.state, flight.revision or result.revision)
            self._land(None)
            return
        found, receipt = result.found(0).first, result.found(1).first
        if flight.doubtful and receipt is not None and receipt.value == flight.nonce:
            self._known = None
            self._land(None)  # an attempt whose reply was lost had done it
        else:
            # Not applied, and no copy of it ever will be, for the revision that it compares is over.
            self._disembark(flight)
            self._known = self._of(found)

    def _doubt(self, flight: _Flight[S]) -> None:
        flight.doubtful = True

    def _look_closer(
        self, flight: _Flight[S], refusal: errors.CoordError, deadline: Deadline
    ) -> errors.CoordError | None:
        """Out of space, etcd may have applied what it refused; but it is not on its way any more."""
        self._doubt(flight)
        self._known = None
        receipt = keys.place(self._receipts, flight.session.lease_id, self._handle)
        try:
            found = self.link.client.read(messages.RangeRequest(key=receipt), deadline).kvs
        except errors.OUTAGE as error:
            return error
        self._land(None if found and found[0].value == flight.nonce else refusal)
        return None

    def _disembark(self, flight: _Flight[S]) -> None:
        """It was certainly not applied: those in it go with the next."""
        with self._lock:
            self._flight = None
            for entry in reversed(flight.entries):
                entry.sent = False
                self._queue.appendleft(entry)

    def _land(self, failure: BaseException | None) -> None:
        """Tell everybody in the flight."""
        with self._lock:
            flight, self._flight = self._flight, None
            ended = list(zip(flight.entries, flight.outcomes, strict=True)) if flight else []
        for entry, (result, own_failure) in ended:
            entry.end(result, failure or own_failure)

    def _read(self, deadline: Deadline) -> tuple[S, int]:
        found = self.link.client.read(messages.RangeRequest(key=self.key), deadline).kvs
        return self._of(kv.KeyValue.of(found[0]) if found else None)

    def _of(self, stored: kv.KeyValue | None) -> tuple[S, int]:
        return self.state_of(stored), stored.mod_revision if stored is not None else 0


_CELLS: weakref.WeakKeyDictionary[Link, weakref.WeakValueDictionary[bytes, Cell[typing.Any]]] = (
    weakref.WeakKeyDictionary()
)


def cell_at(link: Link, prefix: bytes, form: Form[S]) -> Cell[S]:
    """The cell under a prefix, which ends with a slash.  Handles of one coordinator share it."""
    cells = _CELLS.get(link)
    if cells is None:
        cells = _CELLS.setdefault(link, weakref.WeakValueDictionary())
    cell = cells.get(prefix)
    return cell if cell is not None else cells.setdefault(prefix, Cell(link, prefix, form))
