"""Waits that were in vain: what is known of one when it ends, and whether anybody is to blame.

Who was patient and went away with nothing says so in an error that tells what was in etcd then: the line, its
own places, the lease of the first, and how fast it was answered.  In a siege the cluster may not answer for
some of a wait; such a wait is excused, and told all the same.  Whether it was somebody's turn meanwhile, and
nobody knew, is another question, which `checkers.check_turns` answers.

Cost: two round trips when a wait was in vain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from coordkit import errors, waitlist
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import kv
from coordkit.inspection import reading
from coordkit.recipes import locklike
from coordkit.session import Session
from coordkit.testing.checkers import turns
from coordkit.testing.history import Operation
from coordkit.ticket import Ticket
from coordkit.wire import messages

IN_VAIN = "waited in vain"
SHOWN = 8  # places of a line
ASK_S = 3.0

Joining = Callable[[waitlist.Line, Session, Deadline], Ticket]


def acquire(
    lock: locklike.LineLock, timeout_s: float, patience_s: float, places: list[Ticket] | None = None
) -> bool:
    """`lock.acquire(timeout=timeout_s)`, in vain if that was not granted within the patience.

    Args:
        lock: Used for nothing else.
        timeout_s: As of `acquire`.
        patience_s: Who has less is not patient.
        places: Where to note the places that it takes, one after the other.

    Raises:
        AcquireTimeout: It had as long as `patience_s`; with what is known.
    """
    places = [] if places is None else places
    lock._join = _noting(lock._join, places)  # type: ignore[assignment,method-assign]
    if lock.acquire(timeout=timeout_s):
        return True
    if timeout_s < patience_s:
        return False
    line, session = lock._line(NEVER)
    raise in_vain(patience_s, session, line.prefix, places)


def _noting(join: Joining, places: list[Ticket]) -> Joining:
    def joined(line: waitlist.Line, session: Session, deadline: Deadline) -> Ticket:
        places.append(join(line, session, deadline))
        return places[-1]

    return joined


def in_vain(
    patience_s: float, session: Session, prefix: bytes, places: Sequence[Ticket] = ()
) -> errors.AcquireTimeout:
    """What to raise when somebody was patient and went away with nothing."""
    own = ", ".join(_of_place(each) for each in places) or "none is known"
    found = _found(session, prefix, places)
    return errors.AcquireTimeout(
        f"{IN_VAIN} for {patience_s:g} s; its places: {own}; {found}", errors.Outcome.NONE
    )


def was_in_vain(operation: Operation) -> bool:
    """Whether that is what became of it."""
    return IN_VAIN in (operation.error or "")


def _of_place(ticket: Ticket) -> str:
    known = "too many" if ticket.ahead is None else str(len(ticket.ahead))
    name = ticket.key.rpartition(b"/")[2].decode(errors="replace")
    return f"{name}@{ticket.create_revision} (knew {known} before it at {ticket.snapshot_revision})"


def _found(session: Session, prefix: bytes, places: Sequence[Ticket]) -> str:
    """The line, as it is now, in words."""
    client, began_s = session.client, time.monotonic()
    try:
        reply = client.read(kv.range_request(prefix, oldest_first=True), client.deadline(ASK_S))
        took_s = time.monotonic() - began_s
        first = _lease_left(session, reply.kvs[0].lease) if reply.kvs else ""
    except errors.CoordError as error:
        return f"now nobody answers: {error}"
    own = {each.create_revision for each in places}
    names = (
        f"{each.key[len(prefix) :].decode(errors='replace')}@{each.create_revision}"
        + (" (its own)" if each.create_revision in own else "")
        for each in reply.kvs[:SHOWN]
    )
    member = f"{reply.header.member_id:x} in term {reply.header.raft_term}"
    line = ", ".join(names) or "nobody"
    return f"member {member} says after {took_s:.2f} s, at {reply.header.revision}: {line}{first}"


def _lease_left(session: Session, lease: int) -> str:
    request = messages.LeaseTimeToLiveRequest(ID=lease)
    client = session.client
    reply = client.unary(
        reading.TIME_TO_LIVE,
        request,
        messages.LeaseTimeToLiveResponse,
        client.deadline(ASK_S),
        repeatable=True,
    )
    return f"; the lease of the first has {reply.TTL} of {reply.grantedTTL} s left"


def excused(operation: Operation, silences: Iterable[turns.Silence]) -> str | None:
    """Why nobody is to blame for a wait that was in vain; None: somebody is."""
    assert operation.completed_ns is not None
    silent_ns = turns.silent_ns(silences, operation.invoked_ns, operation.completed_ns)
    if not silent_ns:
        return None
    return (
        f"contender {operation.contender}: the cluster did not answer for {silent_ns / 1e9:.1f} s of its "
        f"{(operation.completed_ns - operation.invoked_ns) / 1e9:.1f} s; {operation.error}"
    )
