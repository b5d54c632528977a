"""Standing: a candidate in the background, who leads whenever it is elected and stands again after each loss.

Status: stable.
Source: Curator's LeaderLatch.
Keys, cost, fence, invariant: those of `election.py`.  A thread waits, as long as it stands.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import types
import typing

from coordkit import errors, forks
from coordkit.deadline import Deadline
from coordkit.recipes import hold as holds
from coordkit.recipes.election import Election
from coordkit.recipes.leadership import Leadership

P = typing.ParamSpec("P")
T = typing.TypeVar("T")

_log = logging.getLogger("coordkit")


class Standing:
    """Stands from `start` to `close`; whether it leads is asked without I/O."""

    def __init__(self, election: Election, value: bytes | str | None = None) -> None:
        """Args:
        election: For this candidate alone, for `close` cancels all that waits on it.
        value: What to proclaim; by default the coordinator's identity.
        """
        self._election = election
        self._value = value
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._leadership: Leadership | None = None
        self._news = threading.Condition()  # it was elected, or stands no more
        self._calls = 0  # that run under it right now
        self._idle = forks.event()
        self._idle.set()
        self._closed = False
        self._error: BaseException | None = None

    def start(self) -> Standing:
        """Stand, if it does not yet.  When nobody else does, it leads when this returns.

        Cost: 1 commit, or 1 transaction that writes nothing; another commit in the background.
        """
        with self._lock:
            if self._closed:
                raise errors.Closed(f"{self} was closed")
            if self._thread is not None and self._thread.is_alive():
                return self
            self._error = None
            first = None
            with contextlib.suppress(*errors.OUTAGE, errors.SessionLost):
                first = self._election.campaign(self._value, timeout=0)
            if first is not None:
                self._elected(first)
            self._thread = threading.Thread(
                target=self._run, args=(first,), name="coordkit-candidate", daemon=True
            )
            self._thread.start()
        return self

    @property
    def leadership(self) -> Leadership | None:
        """Ours, if we certainly lead now; else None.  No I/O."""
        leadership = self._leadership
        return leadership if leadership is not None and leadership.remaining() > 0 else None

    @property
    def leads(self) -> bool:
        """Whether we certainly lead now.  No I/O."""
        return self.leadership is not None

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until we lead.

        Args:
            timeout: Seconds; None or -1 for ever.

        Returns:
            Whether we do; False when the time ran out, or it was closed.

        Raises:
            Rejected, Closed: It cannot stand any more; with the reason.
        """
        deadline = Deadline.after(timeout)
        with self._news:
            while not (self.leads or self._closed or self._error or deadline.expired):
                self._news.wait(deadline.wait_s())
        if self._error is not None and not self._closed:
            raise self._error
        return self.leads

    def call(self, fn: typing.Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call `fn` if we lead now.

        Returns:
            What it returned; None where another leads.

        Raises:
            LockLost: We led when it began, and not until it ended: the next leader may have begun meanwhile.
        """
        with self._counted():
            # Counted first: from here on `close` does not resign before the call is over.
            leadership = None if self._closed else self.leadership
            if leadership is None:
                return None
            result = fn(*args, **kwargs)
            leadership.check()
            return result

    def close(self, timeout: float = 2.0) -> None:
        """Stand no more; resign, unless a `call` does not end in time: then the lease must run out.

        Args:
            timeout: Seconds for all of it.

        Cost: 1 commit.
        """
        deadline = Deadline.after(timeout)
        self._closed = True
        self._tell()
        if not self._idle.wait(deadline.wait_s()):
            return
        thread = self._thread
        while thread is not None and thread.is_alive() and not deadline.expired:
            self._election.cancel()  # again, if it was about to begin another campaign
            thread.join(deadline.sooner(0.1).wait_s())

    def __enter__(self) -> Standing:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Standing {self._election.name!r}{' leads' if self.leads else ''}>"

    # How.

    @contextlib.contextmanager
    def _counted(self) -> typing.Iterator[None]:
        with self._lock:
            self._calls += 1
            self._idle.clear()
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                if not self._calls:
                    self._idle.set()

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()

    def _elected(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._tell()

    def _run(self, first: Leadership | None) -> None:
        try:
            if first is not None:
                with contextlib.suppress(errors.LockLost), first:
                    self._lead(first)
            while not self._closed:
                self._election.run(self._lead, self._value)
        except errors.Closed as error:
            self._error = error  # by the coordinator's end
        except errors.CoordError as error:
            self._error = error
            _log.error("%r stands no more: %s", self, error)
        finally:
            self._tell()

    def _lead(self, leadership: Leadership) -> None:
        """From the election to the loss, or to `close`."""
        self._elected(leadership)
        if not self._closed:
            leadership.wait()


def leader_only(
    standing: typing.Callable[[], Standing],
) -> typing.Callable[[typing.Callable[P, T]], typing.Callable[P, T | None]]:
    """A decorator: calls run where `standing()` leads; elsewhere they return None at once."""

    def decorate(fn: typing.Callable[P, T]) -> typing.Callable[P, T | None]:
        holds.check_callable(fn)

        @functools.wraps(fn)
        def call(*args: P.args, **kwargs: P.kwargs) -> T | None:
            return standing().call(fn, *args, **kwargs)

        return call

    return decorate
