"""What every lock-like promises: threading.Lock's contract, timeouts, cancel, what a hold says, and loss.

A second handle of the same name is the stranger here: what one thread may do twice with one handle differs.
Where the contract is that of threading.Lock, the tests of `test_lock.py` compare with a threading.Lock too.
"""

from __future__ import annotations

import copy
import math
import pickle
import threading

import pytest
from contract.locklikes import Visitor, visit
from contract.players import expire, wait_until

from coordkit import errors
from coordkit.etcd import kv


class TestAcquire:
    """acquire, release and `with`."""

    def test_acquire_and_release(self, coord, locklike):
        """
        A free one is acquired at once, is locked until it is released, and can be acquired again.
        """
        lock = locklike.make(coord, "free")
        assert not lock.locked()

        for _ in range(3):
            assert lock.acquire() is True
            assert lock.locked()

            lock.release()
            assert not lock.locked()

    def test_with_releases_at_the_end(self, coord, locklike):
        """
        `with` gives it, and releases whether the block ends well or not.
        """
        lock = locklike.make(coord, "with")
        with lock as given:
            assert given is lock
            assert lock.held

        with pytest.raises(ZeroDivisionError), lock:
            _ = 1 // 0

        assert not lock.held
        assert not lock.locked()

    @pytest.mark.parametrize("arguments", [{"blocking": False}, {"timeout": 0}])
    def test_a_try_does_not_wait(self, coord, locklike, arguments):
        """
        blocking=False and timeout=0 take what is free, and give up on what is held.
        """
        lock, rival = locklike.make(coord, "try"), locklike.rival(coord, "try")
        assert lock.acquire(**arguments) is True

        assert rival.acquire(**arguments) is False
        assert rival.acquire(True, 0.01) is False

        lock.release()
        wait_until(lambda: not lock.locked())
        assert rival.acquire(**arguments) is True
        rival.release()

    @pytest.mark.parametrize("timeout", [-2, -0.5, math.nan, True, "5"])
    def test_silly_timeouts_are_refused(self, coord, locklike, timeout):
        """
        Nothing is acquired with a timeout that makes no sense, nor with one for a try.
        """
        lock = locklike.make(coord, "silly")

        with pytest.raises(errors.InvalidValue):
            lock.acquire(timeout=timeout)
        with pytest.raises(errors.InvalidValue):
            lock.within(timeout)
        with pytest.raises(errors.InvalidValue):
            lock.acquire(blocking=False, timeout=1)

        assert not lock.locked()

    def test_release_needs_an_acquire(self, coord, locklike):
        """
        Releasing what is not held is NotHeld, a RuntimeError: never acquired, or released already.
        """
        lock = locklike.make(coord, "release")
        with pytest.raises(RuntimeError):
            lock.release()

        with lock:
            pass

        with pytest.raises(errors.NotHeld):
            lock.release()

    def test_a_waiter_gets_it_after_the_release(self, coord, crew, locklike):
        """
        Who waits acquires when the holder releases, and not before: in this process and in another.
        """
        (other,) = crew(1)
        lock = locklike.make(coord, "waiter")
        for member in (coord, other):
            lock.acquire()
            waiter = visit(locklike.rival(member, "waiter"))
            assert not waiter.over.wait(0.05)

            lock.release()

            waiter.wait_until_held()
            waiter.give_back()

    def test_whose_time_is_up_leaves_the_line(self, coord, crew, locklike):
        """
        A waiter whose time ran out is out of the line, and whoever stands behind it gets it.
        """
        (other,) = crew(1)
        lock = locklike.make(coord, "late")
        lock.acquire()
        alone = lock.contenders()
        impatient = visit(locklike.rival(other, "late"), timeout=0.3)

        assert impatient.end().result is False

        wait_until(lambda: lock.contenders() == alone)
        patient = visit(locklike.rival(other, "late"))
        lock.release()
        patient.wait_until_held()
        patient.give_back()

    def test_within(self, coord, crew, locklike):
        """
        `with lock.within(seconds)` gives it, or raises AcquireTimeout, which is a TimeoutError.
        """
        (other,) = crew(1)
        lock = locklike.make(coord, "within")

        with lock.within(5) as held:
            assert held is lock
            with pytest.raises(TimeoutError) as caught, locklike.rival(other, "within").within(0.05):
                pytest.fail("it was held")
            assert caught.type is errors.AcquireTimeout

        assert not lock.held
        wait_until(lambda: not lock.locked())

    def test_threads_exclude_each_other(self, coord, locklike):
        """
        A counter that is read, then written, loses no step, whether threads share the handle or not.
        """
        pause = threading.Event()
        shared = locklike.rival(coord, "count")
        count = 0

        def step(lock) -> None:
            nonlocal count
            for _ in range(3):
                with lock:
                    read = count
                    pause.wait(0.0005)
                    count = read + 1

        handles = [shared, shared, shared, *(locklike.rival(coord, "count") for _ in range(3))]
        threads = [threading.Thread(target=step, args=(handle,)) for handle in handles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert count == 18


class TestHold:
    """What is known while it is held."""

    def test_what_a_hold_says(self, coord, locklike):
        """
        held, fence, key, remaining, check and lost speak of this hold, and of nothing when there is none.
        """
        lock = locklike.make(coord, "says")
        assert not lock.held
        assert lock.remaining() == 0.0
        assert not lock.lost.is_set()
        for ask in (lambda: lock.fence, lambda: lock.key, lock.check, lock.guard, lock.txn):
            with pytest.raises(errors.NotHeld):
                ask()

        with lock:
            stored = coord.kv.get(lock.key)
            assert lock.held
            assert stored is not None and stored.create_revision == lock.fence
            assert 0 < lock.remaining() <= coord.session.ttl_s
            lock.check()
            assert not lock.lost.is_set()
            assert "not held" not in repr(lock)
            assert lock.fence in {place.fence for place in lock.contenders()}

        assert not lock.held
        assert "not held" in repr(lock)
        assert lock.released_revision > stored.create_revision

    def test_a_guarded_write_passes_while_it_is_held(self, coord, locklike, namespace):
        """
        txn() carries the guard: it commits while the hold lasts, and is refused after the release.
        """
        lock = locklike.make(coord, "guarded")
        key = f"/{namespace}/state".encode()
        with lock:
            write = lock.txn().then(kv.put(key, b"mine"))
            late = lock.txn().then(kv.put(key, b"late"))
            guard = lock.guard()
            assert write.commit().succeeded

        assert not late.commit().succeeded
        assert not coord.kv.txn().when(*guard).then(kv.put(key, b"late")).commit().succeeded

        assert coord.kv.get(key).value == b"mine"
        coord.kv.delete(key)

    def test_contenders(self, crew, locklike):
        """
        The holder first, then the waiters in order, with who they are.
        """
        a, b = crew(1, identity="Anna")[0], crew(1, identity="Bert")[0]
        lock = locklike.make(a, "people")
        assert lock.contenders() == []
        lock.acquire()
        waiter = visit(locklike.rival(b, "people"))

        def look() -> list:
            return [place for place in waiter.lock.contenders() if b"/people/" in place.key]

        seen = wait_until(lambda: len(look()) == 2 and look())
        assert [(place.identity, place.mine) for place in seen] == [("Anna", False), ("Bert", True)]
        assert seen[0].fence < seen[1].fence
        lock.release()
        waiter.wait_until_held().give_back()

    def test_somebody_deletes_the_held_key(self, coord, crew, locklike):
        """
        A foreign deletion is found at release.
        """
        (other,) = crew(1)
        lock = locklike.make(coord, "deleted")
        lock.acquire()
        other.kv.delete(lock.key)

        with pytest.raises(errors.LockLost):
            lock.release()

        assert not lock.held


class TestCancel:
    """cancel() ends the waits of one object."""

    def test_all_waits_of_the_object_and_no_others(self, coord, crew, locklike):
        """
        They end with Cancelled and leave the line; other handles wait on, and so does who comes later.
        """
        (other,) = crew(1)
        lock = locklike.make(coord, "cancel")
        ended, same = locklike.rival(other, "cancel"), locklike.rival(other, "cancel")
        lock.acquire()
        lock.cancel()
        ended.cancel()  # before anybody waits: it does nothing
        first = visit(ended)
        waiting = Visitor(same)
        second = Visitor(ended)
        wait_until(lambda: len(ended._waits) == 2 and len(same._waits) == 1)

        ended.cancel()

        assert isinstance(first.end().error, errors.Cancelled)
        assert isinstance(second.end().error, errors.Cancelled)
        later = Visitor(ended)
        assert lock.held and waiting.waiting and later.waiting
        lock.release()
        waiting.wait_until_held().give_back()
        later.wait_until_held().give_back()


class TestLoss:
    """Held, then lost."""

    def test_the_session_ends(self, coord, crew, locklike, namespace):
        """
        Everybody is told: `lost`, check(), release(); waiters get SessionLost; guarded writes are refused.
        """
        (other,) = crew(1)
        lock = locklike.make(other, "loss")
        lock.acquire()
        waiters = [Visitor(locklike.rival(other, "loss")) for _ in range(3)]
        wait_until(lambda: all(waiter.lock._waits for waiter in waiters))
        write = lock.txn().then(kv.put(f"/{namespace}/state".encode(), b"late"))
        lost = lock.lost

        expire(other.session, coord)

        assert lost.wait(15)
        assert not lock.held
        assert lock.remaining() == 0.0
        assert lock.lost.is_set()
        with pytest.raises(errors.LockLost):
            lock.check()
        assert not write.commit().succeeded
        for waiter in waiters:
            assert isinstance(waiter.end().error, errors.SessionLost)
        with pytest.raises(errors.LockLost) as caught:
            lock.release()
        assert caught.value.since
        with pytest.raises(errors.NotHeld):
            lock.release()

    def test_the_next_acquire_opens_another_session(self, coord, crew, locklike):
        """
        After a loss the same object works again, with a new session and a larger fence; one made on a
        session does not.
        """
        (other,) = crew(1)
        lock = locklike.make(other, "again")
        lock.acquire()
        fence, session, lost = lock.fence, other.session, lock.lost
        expire(session, coord)
        assert lost.wait(15)
        with pytest.raises(errors.LockLost):
            lock.release()
        if not locklike.renewed:
            with pytest.raises(errors.SessionLost):
                lock.acquire()
            return

        assert lock.acquire(timeout=5)

        assert lock.fence > fence
        assert other.session is not session
        assert lock.held
        assert not lock.lost.is_set() and lost.is_set()
        lock.release()

    def test_with_tells_of_the_loss(self, coord, crew, locklike):
        """
        As LockLost when the block ended well, and as a note on the block's own exception when it did not.
        """
        (other,) = crew(1)
        lock = locklike.make(other, "note")

        with pytest.raises(ZeroDivisionError) as caught, lock:
            expire(other.session, coord)
            assert lock.lost.wait(15)
            _ = 1 // 0

        assert any("lost" in note for note in caught.value.__notes__)
        lock = locklike.make(other, "note")
        with pytest.raises(errors.LockLost), lock:
            expire(other.session, coord)


class TestLife:
    """What it owns, and what comes after."""

    def test_it_cannot_be_copied(self, coord, locklike):
        """
        It owns a connection: pickling or copying it is refused, in words.
        """
        lock = locklike.make(coord, "copy")

        for copying in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(errors.UsageError, match="cannot be pickled"):
                copying(lock)

    def test_after_the_coordinator_was_closed(self, crew, locklike):
        """
        Every use is refused with Closed, and a wait that was on ends with it.
        """
        a, b = crew(2)
        lock, waiting = locklike.make(a, "closed"), locklike.rival(b, "closed")
        lock.acquire()
        alone = lock.contenders()
        waiter = visit(waiting)

        b.close()

        assert isinstance(waiter.end().error, errors.Closed)
        for use in (waiting.acquire, waiting.locked, waiting.contenders, lambda: waiting.acquire(False)):
            with pytest.raises(errors.Closed):
                use()
        wait_until(lambda: lock.contenders() == alone)
        lock.release()
