"""Outages: the server dies, is stopped, comes back in time or too late.

Several sessions are on the server, so that one outage shows all that it must.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract.players import Attempt, Call, expire, queue_up, wait_until

import coordkit
from coordkit import errors
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import heart as hearts
from coordkit.testing import FaultProxy, LocalEtcd
from coordkit.wire import messages

LONG_S = 6  # a server that is killed and started again answers well within half of this
SHORT_S = 2
QUICK = ("--heartbeat-interval=10", "--election-timeout=100")  # it takes no second to elect itself

FAULTS = {
    "killed": (LocalEtcd.kill, LocalEtcd.start),
    "stopped": (LocalEtcd.pause, LocalEtcd.resume),
}


@pytest.fixture(scope="module")
def patient(etcd_binary: str) -> Iterator[LocalEtcd]:
    with LocalEtcd(etcd_binary, arguments=QUICK) as server:
        yield server


@pytest.fixture
def server(patient: LocalEtcd) -> Iterator[LocalEtcd]:
    """A server that a test may hurt; it is well again, and empty, for the next one."""
    yield patient
    patient.start()
    patient.resume()
    with coordkit.connect(patient.url) as coord:
        wait_until(lambda: coord.kv.delete_prefix("/") is not None)


@pytest.fixture(params=list(FAULTS))
def outage(request, server: LocalEtcd) -> Outage:
    return Outage(server, *FAULTS[request.param])


class Outage:
    """`begin()` and `end()` of one kind of fault."""

    def __init__(
        self, server: LocalEtcd, fault: Callable[[LocalEtcd], None], mend: Callable[[LocalEtcd], None]
    ) -> None:
        self._server = server
        self._fault = fault
        self._mend = mend

    def begin(self) -> None:
        self._fault(self._server)

    def end(self) -> None:
        self._mend(self._server)


class Troupe:
    """A holder, two who wait behind it, and the states that they were told of."""

    def __init__(self, server: LocalEtcd, ttl: float) -> None:
        self.coords = [coordkit.connect(server.url, ttl=ttl) for _ in range(3)]
        self.sessions = [coord.session for coord in self.coords]
        self.locks = [coord.lock("a") for coord in self.coords]
        self.told: list[list[str]] = [[] for _ in self.coords]
        for session, told in zip(self.sessions, self.told, strict=True):
            session.add_listener(lambda state, told=told: told.append(state.name))
        self.holder = self.locks[0]
        self.holder.acquire()
        self.waiting = queue_up(*self.locks[1:])

    @property
    def suspended(self) -> bool:
        return all("SUSPENDED" in told for told in self.told)

    def close(self) -> None:
        for coord in self.coords:
            coord.close()


@pytest.fixture
def troupe(server: LocalEtcd) -> Iterator[Callable[[float], Troupe]]:
    made: list[Troupe] = []

    def engage(ttl: float) -> Troupe:
        made.append(Troupe(server, ttl))
        return made[-1]

    yield engage

    for each in made:
        each.close()


class TestInTime:
    def test_nothing_is_lost_by_an_outage_of_half_the_ttl(self, outage, troupe):
        """
        The lock stays held, the line keeps its order, and meanwhile the sessions say SUSPENDED.
        """
        play = troupe(LONG_S)
        fence = play.holder.fence

        outage.begin()
        wait_until(lambda: play.suspended, LONG_S)
        play.holder.check()
        assert play.holder.held
        outage.end()

        for session in play.sessions:
            wait_until(lambda session=session: session.state is coordkit.State.ACTIVE)
        assert play.holder.fence == fence
        assert [attempt.waiting for attempt in play.waiting] == [True, True]
        fences = [fence]
        for lock, heir in zip(play.locks, play.waiting, strict=False):
            lock.release()
            heir.wait_until_held()
            fences.append(heir.lock.fence)
        play.locks[-1].release()
        assert fences == sorted(set(fences))
        for told in play.told:
            assert told[-1] == "ACTIVE"
            assert "LOST" not in told

    def test_who_comes_during_the_outage_gets_in_line(self, server, troupe):
        """
        An acquire that begins while nobody answers rides it out.
        """
        play = troupe(LONG_S)
        server.pause()
        late = Attempt(play.coords[0].lock("b"))
        later = Attempt(play.coords[1].lock("a"))

        server.resume()

        late.wait_until_held().lock.release()
        assert later.waiting
        play.holder.release()
        for attempt in (*play.waiting, later):
            attempt.wait_until_held().lock.release()


class TestTooLate:
    def test_everything_is_lost_by_an_outage_longer_than_the_ttl(self, outage, troupe):
        """
        SUSPENDED, then LOST, told in each way that there is; afterwards new sessions work.
        """
        play = troupe(SHORT_S)

        outage.begin()
        for session in play.sessions:
            assert session.lost.wait(15)

        assert play.holder.lost.is_set()
        assert not play.holder.held
        with pytest.raises(errors.LockLost):
            play.holder.check()
        for attempt in play.waiting:
            assert isinstance(attempt.end().error, errors.SessionLost)
        with pytest.raises(errors.LockLost):
            play.holder.release()
        for told in play.told:
            wait_until(lambda told=told: told[-1:] == ["LOST"])
            assert told == ["SUSPENDED", "LOST"]

        outage.end()

        again = [coord.lock("a") for coord in play.coords]
        for lock in again:
            with lock.within(30):
                lock.check()
        assert [coord.session in play.sessions for coord in play.coords] == [False] * 3

    def test_a_reason_says_what_was_in_the_way(self, server, troupe):
        """
        Whoever reads why a session was lost learns that nobody answered, and where.
        """
        play = troupe(SHORT_S)

        server.kill()

        for session in play.sessions:
            assert session.lost.wait(15)
            assert server.endpoint in session.reason


class TestCallsMeanwhile:
    """What calls do while the server is stopped."""

    @pytest.fixture
    def coord(self, server: LocalEtcd) -> Iterator[coordkit.Coordinator]:
        with coordkit.connect(server.url, timeout=1.0) as coordinator:
            yield coordinator

    def test_a_session_cannot_be_opened(self, server, coord):
        """
        Opening ends with the request timeout, and says so.
        """
        server.pause()

        with pytest.raises((errors.Unavailable, errors.DeadlineExceeded), match=server.endpoint):
            coord.new_session()
        server.resume()

    def test_who_waits_gives_up_with_its_own_time_not_with_a_requests(self, server, coord):
        """
        An outage that outlasts a request's timeout, before there is a session: nobody is told False, and
        nobody enters, until it is over.
        """
        locks = {
            "lock": coord.lock("a"),
            "cohort lock": coord.cohort_lock("b"),
            "semaphore": coord.semaphore("c", limit=1),
            "reader": coord.rwlock("d").read,
            "several": coord.multilock(["e", "f"]),
        }
        server.pause()
        waits = {f"{name}, for ever": Call(lock.acquire) for name, lock in locks.items()}
        waits |= {
            "a block": Call(lambda: coord.lock("g").__enter__().check()),
            "with a timeout": Call(coord.lock("h").acquire, timeout=60),
            "election": Call(coord.election("i").campaign),
            "latch": Call(coord.latch("j", 1).wait, timeout=60),
        }

        threading.Event().wait(3 * coord.settings.options.timeout_s)

        early = {name: (wait.result, wait.error) for name, wait in waits.items() if wait.over.is_set()}
        server.resume()
        assert not early
        coord.latch("j", 1).count_down()
        for name, wait in waits.items():
            wait.end()
            assert wait.error is None, (name, wait.error)
        assert all(lock.held for lock in locks.values())
        for lock in locks.values():
            lock.release()

    @pytest.mark.parametrize("fault", list(FAULTS))
    def test_closing_is_bounded(self, server, fault):
        """
        `close` gives up on the server after its timeout, whatever the server does.
        """
        coord = coordkit.connect(server.url)
        coord.lock("a").acquire()
        for _ in range(5):
            coord.new_session()
        closed = threading.Event()
        FAULTS[fault][0](server)

        def close() -> None:
            coord.close(timeout=0.5)
            closed.set()

        threading.Thread(target=close, daemon=True).start()

        assert closed.wait(10)

    def test_cancel_ends_a_wait_that_is_not_in_line_yet(self, server, coord, monkeypatch):
        """
        A join that nobody answers is given up with its wait, at the next attempt.
        """
        monkeypatch.setattr(clients, "PATIENCE_S", 0.2)
        _ = coord.session
        lock = coord.lock("a")
        calls = coord.statistics().calls
        server.pause()
        joining = Attempt(lock)
        wait_until(lambda: coord.statistics().calls > calls)

        lock.cancel()

        assert isinstance(joining.end(5).error, errors.Cancelled)
        server.resume()
        wait_until(lambda: not lock.locked())

    def test_a_try_is_bounded_and_a_wait_with_timeout_too(self, server, coord):
        """
        A try ends with the dial timeout, a wait with its own: neither ever waits for the server.
        """
        _ = coord.session
        server.pause()
        trying, waiting = Attempt(coord.lock("a"), blocking=False), Attempt(coord.lock("b"), timeout=0.5)

        assert isinstance(trying.end().error, (errors.Unavailable, errors.DeadlineExceeded))
        assert waiting.end().result is False
        server.resume()


class TestHeart:
    def test_a_dead_lease_does_not_block_the_others(self, server):
        """
        Two sessions on one heart: one's lease is revoked behind its back, the other's goes on being renewed.
        """
        with coordkit.connect(server.url, ttl=SHORT_S) as coord:
            dead, alive = coord.new_session(), coord.new_session()
            for session in (dead, alive):
                session._watch.cancel()

            expire(dead, coord)

            assert dead.lost.wait(15)
            assert dead.reason == "etcd says that its lease has ended"
            since_s = alive._pulse.deadline_s
            wait_until(lambda: alive._pulse.deadline_s > since_s + SHORT_S)
            alive.check()

    def test_renewals_go_on_beside_a_stream_that_hangs(self, server, monkeypatch):
        """
        What the common stream swallows is asked again on a stream of its own, well before the TTL is over.
        """
        hanging: list[Any] = []
        hear = hearts.Heart._arrive

        def arrive(heart: hearts.Heart, lane: Any, news: Any) -> None:
            if lane not in hanging:
                hear(heart, lane, news)

        monkeypatch.setattr(hearts.Heart, "_arrive", arrive)
        with coordkit.connect(server.url, ttl=3) as coord:
            sessions = [coord.new_session() for _ in range(3)]
            told: list[list[str]] = [[] for _ in sessions]
            for session, states in zip(sessions, told, strict=True):
                session.add_listener(lambda state, states=states: states.append(state.name))
            heart = hearts.heart_for(coord.client.options)
            wait_until(lambda: heart._common)

            hanging.append(heart._common)
            since_s = [session._pulse.deadline_s for session in sessions]
            for session, before_s in zip(sessions, since_s, strict=True):
                wait_until(lambda p=session._pulse, b=before_s: p.deadline_s > b + 3)

            # A renewal that was answered elsewhere at once need not have been noticed as overdue.
            assert [states for states in told if states not in ([], ["SUSPENDED", "ACTIVE"])] == []

    def test_an_outage_costs_few_dials(self, server):
        """
        While nobody listens, the heart tries a few times a second, not as fast as it can.
        """
        with coordkit.connect(server.url, ttl=SHORT_S) as coord:
            sessions = [coord.new_session() for _ in range(20)]
            heart = hearts.heart_for(coord.client.options)
            wait_until(lambda: heart._client)
            dials: list[float] = []
            dial = heart._client._dialler.dial

            def counted(limit: Deadline) -> Any:
                dials.append(time.monotonic())
                return dial(limit)

            heart._client._dialler.dial = counted  # type: ignore[method-assign,union-attr]
            server.kill()
            for session in sessions:
                assert session.lost.wait(15)

        assert 2 <= len(dials) <= 100


def test_a_session_is_opened_though_the_first_lease_ran_out_before_anybody_heard_of_it(
    server, eventually, namespace
):
    """
    The reply to its grant is held back for longer than the lease lasts: another one is granted.
    """
    with (
        FaultProxy(server.endpoint) as proxy,
        coordkit.connect(server.url) as near,
        coordkit.connect(proxy.url, namespace=namespace, ttl=60, timeout=60) as far,
    ):

        def leases() -> set[int]:
            asked, told = messages.LeaseLeasesRequest(), messages.LeaseLeasesResponse
            found = near.client.unary("/etcdserverpb.Lease/LeaseLeases", asked, told, Deadline.after(10))
            return {each.ID for each in found.leases}

        before = leases()
        opened: list[coordkit.Session] = []
        opening = threading.Thread(target=lambda: opened.append(far.new_session(ttl=2)))
        proxy.half_open(requests=False)
        opening.start()
        first = eventually(lambda: leases() - before, within_s=30)
        eventually(lambda: not leases() & first, within_s=30)
        proxy.heal()
        opening.join()

        assert opened[0].alive
        assert opened[0].lease_id not in first
        opened[0].close()


def test_a_put_that_cannot_look_for_room_keeps_its_time(server):
    """
    It does not take the coordinator's timeout; and nothing was put.
    """
    with coordkit.connect(server.url, timeout=30) as coord:
        jobs = coord.queue("jobs", max_length=5)
        server.pause()
        putting = Call(lambda: jobs.put(b"x", timeout=0.3))

        with pytest.raises(errors.DeadlineExceeded) as caught:
            putting.end(10)  # long before the coordinator's
        server.resume()

        assert caught.value.outcome is errors.Outcome.NONE
        assert jobs.qsize() == 0


def test_a_claim_that_could_not_ask_does_not_say_that_the_queue_is_empty(server):
    """
    Unavailable, and nothing was claimed; Empty is for a queue that was looked at.
    """
    with coordkit.connect(server.url) as coord:
        jobs = coord.queue("jobs")
        with pytest.raises(queue.Empty):
            jobs.claim(timeout=0.1)

        server.kill()

        with pytest.raises(errors.Unavailable) as caught:
            jobs.claim(timeout=0.5)
    assert caught.value.outcome is errors.Outcome.NONE
