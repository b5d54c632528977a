"""A channel against servers that misbehave: strangers, the slow, the silent, the deaf, and the garrulous."""

from __future__ import annotations

import contextlib
import itertools
import queue
import socket
import threading

import pytest

from coordkit import errors
from coordkit.deadline import NEVER, Deadline
from coordkit.wire import address, frames, grpc, inbox, watchdog
from coordkit.wire import channel as channels
from coordkit.wire.channel import Channel
from tests.wire import machines, peers
from tests.wire.peers import Caller, echo, hold

LARGE = {"INITIAL_WINDOW_SIZE": 2**30, "MAX_FRAME_SIZE": 2**20}  # only the kernel's buffers hold us back


def soon() -> Deadline:
    return Deadline.after(peers.PATIENCE_S)


@pytest.fixture
def listening():
    """`listening(serve)` gives the address where `serve(sock)` is run for each connection."""
    with contextlib.ExitStack() as stack:
        yield lambda serve: stack.enter_context(peers.listening(serve))


@pytest.fixture
def quick(monkeypatch):
    """A watchdog whose patience a test can afford."""
    monkeypatch.setattr(watchdog, "SILENCE_S", 0.3)


def read_on(sock: socket.socket) -> None:
    """Read until the client leaves."""
    while sock.recv(2**16):
        pass


def failure(call, *arguments) -> grpc.Status:
    with pytest.raises(grpc.CallFailed) as caught:
        call(*arguments)
    return caught.value.status


