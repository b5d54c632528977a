"""Barrier: the contract of threading.Barrier across processes, and what becomes of members that are lost.

Where the contract is that of threading.Barrier the same test runs on a threading.Barrier too.
"""

from __future__ import annotations

import collections
import itertools
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from contract.players import Call, wait_until

import coordkit
from coordkit import errors
from coordkit.testing import FaultProxy, faults

pytestmark = pytest.mark.coordkit_leaves("keys")

PATIENCE_S = 20.0


def is_broken(told: Any) -> bool:
    return isinstance(told, threading.BrokenBarrierError)


@pytest.fixture(params=["threading.Barrier", "coord.barrier"])
def make(request, coord) -> Callable[..., Any]:
    """`make(parties, action=None, timeout=None)`: a barrier of either kind."""
    if request.param == "threading.Barrier":
        return threading.Barrier
    return lambda *arguments, **named: coord.barrier("contract", *arguments, **named)


class TestContractOfThreadingBarrier:
    def test_all_pass_together_again_and_again(self, make):
        """
        Each generation tells each place once; who passes the second time has seen the first one's end.
        """
        barrier, counts = make(4), collections.Counter()

        def work() -> list[int]:
            places = []
            for generation in range(15):
                places.append(barrier.wait(PATIENCE_S))
                counts[generation] += 1
                barrier.wait(PATIENCE_S)
                assert counts[generation] == 4
            return places

        results: list[Any] = []
        crew = [threading.Thread(target=lambda: results.append(work())) for _ in range(4)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()

        assert len(results) == 4
        assert all(sorted(places) == [0, 1, 2, 3] for places in zip(*results, strict=True))

    def test_one_party_passes_at_once(self, make):
        """
        As number 0.
        """
        assert [make(1).wait() for _ in range(3)] == [0, 0, 0]

    def test_what_it_tells(self, make):
        """
        parties, n_waiting and broken.
        """
        barrier = make(2)
        assert (barrier.parties, barrier.n_waiting, barrier.broken) == (2, 0, False)

        waiting = Call(barrier.wait)
        wait_until(lambda: barrier.n_waiting == 1)

        assert barrier.wait(PATIENCE_S) == 1 and waiting.outcome() == 0
        assert (barrier.n_waiting, barrier.broken) == (0, False)

    def test_the_action_runs_once_before_anybody_passes(self, make):
        """
        In one of the threads.
        """
        passed: list[int] = []
        seen: list[int] = []
        barrier = make(3, lambda: seen.append(len(passed)))

        for generation in range(1, 4):
            crew = [Call(barrier.wait) for _ in range(3)]
            passed.extend(waiting.outcome() for waiting in crew)
            assert len(seen) == generation

        assert seen == [0, 3, 6]

    def test_an_action_that_fails_breaks_it(self, make):
        """
        Its thread gets the error, the others BrokenBarrierError.
        """
        barrier = make(3, lambda: 1 // 0)

        told = [each.outcome() for each in [Call(barrier.wait) for _ in range(3)]]

        assert sum(isinstance(each, ZeroDivisionError) for each in told) == 1
        assert sum(map(is_broken, told)) == 2
        assert barrier.broken

    def test_a_timeout_breaks_it_for_all_until_it_is_reset(self, make):
        """
        For those who wait, and for those who come.
        """
        barrier = make(3)
        patient = Call(barrier.wait)
        wait_until(lambda: barrier.n_waiting == 1)

        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(0.05)

        assert is_broken(patient.outcome())
        assert barrier.broken and barrier.n_waiting == 0
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait()
        barrier.reset()
        assert not barrier.broken
        assert sorted(each.outcome() for each in [Call(barrier.wait) for _ in range(3)]) == [0, 1, 2]

    def test_the_barriers_own_timeout(self, make):
        """
        Counts where the wait names none.
        """
        barrier = make(2, timeout=0.5)

        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait()

    def test_without_any_time_only_the_last_one_passes(self, make):
        """
        timeout=0 arrives, and does not wait.
        """
        barrier = make(2)
        first = Call(barrier.wait)
        wait_until(lambda: barrier.n_waiting == 1)

        assert barrier.wait(0) == 1 and first.outcome() == 0
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(0)

    def test_abort(self, make):
        """
        Breaks it for those who wait, and who come, until it is reset; it may be called again.
        """
        barrier = make(2)
        waiting = Call(barrier.wait)
        wait_until(lambda: barrier.n_waiting == 1)

        barrier.abort()
        barrier.abort()

        assert is_broken(waiting.outcome()) and barrier.broken
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait()
        barrier.reset()
        assert not barrier.broken

    def test_abort_without_anybody_waiting(self, make):
        """
        Counts for those who come.
        """
        barrier = make(2)
        barrier.abort()

        assert barrier.broken
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait()

    def test_reset_while_somebody_waits(self, make):
        """
        They are told BrokenBarrierError; the barrier is as new.
        """
        barrier = make(2)
        waiting = Call(barrier.wait)
        wait_until(lambda: barrier.n_waiting == 1)

        barrier.reset()

        assert is_broken(waiting.outcome())
        assert not barrier.broken
        assert sorted(each.outcome() for each in [Call(barrier.wait) for _ in range(2)]) == [0, 1]

    def test_more_than_its_parties(self, make):
        """
        Those who are too many belong to the next generation.
        """
        barrier = make(2)

        told = [each.outcome() for each in [Call(barrier.wait) for _ in range(8)]]

        assert sorted(told) == [0, 0, 0, 0, 1, 1, 1, 1]


class TestBetweenProcesses:
    def test_the_order_of_arrival(self, coord, coord_factory):
        """
        Is the place that is told; the last to arrive runs the action.
        """
        ran: list[int] = []
        barriers = [
            each.barrier("start", 3, lambda number=number: ran.append(number))
            for number, each in enumerate([coord, coord_factory(), coord_factory()])
        ]
        waiting = []
        for number, barrier in enumerate(barriers):
            waiting.append(Call(barrier.wait, PATIENCE_S))
            wait_until(lambda number=number: number == 2 or barriers[2].n_waiting == number + 1)

        assert [each.outcome() for each in waiting] == [0, 1, 2]
        assert ran == [2]
        assert {barrier.generation for barrier in barriers} == {1}

    def test_a_lost_member_breaks_it_for_the_others(self, coord, coord_factory):
        """
        They learn it when its lease ends; the lost one is told, too.
        """
        other = coord_factory()
        left, right = coord.barrier("start", 3), other.barrier("start", 3)
        lost, survivor = Call(right.wait), Call(left.wait)
        wait_until(lambda: left.n_waiting == 2)

        faults.expire(other.session)

        assert is_broken(survivor.outcome()) and "lost" in str(survivor.error)
        assert isinstance(lost.outcome(), (errors.SessionLost, errors.BrokenBarrier))

    def test_a_broken_barrier_is_forgotten_with_those_who_saw_it(self, coord, coord_factory):
        """
        When all their sessions have ended, others find it as new.
        """
        crew = [coord_factory() for _ in range(2)]
        waiting = [Call(each.barrier("start", 3).wait, 0.3) for each in crew]
        assert all(is_broken(each.outcome()) for each in waiting)
        crew[0].close()
        with pytest.raises(errors.BrokenBarrier):
            coord.barrier("start", 3).wait(PATIENCE_S)

        crew[1].close()

        barrier = coord.barrier("start", 3)
        assert sorted(each.outcome() for each in [Call(barrier.wait) for _ in range(3)]) == [0, 1, 2]

    def test_all_who_were_told_may_reset_it(self, coord, coord_factory):
        """
        It is reset once: who comes first and waits already is not broken by the others' resets.
        """
        barriers = [each.barrier("start", 3) for each in (coord, coord_factory(), coord_factory())]
        resets: list[coordkit.Barrier] = []
        told = []

        def work(barrier: coordkit.Barrier, timeout: float) -> None:
            try:
                barrier.wait(timeout)
            except errors.BrokenBarrier:
                barrier.reset()
                resets.append(barrier)
            told.append(barrier.wait(PATIENCE_S))

        crew = [threading.Thread(target=work, args=(barrier, 0.3)) for barrier in barriers[:2]]
        for thread in crew:
            thread.start()
        wait_until(lambda: len(resets) == 2 and barriers[2].n_waiting == 2)
        told.append(barriers[2].wait(PATIENCE_S))
        for thread in crew:
            thread.join()

        assert sorted(told) == [0, 1, 2]
        assert barriers[2].generation == 2

    def test_who_is_cancelled_breaks_it_for_the_others(self, coord, coord_factory):
        """
        Cancelled for one, BrokenBarrier for the rest; its key goes.
        """
        mine, theirs = coord.barrier("start", 3), coord_factory().barrier("start", 3)
        crew = [Call(mine.wait), Call(theirs.wait)]
        wait_until(lambda: theirs.n_waiting == 2)

        mine.cancel()

        assert isinstance(crew[0].outcome(), errors.Cancelled)
        assert is_broken(crew[1].outcome())

    def test_who_cannot_hear_the_verdict_asks_for_it(self, coord, etcd, namespace):
        """
        Its time is up, but all had arrived: it passed, and is told so.
        """
        with (
            FaultProxy(etcd.endpoint) as proxy,
            coordkit.connect(f"etcd://{proxy.endpoint}/{namespace}") as deaf,
        ):
            near, far = coord.barrier("start", 2), deaf.barrier("start", 2)
            waiting = Call(far.wait, 1.0)
            wait_until(lambda: near.n_waiting == 1 and far._assembly._current)
            proxy.half_open(requests=False, replies=True)
            calls = deaf.statistics().calls
            assert near.wait(PATIENCE_S) == 1

            wait_until(lambda: deaf.statistics().calls > calls)  # its time is up, and it asks
            proxy.heal()

            assert waiting.outcome() == 0

    def test_who_arrived_and_cannot_ask_is_in_doubt(self, coord, etcd, namespace):
        """
        Nothing that it asked was done; but it is there, all had arrived, and the other one has passed.
        """
        with (
            FaultProxy(etcd.endpoint) as proxy,
            coordkit.connect(f"etcd://{proxy.endpoint}/{namespace}", timeout=1) as cut_off,
        ):
            near, far = coord.barrier("start", 2), cut_off.barrier("start", 2)
            waiting = Call(far.wait, 0.5)
            wait_until(lambda: near.n_waiting == 1 and far._assembly._current)
            proxy.refuse()
            proxy.reset()
            assert near.wait(PATIENCE_S) == 1

            told = waiting.outcome()

            assert isinstance(told, errors.OUTAGE) and told.outcome is errors.Outcome.UNKNOWN
            proxy.heal()  # what is there goes

    def test_an_outage_is_waited_out(self, coord, etcd, namespace):
        """
        The connection breaks while it waits, and others arrive.
        """
        with (
            FaultProxy(etcd.endpoint) as proxy,
            coordkit.connect(f"etcd://{proxy.endpoint}/{namespace}") as far,
        ):
            near = coord.barrier("start", 2)
            waiting = Call(far.barrier("start", 2).wait, PATIENCE_S)
            wait_until(lambda: near.n_waiting == 1)
            proxy.refuse()
            proxy.reset()
            assert near.wait(PATIENCE_S) == 1

            proxy.heal()

            assert waiting.outcome() == 0

    def test_everybody_must_agree_on_the_parties(self, coord, coord_factory):
        """
        As long as one is there who counts otherwise: also after it has passed.
        """
        other = coord_factory()
        pair = [Call(other.barrier("start", 2).wait) for _ in range(2)]
        assert sorted(each.outcome() for each in pair) == [0, 1]

        with pytest.raises(errors.LimitMismatch, match="2 parties elsewhere, 1 here"):
            coord.barrier("start", 1).wait(PATIENCE_S)
        waiting = Call(other.barrier("start", 2).wait)
        wait_until(lambda: other.barrier("start", 2).n_waiting == 1)
        with pytest.raises(errors.LimitMismatch):
            coord.barrier("start", 1).wait(PATIENCE_S)
        assert other.barrier("start", 2).wait(PATIENCE_S) == 1 and waiting.outcome() == 0

        other.close()

        assert coord.barrier("start", 1).wait(PATIENCE_S) == 0

    def test_reset_sets_the_parties(self, coord):
        """
        Those of the object that it is called on.
        """
        coord.barrier("start", 2).abort()

        coord.barrier("start", 1).reset()

        assert coord.barrier("start", 1).wait(PATIENCE_S) == 0

    def test_an_arrival_in_doubt_stays_in_doubt_when_nobody_can_be_asked(self, coord, monkeypatch):
        """
        It was applied, its reply was lost, and then nothing could be sent: UNKNOWN, for it may count.
        """
        barrier = coord.barrier("start", 2)
        with pytest.raises(errors.BrokenBarrier):
            barrier.wait(timeout=0.1)
        barrier.reset()
        answer, requests = coord.client.txn, itertools.count()

        def txn(request: Any, deadline: Any) -> Any:
            if next(requests):
                raise errors.Unavailable("nobody is there")
            answer(request, deadline)
            raise errors.Unavailable("the reply was lost", errors.Outcome.UNKNOWN)

        with monkeypatch.context() as patch:
            patch.setattr(coord.client, "txn", txn)
            with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)) as caught:
                barrier.wait(timeout=1)

        assert caught.value.outcome is errors.Outcome.UNKNOWN


