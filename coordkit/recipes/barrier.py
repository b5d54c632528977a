"""Barrier: `threading.Barrier`'s contract across processes.  All pass together, or for all it is broken.

Status: new.
Source: Hensgen, Finkel and Manber, "Two algorithms for barrier synchronization" (1988), for the problem; the
    one verdict a generation is that of an atomic commitment (Gray and Lamport, 2006), etcd the acceptor.
Keys: `/<namespace>/barrier/<name>/generation`, its number and the parties;
    `<generation>/<lease>-<nonce>`, leased, a member; `<generation>/verdict`, not leased.
Cost: 1 commit for each member, and 1 for the last to arrive; then 1 event.
Invariant: whoever passes was counted by the one verdict of its generation, which was written at a revision at
    which all of those counted were there.
"""

from __future__ import annotations

import threading
import typing

from coordkit import calls, errors, keys
from coordkit import vigil as vigils
from coordkit.deadline import Deadline
from coordkit.recipes import hold as holds
from coordkit.recipes import rounds
from coordkit.recipes.assembly import Assembly
from coordkit.session import Link, Session


class Barrier:
    """A point that nobody passes before all have arrived; again and again.

    A generation is over when all have arrived, or when it is broken: by a member whose time runs out, whose
    session ends, or who is interrupted; by `abort`; by `reset`.  Then everybody who waits is told the same.
    A broken barrier stays broken until `reset`, or until the sessions of all who waited have ended.
    """

    def __init__(
        self,
        session: holds.Source,
        name: str,
        parties: int,
        action: typing.Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        link: Link,
    ) -> None:
        """Args:
        session: Whose life a place hangs on; or a function that gives the current one.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        parties: How many must arrive; all who use it must agree.
        action: Called by the last to arrive, before anybody passes.
        timeout: Seconds, for each wait that is given none; None or -1 waits for ever.
        link: The session's coordinator's.
        """
        Deadline.after(timeout)  # refuses silly numbers here
        layout = rounds.Layout(keys.prefix(link.namespace, "barrier", name), b"", b"verdict")
        self.name = name
        self._action = action
        self._timeout_s = timeout
        self._link = link
        self._assembly = Assembly(session, link, layout, f"barrier {name!r}", parties)
        self._calls = calls.Calls()
        #: The number of the generation in which the last wait on this object ended; None: in none.
        self.generation: int | None = None
        #: By thread: the generation that its last wait found broken, so that it is not reset twice.
        self._broken_in: dict[int, int] = {}

    # The contract of threading.Barrier.

    def wait(self, timeout: float | None = None) -> int:
        """Arrive, and wait for the others.

        Args:
            timeout: Seconds; None takes the barrier's own, -1 waits for ever.  When they are over the barrier
                is broken for all, unless all have arrived: etcd decides, and is asked even then.

        Returns:
            The place in the order of arrival, 0 to parties - 1; each is told once.

        Raises:
            BrokenBarrier: For all who wait.
            LimitMismatch: Those who are there wait for another number.
            SessionLost, Cancelled: We are out of it; it is broken for the others.
            DeadlineExceeded: `outcome` NONE: we did not even arrive in time; nothing is broken by that.
            Unavailable, DeadlineExceeded: `outcome` UNKNOWN: etcd did not tell what was decided, and our
                place is withdrawn.
            Gap: The generation is over, and nobody remembers how it ended.

        Cost: 1 commit; for the last to arrive 2; at first also 1 round trip; then 1 event.
        """
        deadline = Deadline.after(self._timeout_s if timeout is None else timeout)
        self._broken_in.pop(threading.get_ident(), None)
        with (
            self._calls.begin(f"the wait at barrier {self.name!r}") as call,
            # From before we arrive, so that nothing of our generation is missed.
            self._assembly.vigil.attend(call) as attention,
        ):
            while True:
                index = self._pass(attention, deadline)
                if index is not None:
                    return index
                # More had arrived than may pass together: we belong to the next generation.

    def reset(self, timeout: float | None = None) -> None:
        """Begin anew, with this object's parties: it is not broken any more; who waits gets BrokenBarrier.

        After a BrokenBarrier in this thread it does nothing if that generation has been reset already, so
        all who were told may call it.

        Args:
            timeout: Seconds; None takes the coordinator's, -1 waits for ever.  Outages are waited out.

        Raises:
            Unavailable, DeadlineExceeded: `outcome` says whether it may have been reset.

        Cost: 1 round trip, 1 commit.
        """
        deadline = self._link.client.deadline(timeout)
        view: vigils.View | None = self._assembly.vigil.look(deadline)
        assert view is not None
        generation = self._assembly.generation(view)
        told_in = self._broken_in.pop(threading.get_ident(), generation.number)
        while view is not None and self._assembly.generation(view).number == generation.number == told_in:
            view = self._assembly.reset(generation, view, deadline)
        self._assembly.forget()

    def abort(self, timeout: float | None = None) -> None:
        """Break it for all, until `reset`, or until all who know of it have gone.

        Args:
            timeout: Seconds; None takes the coordinator's, -1 waits for ever.

        Raises:
            LimitMismatch: Those who are there wait for another number.
            Unavailable, DeadlineExceeded: `outcome` says whether it may have been broken.

        Cost: 1 commit; at first also 1 round trip.
        """
        deadline = self._link.client.deadline(timeout)
        try:
            self._assembly.arrive(
                self._assembly.session(deadline), deadline, rounds.Verdict((), "it was aborted")
            )
        except errors.BrokenBarrier:
            return  # it is
        finally:
            self._assembly.forget()

    @property
    def parties(self) -> int:
        """How many must arrive."""
        return self._assembly.parties

    @property
    def n_waiting(self) -> int:
        """How many wait now, in all processes.  Cost: 1 round trip."""
        told, there = self._look()
        return 0 if told else there

    @property
    def broken(self) -> bool:
        """Whether it is broken now.  Cost: 1 round trip."""
        told, there = self._look()
        return told is not None and there > 0

    # Beyond it.

    def cancel(self) -> None:
        """End all waits on this object: they raise Cancelled, and it is broken for the others."""
        self._calls.cancel()

    def delete(self, timeout: float | None = None) -> None:
        """Remove what it keeps in etcd, at a time when nobody uses it.

        Cost: 1 commit.
        """
        self._link.client.kv.delete_prefix(self._assembly.layout.prefix, timeout=timeout)
        self._assembly.forget()

    def __repr__(self) -> str:
        return f"<Barrier {self.name!r} of {self.parties}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            "a Barrier owns a connection and cannot be pickled: make one in the other process"
        )

    # How.

    def _look(self) -> tuple[rounds.Verdict | None, int]:
        """How the current generation ended, if it did; and how many of its members are there."""
        layout = self._assembly.layout
        view = self._assembly.vigil.look(self._link.client.deadline(None))
        number = self._assembly.generation(view).number
        return rounds.verdict(layout, view, number), len(rounds.members(layout, view, number))

    def _pass(self, attention: vigils.Attention, deadline: Deadline) -> int | None:
        """One generation; None: it was passed by others alone."""
        assembly = self._assembly
        # Without any time we arrive all the same, as fast as etcd answers.
        limit = self._link.client.deadline(None) if deadline.expired else deadline
        self.generation = None
        session = assembly.session(limit)
        stay, seen = assembly.arrive(session, limit)
        # ARRIVED: our key is in the generation, which had no verdict.
        with assembly.staying(stay, session):
            verdict = self._await(attention, session, stay, seen, deadline)
        self.generation = stay.generation.number
        if verdict.broken:
            assembly.forget()
            self._broken_in[threading.get_ident()] = stay.generation.number
            raise errors.BrokenBarrier(f"{assembly.what} was broken: {verdict.why}")
        # PASSED: by us, if we were counted.
        assembly.moved_on(stay.generation)
        return stay.index(verdict)

    def _await(
        self,
        attention: vigils.Attention,
        session: Session,
        stay: rounds.Round,
        seen: rounds.Conclusion | None,
        deadline: Deadline,
    ) -> rounds.Verdict:
        """The verdict of our generation, which we may have to write."""
        assembly = self._assembly
        while True:
            if seen is None:
                seen = assembly.await_conclusion(attention, stay, deadline, session)
            if isinstance(seen, rounds.Told):
                return seen.verdict
            if isinstance(seen, rounds.Full):
                self._act(session, stay)
                passed = tuple(stay.name_of(each.key) for each in seen.counted)
                verdict, counted = rounds.Verdict(passed), seen.counted
            elif isinstance(seen, rounds.Lost):
                session.check()  # is it we who are lost?
                verdict, counted = rounds.Verdict((), "a member was lost"), ()
            elif seen is None:
                verdict, counted = rounds.Verdict((), "a member's time ran out"), ()
            else:
                raise errors.Gap(f"{assembly.what}: how this generation ended is forgotten", stay.revision)
            seen = assembly.decide(stay, verdict, counted, assembly.grace(deadline, session))
            seen = assembly.or_hear(seen, attention, stay, session)

    def _act(self, session: Session, stay: rounds.Round) -> None:
        if self._action is None:
            return
        try:
            self._action()
        except BaseException:
            grace = self._assembly.grace(Deadline.after(0), session)
            self._assembly.decide(stay, rounds.Verdict((), "its action failed"), (), grace)
            raise