class TestConnect:
    @pytest.mark.parametrize(
        ("greeting", "words"),
        [
            (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "HTTP/1"),
            (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
            (b"\x00" * 50, "HTTP/2"),
            (b"SSH-2.0-OpenSSH_9.6\r\n", "HTTP/2"),
            (b"", "closed the connection before it said anything"),
        ],
    )
    def test_a_stranger_is_named(self, listening, greeting, words):
        """
        What answers there is no gRPC server; the error says what it seems to be.
        """

        def serve(sock: socket.socket) -> None:
            sock.recv(2**16)
            sock.sendall(greeting)

        place = listening(serve)

        status = failure(Channel.connect, place, soon())

        assert status.code is grpc.Code.UNAVAILABLE
        assert status.outcome is errors.Outcome.NONE
        assert words in status.message
        assert str(place) in status.message

    @pytest.mark.parametrize("greeting", [b"", b"HTT", b"\x00\x00"])
    def test_a_silent_server_costs_no_more_than_the_deadline(self, listening, greeting):
        """
        Connected is not answered: half a greeting is none.
        """

        def serve(sock: socket.socket) -> None:
            sock.sendall(greeting)
            read_on(sock)

        status = failure(Channel.connect, listening(serve), Deadline.after(0.2))

        assert status.code is grpc.Code.UNAVAILABLE
        assert "no answer in time" in status.message

    def test_a_greeting_byte_by_byte(self, listening, opened):
        """
        A slow greeting is a greeting.
        """

        def serve(sock: socket.socket) -> None:
            for octet in machines.settings(MAX_CONCURRENT_STREAMS=100, INITIAL_WINDOW_SIZE=2**20):
                sock.sendall(bytes([octet]))
            read_on(sock)

        assert opened(Channel.connect(listening(serve), soon())).usable

    def test_nobody_listens(self):
        """
        The operating system's own words.
        """
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

        status = failure(Channel.connect, address.Address(host="127.0.0.1", port=port), soon())

        assert "refused" in status.message

    @pytest.mark.parametrize(
        "place",
        [
            address.Address(host="x" * 64 + ".invalid", port=1),
            address.Address(host="a..b", port=1),
            address.Address(path="/nonexistent/etcd.sock"),
            address.Address(path="/" + "x" * 300),
        ],
        ids=["long label", "empty label", "no file", "long path"],
    )
    def test_names_that_cannot_be_reached(self, place):
        """
        Whatever is wrong with a name, connecting fails like any other time.
        """
        assert failure(Channel.connect, place, soon()).code is grpc.Code.UNAVAILABLE

    def test_a_deadline_that_has_passed(self, listening):
        """
        Nothing is tried.
        """
        accepted = threading.Event()
        place = listening(lambda sock: accepted.set())

        assert "no answer in time" in failure(Channel.connect, place, Deadline.after(0)).message
        assert not accepted.is_set()

    def test_a_name_with_several_addresses(self, peer, opened, monkeypatch):
        """
        One that swallows what is sent to it, and one that refuses, leave time for the one that answers.
        """
        server = peer(echo)
        swallows = socket.socket()
        fillers = [socket.socket() for _ in range(4)]
        with swallows, contextlib.ExitStack() as stack:
            swallows.bind(("127.0.0.1", 0))
            swallows.listen(0)
            for filler in fillers:  # more than its backlog takes: further ones get no answer
                stack.enter_context(filler).setblocking(False)
                filler.connect_ex(swallows.getsockname())
            with socket.create_server(("127.0.0.1", 0)) as listener:
                refuses = listener.getsockname()
            answers = ("127.0.0.1", server.address.port)
            found = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", at)
                for at in (swallows.getsockname(), refuses, answers)
            ]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: found)

            channel = opened(Channel.connect(address.Address(host="several", port=1), Deadline.after(1.5)))

        assert channel.call("/t/m", b"hello", soon()) == b"hello"

    def test_a_unix_socket(self, tmp_path, opened):
        """
        `unix://` connects like any other.
        """
        path = str(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()

            def serve() -> None:
                sock, _ = listener.accept()
                with sock:
                    peers.greet(sock)
                    for kind, _flags, stream_id, _payload in peers.read_frames(sock):
                        if kind == frames.DATA:
                            sock.sendall(peers.response(stream_id, b"reply"))

            serving = threading.Thread(target=serve, daemon=True)
            serving.start()
            channel = opened(Channel.connect(address.Address.parse(f"unix://{path}"), soon()))

            assert channel.call("/t/m", b"", soon()) == b"reply"
            channel.close()
            serving.join(peers.PATIENCE_S)


class TestSlowServers:
    def test_a_reply_byte_by_byte(self, listening, opened):
        """
        Each byte a segment of its own: the reply is the same.
        """

        def serve(sock: socket.socket) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peers.greet(sock)
            for kind, _flags, stream_id, payload in peers.read_frames(sock):
                if kind == frames.DATA:
                    for octet in peers.response(stream_id, payload[5:]):
                        sock.sendall(bytes([octet]))

        channel = opened(Channel.connect(listening(serve), soon()))

        for number in range(3):
            assert channel.call("/t/m", b"%d" % number, soon()) == b"%d" % number

    def test_half_a_frame_and_then_silence(self, listening, opened):
        """
        The deadline holds, and the other half may still come: the channel goes on.
        """
        asked = threading.Event()

        def serve(sock: socket.socket) -> None:
            peers.greet(sock)
            for kind, _flags, stream_id, _payload in peers.read_frames(sock):
                if kind == frames.DATA and stream_id == 1:
                    reply = peers.response(stream_id, b"late")
                    sock.sendall(reply[:30])
                    asked.wait(peers.PATIENCE_S)
                    sock.sendall(reply[30:])
                elif kind == frames.DATA:
                    sock.sendall(peers.response(stream_id, b"on"))

        channel = opened(Channel.connect(listening(serve), soon()))

        status = failure(channel.call, "/t/m", b"", Deadline.after(0.2))
        asked.set()

        assert status.code is grpc.Code.DEADLINE_EXCEEDED
        assert channel.call("/t/m", b"", soon()) == b"on"

    def test_half_a_frame_and_then_the_end(self, listening, opened):
        """
        The request may have been applied.
        """

        def serve(sock: socket.socket) -> None:
            peers.greet(sock)
            for kind, _flags, stream_id, _payload in peers.read_frames(sock):
                if kind == frames.DATA:
                    sock.sendall(peers.response(stream_id, b"reply")[:30])
                    return

        channel = opened(Channel.connect(listening(serve), soon()))

        status = failure(channel.call, "/t/m", b"", soon())

        assert (status.code, status.outcome) == (grpc.Code.UNAVAILABLE, errors.Outcome.UNKNOWN)
        assert not channel.usable


class TestBrokenServers:
    def test_garbage_ends_the_connection_with_a_goaway(self, listening, opened):
        """
        Every call fails with the reason, and the server is told.
        """
        goaways: queue.Queue[bytes] = queue.Queue()

        def serve(sock: socket.socket) -> None:
            peers.greet(sock)
            for kind, _flags, stream_id, payload in peers.read_frames(sock):
                if kind == frames.DATA and stream_id == 3:
                    sock.sendall(b"\xff" * 100)
                elif kind == frames.GOAWAY:
                    goaways.put(payload)

        channel = opened(Channel.connect(listening(serve), soon()))
        callers = [Caller(channel, b"x") for _ in range(2)]

        for caller in callers:
            status = failure(caller.result)
            assert status.code is grpc.Code.UNAVAILABLE
            assert "broke HTTP/2" in status.message
        code = frames.ErrorCode.FRAME_SIZE_ERROR
        assert goaways.get(timeout=peers.PATIENCE_S) == machines.u32(0, code)

    def test_two_replies_to_one_request(self, peer, opened):
        """
        A unary call takes one; the stream is reset and the channel goes on.
        """

        def script(request: peers.Request) -> None:
            request.send(b"one")
            if request.message == b"twice":
                request.send(b"two")
            request.finish()

        channel = opened(peer(script).channel())

        assert failure(channel.call, "/t/m", b"twice", soon()).code is grpc.Code.INTERNAL
        assert channel.call("/t/m", b"once", soon()) == b"one"

    def test_ok_without_a_reply(self, peer, opened):
        """
        There is nothing to return.
        """
        channel = opened(peer(peers.Request.finish).channel())

        assert failure(channel.call, "/t/m", b"", soon()).code is grpc.Code.INTERNAL

    def test_a_refused_stream_was_not_applied(self, peer, opened):
        """
        RST_STREAM(REFUSED_STREAM) is safe to retry, here or elsewhere.
        """
        channel = opened(peer(lambda request: request.refuse(7)).channel())

        status = failure(channel.call, "/t/m", b"", soon())

        assert (status.code, status.outcome) == (grpc.Code.UNAVAILABLE, errors.Outcome.NONE)
        assert channel.usable

    def test_goaway_refuses_the_later_and_finishes_the_earlier(self, listening, opened):
        """
        The one that the server took is answered; then the connection closes by itself.
        """
        calm = frames.ErrorCode.ENHANCE_YOUR_CALM
        goaway = frames.pack(frames.GOAWAY, 0, 0, machines.u32(1, calm) + b"too_many_pings")

        def serve(sock: socket.socket) -> None:
            peers.greet(sock)
            for kind, _flags, stream_id, _payload in peers.read_frames(sock):
                if kind == frames.DATA and stream_id == 5:
                    sock.sendall(goaway + peers.response(1, b"the last"))

        channel = opened(Channel.connect(listening(serve), soon()))
        callers = [Caller(channel) for _ in range(3)]

        results = []
        for caller in callers:
            try:
                results.append(caller.result())
            except grpc.CallFailed as error:
                results.append((error.status.code, error.status.outcome))
        refused = (grpc.Code.UNAVAILABLE, errors.Outcome.NONE)
        assert sorted(results, key=str) == [refused, refused, b"the last"]
        status = failure(channel.call, "/t/m", b"", soon())
        assert status.outcome is errors.Outcome.NONE
        assert "ENHANCE_YOUR_CALM, too_many_pings" in status.message

    def test_goaway_refuses_at_once_what_waits_for_a_stream(self, peer, opened, eventually):
        """
        A queued call goes elsewhere; it does not wait for those that the server still finishes.
        """
        server = peer(hold, MAX_CONCURRENT_STREAMS=1)
        channel = opened(server.channel())
        first = Caller(channel, timeout_s=None)
        eventually(lambda: server.requests)
        queued = Caller(channel, timeout_s=None)
        eventually(lambda: channel.statistics().calls == 2)

        with server.served[0].speaking() as connection:
            connection.close_connection(last_stream_id=1)

        status = failure(queued.result)
        assert (status.code, status.outcome) == (grpc.Code.UNAVAILABLE, errors.Outcome.NONE)
        assert not first.ended

    def test_goaway_ends_with_the_last_call_given_up(self, listening, opened, eventually):
        """
        Nothing more can come: the connection does not stay for the server to close.
        """
        ended = threading.Event()

        def serve(sock: socket.socket) -> None:
            peers.greet(sock)
            for kind, *_ in peers.read_frames(sock):
                if kind == frames.DATA:
                    sock.sendall(frames.pack(frames.GOAWAY, 0, 0, machines.u32(1, 0)))
            ended.set()

        channel = opened(Channel.connect(listening(serve), soon()))

        status = failure(channel.call, "/t/m", b"", Deadline.after(0.3))

        assert status.code is grpc.Code.DEADLINE_EXCEEDED
        assert ended.wait(peers.PATIENCE_S)


class TestStrictServers:
    def test_the_limit_of_streams_is_kept(self, peer, opened, eventually):
        """
        The library ends a connection on which there is ever one stream too many; queued calls come in order.
        """
        server = peer(hold, MAX_CONCURRENT_STREAMS=2)
        channel = opened(server.channel())
        callers = []
        for number in range(10):
            callers.append(Caller(channel, b"%d" % number))
            eventually(lambda number=number: channel.statistics().calls == number + 1)

        for number in range(10):
            eventually(lambda number=number: len(server.requests) >= min(number + 2, 10))
            assert len(server.requests) == min(number + 2, 10)
            server.requests[number].reply(server.requests[number].message)

        assert [caller.result() for caller in callers] == [b"%d" % number for number in range(10)]

    @pytest.mark.parametrize("waited_for", [False, True])
    def test_a_limit_that_rises_lets_queued_calls_go(self, listening, opened, waited_for):
        """
        Also from none at all, and also when nobody waits for what is queued.
        """

        def serve(sock: socket.socket) -> None:
            peers.greet(sock, MAX_CONCURRENT_STREAMS=0)
            sock.sendall(machines.settings(MAX_CONCURRENT_STREAMS=0))
            assert raised.wait(peers.PATIENCE_S)
            sock.sendall(machines.settings(MAX_CONCURRENT_STREAMS=1))
            for kind, _flags, stream_id, payload in peers.read_frames(sock):
                if kind == frames.DATA:
                    sock.sendall(peers.response(stream_id, payload[5:]))

        raised = threading.Event()
        channel = opened(Channel.connect(listening(serve), soon()))
        messages: queue.Queue[bytes] = queue.Queue()
        stream = channel.stream("/t/m", messages.put, lambda status: None)
        stream.send(b"early")
        caller = Caller(channel, b"call") if waited_for else None
        raised.set()

        assert messages.get(timeout=peers.PATIENCE_S) == b"early"
        if caller is not None:
            assert caller.result() == b"call"


class TestDeafServers:
    def test_a_sender_with_a_deadline_leaves_in_time(self, peer, opened):
        """
        Its request is cut off in the middle of a frame; what others send behind it arrives unharmed.
        """
        server = peer(echo, **LARGE)
        channel = opened(server.channel())
        server.reads.clear()

        status = failure(channel.call, "/t/m", bytes(16 * 2**20), Deadline.after(0.3))
        others = [Caller(channel, b"%d" % number) for number in range(5)]
        assert channel.statistics().bytes_sent < 16 * 2**20
        server.reads.set()

        assert (status.code, status.outcome) == (grpc.Code.DEADLINE_EXCEEDED, errors.Outcome.UNKNOWN)
        assert [caller.result() for caller in others] == [b"%d" % number for number in range(5)]
        assert server.served[0].goaway is None

    def test_one_that_answers_before_it_has_read(self, peer, opened):
        """
        The caller learns of the refusal though its request cannot be sent to its end.
        """
        server = peer(hold, True, **LARGE)

        def script(request: peers.Request) -> None:
            server.reads.clear()
            request.finish(8, "too large")

        server.script = script
        channel = opened(server.channel())

        status = failure(channel.call, "/t/m", bytes(16 * 2**20), soon())

        assert (status.code, status.message) == (grpc.Code.RESOURCE_EXHAUSTED, "too large")

    def test_one_that_writes_before_it_reads(self, listening, opened):
        """
        Two ends that both only send would wait for each other for ever; we read meanwhile.
        """
        reply = bytes(7 * 2**20)

        def serve(sock: socket.socket) -> None:
            peers.greet(sock, INITIAL_WINDOW_SIZE=2**30)
            sock.sendall(frames.pack(frames.WINDOW_UPDATE, 0, 0, machines.u32(2**30)))
            for kind, _flags, stream_id, _payload in peers.read_frames(sock):
                if kind == frames.HEADERS:
                    sock.sendall(frames.pack(frames.HEADERS, 4, stream_id, peers.HEAD_BLOCK))
                    octets = grpc.frame(reply)
                    for at in range(0, len(octets), 2**14):
                        sock.sendall(frames.pack(frames.DATA, 0, stream_id, octets[at : at + 2**14]))
                    sock.sendall(frames.pack(frames.HEADERS, 5, stream_id, peers.OK_BLOCK))

        channel = opened(Channel.connect(listening(serve), soon()))

        assert channel.call("/t/m", bytes(16 * 2**20), soon()) == reply

    def test_a_request_that_waits_for_another_sender_is_not_sent_after_its_time(self, peer, opened):
        """
        Its caller is told that it was not applied; so it must never be sent.
        """
        server = peer(echo)
        channel = opened(server.channel())
        channel._outbox._sender = object()  # somebody who does not get on

        status = failure(channel.call, "/t/m", b"too late", Deadline.after(0.05))
        channel._outbox._sender = None

        assert (status.code, status.outcome) == (grpc.Code.DEADLINE_EXCEEDED, errors.Outcome.NONE)
        assert channel.call("/t/m", b"in time", soon()) == b"in time"
        assert len(server.requests) == 1

    def test_the_watchdog_is_not_held_up_by_a_full_buffer(self, peer, opened, quick):
        """
        A peer that neither reads nor speaks is given up, without any deadline.

        What was taken from the queue to be sent may have left, as far as anybody can be sure.
        """
        server = peer(hold, **LARGE)
        channel = opened(server.channel())
        server.reads.clear()

        status = failure(channel.call, "/t/m", bytes(16 * 2**20), NEVER)

        assert (status.code, status.outcome) == (grpc.Code.UNAVAILABLE, errors.Outcome.UNKNOWN)
        assert "no answer to a ping" in status.message


class TestSilentServers:
    def test_one_that_does_not_answer_a_ping_is_given_up(self, listening, opened, quick):
        """
        The calls fail long before TCP notices, and may have been applied.
        """

        def serve(sock: socket.socket) -> None:
            peers.greet(sock)
            read_on(sock)

        channel = opened(Channel.connect(listening(serve), soon()))
        callers = [Caller(channel, timeout_s=None) for _ in range(3)]

        for caller in callers:
            status = failure(caller.result)
            assert (status.code, status.outcome) == (grpc.Code.UNAVAILABLE, errors.Outcome.UNKNOWN)
            assert "no answer to a ping" in status.message

    def test_one_whose_callers_are_impatient_is_given_up_too(self, listening, opened, quick, monkeypatch):
        """
        Calls with short deadlines, one after the other: the silence adds up, from the first of them on.
        """
        monkeypatch.setattr(channels, "IDLE_S", 0.0)

        def serve(sock: socket.socket) -> None:
            peers.greet(sock)
            read_on(sock)

        channel = opened(Channel.connect(listening(serve), soon()))

        until = soon()
        while channel.usable:
            assert not until.expired, "it is never noticed"
            status = failure(channel.call, "/t/m", b"", Deadline.after(0.03))

        assert "no answer to a ping" in status.message

    def test_one_that_answers_pings_may_take_its_time(self, peer, opened, eventually, quick):
        """
        It is asked again and again, and its late reply is taken.
        """
        server = peer(hold)
        channel = opened(server.channel())
        caller = Caller(channel, timeout_s=None)

        eventually(lambda: server.served[0].pings >= 4)
        server.requests[0].reply(b"at last")

        assert caller.result() == b"at last"

    def test_a_stream_that_nobody_waits_on_is_watched_too(self, listening, opened, quick):
        """
        The standby notices the silence.
        """

        def serve(sock: socket.socket) -> None:
            peers.greet(sock)
            read_on(sock)

        channel = opened(Channel.connect(listening(serve), soon()))
        ends: queue.Queue[grpc.Status] = queue.Queue()
        channel.stream("/t/m", lambda message: None, ends.put)

        assert "no answer to a ping" in ends.get(timeout=peers.PATIENCE_S).message


class TestGarrulousServers:
    def test_a_deadline_holds_while_other_things_keep_coming(self, listening, opened):
        """
        The reader is never without bytes; it looks at its own deadline all the same.
        """
        ended = threading.Event()

        def serve(sock: socket.socket) -> None:
            peers.greet(sock)
            chatter = frames.pack(0xAA, 0, 0, bytes(1_000)) * 20  # of a type that we must ignore
            while not ended.is_set():
                sock.sendall(chatter)

        channel = opened(Channel.connect(listening(serve), soon()))
        callers = [Caller(channel, timeout_s=0.3) for _ in range(3)]

        try:
            for caller in callers:
                assert failure(caller.result).code is grpc.Code.DEADLINE_EXCEEDED
        finally:
            ended.set()

    def test_questions_without_end_are_answered_while_we_can(self, listening, opened):
        """
        Thousands of PINGs come back, one by one.
        """
        answered = threading.Event()

        def serve(sock: socket.socket) -> None:
            peers.greet(sock)
            number = 0
            sock.sendall(frames.pack(frames.PING, 0, 0, bytes(8)) * 96)
            for kind, flags, _stream_id, _payload in peers.read_frames(sock):
                if kind == frames.PING and flags & frames.ACK:
                    number += 1
                    if number == 9_600:
                        answered.set()
                    elif number % 96 == 0:
                        sock.sendall(frames.pack(frames.PING, 0, 0, bytes(8)) * 96)

        channel = opened(Channel.connect(listening(serve), soon()))
        Caller(channel)

        assert answered.wait(peers.PATIENCE_S)


class TestCallbacks:
    @pytest.fixture
    def reported(self, monkeypatch):
        """What was told to `threading.excepthook`."""
        told: list[BaseException] = []
        monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))
        return told

    @pytest.mark.parametrize("waiting", [False, True])
    def test_one_that_fails_ends_every_call_with_its_reason(
        self, peer, opened, eventually, reported, waiting
    ):
        """
        Whichever thread reads, no caller gets the callback's own exception; it is reported.
        """
        server = peer(hold)
        channel = opened(server.channel())
        ends: queue.Queue[grpc.Status] = queue.Queue()

        def fail(message: bytes) -> None:
            raise ZeroDivisionError("in the callback")

        channel.stream("/t/fails", fail, ends.put)
        channel.stream("/t/other", fail, ends.put)
        caller = Caller(channel, timeout_s=None) if waiting else None
        eventually(lambda: len(server.requests) == (3 if waiting else 2))

        server.requests[0].send(b"message")

        messages = [ends.get(timeout=peers.PATIENCE_S).message for _ in range(2)]
        if caller is not None:
            messages.append(failure(caller.result).message)
        assert all("ZeroDivisionError: in the callback" in message for message in messages)
        eventually(lambda: len(reported) == 1)
        assert isinstance(reported[0], ZeroDivisionError)

    def test_cancelling_within_a_callback_silences_what_came_along(self, listening, opened):
        """
        Messages and the end that were read in the same batch are not told any more.
        """

        def serve(sock: socket.socket) -> None:
            peers.greet(sock)
            for kind, _flags, stream_id, _payload in peers.read_frames(sock):
                if kind == frames.DATA and stream_id == 1:
                    head = frames.pack(frames.HEADERS, frames.END_HEADERS, 1, peers.HEAD_BLOCK)
                    more = frames.pack(frames.DATA, 0, 1, grpc.frame(b"one") + grpc.frame(b"two"))
                    sock.sendall(head + more + frames.pack(frames.HEADERS, 5, 1, peers.OK_BLOCK))
                elif kind == frames.DATA:
                    sock.sendall(peers.response(stream_id, b"on"))

        channel = opened(Channel.connect(listening(serve), soon()))
        told: queue.Queue[object] = queue.Queue()
        streams: queue.Queue[channels.Stream] = queue.Queue()

        def on_message(message: bytes) -> None:
            told.put(message)
            streams.get(timeout=peers.PATIENCE_S).cancel()

        stream = channel.stream("/t/m", on_message, told.put)
        streams.put(stream)
        stream.send(b"go")

        assert told.get(timeout=peers.PATIENCE_S) == b"one"
        assert channel.call("/t/m", b"", soon()) == b"on"
        assert told.empty()

    def test_a_reply_behind_a_slow_callback_counts(self, peer, opened, eventually, monkeypatch):
        """
        A call whose time runs out while its reply waits to be read does not end before it was read.
        """
        monkeypatch.setattr(channels, "LAST_LOOKS", 1_000)
        server = peer(hold)
        channel = opened(server.channel())
        entered, go_on = threading.Event(), threading.Event()

        def on_message(message: bytes) -> None:
            entered.set()
            assert go_on.wait(peers.PATIENCE_S)

        channel.stream("/t/watch", on_message, lambda status: None)
        eventually(lambda: server.requests)
        server.requests[0].send(b"message")
        assert entered.wait(peers.PATIENCE_S)
        deadline = Deadline.after(0.2)
        caller = Caller(channel, timeout_s=0.2)
        eventually(lambda: len(server.requests) == 2)
        server.requests[1].reply(b"in time")

        eventually(lambda: deadline.expired and inbox.readable(channel._outbox.sock))
        go_on.set()

        assert caller.result() == b"in time"

    def test_a_reply_that_another_has_taken_from_the_socket_counts(
        self, peer, opened, eventually, monkeypatch
    ):
        """
        Between the kernel and its caller it is in neither's hands, for as long as its reader is not run.
        """
        monkeypatch.setattr(channels, "LAST_LOOKS", 1_000)
        server = peer(hold)
        channel = opened(server.channel())
        entered, go_on = threading.Event(), threading.Event()
        deliver = channel._board.receive

        def receive(received: bytes) -> str | None:
            entered.set()
            assert go_on.wait(peers.PATIENCE_S)
            return deliver(received)

        reader = Caller(channel)
        eventually(lambda: len(server.requests) == 1)
        caller = Caller(channel)
        eventually(lambda: len(server.requests) == 2)
        monkeypatch.setattr(channel._board, "receive", receive)
        server.requests[1].reply(b"in time")
        assert entered.wait(peers.PATIENCE_S)

        caller.deadline.expire()
        channel._rota.post_all()
        caller.thread.join(0.1)
        assert not caller.ended
        go_on.set()

        assert caller.result() == b"in time"
        server.requests[0].reply(b"")
        assert reader.result() == b""

    def test_closing_does_not_wait_for_a_callback(self, peer, opened, eventually):
        """
        A callback may be waiting for a lock that the closing thread holds.
        """
        server = peer(hold)
        channel = opened(server.channel())
        lock = threading.Lock()
        entered, ended = threading.Event(), threading.Event()

        def on_message(message: bytes) -> None:
            entered.set()
            with lock:
                pass

        channel.stream("/t/m", on_message, lambda status: ended.set())
        with lock:
            eventually(lambda: len(server.requests) == 1)
            server.requests[0].send(b"message")
            assert entered.wait(peers.PATIENCE_S)

            channel.close()

            assert not channel.usable
            assert not ended.is_set()
        assert ended.wait(peers.PATIENCE_S)


