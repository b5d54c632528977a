"""What every lock-like has: acquire and release, `with`, timeouts, cancel, and what is known of the hold.

A recipe says how it is taken (`_take`, `_try`), and its `Held` how it is given back; all else is here, once.

Source: `threading.Lock`, whose contract this is; kazoo's and Curator's recipes, for what is beyond it.
Invariant: whoever was told True has a `Held` in `_holds`, until it gives it back.
"""

from __future__ import annotations

import abc
import functools
import math
import threading
import types
import typing

from coordkit import errors, keys, outages, waitlist
from coordkit import ticket as tickets
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import kv
from coordkit.recipes import hold as holds
from coordkit.session import Session

L = typing.TypeVar("L", bound="LockLike")


class Held(abc.ABC):
    """A hold, whose it is, and how it is given back."""

    hold: holds.Hold
    #: How often its owner has acquired it, where that can be more than once.
    depth = 1

    @abc.abstractmethod
    def give_back(self) -> int | None:
        """Release it, verified: the revision of that, or None when nobody told us.

        Raises:
            LockLost: It was not ours to the end.
        """

    @abc.abstractmethod
    def give_up(self) -> None:
        """Release it without a word.  Returns at once: the background does it."""


class LockLike(abc.ABC):
    """A lock, a permit, or several of them."""

    #: What it is called in messages.
    _kind: typing.ClassVar[str]

    def __init__(self, session: holds.Source, name: str) -> None:
        """Args:
        session: Whose life it hangs on; or a function that gives the current one.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        """
        self._call(name)
        self._source = session
        self._lock = threading.Lock()
        # One, or more when some were lost and not released yet, or can be held together; the newest last.
        self._holds: list[Held] = []
        self._last: holds.Hold | None = None
        #: What waits, and how to cancel it.
        self._waits: dict[object, typing.Callable[[], None]] = {}
        #: When the waits end that are under way, in line or not yet.
        self._limits: set[Deadline] = set()
        self._cancels = 0
        #: The revision at which the last release took effect; None when the reply to it was lost.
        self.released_revision: int | None = None

    def _call(self, name: str) -> None:
        self.name = name
        self._title = f"{self._kind} {name!r}"  # for messages

    # What a recipe says.

    @abc.abstractmethod
    def _take(self, deadline: Deadline) -> Held:
        """Wait until it is ours; `cancel` lets the deadline expire and wakes what is in `_waits`.

        Raises:
            AcquireTimeout, Cancelled, SessionLost: Nothing is kept.
        """

    @abc.abstractmethod
    def _try(self) -> Held | None:
        """Take it, or None when that would mean to wait."""

    @abc.abstractmethod
    def locked(self) -> bool:
        """Whether anybody holds or awaits it, in any process.  Cost: 1 round trip."""

    @abc.abstractmethod
    def contenders(self) -> list[tickets.Contender]:
        """Who holds it, then who waits, in order.  Cost: 1 round trip."""

    # The contract of threading.Lock.

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Stand in line until it is our turn.

        Args:
            blocking: False tries once, and does not wait.
            timeout: Seconds for the whole call, every retry included; -1 waits for ever.

        Returns:
            True when held; False when the time ran out: what may still stand in line is being withdrawn.

        Raises:
            SessionLost: Not held; this session can never hold it again.
            Unavailable: Only a try: etcd did not answer within the dial timeout.  A wait rides that out.
            Cancelled: By `cancel`.

        Cost: that of the recipe, see its module.
        """
        deadline = limit(blocking, timeout)
        if not blocking or timeout == 0:
            tried = self._try()
            if tried is None:
                return False
            self._holds.append(tried)
            self._last = tried.hold
            return True
        forever = deadline.at_s == math.inf
        if forever:
            deadline = Deadline(math.inf)  # ours alone: `cancel` ends it, for who joins waits, too
        cancels = self._cancels
        self._limits.add(deadline)
        try:
            if self._cancels != cancels:
                deadline.expire()
            held = self._take(deadline)
            # No lock, no wait: what has been granted cannot be interrupted any more.
            self._holds.append(held)
            self._last = held.hold
        except errors.OUTAGE as error:
            if self._cancels != cancels:
                raise errors.Cancelled(f"the wait for {self} was cancelled: {error}") from error
            if forever:
                raise  # who waits for ever is never told False
            return False  # an outage, too, was waited out as long as there was time
        finally:
            self._limits.discard(deadline)
        return True

    def release(self) -> None:
        """Give it up, verified; any thread may.

        Raises:
            NotHeld: Nobody holds it through this object.
            LockLost: It was lost before; nothing else was done.

        Cost: 1 commit.
        """
        held = self._mine()
        while True:
            try:
                self._holds.remove(held)
                break
            except ValueError:
                held = self._mine()  # another thread has just released that one
        self.released_revision = held.give_back()

    def __enter__(self: L) -> L:
        if not self.acquire():
            raise errors.AcquireTimeout(f"{self} was not acquired")  # nobody enters who does not hold it
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

    def within(self: L, timeout: float) -> Within[L]:
        """`with lock.within(5):` waits at most so many seconds, then raises AcquireTimeout."""
        return Within(self, timeout)

    def cancel(self) -> None:
        """End all waits on this object: they raise Cancelled."""
        # Counted before they are looked for: who begins to wait meanwhile finds the count changed.
        with self._lock:
            self._cancels += 1
        for limit in list(self._limits):
            limit.expire()
        for cancel in list(self._waits.values()):
            cancel()

    @property
    def held(self) -> bool:
        """Whether this object holds it, as far as is known here."""
        return self.remaining() > 0

    @property
    def fence(self) -> int:
        """The fencing token: the create revision of the key that is held.

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

    def __str__(self) -> str:
        return self._title

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {'held' if self.held else 'not held'}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            f"a {type(self).__name__} owns a connection and cannot be pickled: make one in the other process"
        )

    # How.

    def _mine(self) -> Held:
        """The hold that the calling thread means: its own, or else the newest, for any thread may release.

        A thread whose hold was lost keeps meaning that one, whoever acquired after it through this object.
        """
        newest = self._holds[-1:]
        if newest and newest[0].hold.owner is threading.current_thread():
            return newest[0]
        held = self._newest()
        if held is None:
            raise errors.NotHeld(f"{self} is not held through this object")
        return held

    def _newest(self) -> Held | None:
        me, held = threading.current_thread(), self._holds[-1:]
        if not held or held[0].hold.owner is me:
            return held[0] if held else None
        # The newest of its own: a thread that lost one and acquired again means the second.
        return next((each for each in reversed(list(self._holds)) if each.hold.owner is me), held[0])


