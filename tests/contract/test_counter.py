"""Counter: exactly once, combined within a process, cheap to retry between processes."""

from __future__ import annotations

import contextlib
import pickle
import threading

import pytest
from contract.players import wait_until

import coordkit
from coordkit import errors
from coordkit.testing import FaultProxy, faults

pytestmark = pytest.mark.coordkit_leaves("keys")


def in_threads(count: int, action) -> list:
    """What `action(i)` gave in each of so many threads; an exception stands for itself."""
    results: list = [None] * count

    def run(i: int) -> None:
        try:
            results[i] = action(i)
        except Exception as error:
            results[i] = error

    crew = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return results


@contextlib.contextmanager
def behind(etcd, namespace: str):
    """A proxy, and a coordinator behind it."""
    with (
        FaultProxy(etcd.endpoint) as proxy,
        coordkit.connect(f"etcd://{proxy.endpoint}/{namespace}") as coord,
    ):
        yield proxy, coord
        proxy.heal()


class TestArithmetic:
    def test_it_begins_at_zero_and_adds_up(self, coord):
        """
        Each call tells the value right after it.
        """
        counter = coord.counter("hits")

        assert counter.get() == 0
        assert [counter.add(), counter.add(4), counter.subtract(2), counter.add(-3)] == [1, 5, 3, 0]
        assert counter.add(10**30) == 10**30 == counter.get()

    def test_set_and_compare_and_set(self, coord, coord_factory):
        """
        `set` tells what was there; a compare-and-set works once, and one that fails changes nothing.
        """
        counter, other = coord.counter("hits"), coord_factory().counter("hits")

        assert counter.set(7) == 0
        assert other.compare_and_set(7, 8) is True
        assert counter.compare_and_set(7, 9) is False
        assert counter.get() == 8

    def test_it_can_be_removed(self, coord):
        """
        It begins anew; there may be nothing to remove.
        """
        counter = coord.counter("hits")
        counter.add(5)

        assert counter.delete() is True
        assert counter.delete() is False
        assert counter.add() == 1

    @pytest.mark.parametrize("amount", [1.0, "1", None, True, 1 << 1100])
    def test_what_is_no_whole_number_is_refused(self, coord, amount):
        """
        Nothing is sent.
        """
        with pytest.raises(errors.InvalidValue):
            coord.counter("hits").add(amount)

    def test_foreign_bytes_are_told(self, coord, namespace):
        """
        Something else in the key is an error that names the key, and not what is there.
        """
        coord.kv.put(f"/{namespace}/counter/hits/value", b"secret")

        with pytest.raises(errors.InvalidValue, match="counter/hits/value") as told:
            coord.counter("hits").add()

        assert "secret" not in str(told.value)

    def test_it_cannot_be_pickled(self, coord):
        """
        It owns a connection.
        """
        with pytest.raises(errors.UsageError, match="pickled"):
            pickle.dumps(coord.counter("hits"))


class TestManyWriters:
    def test_no_total_is_told_twice(self, coord, coord_factory):
        """
        Additions of one, in eight threads on two connections: together they are told 1 to 400.
        """
        counters = [coord.counter("hits"), coord_factory().counter("hits")]

        told = in_threads(8, lambda i: [counters[i % 2].add() for _ in range(50)])

        assert sorted(total for each in told for total in each) == list(range(1, 401))
        assert counters[0].get() == 400

    def test_what_waits_goes_together(self, coord, coord_factory, etcd, namespace):
        """
        One commit is on its way; all that is asked for meanwhile goes with the next one.
        """
        with behind(etcd, namespace) as (proxy, slow):
            counter = slow.counter("hits")
            counter.add()
            proxy.half_open(requests=True, replies=True)
            calls = slow.statistics().calls
            results: list[int] = []
            crew = [threading.Thread(target=lambda: results.append(counter.add(timeout=30)))]
            crew[0].start()
            wait_until(lambda: slow.statistics().calls > calls)
            crew += [
                threading.Thread(target=lambda: results.append(counter.add(timeout=30))) for _ in range(20)
            ]
            for thread in crew[1:]:
                thread.start()
            wait_until(lambda: len(counter._cell._queue) == 20)

            proxy.heal()

            for thread in crew:
                thread.join()
            assert sorted(results) == list(range(2, 23))
            assert coord.kv.get(f"/{namespace}/counter/hits/value").version == 3

    def test_a_failed_change_harms_none_that_goes_with_it(self, coord):
        """
        Who is told an error in the same commit is alone with it.
        """
        counter = coord.counter("hits")
        counter.set(2**1024 - 10)

        told = in_threads(16, lambda i: counter.add(2**1024 - 1 if i % 2 else 1))

        assert sum(isinstance(each, errors.InvalidValue) for each in told) == 8
        assert counter.get() == 2**1024 - 2