class TestKeys:
    def test_old_generations_go(self, coord, namespace):
        """
        After many, those of the last one are there, and its verdict; `delete` leaves nothing.
        """
        barrier = coord.barrier("start", 2)
        for _ in range(5):
            assert sorted(each.outcome() for each in [Call(barrier.wait) for _ in range(2)]) == [0, 1]

        prefix = f"/{namespace}/barrier/start/"
        left = [each.key[len(prefix) :] for each in coord.kv.range(prefix)]
        assert {key.split(b"/")[0] for key in left} == {b"0000000005", b"generation"} and len(left) == 4

        barrier.delete()
        assert coord.kv.range(prefix) == []
        assert barrier.n_waiting == 0 and not barrier.broken

    def test_foreign_bytes(self, coord, namespace):
        """
        A verdict that cannot be read lets nobody pass; a generation that cannot be read is an error.
        """
        barrier = coord.barrier("start", 2)
        waiting = Call(barrier.wait)
        wait_until(lambda: barrier.n_waiting == 1)

        coord.kv.put(f"/{namespace}/barrier/start/0000000001/verdict", b"\xff{")

        assert is_broken(waiting.outcome()) and "cannot be read" in str(waiting.error)
        barrier.reset()
        waiting = Call(barrier.wait)
        wait_until(lambda: barrier.n_waiting == 1)
        coord.kv.put(f"/{namespace}/barrier/start/generation", b"\xff")
        assert isinstance(waiting.outcome(), errors.InvalidValue)
        with pytest.raises(errors.InvalidValue, match="generation"):
            coord.barrier("start", 2).wait(1)

    @pytest.mark.parametrize("parties", [0, -1, 1.0, "2", True, None, 10**9])
    def test_what_is_no_number_of_parties_is_refused(self, coord, parties):
        """
        Nothing is sent.
        """
        with pytest.raises(errors.InvalidValue):
            coord.barrier("start", parties)

    def test_it_cannot_be_pickled(self, coord):
        """
        It owns a connection.
        """
        with pytest.raises(errors.UsageError, match="pickled"):
            pickle.dumps(coord.barrier("start", 2))
