"""Bad input, bad peers, bad moments: an error in words, in time, nothing left behind, all still usable.

What the tests of locks, sessions and outages check already (timeouts of a lock, TTLs of a session, pickling,
releases without an acquire) is not repeated here.
"""

from __future__ import annotations

import pathlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract.moments import MOMENTS, Moment
from contract.players import Attempt, wait_until

import coordkit
from coordkit import errors
from coordkit.etcd import kv
from coordkit.testing import Certificates, LocalEtcd, loopback

TESTS = str(pathlib.Path(__file__).resolve().parent.parent)

TIMEOUT_S = 0.6  # what the callers here allow
GRACE_S = 5.0  # what a busy machine may add to that


@pytest.fixture
def server(etcd_binary: str) -> Iterator[LocalEtcd]:
    """A server of this test's own, to be killed, paused or filled."""
    with LocalEtcd(etcd_binary) as own:
        yield own


class Stranger:
    """Somebody else's server: answers each connection with the same bytes, or closes it."""

    def __init__(self, says: bytes, hangs_up: bool) -> None:
        self._says = says
        self._hangs_up = hangs_up
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(caller)
            try:
                if self._says:
                    caller.recv(1)
                    caller.sendall(self._says)
                if self._hangs_up:
                    caller.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the caller was faster

    def close(self) -> None:
        for each in (self._listener, *self._open):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()
        self._thread.join(GRACE_S)


@pytest.fixture
def stranger() -> Iterator[Callable[..., Stranger]]:
    """`stranger(says, hangs_up)` listens until the test ends."""
    there: list[Stranger] = []

    def make(says: bytes = b"", hangs_up: bool = False) -> Stranger:
        there.append(Stranger(says, hangs_up))
        return there[-1]

    yield make
    for each in there:
        each.close()


def refusal(
    use: Callable[[], object], kind: type[errors.CoordError] = errors.CoordError
) -> errors.CoordError:
    """The error that `use` raises, in time."""
    started_s = time.monotonic()
    with pytest.raises(kind) as raised:
        use()
    assert time.monotonic() - started_s < TIMEOUT_S + GRACE_S
    return raised.value


def our_threads(endpoint: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if endpoint in thread.name]


