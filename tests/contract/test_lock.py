"""Lock: the contract of threading.Lock across processes, first come first served; and what is its own.

What all lock-likes have in common is in `test_locklikes.py`.
Where the contract is that of threading.Lock the same test runs on a threading.Lock too.
"""

from __future__ import annotations

import copy
import math
import pickle
import threading
from typing import Any

import pytest
from contract.players import Attempt, expire, queue_up, wait_until

import coordkit
from coordkit import errors
from coordkit.etcd import kv

#: Prefixes of one another, with slashes, with what is encoded, and at the limit.
NAMES = ["job1", "job10", "job", "a", "a/b", "a/b/c", "/", "//", ".", "..", "\xe4\u20ac", "a b", "%2F", "\0"]
NAMES += ["x" * 255, "x" * 254]


class TestContractOfThreadingLock:
    """What threading.Lock promises."""

    @pytest.fixture(params=["threading.Lock", "coord.lock", "Lock.at"])
    def lock(self, request, coord, namespace: str) -> Any:
        if request.param == "threading.Lock":
            return threading.Lock()
        if request.param == "coord.lock":
            return coord.lock("contract")
        return coordkit.Lock.at(coord.session, f"/{namespace}/at")

    def test_acquire_and_release(self, lock):
        """
        A free lock is acquired at once, is locked until it is released, and can be acquired again.
        """
        assert not lock.locked()

        for _ in range(3):
            assert lock.acquire() is True
            assert lock.locked()

            lock.release()
            assert not lock.locked()

    def test_with_releases_at_the_end(self, lock):
        """
        `with` acquires, and releases whether the block ends well or not.
        """
        with lock:
            assert lock.locked()
        assert not lock.locked()

        with pytest.raises(ZeroDivisionError), lock:
            _ = 1 // 0

        assert not lock.locked()

    @pytest.mark.parametrize("arguments", [{"blocking": False}, {"timeout": 0}, {"timeout": 0.0}])
    def test_a_try_does_not_wait(self, lock, arguments):
        """
        blocking=False and timeout=0 take a free lock, and give up on one that is held.
        """
        assert lock.acquire(**arguments) is True

        assert lock.acquire(**arguments) is False

        lock.release()
        assert lock.acquire(**arguments) is True
        lock.release()

    @pytest.mark.parametrize("timeout", [0.01, 0.2])
    def test_the_holder_itself_waits_too(self, lock, timeout):
        """
        It is not reentrant: a second acquire by its holder waits, here until its time is up.
        """
        lock.acquire()

        assert lock.acquire(timeout=timeout) is False

        assert lock.locked()
        lock.release()

    def test_positional_arguments(self, lock):
        """
        The arguments are blocking and timeout, in this order.
        """
        assert lock.acquire(True, 5) is True
        assert lock.acquire(False) is False
        assert lock.acquire(True, 0.01) is False
        lock.release()

    @pytest.mark.parametrize("timeout", [-2, -0.5, -1e9])
    def test_negative_timeouts_are_refused(self, lock, timeout):
        """
        -1 is for ever; any other negative number is a ValueError, and nothing is acquired.
        """
        with pytest.raises(ValueError):
            lock.acquire(timeout=timeout)

        assert not lock.locked()

    @pytest.mark.parametrize("timeout", ["1", [1], object()])
    def test_what_is_no_number_is_refused(self, lock, timeout):
        """
        A timeout that is no number is refused, and nothing is acquired.
        """
        with pytest.raises((TypeError, ValueError)):
            lock.acquire(timeout=timeout)

        assert not lock.locked()

    def test_a_try_takes_no_timeout(self, lock):
        """
        A timeout for an acquire that does not block makes no sense.
        """
        with pytest.raises(ValueError):
            lock.acquire(blocking=False, timeout=1)

        assert not lock.locked()

    def test_release_needs_an_acquire(self, lock):
        """
        Releasing what is not held is a RuntimeError: never acquired, or released already.
        """
        with pytest.raises(RuntimeError):
            lock.release()

        lock.acquire()
        lock.release()

        with pytest.raises(RuntimeError):
            lock.release()

    def test_any_thread_may_release(self, lock):
        """
        What one thread acquired another may release.
        """
        lock.acquire()

        thread = threading.Thread(target=lock.release)
        thread.start()
        thread.join()

        assert not lock.locked()

    def test_a_waiter_gets_it_after_the_release(self, lock):
        """
        A thread that waits acquires when the holder releases, and not before.
        """
        lock.acquire()
        waiter = Attempt(lock)

        assert not waiter.over.wait(0.1)

        lock.release()
        waiter.wait_until_held()
        lock.release()

    def test_threads_that_share_it_exclude_each_other(self, lock):
        """
        A counter that is read, then written, loses no step.
        """
        pause = threading.Event()
        count = 0

        def step() -> None:
            nonlocal count
            for _ in range(5):
                with lock:
                    read = count
                    pause.wait(0.0005)
                    count = read + 1

        threads = [threading.Thread(target=step) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert count == 30


class TestTimeouts:
    """What is our own about them."""

    @pytest.mark.parametrize("timeout", [None, -1, -1.0, math.inf, 1e300, 10**12])
    def test_for_ever(self, coord, timeout):
        """
        None, -1 and numbers past all patience wait for ever.
        """
        lock = coord.lock("for ever")
        lock.acquire()

        waiter = Attempt(lock, timeout=timeout)
        wait_until(lambda: len(lock.contenders()) == 2)
        lock.release()

        waiter.wait_until_held()
        lock.release()

    def test_whose_time_is_up_leaves_the_line(self, coord, crew):
        """
        A waiter whose time ran out is out of the line, and whoever stands behind it moves up.
        """
        (other,) = crew(1)
        lock = coord.lock("x")
        lock.acquire()
        (impatient,) = queue_up(other.lock("x"), timeout=0.3)
        (patient,) = queue_up(other.lock("x"))
        places = lock.contenders()

        assert impatient.end().result is False

        wait_until(lambda: lock.contenders() == [places[0], places[2]])
        lock.release()
        patient.wait_until_held()
        patient.lock.release()


class TestOrder:
    """First come, first served."""

    def test_across_coordinators(self, crew):
        """
        Grants come in the order of the joins, whichever connection they came by; fences rise.
        """
        a, b, c = crew(3)
        locks = [member.lock("fifo") for member in (a, b, c, b, a, c, c, a)]
        holder = a.lock("fifo")
        holder.acquire()
        waiters = queue_up(*locks)
        fences = [holder.fence]

        holder.release()
        for index, waiter in enumerate(waiters):
            waiter.wait_until_held()
            fences.append(waiter.lock.fence)
            assert all(later.waiting for later in waiters[index + 1 :])
            waiter.lock.release()

        assert fences == sorted(set(fences))

    def test_threads_that_share_an_object_queue_like_strangers(self, coord, crew):
        """
        Handles and threads of one object stand in the one line, between the waiters of other processes.
        """
        (other,) = crew(1)
        shared, foreign = coord.lock("shared"), other.lock("shared")
        shared.acquire()
        waiters = queue_up(shared, foreign, shared, foreign)

        for waiter in waiters:
            (shared if shared.held else foreign).release()
            waiter.wait_until_held()

        assert [waiter.lock for waiter in waiters] == [shared, foreign, shared, foreign]
        foreign.release()

    def test_across_processes(self, coord, child, etcd, namespace):
        """
        Processes are granted the lock in the order in which they joined, and fences rise.
        """
        program = """
            import sys
            import coordkit
            with coordkit.connect(sys.argv[1]) as coord:
                lock = coord.lock("processes")
                lock.acquire()
                print(lock.fence, flush=True)
                sys.stdin.readline()
                lock.release()
        """
        lock = coord.lock("processes")
        lock.acquire()
        children = []
        for count in (2, 3, 4):
            children.append(child(program, f"etcd://{etcd.endpoint}/{namespace}"))
            wait_until(lambda count=count: len(lock.contenders()) == count)
        line = [place.fence for place in lock.contenders()]

        lock.release()
        fences = []
        for process in children:
            fences.append(int(process.stdout.readline()))
            process.stdin.write("\n")
            process.stdin.flush()

        assert fences == line[1:] == sorted(fences)
        for process in children:
            assert process.wait(15) == 0

    def test_a_dead_waiter_does_not_promote_the_one_behind_it(self, coord, crew):
        """
        The lock is held only once every older key is gone.
        """
        victim, heir = crew(2)
        lock = coord.lock("dead")
        lock.acquire()
        dying, waiting = queue_up(victim.lock("dead"), heir.lock("dead"))

        expire(victim.session, coord)
        assert isinstance(dying.end().error, errors.SessionLost)
        wait_until(lambda: len(lock.contenders()) == 2)
        assert not waiting.over.wait(0.1)

        fence = lock.fence
        lock.release()
        waiting.wait_until_held()
        assert waiting.lock.fence > fence
        waiting.lock.release()


class TestHold:
    """What is known while it is held."""

    def test_a_release_is_no_loss(self, coord):
        """
        `lost` stays unset through a release, although the line's watch tells of the key's deletion.
        """
        lock = coord.lock("no loss")

        for _ in range(30):
            lock.acquire()
            lost = lock.lost
            (waiter,) = queue_up(lock)  # now the line is watched
            lock.release()
            waiter.wait_until_held()
            lock.release()
            assert not lost.is_set()
            assert not lock.lost.is_set()

    def test_a_guard_does_not_hold_for_the_next_holder(self, coord, crew, namespace):
        """
        A write that carries the guard of an earlier hold is refused while a later one lasts.
        """
        (other,) = crew(1)
        lock, next_lock = coord.lock("next"), other.lock("next")
        key = f"/{namespace}/state".encode()
        lock.acquire()
        late = lock.txn().then(kv.put(key, b"late"))
        lock.release()

        with next_lock:
            assert not late.commit().succeeded

    def test_contenders(self, crew):
        """
        The holder first, then the waiters in order, with who they are; `mine` are those of this session.
        """
        a, b = crew(1, identity="Anna")[0], crew(1, identity="Bert")[0]
        lock = a.lock("people")
        assert lock.contenders() == []
        lock.acquire()
        waiters = queue_up(b.lock("people"), a.lock("people"))

        seen_by_a, seen_by_b = lock.contenders(), b.lock("people").contenders()

        assert [place.identity for place in seen_by_a] == ["Anna", "Bert", "Anna"]
        assert [place.mine for place in seen_by_a] == [True, False, True]
        assert [place.mine for place in seen_by_b] == [False, True, False]
        assert [place.fence for place in seen_by_a] == sorted(place.fence for place in seen_by_a)
        assert seen_by_a[0].fence == lock.fence
        assert seen_by_a[0].key == lock.key
        assert {place.lease for place in seen_by_a} == {a.session.lease_id, b.session.lease_id}
        assert all(place.since for place in seen_by_a)
        lock.release()
        for waiter in waiters:
            waiter.wait_until_held().lock.release()

    def test_foreign_values_do_not_disturb(self, coord, namespace):
        """
        Keys of others in the line may hold anything, or nothing.
        """
        prefix = f"/{namespace}/strange"
        lock = coordkit.Lock.at(coord.session, prefix)
        values = [b"", b"\xff\xfe", b"[1]", b'{"identity":7}', b"[" * 20_000]
        for number, stored in enumerate(values):
            coord.kv.put(f"{prefix}/{number:x}", stored)

        places = lock.contenders()

        assert [place.identity for place in places] == ["", "", "", "7", ""]
        assert lock.locked()
        assert lock.acquire(blocking=False) is False
        coord.kv.delete_prefix(f"{prefix}/")


class TestLoss:
    """Held, then lost."""

    def test_the_next_acquire_opens_another_session(self, coord, crew):
        """
        After a loss the same object works again, with a new session and a larger fence.
        """
        (other,) = crew(1)
        lock = other.lock("again")
        lock.acquire()
        fence, session, lost = lock.fence, other.session, lock.lost
        expire(session, coord)
        assert lost.wait(15)

        # The lost hold is not released: the second acquire means the second hold.
        assert lock.acquire(timeout=5)

        assert lock.fence > fence
        assert other.session is not session
        assert lock.held
        assert not lock.lost.is_set() and lost.is_set()
        lock.release()
        with pytest.raises(errors.LockLost):
            lock.release()

    def test_a_lost_hold_never_releases_anothers(self, coord, crew):
        """
        A thread that lost its hold cannot release the hold that another thread has through the same object.
        """
        (other,) = crew(1)
        lock = other.lock("thread")
        loser_error: list[BaseException] = []
        held, go = threading.Event(), threading.Event()

        def lose() -> None:
            lock.acquire()
            held.set()
            go.wait(15)
            try:
                lock.release()
            except errors.CoordError as error:
                loser_error.append(error)

        loser = threading.Thread(target=lose)
        loser.start()
        assert held.wait(15)
        lost = lock.lost
        expire(other.session, coord)
        assert lost.wait(15)
        lock.acquire()
        fence = lock.fence

        go.set()
        loser.join()

        assert [type(error) for error in loser_error] == [errors.LockLost]
        assert lock.held and lock.fence == fence
        assert [place.fence for place in lock.contenders()] == [fence]
        lock.release()

    @pytest.mark.parametrize("how", ["acquired", "tried", "waited"])
    def test_somebody_deletes_the_held_key(self, coord, crew, how):
        """
        A foreign deletion is found at release; where the line is watched, `lost` tells of it at once.
        """
        (other,) = crew(1)
        lock = coord.lock("deleted")
        if how == "waited":
            blocker = other.lock("deleted")
            blocker.acquire()
            (waited,) = queue_up(lock)
            blocker.release()
            waited.wait_until_held()
        else:
            lock.acquire(blocking=how == "acquired")
        (waiter,) = queue_up(coord.lock("deleted"))  # of this process: so the line is watched
        wait_until(lambda: waiter.lock._line(None)[0]._covered_from)
        lost = lock.lost

        other.kv.delete(lock.key)

        assert lost.wait(15)
        assert not lock.held
        waiter.wait_until_held()
        with pytest.raises(errors.LockLost):
            lock.release()
        assert waiter.lock.held
        waiter.lock.release()

    def test_somebody_deletes_a_waiters_key(self, coord, crew):
        """
        The waiter joins again, at the end of the line.
        """
        (other,) = crew(1)
        lock = coord.lock("waiter")
        lock.acquire()
        first, second = queue_up(other.lock("waiter"), other.lock("waiter"))
        before = [place.key for place in lock.contenders()]

        coord.kv.delete(before[1])

        wait_until(lambda: len(lock.contenders()) == 3)
        after = [place.key for place in lock.contenders()]
        assert after[:2] == [before[0], before[2]]
        lock.release()
        second.wait_until_held()
        assert first.waiting
        second.lock.release()
        first.wait_until_held()
        first.lock.release()


class TestNames:
    """What a lock is called, and where its keys are."""

    def test_names_do_not_disturb_each_other(self, coord):
        """
        Locks whose names are prefixes of one another, have slashes or are not ASCII are all free to be held.
        """
        locks = [coord.lock(name) for name in NAMES]
        for lock in locks:
            assert lock.acquire(blocking=False), lock

        assert all(len(lock.contenders()) == 1 for lock in locks)
        assert not any(coord.lock(name).acquire(blocking=False) for name in NAMES)
        for lock in locks:
            lock.release()

    @pytest.mark.parametrize("name", ["", "x" * 256, "\ud800", 7, None, b"bytes"])
    def test_names_that_cannot_be(self, coord, name):
        """
        Empty, too long, not encodable, not a str: InvalidName, which is a ValueError, when the lock is made.
        """
        with pytest.raises(errors.InvalidName):
            coord.lock(name)

    def test_the_layout_of_keys(self, coord, namespace):
        """
        Keys are /<namespace>/lock/<name>/<lease>-<nonce>; no two at a time share a nonce.
        """
        with coord.lock("a/b") as one, coord.lock("c") as other:
            prefix, _, nonce = one.key.decode().rpartition("-")

            assert prefix == f"/{namespace}/lock/a%2Fb/{coord.session.lease_id:016x}"
            assert nonce
            assert nonce != other.key.decode().rpartition("-")[2]

    def test_names_come_back_when_their_last_use_is_beyond_doubt(self, coord):
        """
        A loop of acquisitions uses one name, for etcd remembers each deleted one until it compacts.
        """
        lock = coord.lock("again")
        keys, fences = set(), []
        for _ in range(5):
            with lock:
                keys.add(lock.key)
                fences.append(lock.fence)

        assert len(keys) == 1
        assert fences == sorted(set(fences))

    def test_a_prefix_that_is_taken_as_it_is(self, coord):
        """
        Lock.at appends a slash, as Go does: /funtester/ has the keys /funtester//<lease>-<nonce>.
        """
        lock = coordkit.Lock.at(coord.session, "/funtester/")

        with lock:
            assert lock.key.startswith(b"/funtester//%016x-" % coord.session.lease_id)
            assert [stored.key for stored in coord.kv.range("/funtester/")] == [lock.key]

        assert coord.kv.range("/funtester/") == []

    @pytest.mark.parametrize("prefix", ["", None, b"/bytes", "\ud800"])
    def test_prefixes_that_cannot_be(self, coord, prefix):
        """
        The prefix must be a str that is not empty.
        """
        with pytest.raises(errors.InvalidName):
            coordkit.Lock.at(coord.session, prefix)

    def test_at_and_name_can_be_one_line(self, coord, namespace):
        """
        Lock.at of the prefix of a named lock is that lock.
        """
        same = coordkit.Lock.at(coord.session, f"/{namespace}/lock/one")

        with coord.lock("one"):
            assert same.acquire(blocking=False) is False


class TestTry:
    """acquire(blocking=False)."""

    def test_a_busy_try_writes_nothing(self, coord, crew):
        """
        While the line is not empty a try leaves etcd's revision where it was.
        """
        (other,) = crew(1)
        lock = coord.lock("try")
        lock.acquire()
        _ = other.session

        before = coord.kv.put("/probe", b"")
        assert [other.lock("try").acquire(blocking=False) for _ in range(5)] == [False] * 5
        after = coord.kv.put("/probe", b"")

        assert after == before + 1
        coord.kv.delete("/probe")
        lock.release()

    def test_a_waiter_makes_it_busy(self, coord, crew):
        """
        A try does not overtake: it takes the first place of an empty line only.
        """
        (other,) = crew(1)
        lock = coord.lock("busy")
        lock.acquire()
        (waiter,) = queue_up(other.lock("busy"))
        coord.kv.delete(lock.key)
        waiter.wait_until_held()

        assert coord.lock("busy").acquire(blocking=False) is False

        waiter.lock.release()
        with pytest.raises(errors.LockLost):
            lock.release()

    def test_what_a_try_took_others_wait_for(self, coord, crew):
        """
        A lock that was tried for is held like any other.
        """
        (other,) = crew(1)
        lock = coord.lock("tried")
        assert lock.acquire(blocking=False)
        (waiter,) = queue_up(other.lock("tried"))

        lock.release()

        waiter.wait_until_held()
        waiter.lock.release()


class TestLife:
    """What it owns, and what comes after."""

    @pytest.mark.parametrize("copying", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_its_owners_cannot_be_copied(self, coord, copying):
        """
        Sessions and coordinators own a connection: pickling or copying one is refused, in words.
        """
        for owner in (coord.session, coord):
            with pytest.raises(errors.UsageError, match="cannot be pickled"):
                copying(owner)

    def test_closing_gives_back_what_this_thread_holds(self, coord, crew):
        """
        close() ends the hold: others get the lock at once, and release() says that it was lost.
        """
        (other,) = crew(1)
        lock = other.lock("given back")
        lock.acquire()

        other.close()

        assert coord.lock("given back").acquire(timeout=5)
        assert lock.lost.is_set()
        assert not lock.held
        with pytest.raises(errors.LockLost):
            lock.release()
        (holder,) = coord.lock("given back").contenders()
        coord.kv.delete(holder.key)

    def test_a_lock_on_a_session_that_was_closed(self, coord):
        """
        A lock that was made on a session, not on a coordinator, ends with that session.
        """
        session = coord.new_session()
        lock = coordkit.Lock(session, "own session")
        with lock:
            pass

        session.close()

        with pytest.raises(errors.Closed):
            lock.acquire()
