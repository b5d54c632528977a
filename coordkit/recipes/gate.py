"""Gate: closed by one, it holds back everybody who waits, until it is opened.

Status: new.
Source: ZooKeeper's barrier recipe (kazoo's Barrier, Curator's DistributedBarrier).
Keys: `/<namespace>/gate/<name>`, there while the gate is closed; not leased: it stays closed whoever dies.
Cost: open 1 round trip and 1 commit, close 1 commit; a wait 1 round trip, and 1 event when it was closed.
Invariant: who comes through came at a revision, after the call began, at which the gate was open.
"""

from __future__ import annotations

import typing

from coordkit import calls, errors, keys
from coordkit import vigil as vigils
from coordkit.deadline import Deadline
from coordkit.etcd import kv
from coordkit.session import Link


class Gate:
    """A gate that is open until somebody closes it."""

    def __init__(self, link: Link, name: str) -> None:
        """Args:
        link: A coordinator's; see `Coordinator.gate`.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        """
        self.name = name
        self._link = link
        self._key = keys.prefix(link.namespace, "gate") + keys.segment(name).encode()
        self._vigil = vigils.vigil_at(link, self._key)
        self._calls = calls.Calls()

    def close(self, timeout: float | None = None) -> bool:
        """Close it; returns whether it was open.

        Args:
            timeout: Seconds; None takes the coordinator's, -1 waits for ever.

        Raises:
            Unavailable, DeadlineExceeded: `outcome` UNKNOWN: it may be closed, now or later.
            Rejected: etcd refused it.

        Cost: 1 commit.
        """
        request = kv.txn_request([kv.create(self._key) == 0], [kv.put(self._key, self._link.identity)])
        client = self._link.client
        return client.txn(request, client.deadline(timeout)).succeeded

    def open(self, timeout: float | None = None) -> bool:
        """Open it, as it was closed when this is called; returns whether it was closed.

        Outages are waited out, for a late copy of this call cannot open a gate that was closed after it.

        Raises:
            Unavailable, DeadlineExceeded: `outcome` UNKNOWN: it may be open, now or later.
            Rejected: etcd refused it.

        Cost: 1 round trip, and 1 commit when it was closed.
        """
        deadline = self._link.client.deadline(timeout)
        stored = self._vigil.look(deadline).kvs.get(self._key)
        if stored is None:
            return False
        # This closing, and no later one.
        closed = kv.create(self._key) == stored.create_revision
        vigils.settle(self._link, kv.txn_request([closed], [kv.delete(self._key)]), deadline)
        return True

    def is_open(self, timeout: float | None = None) -> bool:
        """Whether it is open now.  Cost: 1 round trip."""
        return _is_open(self._vigil.look(self._link.client.deadline(timeout))) is not None

    def wait(self, timeout: float = -1) -> bool:
        """Wait until it is open.

        Args:
            timeout: Seconds for the whole call; -1 waits for ever.  Outages are waited out.

        Returns:
            True when it was open at some moment of this call; False when the time ran out.

        Raises:
            Cancelled: By `cancel`.
            Rejected: etcd does not let us look.

        Cost: 1 round trip; when it is closed, also 1 message and 1 round trip to begin, and 1 event.
        """
        with self._calls.begin(f"the wait at gate {self.name!r}") as call:
            return vigils.await_view(self._vigil, call, _is_open, Deadline.after(timeout)) is not None

    def cancel(self) -> None:
        """End all waits on this object: they raise Cancelled."""
        self._calls.cancel()

    def __repr__(self) -> str:
        return f"<Gate {self.name!r}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            "a Gate owns a connection and cannot be pickled: make one in the other process"
        )


def _is_open(view: vigils.View) -> vigils.View | None:
    return None if view.kvs else view
