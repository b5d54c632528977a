"""FaultProxy: each fault as plain sockets see it, and as coordkit's client does."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import coordkit
from coordkit import errors
from coordkit.testing import Certificates, FaultProxy, LocalEtcd, loopback, processes

PATIENCE_S = 15.0
FOR_EVER_S = 3600.0


class Peer:
    """A server that answers each piece of bytes with the same bytes in upper case."""

    def __init__(self, listener: socket.socket) -> None:
        self.heard = b""
        self.ends: list[BaseException | None] = []  # how each connection ended
        self._listener = listener
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        end: BaseException | None = None
        try:
            while received := connection.recv(65536):
                self.heard += received
                connection.sendall(received.upper())
        except OSError as error:
            end = error
        connection.close()
        self.ends.append(end)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # a thread in accept() would keep it open
        self._listener.close()
        for connection in self._open:
            connection.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    listener = socket.create_server(("127.0.0.1", 0))
    peer = Peer(listener)
    peer.endpoint = "{}:{}".format(*listener.getsockname())
    yield peer
    peer.close()


@pytest.fixture
def proxy(peer) -> Iterator[FaultProxy]:
    with FaultProxy(peer.endpoint) as proxy:
        yield proxy


@pytest.fixture
def dial(proxy) -> Iterator[Callable[[], socket.socket]]:
    """Connects through the proxy."""
    dialled = []

    def connect() -> socket.socket:
        dialled.append(socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S))
        return dialled[-1]

    yield connect

    for connection in dialled:
        connection.close()


@pytest.fixture
def client(dial) -> socket.socket:
    """A connection through the proxy that has been used once."""
    connection = dial()
    connection.sendall(b"hello")
    assert hear(connection, 5) == b"HELLO"
    return connection


def hear(connection: socket.socket, count: int) -> bytes:
    """Exactly so many bytes."""
    heard = b""
    while len(heard) < count:
        received = connection.recv(count - len(heard))
        assert received, f"the end came after {heard!r}"
        heard += received
    return heard


def settle(proxy: FaultProxy) -> Any:
    """What has passed, once all that has reached the proxy has had its chance.

    The proxy looks at its sockets and at its commands in the same turn, and sends what came by the next one.
    """
    for _ in range(4):
        traffic = proxy.traffic()
    return traffic


class TestPassing:
    def test_bytes_and_ends_pass_both_ways(self, client, peer, eventually):
        """
        Without a fault it is a wire: the bytes, and that a side has nothing more to say.
        """
        client.sendall(b"more")
        client.shutdown(socket.SHUT_WR)

        assert hear(client, 4) == b"MORE"
        assert client.recv(1) == b""
        eventually(lambda: peer.ends == [None])

    def test_more_than_any_buffer_passes(self, dial, peer):
        """
        A slow reader slows its writer down, and nothing is lost.
        """
        connection, sent = dial(), os.urandom(100_000) * 50
        writer = threading.Thread(target=connection.sendall, args=(sent,))
        writer.start()

        heard = hear(connection, len(sent))

        writer.join()
        assert heard == sent.upper()

    def test_connections_are_counted(self, client, dial, proxy):
        """
        traffic() tells how many connections there were and are, and the bytes each way.
        """
        dial()
        assert (settle(proxy).accepted, settle(proxy).open) == (2, 2)

        client.close()

        traffic = settle(proxy)
        assert (traffic.accepted, traffic.requests_bytes, traffic.replies_bytes) == (2, 5, 5)

    def test_a_target_that_is_down_ends_the_connection(self):
        """
        The proxy listens, so the client is cut instead of refused.
        """
        (nobody,) = loopback.free_ports(1)

        # As it is dialled, or as it reads: that depends on who is faster.
        with FaultProxy(f"127.0.0.1:{nobody}") as proxy, pytest.raises(ConnectionResetError):
            socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S).recv(1)

    @pytest.mark.parametrize("family", ["unix", "ipv6"])
    def test_the_target_may_listen_elsewhere(self, family, tmp_path):
        """
        On a unix socket, or on IPv6.
        """
        if family == "ipv6" and not loopback.has_ipv6():
            pytest.skip("this machine has no ::1")
        if family == "unix":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp_path / "s"))
            listener.listen()
            target = f"unix://{tmp_path / 's'}"
        else:
            listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
            target = f"[::1]:{listener.getsockname()[1]}"
        peer = Peer(listener)

        with FaultProxy(target) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as connection:
            connection.sendall(b"where?")

            assert hear(connection, 6) == b"WHERE?"
        peer.close()


class TestReset:
    def test_both_sides_are_cut(self, client, proxy, peer, eventually):
        """
        Client and server find their connection reset, not ended.
        """
        proxy.reset()

        with pytest.raises(ConnectionResetError):
            client.recv(1)
        eventually(lambda: peer.ends)
        assert peer.ends[0].errno == errno.ECONNRESET

    def test_a_new_connection_is_well(self, client, proxy, dial):
        """
        The fault is an event, not a state.
        """
        proxy.reset()

        again = dial()
        again.sendall(b"again")

        assert hear(again, 5) == b"AGAIN"


class TestHalfOpen:
    def test_nothing_passes_until_healed(self, client, proxy, peer):
        """
        What is sent is held, and flows on in order.
        """
        proxy.half_open()
        client.sendall(b"first ")
        client.sendall(b"second")
        assert settle(proxy).requests_bytes == len("hello")

        proxy.heal()

        assert hear(client, 12) == b"FIRST SECOND"

    def test_new_connections_are_accepted_and_silent(self, proxy, dial):
        """
        The dial succeeds, as through a firewall that forgets to forward.
        """
        proxy.half_open()
        connection = dial()
        connection.sendall(b"anybody?")
        assert settle(proxy).requests_bytes == 0

        proxy.heal()

        assert hear(connection, 8) == b"ANYBODY?"

    def test_one_direction_alone(self, client, proxy, peer):
        """
        With replies held the server hears all and the client nothing; it hears it later.
        """
        proxy.half_open(requests=False)
        client.sendall(b"only there")
        assert settle(proxy).requests_bytes == len("helloonly there")
        assert settle(proxy).replies_bytes == len("hello")

        proxy.heal()

        assert hear(client, 10) == b"ONLY THERE"

    def test_what_is_under_way_stops(self, client, proxy):
        """
        What the proxy has read and not yet sent is held as well.
        """
        proxy.byte_by_byte()
        client.sendall(b"a" * 1_000_000)
        settle(proxy)

        proxy.half_open()

        stopped_at = proxy.traffic().requests_bytes
        assert settle(proxy).requests_bytes == stopped_at < 1_000_000
        proxy.heal()
        assert hear(client, 1_000_000) == b"A" * 1_000_000

    @pytest.mark.parametrize("how", ["end", "reset"])
    def test_an_end_is_held_too(self, how, client, proxy, peer, eventually):
        """
        The server does not learn that its client has gone, politely or not.
        """
        proxy.half_open()
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert settle(proxy).open == 1
        assert peer.ends == []

        proxy.heal()

        eventually(lambda: peer.ends)
        assert [type(end) for end in peer.ends] == [type(None) if how == "end" else ConnectionResetError]


class TestDelay:
    def test_bytes_come_later(self, client, proxy):
        """
        They are on their way for so long, and are delivered at once when the fault ends.
        """
        proxy.delay(FOR_EVER_S)
        client.sendall(b"late")
        assert settle(proxy).requests_bytes == len("hello")

        proxy.heal()

        assert hear(client, 4) == b"LATE"

    def test_they_do_come(self, client, proxy):
        """
        Nothing else is needed for them to arrive, in order.
        """
        proxy.delay(0.01)
        client.sendall(b"one ")
        settle(proxy)
        client.sendall(b"two")

        assert hear(client, 7) == b"ONE TWO"

    @pytest.mark.parametrize("seconds", [-1, float("nan")])
    def test_time_does_not_run_backwards(self, proxy, seconds):
        """
        What is no delay is refused.
        """
        with pytest.raises(errors.InvalidValue):
            proxy.delay(seconds)


class TestByteByByte:
    def test_every_byte_is_sent_alone(self, client, proxy):
        """
        Either way, and nothing is lost.
        """
        before = proxy.traffic()
        proxy.byte_by_byte()
        client.sendall(b"piecemeal")
        assert hear(client, 9) == b"PIECEMEAL"

        after = proxy.traffic()

        assert after.pieces - before.pieces == 2 * len("piecemeal")


class TestDropReplyAfterCommit:
    def test_the_server_hears_and_the_client_does_not(self, client, proxy, peer, eventually):
        """
        The request arrives and is answered; the answer never does, not even when the fault ends.
        """
        proxy.drop_reply_after_commit()
        client.sendall(b"do it")
        eventually(lambda: proxy.traffic().swallowed_bytes == 5)
        assert peer.heard == b"hellodo it"

        proxy.heal()

        with pytest.raises(ConnectionResetError):
            client.recv(1)

    def test_connections_made_later_are_well(self, client, proxy, dial):
        """
        So a client that reconnects is served while the old connection is still being deceived.
        """
        proxy.drop_reply_after_commit()

        fresh = dial()
        fresh.sendall(b"me too")

        assert hear(fresh, 6) == b"ME TOO"


class TestGarbage:
    def test_the_client_hears_noise(self, client, proxy, peer):
        """
        At once; and in place of what the server says later.
        """
        proxy.garbage(seed=7)
        noise = hear(client, 256)
        client.sendall(b"a" * 100)
        instead = hear(client, 100)

        assert len({*noise}) > 50
        assert instead != b"A" * 100
        assert peer.heard == b"hello" + b"a" * 100

    def test_the_same_seed_makes_the_same_noise(self, client, proxy, dial):
        """
        A run that failed can be repeated.
        """
        proxy.garbage(seed=7)
        first = hear(client, 256)
        proxy.heal()
        second = dial()
        proxy.garbage(seed=7)

        assert hear(second, 256) == first

    def test_what_was_garbled_is_cut_when_healed(self, client, proxy, dial):
        """
        It cannot be mended; those made later are well.
        """
        proxy.garbage()
        hear(client, 256)
        proxy.heal()

        with pytest.raises(ConnectionResetError):
            client.recv(1)
        fresh = dial()
        fresh.sendall(b"clean")
        assert hear(fresh, 5) == b"CLEAN"


class TestRefuse:
    def test_nobody_listens_until_healed(self, client, proxy, dial):
        """
        New connections are refused; that which there is stays; the port comes back.
        """
        port = proxy.port
        proxy.refuse()

        with pytest.raises(ConnectionRefusedError):
            dial()
        client.sendall(b"still")
        assert hear(client, 5) == b"STILL"

        proxy.heal()
        back = dial()
        back.sendall(b"back")
        assert (hear(back, 4), proxy.port) == (b"BACK", port)

    def test_nobody_else_gets_the_port(self, proxy):
        """
        It is kept while nobody listens on it.
        """
        proxy.refuse()

        with socket.socket() as other, pytest.raises(OSError) as caught:
            other.bind(("127.0.0.1", proxy.port))
        assert caught.value.errno == errno.EADDRINUSE


STARTS_ONE_AND_WAITS = """
    import os, sys
    from coordkit.testing import FaultProxy

    proxy = FaultProxy(sys.argv[1])
    proxy.start()
    print(proxy.pid, proxy.port, flush=True)
    {then}
    sys.stdin.read()
