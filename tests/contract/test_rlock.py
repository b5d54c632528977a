"""RLock: threading.RLock's contract, on the lock of that name; and the decorator that is made of it."""

from __future__ import annotations

import threading

import pytest
from contract.locklikes import visit
from contract.players import expire, wait_until

from coordkit import errors


@pytest.fixture(params=["threading.RLock", "coord.rlock"])
def rlock(request, coord):
    return threading.RLock() if request.param == "threading.RLock" else coord.rlock("contract")


class TestContractOfThreadingRLock:
    """What threading.RLock promises."""

    def test_its_owner_acquires_it_again(self, rlock):
        """
        At once, and it is free after as many releases.
        """
        with rlock, rlock:
            assert rlock.acquire(blocking=False)
            rlock.release()

        with pytest.raises(RuntimeError):
            rlock.release()

    def test_only_its_owner_releases(self, rlock):
        """
        Another thread's release is a RuntimeError, and changes nothing; nor can it acquire meanwhile.
        """
        seen: list[object] = []

        def intrude() -> None:
            seen.append(rlock.acquire(blocking=False))
            try:
                rlock.release()
            except RuntimeError as error:
                seen.append(type(error).__mro__)

        with rlock:
            thread = threading.Thread(target=intrude)
            thread.start()
            thread.join()

        assert seen[0] is False
        assert RuntimeError in seen[1]


def test_it_is_one_key_and_the_lock_of_that_name(coord):
    """
    However often it is acquired; the lock waits for the last release.
    """
    lock, rlock = coord.lock("one"), coord.rlock("one")
    with rlock:
        key, fence = rlock.key, rlock.fence
        with rlock:
            assert (rlock.key, rlock.fence) == (key, fence)
            assert len(rlock.contenders()) == 1
        assert rlock.held
        assert lock.acquire(blocking=False) is False

    assert lock.acquire(blocking=False)
    lock.release()


def test_a_lost_hold_is_not_entered_again(coord, crew):
    """
    acquire() and each level's release() raise LockLost.
    """
    (other,) = crew(1)
    rlock = other.rlock("lost")
    rlock.acquire()
    rlock.acquire()
    expire(other.session, coord)
    assert rlock.lost.wait(15)

    for use in (rlock.acquire, rlock.release, rlock.release):
        with pytest.raises(errors.LockLost):
            use()

    with rlock:
        assert rlock.held


class TestExclusive:
    """@coord.exclusive(name)."""

    def test_calls_run_one_at_a_time(self, coord, crew):
        """
        Those of other functions of that name, too; a call may lead to another; names and results are kept.
        """
        (other,) = crew(1)
        running, most = 0, 0
        pause = threading.Event()

        @coord.exclusive("job")
        def job(depth: int) -> int:
            """A job."""
            nonlocal running, most
            running += 1
            most = max(most, running)
            pause.wait(0.001)
            inner = job(depth - 1) if depth else 0
            running -= 1
            return inner + 1

        @other.exclusive("job")
        def same() -> None:
            assert running == 0

        threads = [threading.Thread(target=call) for call in [lambda: job(0), same] * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert most == 1
        assert (job(2), job.__name__, job.__doc__) == (3, "job", "A job.")

    def test_a_call_whose_turn_does_not_come(self, coord):
        """
        It raises AcquireTimeout and the function is not called; nor is it when the timeout makes no sense.
        """
        with pytest.raises(errors.InvalidValue):
            coord.exclusive("job", timeout=-7)

        async def later():
            pass

        def pieces():
            yield

        for nothing in (later, pieces, 5):
            with pytest.raises(errors.InvalidValue, match="generator or coroutine"):
                coord.exclusive("job")(nothing)

        @coord.exclusive("job", timeout=0.05)
        def job() -> None:
            pytest.fail("it was held")

        with coord.lock("job"), pytest.raises(errors.AcquireTimeout):
            job()
        wait_until(lambda: not coord.lock("job").locked())


class TestMultiLock:
    """coord.multilock(names)."""

    def test_names_are_sorted_and_count_once(self, coord):
        """
        The order is that of their keys; it holds the locks of these names, each with its fence.
        """
        multi = coord.multilock(["b", "a", "b", "a/x"])
        assert multi.names == ("a", "a/x", "b")

        with multi:
            assert list(multi.fences) == ["a", "a/x", "b"]
            assert sorted(multi.fences.values()) == list(multi.fences.values())
            assert multi.fence == multi.fences["b"]
            assert len(multi.guard()) == 3
            assert not any(coord.lock(name).acquire(blocking=False) for name in multi.names)

        assert not multi.locked()

    @pytest.mark.parametrize("names", [[], "ab", [""], [7]])
    def test_names_that_cannot_be(self, coord, names):
        """
        None at all, a single str, an empty one, what is no str.
        """
        with pytest.raises(errors.InvalidName):
            coord.multilock(names)

    def test_all_or_none(self, coord):
        """
        While one is held by another, a try and a timeout leave none of the others held.
        """
        multi = coord.multilock(["a", "b", "c"])
        with coord.lock("b"):
            assert multi.acquire(blocking=False) is False
            assert multi.acquire(timeout=0.05) is False
            wait_until(lambda: not coord.lock("a").locked())
            assert not multi.held

        wait_until(lambda: multi.acquire(blocking=False))
        multi.release()

    def test_a_cancel_gives_back_what_was_taken_already(self, coord):
        """
        A wait for the second ends with Cancelled, and the first is free.
        """
        multi = coord.multilock(["a", "b"])
        with coord.lock("b"):
            waiter = visit(multi)
            wait_until(lambda: len(coord.lock("b").contenders()) == 2)

            multi.cancel()

            assert isinstance(waiter.end().error, errors.Cancelled)
            wait_until(lambda: not coord.lock("a").locked())
            wait_until(lambda: len(coord.lock("b").contenders()) == 1)

    def test_nobody_waits_in_a_circle(self, coord, crew):
        """
        Threads that want the same ones in any order all get them, again and again.
        """
        (other,) = crew(1)
        orders = [["a", "b", "c"], ["c", "b", "a"], ["b", "a"], ["c", "a"]]
        done: list[int] = []

        def work(names: list[str], member) -> None:
            multi = member.multilock(names)
            for _ in range(5):
                with multi.within(15):
                    done.append(1)

        jobs = [(names, member) for names in orders for member in (coord, other)]
        threads = [threading.Thread(target=work, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(done) == 40

    def test_the_loss_of_one_is_the_loss_of_all(self, coord, crew):
        """
        release() raises, and the others are free all the same.
        """
        (other,) = crew(1)
        multi = coord.multilock(["a", "b"])
        multi.acquire()
        other.kv.delete(next(place.key for place in coord.lock("a").contenders()))
        assert not multi.txn().commit().succeeded

        with pytest.raises(errors.LockLost):
            multi.release()

        assert not multi.locked()