class TestPeers:
    """Who answers at the endpoint is not etcd."""

    @pytest.mark.parametrize(
        ("says", "hangs_up", "words"),
        [
            (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", True, "HTTP/1"),
            (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", False, "HTTP/1"),
            (b"", False, "no answer in time"),
            (b"", True, "closed the connection|reset"),
            (bytes(range(7, 256)) * 3, False, "HTTP/2"),
            (b"\xff" * 500, False, "HTTP/2|frame"),
            (b"\0", False, "no answer in time"),
            (b"SSH-2.0-OpenSSH_9.6\r\n", False, "HTTP/2"),
            (b"\x15\x03\x01\x00\x02\x02\x46", True, "TLS"),
        ],
        ids=["http1", "http1-stays", "silent", "hangs-up", "garbage", "ones", "a-byte", "ssh", "tls-alert"],
    )
    def test_connect_says_whom_it_met(self, stranger, says, hangs_up, words):
        """
        Unavailable names the endpoint and what was met there, within the timeout; no thread stays.
        """
        other = stranger(says, hangs_up)

        error = refusal(lambda: coordkit.connect(f"etcd://{other.endpoint}", timeout=TIMEOUT_S))

        assert isinstance(error, errors.Unavailable) and error.outcome is errors.Outcome.NONE
        assert other.endpoint in str(error)
        assert re.search(words, str(error)), str(error)
        wait_until(lambda: not our_threads(other.endpoint), what="the end of its threads")

    def test_nobody_listens(self):
        """
        A refused connection is called that.
        """
        endpoint = f"127.0.0.1:{loopback.free_ports(1)[0]}"

        error = refusal(lambda: coordkit.connect(endpoint, timeout=TIMEOUT_S), errors.Unavailable)

        assert endpoint in str(error) and "refused" in str(error)

    def test_the_others_are_asked_too(self, stranger, etcd, namespace):
        """
        A stranger among the endpoints costs its share of the time, and not the connection.
        """
        strangers = f"{stranger().endpoint},{stranger(b'HTTP/1.1 200 OK', True).endpoint}"
        url = f"etcd://{strangers},{etcd.endpoint}/{namespace}"

        with coordkit.connect(url) as coord:
            assert coord.kv.get("/nothing") is None

    def test_every_trouble_is_named(self, stranger):
        """
        When no endpoint serves, the error has a word on each.
        """
        one, other = stranger(b"HTTP/1.1 200 OK"), f"127.0.0.1:{loopback.free_ports(1)[0]}"

        error = refusal(
            lambda: coordkit.connect([one.endpoint, other], timeout=TIMEOUT_S), errors.Unavailable
        )

        assert one.endpoint in str(error) and other in str(error)

    def test_tls_to_a_plain_port(self, etcd):
        """
        etcds:// to a server without TLS: the error says that the port does not speak it.
        """
        error = refusal(lambda: coordkit.connect(f"etcds://{etcd.endpoint}", timeout=3), errors.Unavailable)

        assert "TLS" in str(error)

    @pytest.mark.parametrize(("scheme", "when"), [("etcds", "in the TLS handshake"), ("etcd", "before")])
    def test_a_server_that_hangs_up_on_what_we_say(self, scheme, when):
        """
        It has not read it, so that the connection is reset: the error says where we were, if we got that far.
        """
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def hang_up() -> None:
                while True:
                    try:
                        client, _ = listener.accept()
                    except OSError:
                        return
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()

            threading.Thread(target=hang_up, daemon=True).start()
            url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"

            error = refusal(lambda: coordkit.connect(url, timeout=1), errors.Unavailable)

            assert re.search(f"closed the connection ({when}|as soon as it stood)", str(error)), str(error)
            listener.shutdown(socket.SHUT_RDWR)

    def test_plain_to_a_tls_port(self, etcd_binary, tmp_path):
        """
        etcd:// to a server with TLS: the error says that the port wants it.
        """
        pytest.importorskip("trustme", reason="certificates for tests need the trustme package")
        with LocalEtcd(etcd_binary, tls=Certificates(tmp_path)) as secure:
            plain = secure.endpoint.removeprefix("https://")

            error = refusal(lambda: coordkit.connect(f"etcd://{plain}", timeout=3), errors.Unavailable)

        assert "TLS" in str(error)

    @pytest.mark.parametrize(
        "host", ["a..b", "x" * 64 + ".invalid", "unix:///nowhere/at/all", "unix:///" + "x" * 300]
    )
    def test_hosts_that_cannot_be(self, host):
        """
        A name that no resolver takes, or a socket that is not there, is Unavailable as any other.
        """
        error = refusal(lambda: coordkit.connect([host], timeout=TIMEOUT_S), errors.Unavailable)

        assert host in str(error)


class TestSettings:
    """What the caller passes makes no sense."""

    @pytest.mark.parametrize("ttl", [0, -1, 1, 1.5, float("nan"), float("inf"), 1e300, "soon", True, b"10"])
    def test_ttl(self, etcd, ttl):
        """
        InvalidValue names the setting and its value; nothing is dialled.
        """
        error = refusal(lambda: coordkit.connect(f"etcd://{etcd.endpoint}", ttl=ttl), errors.InvalidValue)

        assert "ttl" in str(error) and str(ttl) in str(error)

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "x", True])
    def test_timeout(self, etcd, timeout):
        """
        A dial needs a positive, finite time.
        """
        error = refusal(lambda: coordkit.connect(etcd.url, timeout=timeout), errors.InvalidValue)

        assert "timeout" in str(error) and "argument" in str(error)

    @pytest.mark.parametrize("namespace", ["x" * 256, "a/" + "\u20ac" * 86, "\ud800", "a/\udfff/b", 7, None])
    def test_namespaces_that_cannot_be(self, etcd, namespace):
        """
        Too long, or no text: InvalidName.  None is the default.
        """
        if namespace is None:
            with coordkit.connect(etcd.endpoint, namespace=None) as coord:
                assert coord.settings.namespace == "coordkit"
            return

        error = refusal(lambda: coordkit.connect(etcd.endpoint, namespace=namespace), errors.InvalidName)

        assert "namespace" in str(error)

    @pytest.mark.parametrize(
        "name", ["a b", "\0", "..", ".", "line\nbreak", "\U0001f600", "%2F", "x" * 255, "a/b"]
    )
    def test_odd_names_stay_inside_their_namespace(self, etcd, namespace, name):
        """
        As a namespace's segment and as a lock's name, anything that UTF-8 can encode is one place of its own.
        """
        with coordkit.connect(etcd.endpoint, namespace=f"{namespace}/{name}") as coord:
            with coord.lock(name) as lock:
                found = [each.key for each in coord.kv.range(f"/{namespace}/")]

                assert len(found) == 2, found  # the session and the place
                assert lock.key in found
                assert all(key.isascii() and key.decode().isprintable() for key in found)
            assert len(coord.kv.range(f"/{namespace}/")) == 1
        with coordkit.connect(etcd.endpoint) as witness:
            assert witness.kv.range(f"/{namespace}/") == []

    @pytest.mark.parametrize("identity", ["", 7, b"x"])
    def test_identity(self, etcd, identity):
        """
        An identity is a text that is not empty.
        """
        assert "identity" in str(refusal(lambda: coordkit.connect(etcd.url, identity=identity)))

    @pytest.mark.parametrize("user", ["\ud800", 7])
    def test_credentials(self, etcd, user):
        """
        User and password travel as text, and are not shown.
        """
        for given in ({"user": user}, {"user": "x", "password": user}):
            error = refusal(lambda given=given: coordkit.connect(etcd.url, **given), errors.InvalidValue)
            assert next(reversed(given)) in str(error) and str(user) not in str(error)


