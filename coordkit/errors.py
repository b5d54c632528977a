"""The exception tree: what can go wrong, and what may have happened to the data.

Every message names the operation, the key or endpoint, and what is certain.  A password, a token or a
stored value never appears in one.
"""

from __future__ import annotations

import enum
import queue
import threading


class Outcome(enum.Enum):
    """What an unanswered request may have done."""

    NONE = "not applied"
    UNKNOWN = "may have been applied"


class CoordError(Exception):
    """Base of everything that coordkit raises on purpose."""


class UsageError(CoordError):
    """The caller's mistake: fix the program, retrying does not help."""


class NotHeld(UsageError, RuntimeError):
    """Released, or asked about, something that this object does not hold."""


class InvalidName(UsageError, ValueError):
    """A name, key or prefix that cannot be used."""


class InvalidValue(UsageError, ValueError):
    """A number, duration, URL or value that cannot be used."""


class LimitMismatch(UsageError):
    """Two programs disagree on a primitive's limit."""


class Closed(UsageError):
    """The coordinator, session or connection was closed, by us or by a fork."""


class Unavailable(CoordError):
    """etcd did not answer.

    Attributes:
        outcome: Whether the request may have been applied.
    """

    def __init__(self, message: str, outcome: Outcome = Outcome.NONE) -> None:
        super().__init__(message)
        self.outcome = outcome

    def __str__(self) -> str:
        return f"{super().__str__()} (the request {_OUTCOME_WORDS[self.outcome]})"


_OUTCOME_WORDS = {Outcome.NONE: "was not applied", Outcome.UNKNOWN: "may have been applied"}


class DeadlineExceeded(CoordError, TimeoutError):
    """The caller's time ran out.

    Attributes:
        outcome: Whether the request may have been applied.
    """

    def __init__(self, message: str, outcome: Outcome = Outcome.NONE) -> None:
        super().__init__(message)
        self.outcome = outcome


class AcquireTimeout(DeadlineExceeded):
    """A lock was not acquired in time; our place in line is being withdrawn."""


class Cancelled(CoordError):
    """A wait was ended by `cancel()` from elsewhere in the program."""


#: How an outage shows: etcd did not answer, or not within the time that one request was given.  Whoever waits
#: rides out both.
OUTAGE = (Unavailable, DeadlineExceeded)


class SessionLost(CoordError):
    """The session's lease is gone, or must be taken as gone.  Terminal for that session."""


class LockLost(CoordError):
    """Held, then lost.

    Attributes:
        since: The local deadline or the revision that told us, in words.
    """

    def __init__(self, message: str, since: str = "") -> None:
        super().__init__(message)
        self.since = since


class ClaimLost(CoordError):
    """A queue claim that is another consumer's by now.

    Attributes:
        outcome: UNKNOWN when its end, an ack perhaps, was sent, and the session was over before etcd had
            answered: it may have been applied.
    """

    def __init__(self, message: str, outcome: Outcome = Outcome.NONE) -> None:
        super().__init__(message)
        self.outcome = outcome


class QueueFull(CoordError, queue.Full):
    """A bounded queue has no room."""


class BrokenBarrier(CoordError, threading.BrokenBarrierError):
    """The barrier was broken: by a lost member, a timeout, an abort or a reset."""


class Gap(CoordError):
    """History was compacted or trimmed before we read it.

    Attributes:
        revision: The oldest revision from which one can resume.
    """

    def __init__(self, message: str, revision: int) -> None:
        super().__init__(message)
        self.revision = revision


class Rejected(CoordError):
    """etcd answered and refused; retrying the same request gives the same answer."""


class PermissionDenied(Rejected):
    """The user's roles do not allow this on this key."""


class Unauthenticated(Rejected):
    """Unknown user, wrong password, or no credentials where etcd wants them."""


class QuotaExceeded(Rejected):
    """etcd's database is out of space; deletes still pass."""


class TooLarge(Rejected):
    """The request is larger than etcd takes (1.5 MiB, 128 operations, by default)."""


class LeaseNotFound(Rejected):
    """The lease has ended, or never was."""
