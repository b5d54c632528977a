"""How a session is to be, and the states that it goes through."""

from __future__ import annotations

import enum
import math

import attrs

from coordkit import errors

LEAST_TTL_S = 2  # etcd's own
LARGEST_TTL_S = 9_000_000_000  # etcd's own
DEFAULT_TTL_S = 10


class State(enum.Enum):
    """What we believe about the lease.

    ACTIVE -> SUSPENDED -> ACTIVE, or -> LOST; CLOSED by us.
    """

    # ACTIVE: a renewal was answered lately; the deadline lies ahead.
    ACTIVE = "active"
    # SUSPENDED: a renewal is overdue.  What we hold is still ours until the deadline.
    SUSPENDED = "suspended"
    # LOST: etcd said so, or the deadline passed.  Terminal; every hold is lost.
    LOST = "lost"
    # CLOSED: by this program.  Terminal.
    CLOSED = "closed"


@attrs.frozen
class Terms:
    """How a session is to be."""

    ttl_s: int = DEFAULT_TTL_S
    max_hold_s: float = math.inf
    on_lost: str | None = None  # "exit": end the process rather than go on without the session

    @classmethod
    def of(
        cls, ttl: float = DEFAULT_TTL_S, max_hold: float | None = None, on_lost: str | None = None
    ) -> Terms:
        """Checked, from what a user wrote.

        Raises:
            InvalidValue: A TTL that etcd does not take, or another number that makes no sense.
        """
        if (
            isinstance(ttl, bool)
            or not isinstance(ttl, (int, float))
            or not LEAST_TTL_S <= ttl <= LARGEST_TTL_S
        ):
            raise errors.InvalidValue(
                f"ttl must be a number of seconds of at least {LEAST_TTL_S}, not {ttl!r}"
            )
        if max_hold is not None and (
            isinstance(max_hold, bool) or not isinstance(max_hold, (int, float)) or not max_hold > 0
        ):
            raise errors.InvalidValue(f"max_hold must be a positive number of seconds, not {max_hold!r}")
        if on_lost not in (None, "exit"):
            raise errors.InvalidValue(f"on_lost must be None or 'exit', not {on_lost!r}")
        return cls(math.ceil(ttl), math.inf if max_hold is None else max_hold, on_lost)
