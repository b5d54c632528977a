"""What every lock-like has while it is held: fence, guard, and the ways of being told that it was lost."""

from __future__ import annotations

import inspect
import threading
import typing

from coordkit import errors, forks
from coordkit.deadline import Deadline
from coordkit.etcd import kv
from coordkit.session import Session

#: A session, or where to get the current one: a coordinator opens another after a loss, within a deadline.
Source = Session | typing.Callable[[Deadline], Session]


class Hold:
    """One hold, from grant to release or loss."""

    def __init__(self, session: Session, name: str, key: bytes, fence: int) -> None:
        self.session = session
        self.name = name
        self.key = key
        self.fence = fence
        #: Who acquired it: not its number, for a new thread may have the number of one that died.
        self.owner = threading.current_thread()
        self._since = ""
        session.hold(self, self.owner, self.lose)

    def lose(self, since: str) -> None:
        """It is over.  Quick: it may run on a reader."""
        self._since = self._since or since or "it is over"
        if "_event" in vars(self):
            self.lost.set()

    @property
    def is_lost(self) -> bool:
        """Whether it is known to be over."""
        return bool(self._since)

    @property
    def lost(self) -> threading.Event:
        """Set when it is lost."""
        event = forks.event_in(vars(self), "_event")
        if self._since:
            event.set()
        return event

    def end(self) -> None:
        """It was given back, or given up."""
        self.session.unhold(self)

    def check(self) -> None:
        """Raise LockLost unless it is certainly still held.  No I/O."""
        if not self._since and not self.session.alive:
            try:
                self.session.check()
            except errors.SessionLost as error:
                self.lose(str(error))
            except errors.Closed as error:
                if not self.remaining():
                    self.lose(str(error))
        if self._since:
            raise errors.LockLost(f"{self.name} was lost: {self._since}", self._since)

    def remaining(self) -> float:
        """Seconds for which it certainly stays held if nothing more is heard; 0 when lost."""
        return 0.0 if self._since else self.session.remaining()

    def guard(self) -> list[kv.Compare]:
        """True exactly as long as this hold's key exists."""
        return [kv.create(self.key) == self.fence]


def check_callable(function: object) -> None:
    """Raise InvalidValue where a call returns before its work is done: then nothing would be held for it."""
    kinds = (inspect.isgeneratorfunction, inspect.isasyncgenfunction, inspect.iscoroutinefunction)
    if not callable(function) or any(is_one(function) for is_one in kinds):
        raise errors.InvalidValue(
            f"what is decorated must be a function, and no generator or coroutine: {function!r}"
        )


def current(source: Source, deadline: Deadline) -> Session:
    """The session to use now."""
    return source(deadline) if callable(source) else source


def attach(loss: errors.CoordError, to: BaseException) -> None:
    """Note a loss on an exception that is on its way already."""
    note(to, f"While it was on its way: {loss}")


def note(to: BaseException, text: str) -> None:
    """Say something more on an exception."""
    if hasattr(to, "add_note"):
        to.add_note(text)
    else:  # Python 3.10: the same attribute, which newer tracebacks print
        to.__notes__ = [*getattr(to, "__notes__", []), text]  # type: ignore[attr-defined]
