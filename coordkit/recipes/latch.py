"""Latch: a count that goes down to zero, once, and those who wait for it.

Status: new.
Source: java.util.concurrent.CountDownLatch; Redisson's RCountDownLatch.
Keys: `/<namespace>/latch/<name>/value`, not leased: what was counted stays counted whoever dies;
    `.../receipts/<lease>-<process>`, leased.
Cost: count_down 1 commit, shared by all threads that wait; a wait 1 round trip, and 1 event each count.
Invariant: the count only falls, by exactly what was counted, and never again rises above zero.
"""

from __future__ import annotations

import re
import typing

import attrs

from coordkit import calls, errors, keys, outages
from coordkit import cell as cells
from coordkit import vigil as vigils
from coordkit.deadline import Deadline
from coordkit.recipes import hold as holds
from coordkit.session import Session


@attrs.frozen
class _Remaining:
    remaining: int
    initial: int


class _Fraction:
    """`<remaining>/<count>`; nothing has been counted when there is none."""

    def encode(self, state: _Remaining | None) -> bytes:
        assert state is not None
        return b"%d/%d" % (state.remaining, state.initial)

    def decode(self, stored: bytes | None) -> _Remaining | None:
        if stored is None:
            return None
        match = re.fullmatch(rb"([0-9]{1,18})/([0-9]{1,18})", stored)
        if match is None:
            raise ValueError
        return _Remaining(int(match[1]), int(match[2]))


class Latch:
    """A countdown that many processes share.  Once it has come to zero it stays there."""

    def __init__(self, session: holds.Source, name: str, count: int) -> None:
        """Args:
        session: Whose lease its receipts hang on; or a function that gives the current one.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        count: Where it begins; all who use it must agree.
        """
        if isinstance(count, bool) or not isinstance(count, int) or not 0 < count < 10**18:
            raise errors.InvalidValue(f"count must be a whole number above 0, not {count!r}")
        self.name = name
        self._source = session
        self._initial = count
        self._cell: cells.Cell[_Remaining | None] | None = None
        self._calls = calls.Calls()
        keys.segment(name)

    def count_down(self, n: int = 1, timeout: float | None = None) -> int:
        """Count `n` down, to zero at the lowest; returns what remains.

        Args:
            n: How much.
            timeout: Seconds; None takes the coordinator's, -1 waits for ever.  Outages are waited out.

        Raises:
            LimitMismatch: Another program's count differs.
            Unavailable, DeadlineExceeded: `outcome` UNKNOWN: it may have been counted, once at most.
            SessionLost, Rejected: It was not counted.

        Cost: 1 commit, shared by all that wait in this process; 1 more whenever another process was faster.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise errors.InvalidValue(f"n must be a whole number above 0, not {n!r}")

        def fall(state: _Remaining | None) -> tuple[_Remaining, int]:
            remaining = max(0, self._agreed(state) - n)
            return _Remaining(remaining, self._initial), remaining

        cell, deadline = self._at(timeout)
        return cell.change(fall, self._session, deadline)

    def count(self, timeout: float | None = None) -> int:
        """What remains.  Raises LimitMismatch, Unavailable.  Cost: 1 round trip."""
        cell, deadline = self._at(timeout)
        return self._agreed(cell.get(deadline))

    def wait(self, timeout: float = -1) -> bool:
        """Wait until nothing remains.

        Args:
            timeout: Seconds for the whole call; -1 waits for ever.  Outages are waited out.

        Returns:
            True when the count is zero; False when the time ran out.

        Raises:
            LimitMismatch: Another program's count differs.
            Cancelled: By `cancel`.
            Rejected: etcd does not let us look.

        Cost: 1 round trip; above zero, also 1 message and 1 round trip to begin, and 1 event each count.
        """
        deadline = Deadline.after(timeout)
        with self._calls.begin(f"the wait for latch {self.name!r}") as call:
            try:
                cell, _ = outages.outlast(lambda: self._at(timeout or None), deadline)
            except errors.DeadlineExceeded:
                return False
            vigil = vigils.vigil_at(cell.link, cell.key)
            return (
                vigils.await_view(vigil, call, lambda view: self._is_zero(cell, view), deadline) is not None
            )

    def cancel(self) -> None:
        """End all waits on this object: they raise Cancelled."""
        self._calls.cancel()

    def delete(self, timeout: float | None = None) -> bool:
        """Remove it from etcd: it begins anew.  Returns whether anything had been counted.

        Only for when nobody counts it down: a count that is in doubt meanwhile may count twice.

        Cost: 1 round trip and 1 commit.
        """
        cell, deadline = self._at(timeout)
        return cell.delete(deadline)

    def __repr__(self) -> str:
        return f"<Latch {self.name!r} of {self._initial}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            "a Latch owns a connection and cannot be pickled: make one in the other process"
        )

    def _agreed(self, state: _Remaining | None) -> int:
        if state is None:
            return self._initial
        if state.initial != self._initial:
            raise errors.LimitMismatch(
                f"latch {self.name!r} counts from {state.initial} elsewhere, from {self._initial} here"
            )
        return state.remaining

    def _is_zero(self, cell: cells.Cell[_Remaining | None], view: vigils.View) -> bool | None:
        return self._agreed(cell.state_of(view.kvs.get(cell.key))) == 0 or None

    def _session(self, deadline: Deadline) -> Session:
        return holds.current(self._source, deadline)

    def _at(self, timeout: float | None) -> tuple[cells.Cell[_Remaining | None], Deadline]:
        deadline = Deadline.after(timeout)
        session = self._session(deadline)
        cell = self._cell  # kept, for it knows what the count was
        if cell is None or cell.link is not session.link:
            prefix = keys.prefix(session.link.namespace, "latch", self.name)
            self._cell = cell = cells.cell_at(session.link, prefix, _Fraction())
        return cell, session.client.deadline(None) if timeout is None else deadline
