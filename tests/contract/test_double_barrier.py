"""DoubleBarrier: all enter before anybody begins, all leave before anybody goes on; losses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract.players import wait_until

import coordkit
from coordkit import errors
from coordkit.testing import FaultProxy, faults

pytestmark = pytest.mark.coordkit_leaves("keys")

PATIENCE_S = 20.0


class Actor:
    """A thread that does one thing after the other: its place inside is its own."""

    def __init__(self) -> None:
        self._jobs: list[Callable[[], Any]] = []
        self._told: list[Any] = []
        self._over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._over)
                if not self._jobs:
                    return
                job = self._jobs.pop(0)
            try:
                told = job()
            except Exception as error:
                told = error
            with self._changed:
                self._told.append(told)
                self._changed.notify_all()

    def begin(self, job: Callable[[], Any]) -> Actor:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()
        return self

    def told(self) -> Any:
        with self._changed:
            assert self._changed.wait_for(lambda: self._told, PATIENCE_S), "it did not end"
            return self._told.pop(0)

    def end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join(PATIENCE_S)


def waiting(coord: coordkit.Coordinator, namespace: str) -> int:
    found = coord.kv.range(f"/{namespace}/double_barrier/work/")
    return sum(b"/waiters/" in each.key for each in found)


@pytest.fixture
def crew(coord) -> Iterator[list[Actor]]:
    actors = [Actor() for _ in range(3)]
    yield actors
    for actor in actors:
        actor.end()


class TestTogether:
    def test_nobody_enters_before_all_and_nobody_leaves_before_all(
        self, coord, coord_factory, namespace, crew
    ):
        """
        Again and again, in two processes' connections.
        """
        barriers = [each.double_barrier("work", 3) for each in (coord, coord_factory(), coord)]

        for _ in range(3):
            for number, (actor, barrier) in enumerate(zip(crew, barriers, strict=True), 1):
                assert waiting(coord, namespace) == number - 1
                actor.begin(lambda barrier=barrier: barrier.enter(PATIENCE_S))
                wait_until(lambda number=number: waiting(coord, namespace) == number)
            assert [actor.told() for actor in crew] == [True] * 3

            for number, (actor, barrier) in enumerate(zip(crew, barriers, strict=True), 1):
                actor.begin(lambda barrier=barrier: barrier.leave(PATIENCE_S))
                wait_until(lambda number=number: waiting(coord, namespace) == 3 - number)
            assert [actor.told() for actor in crew] == [True] * 3

    def test_as_a_context(self, coord, crew):
        """
        `with` enters and leaves; an error does not wait for the others.
        """
        barrier = coord.double_barrier("work", 2)
        inside: list[int] = []

        def work(fail: bool) -> str:
            try:
                with barrier:
                    inside.append(1)
                    wait_until(lambda: len(inside) == 2)
                    return 1 // 0 if fail else "done"
            except ZeroDivisionError:
                return "failed"

        crew[0].begin(lambda: work(True))
        crew[1].begin(lambda: work(False))

        assert [crew[0].told(), crew[1].told()] == ["failed", "done"]

    def test_more_than_its_parties(self, coord, crew):
        """
        Who is too many waits for the next generation, and is not in the way of those who are inside.
        """
        barrier = coord.double_barrier("work", 2)
        for actor in crew:
            actor.begin(lambda: (barrier.enter(0.7), 1))
        results = sorted(actor.told()[0] for actor in crew)

        assert results == [False, True, True]

    def test_a_generation_may_begin_while_the_one_before_it_is_inside(self, coord, namespace, crew):
        """
        It takes nothing from those who are inside; who leaves waits for its own generation alone.
        """
        barrier = coord.double_barrier("work", 1)
        for number, actor in enumerate(crew, 1):
            assert actor.begin(lambda: barrier.enter(PATIENCE_S)).told() is True
            assert waiting(coord, namespace) == number

        assert [actor.begin(lambda: barrier.leave(PATIENCE_S)).told() for actor in crew] == [True] * 3
        assert waiting(coord, namespace) == 0

    def test_order_of_calls(self, coord, crew):
        """
        Who is inside cannot enter again, who is not cannot leave.
        """
        barrier = coord.double_barrier("work", 1)

        with pytest.raises(errors.NotHeld):
            barrier.leave()
        assert barrier.enter(PATIENCE_S) is True
        with pytest.raises(errors.NotHeld):
            barrier.enter()
        assert barrier.leave(PATIENCE_S) is True

    def test_delete(self, coord, namespace):
        """
        Leaves nothing.
        """
        barrier = coord.double_barrier("x", 1)
        for _ in range(4):
            with barrier:
                pass
        left = [each.key.rpartition(b"/x/")[2] for each in coord.kv.range(f"/{namespace}/double_barrier/")]
        assert left == [b"0000000004/ready", b"generation"]

        barrier.delete()

        assert coord.kv.range(f"/{namespace}/double_barrier/") == []

    def test_everybody_must_agree_on_the_parties(self, coord, crew):
        """
        As long as somebody is there who counts otherwise.
        """
        crew[0].begin(lambda: coord.double_barrier("work", 2).enter(PATIENCE_S))
        wait_until(lambda: coord.kv.range(f"/{coord.settings.namespace}/double_barrier/work/0000000001/"))

        with pytest.raises(errors.LimitMismatch):
            coord.double_barrier("work", 3).enter(1)

        crew[1].begin(lambda: coord.double_barrier("work", 2).enter(PATIENCE_S))
        assert crew[0].told() is crew[1].told() is True


class TestDeadlinesAndLosses:
    def test_who_is_out_of_time_has_not_entered(self, coord, namespace, crew):
        """
        Its place is gone when it is told, and those who wait go on waiting for others.
        """
        barrier = coord.double_barrier("work", 2)

        assert barrier.enter(0.1) is False and barrier.enter(0) is False
        assert waiting(coord, namespace) == 0

        for actor in crew[:2]:
            actor.begin(lambda: barrier.enter(PATIENCE_S))
        assert [actor.told() for actor in crew[:2]] == [True, True]

    def test_leaving_has_a_deadline_too(self, coord, namespace, crew):
        """
        False: the others are still inside; we are not.
        """
        barrier = coord.double_barrier("work", 2)
        for actor in crew[:2]:
            actor.begin(lambda: barrier.enter(PATIENCE_S))
        assert [actor.told() for actor in crew[:2]] == [True, True]

        assert crew[0].begin(lambda: barrier.leave(0.1)).told() is False
        assert waiting(coord, namespace) == 1
        assert crew[1].begin(lambda: barrier.leave(PATIENCE_S)).told() is True

    def test_a_member_lost_before_all_have_entered(self, coord, coord_factory, namespace, crew):
        """
        Another one comes in its place.
        """
        mortal = coord_factory()
        barrier, far = coord.double_barrier("work", 3), mortal.double_barrier("work", 3)
        crew[0].begin(lambda: barrier.enter(PATIENCE_S))
        crew[1].begin(lambda: far.enter(PATIENCE_S))
        wait_until(lambda: waiting(coord, namespace) == 2)

        faults.expire(mortal.session)

        assert isinstance(crew[1].told(), (errors.SessionLost, errors.LockLost))
        for actor in crew[1:]:
            actor.begin(lambda: barrier.enter(PATIENCE_S))
        assert [actor.told() for actor in crew] == [True] * 3

    def test_a_member_lost_inside_has_left(self, coord, coord_factory, namespace, crew):
        """
        The others do not wait for it; it is told that its stay is over.
        """
        mortal = coord_factory()
        near, far = coord.double_barrier("work", 2), mortal.double_barrier("work", 2)
        crew[0].begin(lambda: near.enter(PATIENCE_S))
        crew[1].begin(lambda: far.enter(PATIENCE_S))
        assert crew[0].told() is crew[1].told() is True
        session = mortal.session
        crew[0].begin(lambda: near.leave(PATIENCE_S))

        faults.expire(session)

        assert crew[0].told() is True
        wait_until(lambda: session.lost.is_set())
        assert isinstance(crew[1].begin(lambda: far.leave(1)).told(), errors.SessionLost)

    def test_who_cannot_hear_that_it_entered_asks(self, coord, etcd, namespace, crew):
        """
        Its time is up, but all had entered.
        """
        with (
            FaultProxy(etcd.endpoint) as proxy,
            coordkit.connect(f"etcd://{proxy.endpoint}/{namespace}") as deaf,
        ):
            near, far = coord.double_barrier("work", 2), deaf.double_barrier("work", 2)
            crew[0].begin(lambda: far.enter(1.0))
            wait_until(lambda: waiting(coord, namespace) == 1 and far._assembly._current)
            proxy.half_open(requests=False, replies=True)
            calls = deaf.statistics().calls
            assert crew[1].begin(lambda: near.enter(PATIENCE_S)).told() is True

            wait_until(lambda: deaf.statistics().calls > calls)
            proxy.heal()

            assert crew[0].told() is True
            crew[0].begin(lambda: far.leave(PATIENCE_S))
            assert crew[1].begin(lambda: near.leave(PATIENCE_S)).told() is True
            assert crew[0].told() is True

    def test_who_is_there_and_cannot_ask_is_in_doubt(self, coord, etcd, namespace, crew):
        """
        Whether it entered, for all others had; and whether it has left, for that is done when it can be.
        """
        with (
            FaultProxy(etcd.endpoint) as proxy,
            coordkit.connect(f"etcd://{proxy.endpoint}/{namespace}", timeout=1) as cut_off,
        ):
            near, far = coord.double_barrier("work", 2), cut_off.double_barrier("work", 2)
            crew[0].begin(lambda: far.enter(PATIENCE_S))
            assert crew[1].begin(lambda: near.enter(PATIENCE_S)).told() is True
            assert crew[0].told() is True
            proxy.refuse()
            proxy.reset()

            told = crew[0].begin(lambda: far.leave(0.1)).told()

            assert isinstance(told, errors.OUTAGE) and told.outcome is errors.Outcome.UNKNOWN
            proxy.heal()  # what is there goes

    def test_who_cannot_even_arrive_is_told_so(self, etcd, namespace):
        """
        Not that the time ran out with the others away, but that etcd did not answer; it was not there.
        """
        with (
            FaultProxy(etcd.endpoint) as proxy,
            coordkit.connect(f"etcd://{proxy.endpoint}/{namespace}") as cut_off,
        ):
            assert cut_off.session.alive
            proxy.half_open(requests=True, replies=True)

            with pytest.raises(errors.DeadlineExceeded) as told:
                cut_off.double_barrier("work", 2).enter(0.2)

            assert told.value.outcome is errors.Outcome.NONE
            proxy.heal()

    def test_cancel(self, coord, namespace, crew):
        """
        Who waits to enter gets Cancelled, and its place goes.
        """
        barrier = coord.double_barrier("work", 2)
        crew[0].begin(lambda: barrier.enter(PATIENCE_S))
        wait_until(lambda: waiting(coord, namespace) == 1)

        barrier.cancel()

        assert isinstance(crew[0].told(), errors.Cancelled)
        wait_until(lambda: waiting(coord, namespace) == 0)