class TestNames:
    @pytest.mark.parametrize("name", [None, 7, "", b"x", "x" * 256, "\ud800"])
    @pytest.mark.parametrize(
        "make",
        [
            *("lock", "rlock", "rwlock", "semaphore", "cohort_lock", "exclusive"),
            *("election", "standing", "leader_only", "barrier", "double_barrier", "gate", "latch"),
            *("counter", "value", "queue", "topic", "once"),
        ],
    )
    def test_what_is_no_name_is_refused_at_once(self, coord, make, name):
        """
        None would stand for the place of all of a kind.
        """
        more = {"barrier": (2,), "double_barrier": (2,), "latch": (2,), "once": ("slot",)}.get(make, ())

        refusal(lambda: getattr(coord, make)(name, *more), errors.InvalidName)


class TestKeys:
    """Raw keys and values."""

    @pytest.mark.parametrize("key", ["", b"", "\ud800", 7, None])
    def test_keys_that_cannot_be(self, coord, key):
        """
        Refused in words before anything is sent.
        """
        for use in (
            lambda: coord.kv.put(key, b""),
            lambda: coord.kv.get(key),
            lambda: coord.kv.delete(key),
            lambda: coord.kv.delete_prefix(key),
        ):
            calls = coord.statistics().calls
            assert "key" in str(refusal(use, errors.UsageError))
            assert coord.statistics().calls == calls

    @pytest.mark.parametrize("value", ["\ud800", 77.5, [b"x"]])
    def test_values_that_cannot_be(self, coord, value):
        """
        Neither bytes nor text: InvalidValue, and the value is not shown.
        """
        error = refusal(lambda: coord.kv.put("/k", value), errors.InvalidValue)

        assert "value" in str(error) and repr(value) not in str(error)

    @pytest.mark.parametrize("timeout", [-2, -0.5, float("nan"), "1", True])
    def test_negative_timeouts(self, coord, namespace, timeout):
        """
        Only None and -1 wait without end; every other negative number is a mistake.
        """
        key = f"/{namespace}/k"
        for use in (
            lambda: coord.kv.put(key, b"", timeout=timeout),
            lambda: coord.kv.get(key, timeout=timeout),
            lambda: coord.kv.range(key, timeout=timeout),
            lambda: coord.kv.delete(key, timeout=timeout),
            lambda: coord.kv.delete_prefix(key, timeout=timeout),
            lambda: coord.kv.txn().commit(timeout=timeout),
        ):
            assert "timeout" in str(refusal(use, errors.InvalidValue))
        assert coord.kv.get(key) is None

    @pytest.mark.parametrize("size", [2 * 2**20, 20 * 2**20])
    def test_a_value_that_is_too_large(self, coord, namespace, size):
        """
        TooLarge names the key; nothing is written, and the connection serves others as before.
        """
        key = f"/{namespace}/big"
        ticking = Attempt(coord.lock("beside"))
        for use in (
            lambda: coord.kv.put(key, b"x" * size),
            lambda: (
                coord.kv.txn()
                .when(kv.create(key.encode()) == 0)
                .then(kv.put(key.encode(), b"x" * size))
                .commit()
            ),
        ):
            error = refusal(use, errors.TooLarge)
            assert key in str(error)

        assert coord.kv.get(key) is None
        ticking.wait_until_held().lock.release()
        coord.kv.put(key, b"small")
        assert coord.kv.delete(key)