"""


class TestProcess:
    def test_it_goes_on_while_the_process_that_started_it_is_stopped(self, child, peer):
        """
        So what is blocked, a hub or a whole process, does not count as a fault of the network.
        """
        parent = child(STARTS_ONE_AND_WAITS.format(then=""), peer.endpoint)
        _, port = parent.stdout.readline().split()
        processes.pause(parent.pid)

        with socket.create_connection(("127.0.0.1", int(port)), PATIENCE_S) as connection:
            connection.sendall(b"through")

            assert hear(connection, 7) == b"THROUGH"

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
    def test_it_dies_with_the_process_that_started_it(self, how, child, peer, eventually):
        """
        However that ends.
        """
        parent = child(STARTS_ONE_AND_WAITS.format(then=""), peer.endpoint)
        pid, _ = parent.stdout.readline().split()
        assert processes.lives(int(pid))

        parent.send_signal(how)

        eventually(lambda: not processes.lives(int(pid)))

    def test_a_forked_child_does_not_keep_it_alive(self, child, peer, eventually):
        """
        It holds the other end of the pipe, but is not the one whose end matters.
        """
        parent = child(STARTS_ONE_AND_WAITS.format(then="os.write(1, b'%d\\n' % os.fork())"), peer.endpoint)
        pid, _ = parent.stdout.readline().split()
        forked = max(int(parent.stdout.readline()) for _ in range(2))

        parent.kill()

        eventually(lambda: not processes.lives(int(pid)))
        assert processes.lives(forked)
        parent.stdin.close()
        eventually(lambda: not processes.lives(forked))

    def test_its_end_is_noticed(self, proxy):
        """
        A command to a proxy that was killed is an error, not a wait.
        """
        os.kill(proxy.pid, signal.SIGKILL)

        with pytest.raises(errors.CoordError, match="has ended"):
            settle(proxy)

    def test_stopping_twice_is_stopping_once(self, proxy):
        """
        A stopped proxy has no process, and takes no commands.
        """
        pid = proxy.pid

        proxy.stop()
        proxy.stop()

        assert not processes.lives(pid)
        with pytest.raises(errors.UsageError):
            proxy.reset()

    def test_a_port_that_was_taken_meanwhile_is_replaced(self, peer, monkeypatch):
        """
        Between finding a free port and listening on it another program can take it; the next one is tried.
        """
        with socket.create_server(("127.0.0.1", 0)) as taken:
            good = loopback.free_ports(1)
            offers = [[taken.getsockname()[1]], good]
            monkeypatch.setattr(loopback, "free_ports", lambda count: offers.pop(0))

            with FaultProxy(peer.endpoint) as proxy:
                assert [proxy.port] == good

    def test_it_needs_nothing_but_python(self, peer, monkeypatch):
        """
        Its program does not see what is installed, nor our environment's PYTHON* variables.
        """
        monkeypatch.setenv("PYTHONPATH", "/nowhere")
        monkeypatch.setenv("PYTHONHOME", "/nowhere")

        with FaultProxy(peer.endpoint) as proxy:
            assert proxy.traffic().accepted == 0


@pytest.fixture
def between(etcd) -> Iterator[FaultProxy]:
    """A proxy in front of the server."""
    with FaultProxy(etcd.endpoint) as between:
        yield between


@pytest.fixture
def far(between, namespace: str, coord) -> Iterator[coordkit.Coordinator]:
    """A coordinator behind the proxy; `coord`, in the same namespace, is not."""
    with coordkit.connect(between.url, namespace=namespace, timeout=PATIENCE_S) as far:
        yield far


class Call:
    """A call on a thread of its own, and what came of it."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.error: BaseException | None = None
        self._call, self._arguments = call, arguments
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call(*self._arguments)
        except errors.CoordError as error:
            self.error = error

    def end(self) -> BaseException | None:
        self._thread.join()
        return self.error


