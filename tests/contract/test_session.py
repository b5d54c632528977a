"""Session: one lease, its key, its states and its end, on a real etcd."""

from __future__ import annotations

import _thread
import copy
import json
import math
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract.players import Attempt, expire, queue_up, wait_until

import coordkit
from coordkit import errors
from coordkit.deadline import Deadline, boottime
from coordkit.etcd import heart as hearts
from coordkit.etcd import kv, watch
from coordkit.wire import messages

SHORT_S = 2  # etcd's least TTL


@pytest.fixture
def short(etcd, namespace: str) -> Iterator[coordkit.Coordinator]:
    """A coordinator whose sessions have the least TTL, in this test's namespace."""
    with coordkit.connect(f"etcd://{etcd.endpoint}/{namespace}", ttl=SHORT_S) as coordinator:
        yield coordinator


def lives(coord: coordkit.Coordinator, session: coordkit.Session) -> messages.LeaseTimeToLiveResponse | None:
    """What etcd says of the session's lease; None when it is gone."""
    found = coord.client.unary(
        "/etcdserverpb.Lease/LeaseTimeToLive",
        messages.LeaseTimeToLiveRequest(ID=session.lease_id, keys=True),
        messages.LeaseTimeToLiveResponse,
        Deadline.after(5),
    )
    return None if found.TTL < 0 else found


def put(coord: coordkit.Coordinator, key: bytes) -> Callable[[], Any]:
    return lambda: coord.kv.put(key, b"")


class Log:
    """A listener; what it was told, and by which threads."""

    def __init__(self) -> None:
        self.states: list[coordkit.State] = []
        self.threads: set[int] = set()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, state: coordkit.State) -> None:
        self.threads.add(threading.get_ident())
        self.states.append(state)
        assert self.go_on.wait(15)

    @property
    def names(self) -> list[str]:
        return [state.name for state in self.states]