class TestAfterClose:
    """Use after close."""

    def test_every_use_is_refused(self, etcd, namespace):
        """
        Closed, at once, from whatever was made on the coordinator; closing again does nothing.
        """
        coord = coordkit.connect(f"etcd://{etcd.endpoint}/{namespace}")
        session, lock, txn = coord.session, coord.lock("x"), coord.kv.txn()
        own = coord.new_session()
        etcd3c = coord.etcd
        at = coordkit.Lock.at(own, f"/{namespace}/at")

        coord.close()
        coord.close()

        uses: list[Callable[[], object]] = [
            lambda: coord.session,
            coord.new_session,
            lambda: coord.etcd,
            lambda: coord.kv.put("/k", b""),
            lambda: coord.kv.get("/k"),
            lambda: coord.kv.range("/k"),
            lambda: coord.kv.delete("/k"),
            txn.commit,
            coord.kv.txn().commit,
            session.check,
            own.check,
            lock.acquire,
            lambda: lock.acquire(timeout=1),
            lambda: lock.acquire(blocking=False),
            lambda: lock.within(1).__enter__(),
            lock.locked,
            lock.contenders,
            at.acquire,
            lambda: coord.lock("another").acquire(),
        ]
        for use in uses:
            assert "closed" in str(refusal(use, errors.Closed))
        with pytest.raises((errors.CoordError, ValueError, RuntimeError)):
            etcd3c.get("/k")
        assert (session.remaining(), session.alive, lock.held) == (0, False, False)
        assert "closed" in repr(coord) and "closed" in repr(session)
        with pytest.raises(errors.NotHeld):
            lock.release()


class TestServerKilled:
    """The server dies at a bad moment."""

    def test_while_connecting(self, server):
        """
        A server that is gone is Unavailable within the timeout, and is found again when it is back.
        """
        server.kill()

        error = refusal(lambda: coordkit.connect(server.url, timeout=TIMEOUT_S), errors.Unavailable)
        server.start()

        assert server.endpoint in str(error)
        with coordkit.connect(server.url) as coord:
            assert coord.kv.get("/k") is None

    def test_while_waiting(self, server):
        """
        A wait ends by its own deadline; its place is gone soon after the server is back.
        """
        with coordkit.connect(server.url, ttl=60) as holder, coordkit.connect(server.url, ttl=60) as other:
            held = holder.lock("x")
            held.acquire()
            waiter = Attempt(other.lock("x"), timeout=2)
            wait_until(lambda: len(held.contenders()) == 2, what="the wait")

            server.kill()
            assert waiter.end(2 + GRACE_S).result is False
            server.start()

            wait_until(lambda: len(held.contenders()) == 1, what="the withdrawal")
            held.release()
            with other.lock("x"):
                pass

    def test_while_releasing(self, server):
        """
        A release that the server did not live to answer is finished when it is back.
        """
        with coordkit.connect(server.url, ttl=60) as coord:
            lock = coord.lock("x")
            lock.acquire()
            server.kill()
            over = threading.Event()

            def release() -> None:
                lock.release()
                over.set()

            thread = threading.Thread(target=release)
            thread.start()
            wait_until(lambda: not lock.held, what="the release's beginning")
            assert not over.is_set()
            server.start()

            assert over.wait(GRACE_S * 2)
            thread.join()
            assert lock.contenders() == []

    def test_while_releasing_for_good(self, server):
        """
        With no server to answer, a release ends with the session, and says that the lock was lost.
        """
        with coordkit.connect(server.url, ttl=2, timeout=TIMEOUT_S) as coord:
            lock = coord.lock("x")
            lock.acquire()
            server.kill()

            error = refusal(lock.release, errors.LockLost)

            assert "renewal" in str(error)
            assert not coord._shared[2].alive