class TestDoubt:
    def test_a_lost_reply_is_settled(self, coord, etcd, namespace):
        """
        Additions whose replies are lost count once, and are told their totals, once the connection is back.
        """
        with behind(etcd, namespace) as (proxy, unlucky):
            direct, counter = coord.counter("hits"), unlucky.counter("hits")
            counter.add(100)
            proxy.drop_reply_after_commit()
            results: list[int] = []
            crew = [
                threading.Thread(target=lambda: results.append(counter.add(timeout=30))) for _ in range(4)
            ]
            for thread in crew:
                thread.start()
            wait_until(lambda: direct.get() > 100)
            direct.add(1000)  # somebody else comes in between

            proxy.reset()

            for thread in crew:
                thread.join()
            assert direct.get() == 1104
            assert len(set(results)) == 4
            proxy.heal()

    def test_a_lost_request_is_sent_again(self, coord, etcd, namespace):
        """
        What did not reach etcd is not taken for done.
        """
        with behind(etcd, namespace) as (proxy, unlucky):
            direct, counter = coord.counter("hits"), unlucky.counter("hits")
            counter.add(100)
            proxy.half_open(requests=True, replies=True)
            calls, results = unlucky.statistics().calls, []
            adding = threading.Thread(target=lambda: results.append(counter.add(timeout=30)))
            adding.start()
            wait_until(lambda: unlucky.statistics().calls > calls)
            direct.add(1000)

            proxy.reset()
            proxy.heal()

            adding.join()
            assert results == [1101]
            assert direct.get() == 1101

    def test_when_the_time_is_up_nobody_knows(self, coord, etcd, namespace):
        """
        Each caller that was in it is told UNKNOWN; who was not sent yet is told NONE.  The next call works.
        """
        with behind(etcd, namespace) as (proxy, unlucky):
            counter = unlucky.counter("hits")
            counter.add(100)
            proxy.drop_reply_after_commit()
            calls, told = unlucky.statistics().calls, []

            def add(timeout: float) -> None:
                try:
                    counter.add(timeout=timeout)
                except errors.CoordError as error:
                    told.append(error)

            first = threading.Thread(target=add, args=(1.0,))
            first.start()
            wait_until(lambda: unlucky.statistics().calls > calls)
            second = threading.Thread(target=add, args=(0.1,))
            second.start()
            second.join()
            first.join()

            assert [each.outcome for each in told] == [errors.Outcome.NONE, errors.Outcome.UNKNOWN]
            proxy.reset()
            proxy.heal()
            assert counter.add(timeout=30) in (101, 102)
            assert coord.counter("hits").get() == counter.get() == 102

    def test_who_gives_up_while_another_sends_for_it_is_told_unknown(self, coord, monkeypatch):
        """
        Two additions travel together, and the one that does not lead has less time.
        """
        counter = coord.counter("hits")
        counter.add(100)
        told: list[errors.CoordError] = []
        sent, gates = threading.Semaphore(0), threading.Semaphore(0)
        txn = coord.client.txn

        def held_up(request, deadline):
            sent.release()
            gates.acquire(timeout=30)
            return txn(request, deadline)

        def add(timeout: float) -> None:
            try:
                counter.add(timeout=timeout)
            except errors.CoordError as error:
                told.append(error)

        with monkeypatch.context() as patch:
            patch.setattr(coord.client, "txn", held_up)
            crew = [threading.Thread(target=add, args=(30,)) for _ in range(2)]
            crew[0].start()
            sent.acquire()
            crew[1].start()
            wait_until(lambda: len(counter._cell._queue) == 1)
            hurried = threading.Thread(target=add, args=(0.5,))
            hurried.start()
            wait_until(lambda: len(counter._cell._queue) == 2)

            gates.release()
            sent.acquire()
            hurried.join()

            gates.release()
            for thread in crew:
                thread.join()
        assert [each.outcome for each in told] == [errors.Outcome.UNKNOWN]
        assert counter.get() == 103

    def test_a_session_that_ends_takes_the_receipt_with_it(self, coord, etcd, namespace):
        """
        Then what is in doubt stays in doubt: UNKNOWN; and a new session goes on counting.
        """
        with behind(etcd, namespace) as (proxy, unlucky):
            counter = unlucky.counter("hits")
            counter.add(100)
            session = unlucky.session
            proxy.drop_reply_after_commit()
            told = []

            def add() -> None:
                try:
                    counter.add(timeout=30)
                except errors.CoordError as error:
                    told.append(error)

            adding = threading.Thread(target=add)
            adding.start()
            wait_until(lambda: coord.counter("hits").get() == 101)
            session.lose("in this test")

            proxy.reset()
            proxy.heal()

            adding.join()
            assert [each.outcome for each in told] == [errors.Outcome.UNKNOWN]
            assert counter.add() == 102

    def test_a_lost_session_is_replaced(self, coord):
        """
        A counter of a coordinator's outlives its session; one of a session's does not.
        """
        counter, bound = coord.counter("hits"), coordkit.Counter(coord.session, "hits")
        counter.add()

        faults.expire(coord.session)

        assert counter.add() == 2
        with pytest.raises(errors.SessionLost):
            bound.add()
