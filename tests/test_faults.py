"""What tests can do behind a program's back: end its session, stop its process, forget history."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

import coordkit
from coordkit import errors
from coordkit import session as sessions
from coordkit.deadline import Deadline
from coordkit.testing import LocalEtcd, compact, expire, pause, processes


@pytest.fixture
def sleeper():
    """A process that does nothing."""
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def own(etcd_binary: str):
    """A server whose history may be forgotten."""
    with LocalEtcd(etcd_binary) as server, coordkit.connect(server.url) as coord:
        yield coord


class TestExpire:
    def test_the_session_and_all_that_it_held_are_gone(self, coord, coord_factory):
        """
        As when the lease runs out: its keys go at once, and it learns of it.
        """
        lock = coord.lock("held")
        lock.acquire()

        expire(coord.session)

        assert not coord_factory().lock("held").locked()
        assert lock.lost.wait(10)
        assert coord.session.state is coordkit.State.ACTIVE  # another one

    def test_an_expired_session_can_be_expired_again(self, coord):
        """
        Its lease is gone: nothing is left to do, and that is no error.
        """
        session = coord.session

        expire(session)
        expire(session)

        assert session.lost.wait(10)


class TestPause:
    def test_a_process_stands_still_for_a_block(self, sleeper):
        """
        It is stopped when the block begins and goes on after it.
        """
        with pause(sleeper):
            assert processes.states(sleeper.pid) == {"T"}

        assert processes.states(sleeper.pid) != {"T"}

    def test_it_goes_on_when_the_block_fails(self, sleeper):
        """
        A process id will do as well.
        """
        with pytest.raises(ZeroDivisionError), pause(sleeper.pid):
            1 / 0  # noqa: B018

        assert processes.states(sleeper.pid) != {"T"}

    def test_it_may_be_killed_in_the_block(self, sleeper):
        """
        Then nobody is there to go on, and that is no error.
        """
        with pause(sleeper.pid):
            sleeper.kill()
            sleeper.wait()

        assert not processes.lives(sleeper.pid)


class TestCompact:
    def test_history_is_forgotten(self, own):
        """
        Up to now; twice in a row is no error.
        """
        for number in range(3):
            own.kv.put("/key", b"%d" % number)
        now = own.kv.get("/key").mod_revision

        assert compact(own) == now
        assert compact(own) == now

    def test_up_to_a_revision(self, own):
        """
        What came after it is kept, and may be forgotten next; what came before cannot be again.
        """
        first, second = (own.kv.put("/key", value) for value in (b"a", b"b"))

        assert compact(own, first) == first
        assert compact(own, second) == second
        with pytest.raises(errors.Gap):
            compact(own, first)

    def test_the_future_cannot_be_forgotten(self, own):
        """
        A revision that has not been reached is refused.
        """
        with pytest.raises(errors.Rejected):
            compact(own, 10**9)


class TestClose:
    def test_a_closed_coordinator_leaves_no_thread(self, etcd, namespace, eventually):
        """
        Those that served its sessions, watches and listeners end; the heart of the process goes on.
        """
        others = ours()
        coord = coordkit.connect(etcd.url, namespace=namespace)
        coord.new_session(ttl=5).add_listener(lambda state: None)
        lock = coord.lock("held")
        lock.acquire()
        assert ours() - others

        lock.release()
        coord.close()

        eventually(lambda: not ours() - others)

    @pytest.mark.parametrize("own", [False, True], ids=["shared", "of-its-own"])
    def test_a_session_that_is_just_being_opened_is_given_back(
        self, coord, coord_factory, monkeypatch, eventually, own
    ):
        """
        Another thread may be at its first lock while this one closes: its session must not stay till its TTL.
        """
        begun, go_on = threading.Event(), threading.Event()
        begin = sessions.Session._begin

        def begin_slowly(session: coordkit.Session, deadline: Deadline) -> None:
            begin(session, deadline)
            begun.set()
            go_on.wait(10)

        monkeypatch.setattr(sessions.Session, "_begin", begin_slowly)
        closing = coord_factory()
        outcome = Outcome(closing.new_session if own else lambda: closing.session)
        assert begun.wait(10)

        end = Outcome(lambda: closing.close(timeout=20))
        eventually(lambda: closing.closed)
        go_on.set()

        assert end.wait() is None
        assert isinstance(outcome.wait(), coordkit.Closed)
        assert coord.kv.range(f"/{coord.settings.namespace}/session/") == []


class Outcome:
    """A call on a thread of its own: None, or the error that it ended with."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._error: errors.CoordError | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except errors.CoordError as error:
            self._error = error

    def wait(self) -> errors.CoordError | None:
        self._thread.join()
        return self._error


def ours() -> set[threading.Thread]:
    """coordkit's threads in this process, less its hearts."""
    named = {thread for thread in threading.enumerate() if thread.name.startswith("coordkit-")}
    return {thread for thread in named if thread.name != "coordkit-heart"}