class TestOutOfSpace:
    def test_release_passes_and_acquire_says_why_not(self, server):
        """
        NOSPACE: what is held can be given back, nothing new is taken, nothing of the attempt stays.
        """
        with coordkit.connect(server.url) as coord:
            held = coord.lock("held")
            held.acquire()
            coord.etcd.create_alarm()

            for use in (
                lambda: coord.lock("other").acquire(timeout=2),
                lambda: coord.lock("other").acquire(blocking=False),
                lambda: coord.kv.put("/k", b"v"),
                coord.new_session,
            ):
                assert "space" in str(refusal(use, errors.QuotaExceeded))
            held.release()
            assert held.contenders() == [] and not coord.lock("other").contenders()
            assert coord.kv.get("/k") is None

            coord.etcd.disarm_alarm()
            with coord.lock("other").within(5):
                pass
            wait_until(lambda: not coord.lock("other").contenders(), what="an empty line")

    def test_a_database_that_is_full(self, etcd_binary):
        """
        The same with a quota that writes have used up.
        """
        with (
            LocalEtcd(etcd_binary, arguments=["--quota-backend-bytes=3000000"]) as small,
            coordkit.connect(small.url) as coord,
        ):
            held = coord.lock("held")
            held.acquire()

            def fill() -> None:
                for number in range(100):
                    coord.kv.put(f"/fill/{number}", b"x" * 500_000)

            assert "/fill/" in str(refusal(fill, errors.QuotaExceeded))
            refusal(lambda: coord.lock("other").acquire(timeout=2), errors.QuotaExceeded)
            held.release()

            assert coord.lock("other").contenders() == []
            assert coord.kv.delete_prefix("/fill/")


CTRL_C = """
import signal, sys, threading
endpoint, pid, name, tests = sys.argv[1:]
sys.path.insert(0, tests)
import coordkit
from contract.moments import Moment
from contract.players import wait_until

with coordkit.connect(endpoint, ttl=60) as coord, coordkit.connect(endpoint, ttl=60) as other:
    moment = Moment(coord, other, int(pid), name)
    moment.prepare()

    # What SIGINT does, but a moment later: under gevent a signal strikes whichever greenlet runs, and that
    # must be none of this test's.
    signal.signal(signal.SIGALRM, signal.default_int_handler)

    def interrupt():
        wait_until(moment.reached)
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        moment.act()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    thread.join()
    moment.verify()
    print("verified", flush=True)
"""


class TestInterrupted:
    """Ctrl-C, gevent.Timeout and greenlet.kill strike while a call blocks."""

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_ctrl_c(self, server, child, moment):
        """
        KeyboardInterrupt comes out of the call at once; nothing is left in line, the connection works on.
        """
        process = child(CTRL_C, server.endpoint, str(server.pid), moment, TESTS)

        said, _ = process.communicate(timeout=30)

        assert (said.split(), process.returncode) == (["interrupted", "verified"], 0)

    @pytest.mark.parametrize("how", ["Timeout", "kill"])
    @pytest.mark.parametrize("moment", MOMENTS)
    def test_greenlets(self, mode, server, moment, how):
        """
        The same for a greenlet that is killed or timed out; the others on its connection go on.
        """
        if mode != "gevent":
            pytest.skip("greenlets are interrupted under gevent only")
        import gevent

        with (
            coordkit.connect(server.endpoint, ttl=60) as coord,
            coordkit.connect(server.endpoint, ttl=60) as other,
        ):
            stage = Moment(coord, other, server.pid, moment)
            stage.prepare()
            timeouts: list[Any] = []

            def act() -> object:
                if how == "kill":
                    return stage.act()
                timeouts.append(gevent.Timeout(None))
                with pytest.raises(gevent.Timeout):
                    stage.act()
                return "timed out"

            actor = gevent.spawn(act)
            wait_until(stage.reached, what=moment)
            if how == "kill":
                actor.kill(timeout=GRACE_S)
            else:
                actor.kill(timeouts[0], block=False)  # as its timer does, from the hub
            actor.join(GRACE_S)

            assert actor.dead
            assert (
                isinstance(actor.value, gevent.GreenletExit) if how == "kill" else actor.value == "timed out"
            )
            stage.verify()
