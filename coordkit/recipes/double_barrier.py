"""DoubleBarrier: nobody begins before all have entered, nobody goes on before all have left.

Status: new.
Source: ZooKeeper's double barrier recipe, with deadlines, and with generations, so that it can be used again.
Keys: `/<namespace>/double_barrier/<name>/generation`, its number and the parties;
    `<generation>/waiters/<lease>-<nonce>`, leased, there from entering to leaving; `<generation>/ready`, not
    leased: who has entered.
Cost: enter 1 commit, for the last one 2; leave 1 commit; then 1 event each.
Invariant: `ready` is written once, at a revision at which all of those in it were there; whoever is not in it
    has not entered that generation.
"""

from __future__ import annotations

import threading
import types
import typing
import weakref

import attrs

from coordkit import calls, errors, keys
from coordkit import vigil as vigils
from coordkit.deadline import Deadline
from coordkit.etcd import kv
from coordkit.recipes import hold as holds
from coordkit.recipes import rounds
from coordkit.recipes.assembly import Assembly
from coordkit.session import Link, Session


@attrs.frozen(eq=False)
class _Inside:
    """A stay that began."""

    session: Session
    stay: rounds.Round
    entered: tuple[str, ...]  # all who did

    def is_empty(self, view: vigils.View) -> bool | None:
        """True when all who entered have left; a lost one has."""
        prefix = self.stay.layout.members_of(self.stay.generation.number)
        return None if any(prefix + each.encode() in view.kvs for each in self.entered) else True


