"""Counter: a number that many processes add to, each addition exactly once.

Status: new.
Source: flat combining (Hendler et al., SPAA 2010), over an optimistic compare; see `cell.py`.
Keys: `/<namespace>/counter/<name>/value`, not leased; `.../receipts/<lease>-<process>`, leased.
Cost: 1 commit for all additions of a process that wait together; 1 more whenever another process was faster.
Invariant: the value is the sum of what was added; nothing is added twice, nothing acknowledged is lost.
"""

from __future__ import annotations

import re
import typing

from coordkit import cell as cells
from coordkit import errors, keys
from coordkit.deadline import Deadline
from coordkit.recipes import hold as holds
from coordkit.session import Session

R = typing.TypeVar("R")


LARGEST_BITS = 1024


class _Decimal:
    """A whole number, in decimal digits; 0 when there is none."""

    def encode(self, state: int) -> bytes:
        return b"%d" % state

    def decode(self, stored: bytes | None) -> int:
        if stored is None:
            return 0
        if not re.fullmatch(rb"-?[0-9]{1,310}", stored):
            raise ValueError
        return int(stored)


class Counter:
    """A whole number of at most 1024 bits, in etcd.  It begins at 0, and outlives whoever counts."""

    def __init__(self, session: holds.Source, name: str) -> None:
        """Args:
        session: Whose lease its receipts hang on; or a function that gives the current one.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        """
        self.name = name
        self._source = session
        self._cell: cells.Cell[int] | None = None
        keys.segment(name)

    def add(self, amount: int = 1, timeout: float | None = None) -> int:
        """Add to it.

        Args:
            amount: How much; may be negative.
            timeout: Seconds; None takes the coordinator's, -1 waits for ever.  Outages are waited out.

        Returns:
            The value right after this addition.

        Raises:
            Unavailable, DeadlineExceeded: `outcome` UNKNOWN: it may have been added, now or later, but once
                at most.  A lost reply alone does not lead there: it is settled while there is time.
            SessionLost, Rejected: It was not added.

        Cost: 1 commit, shared by all that wait in this process.
        """
        step = _whole(amount, "amount")
        return self._change(lambda value: (_bounded(value + step), value + step), timeout)

    def subtract(self, amount: int = 1, timeout: float | None = None) -> int:
        """Add the opposite; see `add`."""
        return self.add(-_whole(amount, "amount"), timeout)

    def set(self, value: int, timeout: float | None = None) -> int:
        """Let it be `value`, whatever it was; returns what it was.  Raises and costs as `add` does."""
        new = _bounded(_whole(value, "value"))
        return self._change(lambda old: (new, old), timeout)

    def compare_and_set(self, expected: int, value: int, timeout: float | None = None) -> bool:
        """Let it be `value` if it is `expected`; returns whether it was.

        Raises and costs as `add` does; when it was not, nothing is written.
        """
        old, new = _whole(expected, "expected"), _bounded(_whole(value, "value"))
        return self._change(lambda now: (new, True) if now == old else (now, False), timeout)

    def get(self, timeout: float | None = None) -> int:
        """The value now.

        Raises:
            Unavailable, DeadlineExceeded: Not known.

        Cost: 1 round trip.
        """
        cell, deadline = self._at(timeout)
        return cell.get(deadline)

    def delete(self, timeout: float | None = None) -> bool:
        """Remove it from etcd: it begins at 0 again.  Returns whether it was there.

        Only for when nobody adds to it: an addition that is in doubt meanwhile may count twice.

        Cost: 1 round trip and 1 commit.
        """
        cell, deadline = self._at(timeout)
        return cell.delete(deadline)

    def __repr__(self) -> str:
        return f"<Counter {self.name!r}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            "a Counter owns a connection and cannot be pickled: make one in the other process"
        )

    def _session(self, deadline: Deadline) -> Session:
        return holds.current(self._source, deadline)

    def _at(self, timeout: float | None) -> tuple[cells.Cell[int], Deadline]:
        deadline = Deadline.after(timeout)
        session = self._session(deadline)
        cell = self._cell  # kept, for it knows what the value was
        if cell is None or cell.link is not session.link:
            prefix = keys.prefix(session.link.namespace, "counter", self.name)
            self._cell = cell = cells.cell_at(session.link, prefix, _Decimal())
        return cell, session.client.deadline(None) if timeout is None else deadline

    def _change(self, change: cells.Change[int, R], timeout: float | None) -> R:
        cell, deadline = self._at(timeout)
        return cell.change(change, self._session, deadline)


def _whole(number: int, what: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise errors.InvalidValue(f"{what} must be a whole number, not {type(number).__name__}")
    return number


def _bounded(number: int) -> int:
    if number.bit_length() > LARGEST_BITS:
        raise errors.InvalidValue(f"a counter holds at most {LARGEST_BITS} bits")
    return number
