"""Assemblies: what barriers have in common.  Arrive in the current generation, and end it by one verdict.

Every transaction here compares the generation, and that it has no verdict.  A generation never comes back, so
a copy that is applied late changes nothing: each may be sent until it is answered.
"""

from __future__ import annotations

import collections.abc
import contextlib
import typing

from coordkit import errors, keys, outages
from coordkit import ticket as tickets
from coordkit import vigil as vigils
from coordkit.deadline import Deadline
from coordkit.etcd import kv
from coordkit.recipes import hold as holds
from coordkit.recipes import rounds
from coordkit.session import Link, Session

MOST_PARTIES = 10_000


class Assembly:
    """The generations of one barrier, as one handle sees them."""

    def __init__(
        self, source: holds.Source, link: Link, layout: rounds.Layout, what: str, parties: int
    ) -> None:
        if isinstance(parties, bool) or not isinstance(parties, int) or not 0 < parties <= MOST_PARTIES:
            raise errors.InvalidValue(f"parties must be a number from 1 to {MOST_PARTIES}, not {parties!r}")
        self.link = link
        self.layout = layout
        self.what = what
        self.parties = parties
        self.vigil = vigils.vigil_under(link, layout.prefix)
        self._source = source
        self._everything = kv.range(layout.prefix)
        self._current: rounds.Generation | None = None  # as far as we know

    def session(self, deadline: Deadline) -> Session:
        """The one to use now.  An outage is waited out."""
        return outages.outlast(lambda: holds.current(self._source, deadline), deadline)

    def generation(self, view: vigils.View) -> rounds.Generation:
        """The current one, in a view."""
        return rounds.Generation.of(self.layout, view)

    def arrive(
        self, session: Session, deadline: Deadline, verdict: rounds.Verdict | None = None
    ) -> tuple[rounds.Round, rounds.Conclusion | None]:
        """Become a member of the current generation.

        Args:
            session: Whose life the place hangs on.
            deadline: For the caller.
            verdict: End the generation in the same transaction.

        Returns:
            Our round, and what was to be seen as we arrived.

        Raises:
            BrokenBarrier: It is broken, and somebody who saw that is still there.
            LimitMismatch: Those who are there count with other parties.

        Cost: 1 commit; at first, and when the generation is not the one we know, also 1 round trip.
        """
        while True:
            generation = self._current or self.enter(deadline)
            key = keys.place(self.layout.members_of(generation.number), session.lease_id, session.nonce())
            put = [kv.put(self.layout.verdict_of(generation.number), verdict.encode())] if verdict else []
            undecided = rounds.undecided(self.layout, generation)
            created = session.create(
                key, tickets.describe(session), deadline, undecided, [self._everything, *put]
            )
            if created is not None:
                break
            self._current = None  # it was over
        self._current = generation
        stay = rounds.Round(self.layout, generation, key, created.create_revision)
        if created.result is None:
            return stay, None
        view = _view(created.result, 1)
        self.vigil.learn(view)
        return stay, stay.look(view)

    def enter(self, deadline: Deadline) -> rounds.Generation:
        """The generation to arrive in; it is begun if need be.  Raises as `arrive` does.

        Cost: 1 round trip; 1 commit when it is begun.
        """
        while True:
            view = self.vigil.look(deadline)
            now = self.generation(view)
            told = rounds.verdict(self.layout, view, now.number)
            there = rounds.members(self.layout, view, now.number)
            if told is None and now.parties == self.parties:
                return now
            if there and told is not None:
                raise errors.BrokenBarrier(f"{self.what} is broken: {told.why}")
            if there or (now.parties != self.parties and rounds.members(self.layout, view, now.number - 1)):
                raise errors.LimitMismatch(
                    f"{self.what} has {now.parties} parties elsewhere, {self.parties} here"
                )
            # Nobody is there who knew of the parties, or of the break: it begins anew.
            self.advance(now, [] if told else [_nobody_in(self.layout.of(now.number))], [], deadline)

    def advance(
        self,
        generation: rounds.Generation,
        when: list[kv.Compare],
        then: list[kv.Op],
        deadline: Deadline,
    ) -> vigils.View | None:
        """End a generation and begin the next.

        Returns:
            None when that was done; else what is there: perhaps done all the same, by a copy of this request.

        Cost: 1 commit.
        """
        key = self.layout.generation_key
        is_current = kv.value(key) == generation.encoded if generation.number else kv.create(key) == 0
        request = kv.txn_request(
            [is_current, *when],
            [*then, *rounds.step(self.layout, generation, self.parties)],
            [self._everything],
        )
        return self._settled(request, deadline)

    def await_conclusion(
        self, attention: vigils.Attention, stay: rounds.Round, deadline: Deadline, session: Session
    ) -> rounds.Conclusion | None:
        """The next thing to conclude; None when the time ran out.  Raises as `Attention.wait` does."""
        seen = attention.wait(stay.look, deadline, at_least=stay.revision, session=session)
        return typing.cast("rounds.Conclusion | None", seen)

    def or_hear(
        self,
        seen: rounds.Conclusion | None,
        attention: vigils.Attention,
        stay: rounds.Round,
        session: Session,
    ) -> rounds.Conclusion | None:
        """The same; but what is forgotten by now the watch may still be about to tell."""
        if not isinstance(seen, rounds.Forgotten):
            return seen
        grace = self.grace(self.link.client.deadline(None), session)
        return self.await_conclusion(attention, stay, grace, session) or seen

    def decide(
        self,
        stay: rounds.Round,
        verdict: rounds.Verdict,
        counted: typing.Sequence[kv.KeyValue],
        deadline: Deadline,
    ) -> rounds.Conclusion | None:
        """Write a generation's verdict, if there is none yet and nobody of those counted is gone.

        Returns:
            What to conclude: in the end everybody obeys the one that is there.

        Raises:
            Unavailable, DeadlineExceeded: Nobody knows.

        Cost: 1 commit.
        """
        generation = stay.generation
        when = [*rounds.undecided(self.layout, generation), *rounds.still_there(counted)]
        put = kv.put(self.layout.verdict_of(generation.number), verdict.encode())
        # A broken generation stays the current one, until it is reset or everybody has gone.
        then = [] if verdict.broken else rounds.step(self.layout, generation, generation.parties)
        request = kv.txn_request(when, [put, *then], [self._everything])
        view = self._settled(request, deadline)
        return rounds.Told(verdict) if view is None else stay.look(view)

    def reset(
        self, generation: rounds.Generation, view: vigils.View, deadline: Deadline
    ) -> vigils.View | None:
        """End a generation that is as in this view; for those who wait it is broken.  As `advance`."""
        verdict_key = self.layout.verdict_of(generation.number)
        stored = view.kvs.get(verdict_key)
        when = kv.create(verdict_key) == (stored.create_revision if stored else 0)
        put = [] if stored else [kv.put(verdict_key, rounds.Verdict((), "it was reset").encode())]
        return self.advance(generation, [when], put, deadline)

    def withdraw(self, stay: rounds.Round, deadline: Deadline) -> rounds.Conclusion | None:
        """Give the place up, unless there is a verdict already.

        Returns:
            None when it was given up; else what to conclude.

        Raises:
            Unavailable, DeadlineExceeded: Nobody knows.

        Cost: 1 commit.
        """
        mine = kv.create(stay.key) == stay.create_revision
        request = kv.txn_request(
            [*rounds.undecided(self.layout, stay.generation), mine], [kv.delete(stay.key)], [self._everything]
        )
        view = self._settled(request, deadline)
        if view is None:
            return None
        told = rounds.verdict(self.layout, view, stay.generation.number)
        if told is None and stay.key not in view.kvs:
            return None  # by an earlier copy of this request
        return stay.look(view)

    def grace(self, deadline: Deadline, session: Session) -> Deadline:
        """How long to ask what was decided: at least a request's time, whatever the caller's deadline."""
        least = self.link.client.deadline(None)
        return Deadline(max(deadline.at_s, least.at_s)).sooner(max(session.remaining(), 0.0))

    def moved_on(self, generation: rounds.Generation) -> None:
        """A generation was passed: the next is the current one, as far as we know."""
        self._current = generation.next(generation.parties)

    def forget(self) -> None:
        """We do not know which generation is the current one."""
        self._current = None

    @contextlib.contextmanager
    def staying(self, stay: rounds.Round, session: Session) -> collections.abc.Iterator[None]:
        """What goes wrong while our key is there ends our stay; until that is done, others count us.

        So an outage leaves in doubt what was decided, although nothing of what we asked was done.
        """
        try:
            yield
        except BaseException as error:
            self.leave(stay, session)
            if isinstance(error, errors.OUTAGE):
                error.outcome = errors.Outcome.UNKNOWN
            raise

    def leave(self, stay: rounds.Round, session: Session) -> None:
        """Give the place up, in the background."""
        session.defer(lambda: session.delete_mine(stay.key, stay.create_revision))

    def _settled(self, request: kv.TxnRequest, deadline: Deadline) -> vigils.View | None:
        result = vigils.settle(self.link, request, deadline)
        return None if result.succeeded else _view(result, 0)


def _nobody_in(prefix: bytes) -> kv.Compare:
    return kv.create(prefix, keys.range_end(prefix)) == 0


def _view(result: kv.TxnResult, index: int) -> vigils.View:
    return vigils.View(result.revision, {each.key: each for each in result.found(index).kvs})