class DoubleBarrier:
    """Work that `parties` do together, from beginning to end; again and again.

    A member that is lost before all have entered is waited for, or for another in its place; one that is lost
    afterwards has left.
    """

    def __init__(self, session: holds.Source, name: str, parties: int, *, link: Link) -> None:
        """Args:
        session: Whose life a place hangs on; or a function that gives the current one.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        parties: How many must enter; all who use it must agree.
        link: The session's coordinator's.
        """
        layout = rounds.Layout(keys.prefix(link.namespace, "double_barrier", name), b"waiters/", b"ready")
        self.name = name
        self._link = link
        self._assembly = Assembly(session, link, layout, f"double barrier {name!r}", parties)
        self._calls = calls.Calls()
        self._inside: weakref.WeakKeyDictionary[threading.Thread, _Inside] = weakref.WeakKeyDictionary()

    def enter(self, timeout: float = -1) -> bool:
        """Wait until all have entered.

        Args:
            timeout: Seconds; -1 waits for ever.  Outages are waited out.  etcd decides whether we entered in
                time, and it is asked even when the time is up.

        Returns:
            True when all have entered; False when the time ran out: our place is given up for certain.

        Raises:
            NotHeld: This thread is inside already.
            LimitMismatch: Those who are there count with other parties.
            SessionLost, LockLost, Cancelled: We have not entered.
            Unavailable, DeadlineExceeded: etcd did not tell in time; our place is withdrawn.
            Gap: Nobody remembers whether we did.

        Cost: 1 commit; for the last to enter 2; at first also 1 round trip; then 1 event.
        """
        me = threading.current_thread()
        if me in self._inside:
            raise errors.NotHeld(f"this thread is inside of {self._assembly.what} already")
        deadline = Deadline.after(timeout)
        with (
            self._calls.begin(f"entering {self._assembly.what}") as call,
            self._assembly.vigil.attend(call) as attention,
        ):
            entered: _Inside | None = None
            late = False
            while entered is None and not late:
                entered, late = self._enter(attention, deadline)
                # Neither: others alone have entered; we belong to the next generation.
        if entered is not None:
            self._inside[me] = entered
        return entered is not None

    def leave(self, timeout: float = -1) -> bool:
        """Leave, and wait until all who entered have left, or are lost.

        Args:
            timeout: Seconds; -1 waits for ever.  Outages are waited out.

        Returns:
            True when all have left; False when the time ran out: we have left all the same.

        Raises:
            NotHeld: This thread is not inside.
            SessionLost: Our stay had ended before.
            Cancelled: We have left all the same.
            Unavailable, DeadlineExceeded: The background makes sure that we have left.

        Cost: 1 commit; then 1 event for each who leaves.
        """
        inside = self._inside.pop(threading.current_thread(), None)
        if inside is None:
            raise errors.NotHeld(f"this thread is not inside of {self._assembly.what}")
        deadline = Deadline.after(timeout)
        session, stay = inside.session, inside.stay
        with (
            self._calls.begin(f"leaving {self._assembly.what}") as call,
            self._assembly.vigil.attend(call) as attention,
        ):
            with self._assembly.staying(stay, session):
                session.check()
                mine = kv.create(stay.key) == stay.create_revision
                gone = vigils.settle(
                    self._link,
                    kv.txn_request([mine], [kv.delete(stay.key)]),
                    self._assembly.grace(deadline, session),
                )
            # LEFT: our key is gone.
            if gone.succeeded:
                return attention.wait(inside.is_empty, deadline, at_least=gone.revision) is not None
            return vigils.await_view(self._assembly.vigil, call, inside.is_empty, deadline) is not None

    def cancel(self) -> None:
        """End all waits on this object: they raise Cancelled."""
        self._calls.cancel()

    @property
    def parties(self) -> int:
        """How many must enter."""
        return self._assembly.parties

    def delete(self, timeout: float | None = None) -> None:
        """Remove what it keeps in etcd, at a time when nobody uses it.

        Cost: 1 commit.
        """
        self._link.client.kv.delete_prefix(self._assembly.layout.prefix, timeout=timeout)
        self._assembly.forget()

    def __enter__(self) -> DoubleBarrier:
        self.enter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if error is None:
            self.leave()
            return
        try:
            self.leave(timeout=0)  # whatever went wrong here need not wait for the others
        except errors.CoordError as loss:
            holds.attach(loss, error)

    def __repr__(self) -> str:
        return f"<DoubleBarrier {self.name!r} of {self.parties}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            "a DoubleBarrier owns a connection and cannot be pickled: make one in the other process"
        )

    # How.

    def _enter(self, attention: vigils.Attention, deadline: Deadline) -> tuple[_Inside | None, bool]:
        """One generation: our stay in it, if we entered; and whether the time is up."""
        assembly = self._assembly
        limit = self._link.client.deadline(None) if deadline.expired else deadline
        session = assembly.session(limit)
        stay, seen = assembly.arrive(session, limit)
        # WAITING: our key is in the generation, which was not ready.
        with assembly.staying(stay, session):
            verdict = self._await(attention, session, stay, seen, deadline)
        if verdict is None:
            return None, True
        assembly.moved_on(stay.generation)
        if stay.index(verdict) is not None:
            # ENTERED: at the revision of `ready` all of those in it were there.
            return _Inside(session, stay, verdict.passed), False
        assembly.leave(stay, session)
        return None, False

    def _await(
        self,
        attention: vigils.Attention,
        session: Session,
        stay: rounds.Round,
        seen: rounds.Conclusion | None,
        deadline: Deadline,
    ) -> rounds.Verdict | None:
        """Who has entered; None when the time is up, and we have not."""
        assembly = self._assembly
        while True:
            if seen is None:
                seen = assembly.await_conclusion(attention, stay, deadline, session)
                if seen is None:
                    seen = assembly.withdraw(stay, assembly.grace(deadline, session))
                    if seen is None:
                        return None
                    seen = assembly.or_hear(seen, attention, stay, session)
            if isinstance(seen, rounds.Told):
                return seen.verdict
            if isinstance(seen, rounds.Full):
                passed = tuple(stay.name_of(each.key) for each in seen.counted)
                grace = assembly.grace(deadline, session)
                seen = assembly.decide(stay, rounds.Verdict(passed), seen.counted, grace)
                seen = assembly.or_hear(seen, attention, stay, session)
            elif isinstance(seen, rounds.Lost):
                session.check()
                if seen.key == stay.key:
                    raise errors.LockLost(
                        f"our place in {assembly.what} was deleted by somebody else", "watch"
                    )
                seen = stay.look(stay.latest)  # others may come in its place
            else:
                raise errors.Gap(f"{assembly.what}: who entered is forgotten", stay.revision)
