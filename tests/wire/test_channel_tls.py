"""A channel through TLS: sizes, cuts, damaged records, full buffers, strangers, Ctrl-C."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl

import pytest

from coordkit import errors
from coordkit.deadline import Deadline
from coordkit.testing import Certificates
from coordkit.wire import address, channel, grpc, tls
from tests.wire import peers
from tests.wire.interruptions import interrupted_at
from tests.wire.peers import Caller, echo, hold

LARGE = {"INITIAL_WINDOW_SIZE": 2**30, "MAX_FRAME_SIZE": 2**20}


def soon() -> Deadline:
    return Deadline.after(peers.PATIENCE_S)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def dial(opened, certificates):
    """`dial(place)` connects, trusting our authority."""
    credentials = tls.Credentials(cacert=certificates.cacert)

    def connect(place: address.Address, deadline: Deadline | None = None) -> channel.Channel:
        secure = address.Address(host=place.host, port=place.port, tls=True)
        return opened(channel.Channel.connect(secure, deadline or soon(), credentials))

    return connect


@pytest.fixture
def front(certificates):
    """`front(server)` is the address of that server behind TLS."""
    with contextlib.ExitStack() as stack:
        yield lambda server, step=2**16: stack.enter_context(
            peers.secured(server.address, certificates.server, step)
        )


@pytest.fixture
def listening():
    with contextlib.ExitStack() as stack:
        yield lambda serve: stack.enter_context(peers.listening(serve))


class TestCalls:
    @pytest.mark.parametrize("size", [0, 16_379, 1_572_864])
    def test_messages_of_any_size_both_ways(self, peer, front, dial, size):
        """
        Records and frames need not coincide.
        """
        channel = dial(front(peer(echo)))
        message = (b"0123456789abcde\n" * (size // 16 + 1))[:size]

        assert channel.call("/t/m", message, soon()) == message

    def test_records_byte_by_byte(self, peer, front, dial):
        """
        Each byte a segment of its own: parts of records are kept until the rest has come.
        """
        channel = dial(front(peer(echo), 1))

        for number in range(3):
            assert channel.call("/t/m", b"%d" % number, soon()) == b"%d" % number

    def test_many_calls_and_a_stream(self, peer, front, dial, eventually):
        """
        Reader and writers share the TLS state.
        """
        server = peer(lambda request: hold(request) if request.method == "/t/watch" else echo(request))
        channel = dial(front(server))
        messages: queue.Queue[bytes] = queue.Queue()
        channel.stream("/t/watch", messages.put, lambda status: None)
        eventually(lambda: server.requests)

        callers = [Caller(channel, b"%d" % number) for number in range(50)]
        for number in range(50):
            server.requests[0].send(b"%d" % number)

        assert [caller.result() for caller in callers] == [b"%d" % number for number in range(50)]
        got = [messages.get(timeout=peers.PATIENCE_S) for _ in range(50)]
        assert got == [b"%d" % number for number in range(50)]

    def test_a_deaf_server(self, peer, front, dial):
        """
        A sender with a deadline leaves; what had been encrypted goes out whole, and others' calls behind it.
        """
        server = peer(echo, **LARGE)
        channel = dial(front(server))
        server.reads.clear()

        with pytest.raises(grpc.CallFailed) as caught:
            channel.call("/t/m", bytes(24 * 2**20), Deadline.after(0.5))
        others = [Caller(channel, b"%d" % number) for number in range(3)]
        server.reads.set()

        assert caught.value.status.code is grpc.Code.DEADLINE_EXCEEDED
        assert [caller.result() for caller in others] == [b"%d" % number for number in range(3)]


class TestEnds:
    @pytest.mark.parametrize("damage", [b"", b"\x17\x03\x03\x00\x20" + bytes(32), b"HTTP/1.1 400\r\n\r\n"])
    def test_a_damaged_or_cut_connection(self, peer, certificates, dial, listening, damage):
        """
        A record that nobody can have written, or the end without a goodbye: the call may have been applied.
        """
        server = peer(hold)
        clients: list[socket.socket] = []

        def serve(sock: socket.socket) -> None:
            clients.append(sock)
            with socket.create_connection((inner.host, inner.port)) as behind:
                relay = peers.threading.Thread(target=forward, args=(behind, sock), daemon=True)
                relay.start()
                forward(sock, behind)
                relay.join(peers.PATIENCE_S)

        with peers.secured(server.address, certificates.server) as inner:
            channel = dial(listening(serve))
            caller = Caller(channel)
            while not server.requests:
                caller.thread.join(0.01)
            clients[0].sendall(damage) if damage else peers.cut(clients[0])

            with pytest.raises(grpc.CallFailed) as caught:
                caller.result()

        assert caught.value.status.code is grpc.Code.UNAVAILABLE
        assert caught.value.status.outcome is errors.Outcome.UNKNOWN
        assert not channel.usable

    def test_a_queued_call_was_not_applied(self, peer, front, dial, eventually):
        """
        What had not been encrypted cannot have left.
        """
        server = peer(hold, MAX_CONCURRENT_STREAMS=1)
        channel = dial(front(server))
        sent = Caller(channel)
        eventually(lambda: server.requests)
        queued = Caller(channel)
        eventually(lambda: channel.statistics().calls == 2)

        server.drop()

        outcomes = []
        for caller in (sent, queued):
            with pytest.raises(grpc.CallFailed) as caught:
                caller.result()
            outcomes.append(caught.value.status.outcome)
        assert outcomes == [errors.Outcome.UNKNOWN, errors.Outcome.NONE]


class TestStrangers:
    @pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\x00" * 100])
    def test_one_that_does_not_speak_tls(self, dial, listening, greeting):
        """
        It answers, or leaves: connecting fails either way.
        """

        def serve(sock: socket.socket) -> None:
            sock.recv(2**16)
            sock.sendall(greeting)

        with pytest.raises(grpc.CallFailed) as caught:
            dial(listening(serve))

        assert caught.value.status.code is grpc.Code.UNAVAILABLE
        assert "TLS" in caught.value.status.message

    def test_a_silent_one_costs_no_more_than_the_deadline(self, dial, listening):
        """
        The handshake is part of connecting.
        """
        with pytest.raises(grpc.CallFailed, match="no answer in time"):
            dial(listening(lambda sock: sock.recv(2**16) and sock.recv(2**16)), Deadline.after(0.2))

    def test_one_without_http2(self, certificates, dial, listening):
        """
        ALPN tells.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server.cert, certificates.server.key)

        def serve(sock: socket.socket) -> None:
            with contextlib.suppress(ssl.SSLError), context.wrap_socket(sock, server_side=True) as secure:
                secure.recv(2**16)

        with pytest.raises(grpc.CallFailed, match="HTTP/2"):
            dial(listening(serve))


class TestInterruption:
    def test_ctrl_c_anywhere(self, peer, front, dial, mode):
        """
        The channel goes on, or ends and says why; nothing is encrypted twice.
        """
        if mode == "gevent":
            pytest.skip("of native threads: under gevent callers do not read")
        server = peer(echo)
        place = front(server)
        channel = dial(place)
        places = 0
        while True:
            where = interrupted_at(places + 1, lambda: channel.call("/t/m", b"x", Deadline.after(5)))  # noqa: B023
            if where is None:
                break
            places += 1
            try:
                assert channel.call("/t/m", b"on", Deadline.after(5)) == b"on", f"place {places}, in {where}"
            except grpc.CallFailed as failure:
                assert "interrupted" in failure.status.message, f"place {places}, in {where}: {failure}"
            if not channel.usable:
                channel = dial(place)
        assert places > 50
        assert all(served.goaway in (None, 0) for served in server.served)


def forward(source: socket.socket, sink: socket.socket) -> None:
    """Copy until either end is cut."""
    with contextlib.suppress(OSError):
        while received := source.recv(2**16):
            sink.sendall(received)