class TestCoordkit:
    def test_a_write_whose_reply_was_dropped_may_have_been_applied(self, far, coord, between, eventually):
        """
        It was, exactly once, and the caller is told that nobody knows; the next call is served.
        """
        key = f"/{coord.settings.namespace}/written"
        far.kv.get(key)
        between.drop_reply_after_commit()
        writing = Call(far.kv.put, key, b"x")
        eventually(lambda: coord.kv.get(key))

        between.reset()

        error = writing.end()
        assert isinstance(error, coordkit.Unavailable)
        assert error.outcome is coordkit.Outcome.UNKNOWN
        assert far.kv.get(key).version == 1
        assert far.kv.delete(key)

    def test_garbage_is_an_outage(self, far, coord, between):
        """
        The connection is given up, and the next one is used as if nothing had been.
        """
        key = f"/{coord.settings.namespace}/written"
        far.kv.get(key)

        between.garbage(seed=1)
        between.heal()

        assert far.kv.get(key) is None

    def test_tls_passes_through(self, etcd_binary, tmp_path, namespace):
        """
        Names and certificates are the server's; the proxy sees none of it.
        """
        certificates = Certificates(tmp_path)
        files = {
            "cacert": certificates.cacert,
            "cert": certificates.client.cert,
            "key": certificates.client.key,
        }

        with LocalEtcd(etcd_binary, tls=certificates) as server, FaultProxy(server.endpoint) as proxy:
            with coordkit.connect(proxy.url, namespace=namespace, **files) as coord:
                assert coord.kv.get("/nothing") is None
            assert proxy.endpoint == f"https://127.0.0.1:{proxy.port}"

    def test_a_lock_is_held_through_a_reset(self, far, coord, between):
        """
        Held, found held by others, and released, on a connection that was cut in between.
        """
        with far.lock("through"):
            between.reset()
            assert coord.lock("through").locked()

        assert not coord.lock("through").locked()

    def test_a_lock_works_byte_by_byte(self, far, between):
        """
        Wherever the stream of bytes is split.
        """
        between.byte_by_byte()

        with far.lock("slow") as lock:
            assert lock.held

    def test_a_half_open_connection_costs_no_more_than_the_deadline(self, far, between):
        """
        Nobody answers and nobody hangs up: the call ends by its own time.
        """
        between.half_open()

        with pytest.raises((coordkit.DeadlineExceeded, coordkit.Unavailable)):
            far.kv.get("/whatever", timeout=0.3)

    def test_a_refused_dial_was_not_applied(self, far, coord, between):
        """
        Where nobody listened, nothing can have happened.
        """
        between.refuse()
        between.reset()
        with pytest.raises(coordkit.Unavailable):
            far.kv.get("/whatever", timeout=0.5)  # from here on it knows that the connection is gone

        with pytest.raises(coordkit.Unavailable) as caught:
            far.kv.put(f"/{coord.settings.namespace}/never", b"x", timeout=0.5)

        assert caught.value.outcome is coordkit.Outcome.NONE