def limit(blocking: bool, timeout: float) -> Deadline:
    """What the arguments of an acquire mean.

    Raises:
        InvalidValue: They mean nothing.
    """
    if not blocking and timeout != -1:
        raise errors.InvalidValue("a timeout makes no sense for an acquire that does not block")
    return Deadline.after(timeout)


class InLine(Held):
    """A place in a line, at its turn."""

    def __init__(self, hold: holds.Hold, line: waitlist.Line, ticket: tickets.Ticket) -> None:
        self.hold = hold
        self.line = line
        self.ticket = ticket

    def give_back(self) -> int | None:
        """See `Held`.  Cost: 1 commit."""
        hold = self.hold
        hold.end()
        if hold.is_lost:
            self.line.leave(self.ticket)
            hold.check()
        try:
            return self.line.release(self.ticket)
        except errors.LockLost as error:
            hold.lose(error.since)
            raise

    def give_up(self) -> None:
        """See `Held`."""
        self.hold.end()
        self.line.leave(self.ticket)


class OnLine(LockLike):
    """A lock-like whose holders and waiters stand in one line."""

    #: The segment of its keys that says what they are.
    _segment: typing.ClassVar[str]
    #: Whose turn it is, and when.
    _line_kind: typing.ClassVar[type[waitlist.Line]] = waitlist.Line

    def __init__(self, session: holds.Source, name: str) -> None:
        super().__init__(session, name)
        self._prefix: bytes | None = None
        self._encoded_name = keys.segment(name).encode()
        self._latest_line: waitlist.Line | None = None

    def _set_prefix(self, prefix: str) -> None:
        """Take a prefix as it is, with a slash behind it, as Go and etcdctl do."""
        self._prefix = keys.prefix_as_given(prefix)
        self._call(prefix)

    def locked(self) -> bool:
        """Whether anybody holds or awaits it, in any process.  Cost: 1 round trip."""
        line, session = self._line(NEVER)
        return not line.is_empty(session.client, session.client.deadline(None))

    def contenders(self) -> list[tickets.Contender]:
        """Who holds it, then who waits, in order.  Cost: 1 round trip."""
        line, session = self._line(NEVER)
        return line.contenders(session, session.client.deadline(None))

    def _line(self, deadline: Deadline) -> tuple[waitlist.Line, Session]:
        session = holds.current(self._source, deadline)
        line = self._latest_line
        if line is None or line.link is not session.link:
            prefix = self._prefix
            if prefix is None:
                prefix = b"%s%s/" % (keys.prefix(session.link.namespace, self._segment), self._encoded_name)
            line = self._latest_line = waitlist.line_at(session.link, prefix, self._line_kind)
        return line, session


class LineLock(OnLine):
    """One of which each acquire takes a place of its own in line."""

    def _join(self, line: waitlist.Line, session: Session, deadline: Deadline) -> tickets.Ticket:
        return line.join(session, deadline)

    def _try(self) -> InLine | None:
        line, session = self._line(NEVER)
        ticket = line.try_join(session, session.client.deadline(None))
        return None if ticket is None else self._grant(line, ticket)

    def _take(self, deadline: Deadline) -> InLine:
        # One session for the whole call: its end is the wait's, even when the line tells of it first.
        line, session = outages.outlast(lambda: self._line(deadline), deadline)
        while True:
            ticket = self._join(line, session, deadline)
            # WAITING: our key is in line; only older keys stand before us.
            self._waits[ticket] = functools.partial(line.cancel, ticket)
            try:
                held = line.take_turn(ticket, deadline, self._grant, f"{self} was not acquired in time")
                if held is not None:
                    return held
            finally:
                self._waits.pop(ticket, None)

    def _grant(self, line: waitlist.Line, ticket: tickets.Ticket) -> InLine:
        hold = holds.Hold(ticket.session, self._title, ticket.key, ticket.create_revision)
        try:
            line.hold(ticket, hold.lose)
        except BaseException:
            hold.end()
            line.leave(ticket)
            raise
        return InLine(hold, line, ticket)


class Within(typing.Generic[L]):
    """A lock-like that is waited for so long and no longer."""

    def __init__(self, lock: L, timeout_s: float) -> None:
        Deadline.after(timeout_s)  # refuses silly numbers here, not at `with`
        self._lock = lock
        self._timeout_s = timeout_s

    def __enter__(self) -> L:
        if not self._lock.acquire(timeout=self._timeout_s):
            raise errors.AcquireTimeout(f"{self._lock} was not acquired within {self._timeout_s} s")
        return self._lock

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._lock.__exit__(kind, error, trace)