class TestOpening:
    def test_its_key_says_who_it_is_and_hangs_on_its_lease(self, coord, namespace):
        """
        `/<namespace>/session/<lease>` holds identity, host and pid, for people to read.
        """
        session = coord.session

        stored = coord.kv.get(f"/{namespace}/session/{session.lease_id:016x}")

        assert stored is not None
        words = json.loads(stored.value)
        start = words.pop("start")
        assert words == {
            "identity": coord.settings.identity,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        assert start.endswith("+00:00")
        assert stored.lease == session.lease_id
        lease = lives(coord, session)
        assert lease is not None and list(lease.keys) == [stored.key]

    def test_the_identity_is_the_users_choice(self, etcd, namespace):
        """
        `identity=` stands in the session key, whatever it holds.
        """
        name = 'a "quoted" \u20ac name'
        with coordkit.connect(f"etcd://{etcd.endpoint}/{namespace}", identity=name) as coord:
            stored = coord.kv.get(coord.session.key)

            assert stored is not None
            assert json.loads(stored.value)["identity"] == name

    def test_the_epoch_is_the_keys_mod_revision(self, coord):
        """
        What leased creates compare is what etcd has.
        """
        session = coord.session

        stored = coord.kv.get(session.key)

        assert stored is not None
        assert session._epoch == stored.mod_revision
        assert session.key_created == stored.create_revision

    def test_it_is_opened_on_first_use_and_shared(self, coord, namespace):
        """
        Connecting writes nothing; everybody gets the one session, and asking costs no call.
        """
        assert coord.kv.range(f"/{namespace}/") == []
        found: list[coordkit.Session] = []
        threads = [threading.Thread(target=lambda: found.append(coord.session)) for _ in range(10)]

        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(set(found)) == 1
        assert len(coord.kv.range(f"/{namespace}/")) == 1

    def test_it_gets_the_ttl_that_was_asked_for(self, coord):
        """
        A session of its own has a TTL of its own; a fraction of a second is rounded up.
        """
        session = coord.new_session(ttl=29.5)

        assert session.ttl_s == 30
        lease = lives(coord, session)
        assert lease is not None and lease.grantedTTL == 30

    def test_its_life_is_its_own(self, coord):
        """
        The end of one session touches neither another's state nor its lease.
        """
        other = coord.new_session()
        shared = coord.session

        expire(other, coord)

        assert other.lost.wait(15)
        assert shared.state is coordkit.State.ACTIVE
        assert lives(coord, shared) is not None

    @pytest.mark.parametrize(
        "ttl", [0, -1, 1, 1.99, math.nan, math.inf, -math.inf, 1e10, 10**20, True, "10", b"10", [10]]
    )
    def test_a_ttl_that_etcd_does_not_take_is_refused(self, coord, ttl):
        """
        Anything but a number of seconds from 2 on is the caller's mistake, told before anything is sent.
        """
        calls = coord.statistics().calls

        with pytest.raises(errors.InvalidValue, match="ttl"):
            coord.new_session(ttl=ttl)

        assert coord.statistics().calls == calls

    @pytest.mark.parametrize("max_hold", [0, -1, math.nan, True, "10", [1]])
    def test_a_silly_max_hold_is_refused(self, coord, max_hold):
        """
        `max_hold` is a positive number of seconds.
        """
        with pytest.raises(errors.InvalidValue, match="max_hold"):
            coord.new_session(max_hold=max_hold)

    def test_an_unknown_on_lost_is_refused(self, coord):
        """
        There is one word for it: "exit".
        """
        with pytest.raises(errors.InvalidValue, match="on_lost"):
            coord.new_session(on_lost="Exit")


class TestLife:
    def test_it_outlives_its_ttl(self, short):
        """
        Renewals go on by themselves: the deadline moves on, and a lock stays held.
        """
        lock = short.lock("a")
        with lock:
            first_s = short.session._pulse.deadline_s

            wait_until(lambda: short.session._pulse.deadline_s > first_s + SHORT_S)

            assert lock.held
            assert short.session.state is coordkit.State.ACTIVE

    def test_remaining_is_never_more_than_etcd_gave(self, short):
        """
        `remaining()` lies between nothing and the TTL without its drift and margin.
        """
        assert 0 < short.session.remaining() < SHORT_S

    def test_check_makes_no_call(self, coord):
        """
        `check`, `state` and `remaining` know by themselves: not a byte is sent.
        """
        session = coord.session
        coord.kv.get("a")
        before = coord.statistics()

        for _ in range(100):
            session.check()
            assert session.state is coordkit.State.ACTIVE
            assert session.remaining() > 0

        after = coord.statistics()
        assert (after.calls, after.bytes_sent) == (before.calls, before.bytes_sent)

    def test_an_idle_session_makes_no_call_on_the_connection_that_others_use(self, short):
        """
        Renewals have a connection of their own, and an idle session makes no other calls.
        """
        session = short.session
        heart = hearts.heart_for(short.client.options)
        wait_until(lambda: session._watched_from)
        before, renewals = short.statistics().calls, heart.renewals

        wait_until(lambda: heart.renewals >= renewals + 2)

        assert short.statistics().calls == before

    @pytest.mark.parametrize("copying", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_it_cannot_be_copied(self, coord, copying):
        """
        A copy would hang on the same lease without knowing of its end.
        """
        for owner in (coord.session, coord):
            with pytest.raises(errors.UsageError, match="connect in the other process"):
                copying(owner)

    def test_its_repr_says_how_it_is(self, coord):
        """
        The lease as etcdctl shows it, and the state.
        """
        assert repr(coord.session) == f"<Session {coord.session.lease_id:016x} active>"


class TestListeners:
    @pytest.fixture
    def session(self, short) -> coordkit.Session:
        return short.new_session()

    @staticmethod
    def suspend(session: coordkit.Session, overdue: bool) -> None:
        """As the heart does it."""
        session._pulse.overdue = overdue
        session._pulse.news.tell(session._pulse)

    def test_they_hear_each_change_in_order(self, short, session):
        """
        SUSPENDED, ACTIVE, LOST: all of them, once, on a thread that is neither the caller's nor a reader.
        """
        first, second = Log(), Log()
        session.add_listener(first)
        session.add_listener(second)

        self.suspend(session, True)
        wait_until(lambda: session._state is coordkit.State.SUSPENDED)
        self.suspend(session, False)
        wait_until(lambda: session._state is coordkit.State.ACTIVE)
        short.kv.delete(session.key)

        for log in (first, second):
            wait_until(lambda log=log: len(log.states) >= 3)
            assert log.names == ["SUSPENDED", "ACTIVE", "LOST"]
        assert threading.get_ident() not in first.threads

    def test_a_slow_one_delays_neither_the_lease_nor_the_news_of_its_loss(self, short, session):
        """
        While a listener sits on its first news, renewals go on, and `lost` is set as soon as ever.
        """
        log = Log()
        log.go_on.clear()
        session.add_listener(log)
        self.suspend(session, True)
        wait_until(lambda: log.names == ["SUSPENDED"])

        first_s = session._pulse.deadline_s
        wait_until(lambda: session._pulse.deadline_s > first_s + SHORT_S / 2)
        short.kv.delete(session.key)

        assert session.lost.wait(15)
        assert log.names == ["SUSPENDED"]
        log.go_on.set()
        wait_until(lambda: log.names[-1] == "LOST")

    def test_one_that_raises_does_not_silence_the_others(self, short, session, caplog):
        """
        A listener's mistake is logged; the next listener, and the next news, come all the same.
        """
        log = Log()
        session.add_listener(lambda state: 1 // 0)
        session.add_listener(log)

        self.suspend(session, True)
        wait_until(lambda: session._state is coordkit.State.SUSPENDED)
        session.close()

        wait_until(lambda: log.names == ["SUSPENDED", "CLOSED"])
        assert "ZeroDivisionError" in caplog.text

    def test_closing_is_news_too(self, session):
        """
        CLOSED is told once, however often it is closed.
        """
        log = Log()
        session.add_listener(log)

        session.close()
        session.close()

        wait_until(lambda: log.states)
        assert log.names == ["CLOSED"]


class TestLoss:
    @pytest.fixture
    def lost(self, short) -> coordkit.Session:
        """A session that somebody else has ended."""
        session = short.session
        short.kv.delete(session.key)
        assert session.lost.wait(15)
        return session

    def test_the_deletion_of_its_key_is_the_end(self, coord):
        """
        Whatever the deadline says: who deletes the session key ends the session at once.
        """
        session = coord.session
        wait_until(lambda: session._watched_from)

        revision = coord.kv.txn().then(kv.delete(session.key)).commit().revision

        assert session.lost.wait(15)
        assert session.state is coordkit.State.LOST
        assert session.remaining() == 0
        assert session.reason == f"its session key was deleted at revision {revision}"
        with pytest.raises(errors.SessionLost, match=f"deleted at revision {revision}"):
            session.check()

    def test_the_end_of_its_lease_is_the_end(self, coord):
        """
        Somebody revokes the lease, or etcd does: all its keys go in one revision, and we are told.
        """
        session = coord.session

        expire(session, coord)

        assert session.lost.wait(15)
        assert coord.kv.get(session.key) is None

    def test_an_answer_that_comes_when_its_time_was_up_revives_nobody(self, coord):
        """
        Who was told that a lock is not held drops it; nobody would ever release it.
        """
        session = coord.new_session(ttl=60)
        lock = coordkit.Lock(session, "job")
        lock.acquire()
        key = lock.key
        session._pulse.deadline_s = boottime()  # as if no renewal had been answered

        assert not lock.held
        session._pulse.note_answer(boottime(), 60)

        assert not lock.held
        assert session.state is coordkit.State.LOST
        wait_until(lambda: coord.kv.get(key) is None)

    def test_the_heart_finds_out_without_a_watch(self, short):
        """
        Should the watch stay silent, the next renewal is answered with a TTL of nothing.
        """
        session = short.session
        session._watch.cancel()

        expire(session, short)

        assert session.lost.wait(15)
        assert "etcd says" in session.reason

    def test_the_clock_alone_ends_it(self, short):
        """
        Without answers it is LOST when its deadline passes, although nobody asked and etcd never said so.
        """
        session = short.session
        hearts.heart_for(short.client.options).order("remove", session._pulse)

        assert session.lost.wait(15)

        assert "no renewal was answered" in session.reason
        assert session.remaining() == 0

    def test_a_key_that_was_put_again_is_not_ours(self, short):
        """
        The session key's name alone proves nothing: once deleted it stays lost.
        """
        session = short.session
        wait_until(lambda: session._watched_from)

        short.kv.delete(session.key)
        short.kv.put(session.key, b"")

        assert session.lost.wait(15)

    def test_it_is_final(self, short, lost):
        """
        Neither time, news of the heart, nor closing changes it; and nothing can be created.
        """
        lost._pulse.overdue = False
        lost._pulse.news.tell(lost._pulse)
        lost.close()

        assert lost.state is coordkit.State.LOST
        with pytest.raises(errors.SessionLost):
            lost.create(lost.key + b"x", b"", Deadline.after(5), [], [])
        with pytest.raises(errors.SessionLost):
            coordkit.Lock(lost, "a").acquire()

    def test_its_lease_and_its_watch_are_given_up(self, coord):
        """
        A lost session leaves nothing behind on the server, long before its TTL is over.
        """
        session = coord.new_session(ttl=60)
        coord.kv.delete(session.key)
        assert session.lost.wait(15)

        wait_until(lambda: lives(coord, session) is None)
        wait_until(lambda: session._watch.state is watch.State.ENDED)

    def test_what_happened_before_the_watch_stood_is_read(self, coord):
        """
        A watch that stands at a later revision than the key's may have missed its deletion: a read tells.
        """
        session = coord.new_session(ttl=60)
        session._watch.cancel()
        coord.kv.delete(session.key)

        session._watch_stands(session.key_created)
        session._watch_stands(coord.kv.put("/elsewhere", ""))

        assert session.lost.wait(15)
        assert "was gone at revision" in session.reason

    def test_all_that_hung_on_it_hears_of_it(self, coord):
        """
        What is held is lost, and who waits stops waiting.
        """
        session = coord.new_session()
        held, waiting = coordkit.Lock(session, "a"), coordkit.Lock(session, "a")
        held.acquire()
        (attempt,) = queue_up(waiting)

        expire(session, coord)

        assert isinstance(attempt.end().error, errors.SessionLost)
        assert held.lost.wait(15)
        assert not held.held
        with pytest.raises(errors.LockLost):
            held.release()

    def test_a_coordinator_opens_another_one(self, short, lost):
        """
        The next use of the coordinator has a session that lives, and its locks work.
        """
        assert short.session is not lost
        assert short.session.state is coordkit.State.ACTIVE
        with short.lock("a") as lock:
            lock.check()

    def test_on_lost_exit_ends_the_process(self, child, etcd, namespace, coord):
        """
        A program that prefers to die does so with status 76, from wherever it is.
        """
        source = """
            import sys, threading
            import coordkit

            coord = coordkit.connect(sys.argv[1], on_lost="exit")
            print(coord.session.key.decode(), flush=True)
            threading.Event().wait(60)
        """
        process = child(source, f"etcd://{etcd.endpoint}/{namespace}")
        key = process.stdout.readline().strip()

        coord.kv.delete(key)

        assert process.wait(20) == 76
        wait_until(lambda: coord.kv.range(f"/{namespace}/") == [])


class TestMaxHold:
    def test_a_stuck_worker_loses_its_session(self, short):
        """
        Past max_hold the session is renewed no more: everything that it holds ends with its TTL.
        """
        session = short.new_session(max_hold=0.5)
        lock = coordkit.Lock(session, "a")
        lock.acquire()

        assert lock.lost.wait(15)

        assert "max_hold" in session.reason
        with pytest.raises(errors.LockLost, match="max_hold"):
            lock.release()

    def test_it_counts_from_the_oldest_hold(self, coord):
        """
        Short holds that overlap for ever are not a stuck worker.
        """
        session = coord.new_session(max_hold=100)
        pulse = session._pulse
        first, second = coordkit.Lock(session, "a"), coordkit.Lock(session, "b")
        assert pulse.stop_at_s == math.inf

        first.acquire()
        of_first_s = pulse.stop_at_s
        second.acquire()
        assert pulse.stop_at_s == of_first_s < math.inf
        first.release()
        assert of_first_s < pulse.stop_at_s < math.inf
        second.release()

        assert pulse.stop_at_s == math.inf


class TestClose:
    def test_it_revokes(self, coord, namespace):
        """
        Lease and keys are gone when `close` returns, and nothing can be done with it.
        """
        session = coord.new_session()

        session.close()

        assert coord.kv.range(f"/{namespace}/") == []
        assert lives(coord, session) is None
        assert (session.state, session.remaining()) == (coordkit.State.CLOSED, 0)
        assert not session.lost.is_set()
        with pytest.raises(errors.Closed):
            session.check()
        with pytest.raises(errors.Closed):
            coordkit.Lock(session, "a").acquire()

    def test_what_its_thread_holds_ends_with_it(self, coord):
        """
        Closing is the last release: what is held is lost, and free for others.
        """
        session = coord.new_session()
        lock = coordkit.Lock(session, "a")
        lock.acquire()
        (heir,) = queue_up(coord.lock("a"))

        session.close()

        heir.wait_until_held()
        assert lock.lost.is_set()
        assert not lock.held
        with pytest.raises(errors.LockLost):
            lock.check()
        heir.lock.release()

    def test_who_waits_stops_waiting(self, coord):
        """
        A waiter of a session that is closed under it is told so.
        """
        session = coord.new_session()
        with coord.lock("a"):
            (attempt,) = queue_up(coordkit.Lock(session, "a"))

            session.close()

            assert isinstance(attempt.end().error, errors.Closed)

    def test_another_threads_critical_section_is_spared(self, short):
        """
        While another thread, or a raw greenlet, is inside, the lease is left to run out, and counts down.
        """
        leave = threading.Event()

        def enter(start: Callable[[Callable[[], None]], None]) -> tuple[coordkit.Session, coordkit.Lock]:
            session, inside = short.new_session(), threading.Event()
            lock = coordkit.Lock(session, session.key.decode())

            def work() -> None:
                lock.acquire()
                inside.set()
                assert leave.wait(30)

            start(work)
            assert inside.wait(15)
            return session, lock

        held = [
            enter(lambda work: threading.Thread(target=work, daemon=True).start()),
            enter(lambda work: _thread.start_new_thread(work, ()) and None),
        ]

        for session, _ in held:
            session.close()

        for _, lock in held:
            assert short.kv.get(lock.key) is not None
            assert not lock.lost.is_set()
            assert 0 < lock.remaining() < SHORT_S
        for session, lock in held:
            wait_until(lambda session=session: lives(short, session) is None)
            assert lock.remaining() == 0
            with pytest.raises(errors.LockLost):
                lock.check()
        leave.set()

    def test_a_thread_that_has_ended_is_inside_nothing(self, coord):
        """
        What a thread left locked when it ended does not keep the lease.
        """
        session = coord.new_session()
        lock = coordkit.Lock(session, "a")
        Attempt(lock).wait_until_held()

        session.close()

        assert lives(coord, session) is None
        assert lock.lost.is_set()

    def test_a_hold_that_comes_too_late_is_lost(self, coord):
        """
        Who is granted something while the session closes is told at once.
        """
        session = coord.new_session()
        session.close()
        told: list[str] = []

        session.hold(object(), threading.current_thread(), told.append)

        assert told == ["closed by this program"]

    def test_closing_the_coordinator_closes_all(self, etcd, namespace, coord):
        """
        The shared session and those of their own end; later use is refused in plain words.
        """
        other = coordkit.connect(f"etcd://{etcd.endpoint}/{namespace}")
        sessions = [other.session, other.new_session(), other.new_session()]

        other.close()
        other.close()

        assert [session.state.name for session in sessions] == ["CLOSED"] * 3
        assert coord.kv.range(f"/{namespace}/") == []
        for use in (lambda: other.session, other.new_session, other.lock("a").acquire, put(other, b"a")):
            with pytest.raises(errors.Closed):
                use()
