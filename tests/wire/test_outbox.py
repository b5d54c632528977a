"""Who writes: partial sends, full buffers, several senders, and senders that are interrupted."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from coordkit.wire import http2, outbox
from tests.wire import machines, peers
from tests.wire.interruptions import interrupted_at


class Box:
    """An outbox on a socket, or on what the test puts in its place."""

    def __init__(self, sock: object) -> None:
        self.connection = http2.Connection()
        self.connection.receive(machines.SETTINGS)
        self.connection.take_output()
        self.mutex = threading.Lock()
        self.failures: list[str] = []
        self.idle = 0
        self.outbox = outbox.Outbox(sock, self.connection, self.mutex, self.failures.append, self._on_idle)
        self.outbox.sent_bytes = self.connection.queued_bytes

    def _on_idle(self) -> None:
        self.idle += 1

    def queue(self, octets: bytes) -> None:
        with self.mutex:
            self.connection._queue(octets)


class Wire:
    """A socket by the script: each send takes as many bytes as the next number says, or raises it."""

    def __init__(self, *answers: int | BaseException) -> None:
        self.answers = list(answers)
        self.taken = b""
        self.shut = False

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_RDWR
        self.shut = True

    def send(self, octets: bytes) -> int:
        answer = self.answers.pop(0) if self.answers else len(octets)
        if isinstance(answer, BaseException):
            raise answer
        self.taken += bytes(octets[:answer])
        return min(answer, len(octets))


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        theirs.settimeout(peers.PATIENCE_S)
        yield ours, theirs


@pytest.fixture
def boxes():
    """Boxes whose threads are ended."""
    made: list[Box] = []

    def make(sock: object) -> Box:
        made.append(Box(sock))
        return made[-1]

    yield make

    for box in made:
        box.outbox.close()


class TestSending:
    def test_what_is_queued_goes_out_in_order(self, boxes):
        """
        Several pieces are one send; nothing queued is no send at all.
        """
        wire = Wire()
        box = boxes(wire)
        box.queue(b"one ")
        box.queue(b"two")

        box.outbox.flush()
        box.outbox.flush()

        assert wire.taken == b"one two"
        assert box.outbox.sent_bytes == box.connection.queued_bytes

    def test_a_kernel_that_takes_little_is_asked_again(self, boxes):
        """
        The offset is kept from send to send, whatever each takes.
        """
        wire = Wire(1, 2, 3, 4)
        box = boxes(wire)
        box.queue(b"a piece of some length")

        box.outbox.flush()

        assert wire.taken == b"a piece of some length"

    def test_a_broken_connection_is_reported_once_per_sender(self, boxes):
        """
        The error's own words, and no exception.
        """
        box = boxes(Wire(ConnectionResetError(104, "Connection reset by peer")))
        box.queue(b"x")

        box.outbox.flush()

        assert box.failures == ["Connection reset by peer"]
        assert box.outbox.idle

    def test_last_words_are_sent_by_whoever_is_sending(self, boxes):
        """
        A GOAWAY that is queued when the box is closed goes out before the connection is shut down.
        """
        wire = Wire()
        box = boxes(wire)
        plain_send = wire.send

        def send(octets: bytes) -> int:
            if not box.outbox.closed:
                box.queue(b", last words")
                box.outbox.close()
            assert not wire.shut
            return plain_send(octets)

        wire.send = send
        box.queue(b"words")

        box.outbox.flush()

        assert wire.taken == b"words, last words"
        assert wire.shut
        assert box.idle

    def test_a_full_buffer_does_not_hold_up_the_end(self, boxes):
        """
        What the kernel does not take at once is not said any more.
        """
        wire = Wire(3, BlockingIOError())
        box = boxes(wire)
        box.queue(b"words")

        box.outbox.close()

        assert wire.taken == b"wor"
        assert wire.shut
        assert box.idle

    def test_others_leave_their_bytes_to_the_sender(self, boxes):
        """
        Who comes while somebody sends is not kept; its bytes go out with the next send.
        """
        wire = Wire()
        box = boxes(wire)
        in_send, go_on = threading.Event(), threading.Event()
        plain_send = wire.send

        def send(octets: bytes) -> int:
            in_send.set()
            assert go_on.wait(peers.PATIENCE_S)
            return plain_send(octets)

        wire.send = send
        box.queue(b"first ")
        sender = threading.Thread(target=box.outbox.flush)
        sender.start()
        assert in_send.wait(peers.PATIENCE_S)

        box.queue(b"second")
        box.outbox.flush()

        assert wire.taken == b""
        assert not box.outbox.idle
        go_on.set()
        sender.join(peers.PATIENCE_S)
        assert wire.taken == b"first second"


class TestFullBuffers:
    def test_a_full_buffer_keeps_nobody(self, boxes, pair):
        """
        `flush` returns; what is left goes out once the peer reads, by a thread of its own.
        """
        ours, theirs = pair
        box = boxes(ours)
        octets = bytes(range(256)) * 20_000
        box.queue(octets)

        box.outbox.flush()
        assert box.outbox.sent_bytes < box.connection.queued_bytes
        box.queue(b"the end")
        box.outbox.flush()

        got = bytearray()
        while len(got) < len(octets) + 7:
            got += theirs.recv(2**20)
        assert got == octets + b"the end"
        assert box.failures == []

    def test_a_buffer_that_is_full_again_and_again(self, boxes, pair):
        """
        Whoever queues and whoever waits for room, each byte goes out once, in order.
        """
        ours, theirs = pair
        box = boxes(ours)
        got = bytearray()

        for number in range(200):
            box.queue(bytes([number]) * 50_000)
            box.outbox.flush()
            got += theirs.recv(30_000)
        while len(got) < 200 * 50_000:
            got += theirs.recv(2**20)

        assert got == b"".join(bytes([number]) * 50_000 for number in range(200))

    def test_who_waits_for_room_ends_with_the_box(self, boxes, pair, eventually):
        """
        A peer that never reads does not hold a thread of ours for ever.
        """
        ours, _ = pair
        box = boxes(ours)
        threads = set(threading.enumerate())
        box.queue(bytes(10**7))
        box.outbox.flush()
        (pusher,) = set(threading.enumerate()) - threads

        box.outbox.close()
        ours.shutdown(socket.SHUT_RDWR)

        pusher.join(peers.PATIENCE_S)
        assert not pusher.is_alive()
        eventually(lambda: box.outbox.idle and box.idle)


@pytest.fixture
def natively(mode):
    if mode == "gevent":
        pytest.skip("a greenlet does not wait in here, so nothing interrupts it")


@pytest.mark.usefixtures("natively")
class TestInterruption:
    @pytest.mark.parametrize("size", [10, 300_000])
    def test_one_anywhere_in_sending_neither_loses_nor_doubles_a_byte(self, boxes, size):
        """
        Ctrl-C at the worst moment: what all have queued goes out all the same, each byte once.
        """
        places = 0
        while True:
            ours, theirs = socket.socketpair()
            with ours, theirs, contextlib.ExitStack() as stack:
                ours.setblocking(False)
                theirs.settimeout(peers.PATIENCE_S)
                box = boxes(ours)
                stack.callback(box.outbox.close)
                octets = bytes(range(250)) * (size // 250 + 1)
                box.queue(octets)
                box.queue(b"another's")

                where = interrupted_at(places + 1, box.outbox.flush)
                box.queue(b", the last")
                box.outbox.flush()

                expected = octets + b"another's, the last"
                got = bytearray()
                while len(got) < len(expected):
                    got += theirs.recv(2**20)
                assert got == expected, f"after place {places + 1}, in {where}"
                assert box.failures == []
            if where is None:
                break
            places += 1
        assert places >= 10