class TestWatchdog:
    def test_silence_is_asked_about_once(self):
        """
        After 10 s without a byte it asks, after 5 more without an answer it gives up.
        """
        dog = watchdog.Watchdog(100.0)

        verdicts = [dog.judge(now, 1).name for now in (100.0, 109.9, 110.0, 110.1, 114.9, 115.0)]

        assert verdicts == ["WAIT", "WAIT", "ASK", "WAIT", "WAIT", "DEAD"]

    def test_any_byte_is_an_answer(self):
        """
        The next question is due 10 s after it.
        """
        dog = watchdog.Watchdog(100.0)
        assert dog.judge(110.0, 1) is watchdog.Verdict.ASK

        dog.heard(112.0)

        assert dog.judge(116.0, 1) is watchdog.Verdict.WAIT
        assert dog.patience_s(116.0, 1) == 6.0
        assert dog.judge(122.0, 1) is watchdog.Verdict.ASK

    def test_silence_counts_from_the_first_request_after_an_idle_time(self):
        """
        Who was not asked anything owes no sign of life; who was, owes it however often it is asked again.
        """
        dog = watchdog.Watchdog(100.0)

        dog.asked(1_000.0)
        dog.asked(1_009.0)

        assert dog.judge(1_009.9, 1) is watchdog.Verdict.WAIT
        assert dog.judge(1_010.0, 1) is watchdog.Verdict.ASK
        dog.heard(1_011.0)
        dog.asked(1_100.0)
        assert dog.patience_s(1_100.0, 1) == 10.0

    def test_nothing_is_asked_without_streams(self):
        """
        etcd ends connections that ask while nothing is open.
        """
        dog = watchdog.Watchdog(100.0)

        assert dog.judge(1_000.0, 0) is watchdog.Verdict.WAIT
        assert dog.patience_s(1_000.0, 0) == watchdog.SILENCE_S

    @pytest.mark.parametrize("silence_s", [watchdog.SILENCE_S, watchdog.SHORT_SILENCE_S])
    def test_it_never_asks_twice_within_five_seconds(self, silence_s):
        """
        Whatever is heard and whenever it is asked for its verdict; also where there are other servers.
        """
        dog = watchdog.Watchdog(0.0)
        dog.silence_s = silence_s
        asked = []

        for tick in range(20_000):
            now_s = tick * 0.01
            if dog.judge(now_s, 1) is watchdog.Verdict.ASK:
                asked.append(now_s)
                dog.heard(now_s)

        assert len(asked) > 10
        assert min(later - sooner for sooner, later in itertools.pairwise(asked)) >= 5.0
